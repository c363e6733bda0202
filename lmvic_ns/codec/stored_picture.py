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
_FEW_COLOURS = 512


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
        raise BitstreamError(f"{name}: stored picture: cannot be read ({error})") from None
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255


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
    values = (image[0].float().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    pixels = values.shape[0] * values.shape[1]
    picture = Image.fromarray(values)
    original = torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255
    best, best_cost = None, cost
    for stored in _candidates(picture, original, error, cost == float("inf") or 8 * size > pixels or _few_colours(values)):
        e = (stored.image - original).square().mean().item()
        c = weight * e + 8 * len(stored.data) / pixels
        if c < best_cost or (best is None and e <= error and len(stored.data) <= size):
            best, best_cost = stored, min(c, best_cost)
    return best


def _candidates(picture: Image.Image, original: Tensor, error: float, lossless: bool) -> Iterator[StoredPicture]:
    """JPEGs on the way to the coded view's quality, and lossless files where they have a chance."""
    name = f"{picture.width}x{picture.height}"
    size = picture.height, picture.width
    if max(size) <= 65500:
        low, high = 2, 98
        while low <= high:
            quality = (low + high) // 2
            data = _save(picture, "JPEG", quality=quality, subsampling=0, optimize=True)
            stored = StoredPicture(data, read_stored_picture(data, size, name))
            yield stored
            if (stored.image - original).square().mean().item() <= error:
                high = quality - 1
            else:
                low = quality + 1
    if lossless:
        yield StoredPicture(_save(picture, "PNG", optimize=True), original)
        if max(size) <= _WEBP_SIDE:
            yield StoredPicture(_save(picture, "WEBP", lossless=True, quality=50, method=4), original)


def _save(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _few_colours(values: np.ndarray) -> bool:
    """Whether the picture has so few colours that lossless files are small."""
    packed = (values.astype(np.uint32) << np.array([16, 8, 0], dtype=np.uint32)).sum(-1)[::3, ::3]
    return len(np.unique(packed)) <= _FEW_COLOURS
