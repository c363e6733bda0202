"""Bytes that JPEG, WebP and AVIF need for the same PSNR."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from lmvic_ns._util.metrics import psnr
from lmvic_ns._util.picture_files import LONGEST_SIDE

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "webp": ("WEBP", {"method": 4}),
    "avif": ("AVIF", {"speed": 8, "max_threads": 1}),
}
"""Pillow's format and options of each."""
_BEST = {"jpeg": 95, "webp": 100, "avif": 100}


def available(name: str) -> bool:
    """Whether this Pillow writes a format."""
    return name != "avif" or bool(features.check("avif"))


def as_good(name: str, pixels: UInt8[np.ndarray, "h w 3"], target: float) -> tuple[int, float]:
    """Bytes and PSNR (dB) of the smallest file with at least the PSNR `target`; of the best setting where none reaches it.

    Args:
        name: of a format in `FORMATS`.
        pixels: the picture.
        target: dB.
    """
    low, high = 1, _BEST[name]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if coded(name, pixels, middle)[1] >= target else (middle + 1, high)
    return coded(name, pixels, low)


def coded(name: str, pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> tuple[int, float]:
    """Bytes and PSNR (dB) of a picture in a format; one that is too long for the format is stored in pieces."""
    kind, options = FORMATS[name]
    axis = int(pixels.shape[1] > pixels.shape[0])
    longest = LONGEST_SIDE["jpg" if name == "jpeg" else name]
    size, decoded = 0, []
    for piece in np.array_split(pixels, -(-pixels.shape[axis] // longest), axis=axis):
        stream = io.BytesIO()
        Image.fromarray(piece).save(stream, kind, quality=quality, **options)
        size += stream.tell()
        decoded.append(np.asarray(Image.open(stream).convert("RGB")))
    return size, psnr(pixels, np.concatenate(decoded, axis=axis))
