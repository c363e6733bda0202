"""AV1 still pictures inside a view's image part: a well-kept block codec beside the networks.

AV1 chooses block sizes for each place, and at middle and high rates on sharp pictures it needs fewer bits than networks of
this size; at low rates, and wherever a reference shows the view well, the networks need fewer. The encoder tries both and
keeps what costs less. Pillow's libavif (libaom, dav1d) does the coding. Of the AVIF file only the AV1 data are kept: its
boxes are some 300 bytes, always the same but for the size, and are put back before decoding.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, features
from torch import Tensor

from lmvic_ns.errors import BitstreamError

MOST_PIXELS = 40_000_000
"""Larger pictures are not tried: libaom takes some 90 bytes a pixel."""
_SUBSAMPLINGS = ("4:2:0", "4:4:4")
_TOOLS = {"tune": "psnr", "enable-cdef": "1"}  # libavif's own default is SSIM without the deringing filter
_LOW_QUALITY, _HIGH_QUALITY = 1, 98
_STRIDE = 4
_GREY = 128.0
_TEMPORAL_DELIMITER, _SEQUENCE_HEADER = b"\x12\x00", 0x0A  # OBU headers (AV1 specification, section 5.3)
_BAND, _SAMPLE_PIXELS = 64, 1 << 18
_ALSO_TRIED = 1.05  # subsampled chroma is tried too, and probes up to so much dearer go on
_SLOWER_TRIED = 1.12  # a lower speed may save so much


@dataclass(frozen=True)
class Av1Search:
    """How hard the encoder looks for the best AV1 picture.

    Attributes:
        search_speed: libaom's speed (0..10, slow to fast) while it looks for the quality.
        final_speed: its speed for the picture that is kept.
        predicted: try it also for views that a reference shows.
    """

    search_speed: int = 7
    final_speed: int = 7
    predicted: bool = False


@dataclass(frozen=True)
class Av1Picture:
    """A coded picture.

    Attributes:
        data: one byte for the chroma (0 is 4:2:0, 1 is 4:4:4), then the AV1 data (OBUs) of the picture.
        image: what a decoder gets, 0..1.
        cost: lambda times the mean squared error, plus bits per pixel.
    """

    data: bytes
    image: Float[Tensor, "1 3 h w"]
    cost: float


def av1_available() -> bool:
    """Whether this Pillow codes AVIF."""
    return bool(features.check("avif"))


def read_av1_picture(data: bytes, size: tuple[int, int], name: str) -> Float[Tensor, "1 3 h w"]:
    """The picture, 0..1.

    Args:
        data: as `Av1Picture.data`.
        size: height and width that it must have.
        name: of the part, for messages.

    Raises:
        BitstreamError: the data are damaged, or this Pillow cannot decode AVIF.
    """
    if not av1_available():
        raise BitstreamError(f"{name}: AV1 picture: this Pillow has no AVIF; install a Pillow of 11.3 or later that has it")
    if len(data) < 2 or data[0] >= len(_SUBSAMPLINGS):
        raise BitstreamError(f"{name}: AV1 picture: expected a subsampling and data, found {len(data)} bytes")
    height, width = size
    if (found := _coded_size(data[1:])) != size:
        shown = "no still picture" if found is None else f"{found[1]}x{found[0]}"
        raise BitstreamError(f"{name}: AV1 picture: expected {width}x{height} pixels, found {shown}")
    try:
        with Image.open(io.BytesIO(_avif_file(data[1:], size, data[0])), formats=("AVIF",)) as picture:
            values = np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise BitstreamError(f"{name}: AV1 picture: expected one that can be read ({error})") from None
    if values.shape != (height, width, 3):  # a frame may be of another size than its sequence says
        found = f"{values.shape[1]}x{values.shape[0]}"
        raise BitstreamError(f"{name}: AV1 picture: expected {width}x{height} pixels, found {found}")
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255


def best_av1_picture(
    target: Float[Tensor, "1 3 h w"],
    weight: float,
    search: Av1Search,
    decoded_error: Callable[[Tensor], float],
    most_cost: float,
    coded_error: Float[Tensor, "1 3 h w"] | None = None,
) -> Av1Picture | None:
    """The AV1 picture that costs least, or None where even the first guess is far from paying.

    Args:
        target: what is coded, 0..1; rounded to 8 bits.
        weight: lambda.
        search: how hard to look.
        decoded_error: mean squared error of the view that a decoded picture gives.
        most_cost: cost (lambda times error plus bits per pixel) that is to be beaten.
        coded_error: squared errors of what costs so much; with them a large picture is given up by a part of it.
    """
    height, width = target.shape[-2:]
    if height * width > MOST_PIXELS or max(height, width) > 65536 or not av1_available():
        return None
    tried: dict[tuple[int, int], Av1Picture] = {}
    sample = _bands(target)

    def coder(part: Tensor, error: Callable[[Tensor], float]) -> Callable[[int, int, int], Av1Picture]:
        picture, size = _picture_of(part), (part.shape[-2], part.shape[-1])

        def coded(quality: int, chroma: int, speed: int) -> Av1Picture:
            data = _encode(picture, quality, chroma, speed)
            image = read_av1_picture(data, size, "view")
            return Av1Picture(data, image, weight * error(image) + 8 * len(data) / (size[0] * size[1]))

        return coded

    def cost(quality: int, chroma: int = 1) -> float:
        key = quality, chroma
        if key not in tried:
            tried[key] = probe(quality, chroma, search.search_speed)
        return tried[key].cost

    try:
        coded = probe = coder(target, decoded_error)
        if sample is not None:
            shown = sample.cpu()
            probe = coder(sample, lambda image: (image - shown).square().mean().item())
        quality = _first_quality(weight)
        if sample is None and cost(quality) > most_cost * (_ALSO_TRIED + 0.1):
            return None
        for stride in (_STRIDE, _STRIDE // 2):
            for step in (stride, -stride):
                start = quality
                while _LOW_QUALITY <= quality + step <= _HIGH_QUALITY and cost(quality + step) < cost(quality):
                    quality += step
                if quality != start:
                    break
        chroma = int(cost(quality) <= cost(quality, 0))
        most, allowed = most_cost, _ALSO_TRIED if search.final_speed == search.search_speed else _SLOWER_TRIED
        if sample is not None and coded_error is not None:
            # as if the bits were spread evenly
            most += weight * (_rows_of_bands(coded_error).mean().item() - coded_error.mean().item())
        if (sample is None or coded_error is not None) and tried[quality, chroma].cost > most * allowed:
            return None
        if sample is None and search.final_speed == search.search_speed:
            return tried[quality, chroma]
        return coded(quality, chroma, search.final_speed)
    except (OSError, ValueError, RuntimeError, BitstreamError):  # a size or an option that this libavif does not take
        return None


def _picture_of(target: Float[Tensor, "1 3 h w"]) -> Image.Image:
    values = (target[0].float().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(values))


def _bands(target: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 s w"] | None:
    """Bands of rows from all over a large picture, by which its best quality is found; None for a small one."""
    height, width = target.shape[-2:]
    return None if height * width < 2 * _SAMPLE_PIXELS else _rows_of_bands(target)


def _rows_of_bands(x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c s w"]:
    height, width = x.shape[-2:]
    every = height * width // _SAMPLE_PIXELS
    return torch.cat([x[..., top : top + _BAND, :] for top in range(0, height - _BAND + 1, every * _BAND)], -2)


def difference_prediction(aligned: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 3 h w"]:
    """What a picture of the difference is added to: the warped reference in 8 bits, grey where it shows nothing."""
    shown = (aligned * 255).round().clamp(0, 255)
    return torch.where(mask > 0, shown, _GREY) / 255


def to_difference(image: Float[Tensor, "1 3 h w"], prediction: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
    """A view less its prediction, around grey, so that it is a picture; rarely cut at 0 and 1."""
    return (image - prediction + _GREY / 255).clamp(0, 1)


def from_difference(picture: Float[Tensor, "1 3 h w"], prediction: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
    """The view that a decoded difference gives, 0..1."""
    return (picture + prediction - _GREY / 255).clamp(0, 1)


def _first_quality(weight: float) -> int:
    """libavif's quality (0..100) that is usually best at this lambda: ten more for each factor of 2.7."""
    return round(min(max(40 + 10 * math.log(max(weight, 1e-6) / 600), _LOW_QUALITY), _HIGH_QUALITY))


def _encode(picture: Image.Image, quality: int, chroma: int, speed: int) -> bytes:
    stream = io.BytesIO()
    # one thread: the same bytes on every machine
    picture.save(
        stream, "AVIF", quality=quality, subsampling=_SUBSAMPLINGS[chroma], speed=speed, max_threads=1, advanced=_TOOLS
    )
    return bytes([chroma]) + _media_data(stream.getvalue())


def _coded_size(data: bytes) -> tuple[int, int] | None:
    """Height and width by the sequence header (AV1 specification, section 5.5.1); None if there is no still picture's.

    Decoders scale a picture whose size differs from the file's boxes, so this is looked at before anything is decoded.
    """
    if len(data) < 12 or data[0] != _SEQUENCE_HEADER:
        return None
    bits = int.from_bytes(data[2:12], "big")
    position = 80

    def read(count: int) -> int:
        nonlocal position
        position -= count
        return bits >> position & ((1 << count) - 1)

    read(3)  # profile
    if read(2) != 3:  # a still picture with the reduced header
        return None
    read(5)  # level
    width_bits, height_bits = read(4) + 1, read(4) + 1
    width = read(width_bits) + 1
    return read(height_bits) + 1, width


def _media_data(file: bytes) -> bytes:
    """The AV1 data of an AVIF file with one picture: the contents of its `mdat` box, without a temporal delimiter."""
    position = 0
    while position + 8 <= len(file):
        size, kind = struct.unpack_from(">I4s", file, position)
        if kind == b"mdat":
            return file[position + 8 : position + size].removeprefix(_TEMPORAL_DELIMITER)
        if size < 8:
            break
        position += size
    raise ValueError("no media data in the AVIF file")


def _box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
    """A box of the ISO base media file format; with a version, a full box without flags."""
    body = b"".join(parts)
    if version is not None:
        body = struct.pack(">I", version << 24) + body
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _avif_file(data: bytes, size: tuple[int, int], chroma: int) -> bytes:
    """An AVIF file of one picture of 8 bits, BT.601 full range (AV1 Image File Format, sections 2 and 6)."""
    height, width = size
    # profile 1 (4:4:4) or 0; level 8.x: no bound; then the chroma's subsampling in x and y
    av1_configuration = bytes([0x81, (chroma << 5) | 31, 0x0C if chroma == 0 else 0x00, 0])
    properties = _box(
        b"ipco",
        _box(b"ispe", struct.pack(">II", width, height), version=0),
        _box(b"pixi", bytes([3, 8, 8, 8]), version=0),
        _box(b"av1C", av1_configuration),
        _box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 6, 0x80)),
    )
    association = _box(b"ipma", struct.pack(">IHB4B", 1, 1, 4, 1, 2, 0x83, 4), version=0)
    entry = _box(b"infe", struct.pack(">HH4s", 1, 0, b"av01"), b"\0", version=2)
    type_box = _box(b"ftyp", b"avif", struct.pack(">I", 0), b"avif", b"mif1", b"miaf")

    def meta(offset: int) -> bytes:
        location = struct.pack(">BBHHHHII", 0x44, 0x00, 1, 1, 0, 1, offset, len(data))
        return _box(
            b"meta",
            _box(b"hdlr", struct.pack(">I4s12s", 0, b"pict", b""), b"\0", version=0),
            _box(b"pitm", struct.pack(">H", 1), version=0),
            _box(b"iloc", location, version=0),
            _box(b"iinf", struct.pack(">H", 1), entry, version=0),
            _box(b"iprp", properties, association),
            version=0,
        )

    offset = len(type_box) + len(meta(0)) + 8
    return type_box + meta(offset) + struct.pack(">I4s", 8 + len(data), b"mdat") + data
