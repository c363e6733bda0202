"""The mode that needs no network: a view stored as an ordinary picture (JPEG 4:4:4, PNG or lossless WebP).

Networks were trained on photographs. Dither, halftone, one-pixel patterns and noise can defeat them, and then an ordinary
picture is both smaller and better. The encoder compares real costs and takes what is cheaper.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lmvic_ns.errors import BitstreamError

_FORMATS = ("PNG", "JPEG", "WEBP")
_WEBP_SIDE = 16383
_JPEG_SIDE = 65500
_QUALITIES = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 47, 60, 73, 84, 92, 96, 98)
_FEW_COLOURS = 512
_MOST_PIXELS = 80_000_000  # Pillow takes larger files for an attack


@dataclass(frozen=True)
class StoredPicture:
    """A view as a picture file.

    Attributes:
        data: the file's bytes.
        image: what a decoder gets, 0..1.
    """

    data: bytes
    image: Float[Tensor, "1 3 h w"]


def read_stored_picture(data: bytes, size: tuple[int, int], name: str) -> Float[Tensor, "1 3 h w"]:
    """The picture, 0..1.

    Args:
        data: a PNG, JPEG or WebP file.
        size: height and width that it must have.
        name: of the part, for messages.

    Raises:
        BitstreamError: the data are damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if (picture.height, picture.width) != size:
                found = f"{picture.width}x{picture.height}"
                raise BitstreamError(f"{name}: stored picture: expected {size[1]}x{size[0]} pixels, found {found}")
            values = np.asarray(picture.convert("RGB"))
    except BitstreamError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise BitstreamError(f"{name}: stored picture: expected one that can be read ({type(error).__name__})") from None
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255


def exact_picture(image: Float[Tensor, "1 3 h w"], original: bytes | None = None) -> bytes:
    """The smallest picture file at hand that decodes to exactly this view; a JPEG original is kept as it is.

    Args:
        image: the view, 0..1 in steps of 1/255.
        original: the captured file; taken where its pixels are the view's and it is a JPEG, or the smallest.
    """
    values = (image[0].float().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(values)
    exact = torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255
    candidates = [stored.data for stored in _lossless(picture, exact)]
    if original is not None and (original.startswith(b"\xff\xd8") or len(original) < min(map(len, candidates))):
        try:
            if torch.equal(read_stored_picture(original, (picture.height, picture.width), "original"), exact):
                return original
        except BitstreamError:  # of another format or size
            pass
    return min(candidates, key=len)


def cheaper_picture(
    image: Float[Tensor, "1 3 h w"], weight: float, cost: float, error: float, size: int
) -> StoredPicture | None:
    """An ordinary picture that beats the coded view, or None.

    It beats it where it costs less, or where a JPEG of at least the same quality needs no more bytes.

    Args:
        image: the view, 0..1.
        weight: lambda.
        cost: of the coded view, lambda times mean squared error plus bits per pixel; infinite if it failed.
        error: its mean squared error.
        size: its bytes.
    """
    if image.shape[-1] * image.shape[-2] > _MOST_PIXELS:
        return None
    values = (image[0].float().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    pixels = values.shape[0] * values.shape[1]
    picture = Image.fromarray(values)
    original = torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255
    lossless = cost == float("inf") or 8 * size > pixels or _few_colours(values)
    tried = list(_towards(picture, original, error, size))
    if lossless:
        tried += _lossless(picture, original)
    priced = [_Candidate(stored, weight, original) for stored in tried]
    if not any(p.cost < cost or (p.error <= error and len(p.stored.data) <= size) for p in priced):
        return None
    # the networks have lost: now all settings, so that more lambda never chooses a worse picture
    priced += [_Candidate(stored, weight, original) for stored in _grid(picture)]
    best = min(priced, key=lambda p: p.cost)
    if best.cost < cost:
        return best.stored
    return min((p for p in priced if p.error <= error), key=lambda p: len(p.stored.data)).stored


class _Candidate:
    """A picture with its error and cost."""

    def __init__(self, stored: StoredPicture, weight: float, original: Tensor):
        self.stored = stored
        self.error = (stored.image - original).square().mean().item()
        self.cost = weight * self.error + 8 * len(stored.data) / (original.shape[-1] * original.shape[-2])


def _jpeg(picture: Image.Image, quality: int) -> StoredPicture:
    data = _save(picture, "JPEG", quality=quality, subsampling=0, optimize=True)
    return StoredPicture(data, read_stored_picture(data, (picture.height, picture.width), "view"))


def _towards(picture: Image.Image, original: Tensor, error: float, size: int) -> Iterator[StoredPicture]:
    """JPEGs on the way to the coded view's quality, until they are larger at less quality."""
    if max(picture.size) > _JPEG_SIDE:
        return
    low, high = 1, 98
    while low <= high:
        quality = (low + high) // 2
        stored = _jpeg(picture, quality)
        yield stored
        reached = (stored.image - original).square().mean().item() <= error
        if not reached and len(stored.data) > size:
            return  # a better one is larger still
        if reached:
            high = quality - 1
        else:
            low = quality + 1


def _grid(picture: Image.Image) -> Iterator[StoredPicture]:
    """JPEGs from the worst quality to the best."""
    if max(picture.size) <= _JPEG_SIDE:
        yield from (_jpeg(picture, quality) for quality in _QUALITIES)


def _lossless(picture: Image.Image, original: Tensor) -> Iterator[StoredPicture]:
    yield StoredPicture(_save(picture, "PNG", optimize=True), original)
    if max(picture.size) <= _WEBP_SIDE:
        yield StoredPicture(_save(picture, "WEBP", lossless=True, quality=50, method=4), original)


def _save(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _few_colours(values: np.ndarray) -> bool:
    """Whether the picture has so few colours that lossless files are small."""
    packed = (values.astype(np.uint32) << np.array([16, 8, 0], dtype=np.uint32)).sum(-1)[::3, ::3]
    return len(np.unique(packed)) <= _FEW_COLOURS
