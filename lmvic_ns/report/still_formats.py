"""Bytes that JPEG, WebP, AVIF and PNG need for the same pictures, measured on a sample of the views."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from lmvic_ns._util.metrics import psnr
from lmvic_ns._util.picture_files import LONGEST_SIDE
from lmvic_ns.codec.records import EXACT_PSNR

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "webp": ("WEBP", {"method": 4}),
    "avif": ("AVIF", {"speed": 8, "max_threads": 1}),
}
"""Pillow's format and options of each."""
_BEST = {"jpeg": 95, "webp": 100, "avif": 100}
JPEG_QUALITY = 90
MOST_COMPARED = 8
"""Views of a sample: each takes some twenty encodes."""
_COMPARED_PIXELS = 24_000_000


@dataclass
class FormatSample:
    """What other formats need for some of the views; for all of them in proportion to their pixels.

    Args:
        order: numbers of all views; the sample is evenly spread over them.
        pixels: of each view, by number.
    """

    order: Sequence[int]
    pixels: Sequence[int]
    found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """By format: bytes and PSNR (dB) of each view of the sample."""
    short: set[str] = field(default_factory=set)
    """Formats whose best setting did not reach the PSNR of a view."""

    def __post_init__(self) -> None:
        count = len(self.order)
        affordable = max(2, _COMPARED_PIXELS * count // max(1, sum(self.pixels)))
        chosen = min(count, MOST_COMPARED, affordable)
        self.views = {self.order[(2 * number + 1) * count // (2 * chosen)] for number in range(chosen)}

    def add(self, view: int, pixels: UInt8[np.ndarray, "h w 3"], target: float) -> None:
        """Measure a view if it is in the sample.

        Args:
            view: its number.
            pixels: the original.
            target: PSNR of our result, dB.
        """
        if view not in self.views:
            return
        self._note("png", _png_bytes(pixels), EXACT_PSNR)
        self._note("jpeg_90", *coded("jpeg", pixels, JPEG_QUALITY))
        for name in FORMATS:
            if target < EXACT_PSNR and available(name):
                size, reached = as_good(name, pixels, target)
                self._note(name, size, reached)
                self.short |= {name} if reached < target else set()

    def _note(self, name: str, size: int, reached: float) -> None:
        self.found.setdefault(name, []).append((size, min(reached, EXACT_PSNR)))

    def as_dict(self) -> dict[str, Any]:
        """Number of views in the sample, and for each format its bytes for all views and mean PSNR.

        `reached` is false where a format could not be as good. JPEG, WebP and AVIF are left out where all views are exact.
        """
        if not self.found:
            return {"measured_views": 0}
        share = sum(self.pixels) / sum(self.pixels[view] for view in self.views)
        formats = {
            name: {
                "bytes": round(share * sum(size for size, _ in rows)),
                "psnr": float(np.mean([quality for _, quality in rows])),
                "reached": name not in self.short,
            }
            for name, rows in self.found.items()
            if len(rows) == len(self.views)
        }
        return {"measured_views": len(self.views), **formats}


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


def _png_bytes(pixels: UInt8[np.ndarray, "h w 3"]) -> int:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.tell()
