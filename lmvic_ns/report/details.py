"""Pictures of single views for a report: before and after, error of the result, worst place at full size, thumbnail."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "h w 3"]
SHOWN_SIDE = 900
THUMBNAIL_SIDE = 160
CROP_SIDE = 168
WHITE_ERROR = 24
"""Mean absolute error of a pixel's channels, in levels of 255, from which the error map is white."""
_COLOURS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], dtype=np.float64
)


@dataclass(frozen=True)
class ViewDetails:
    """One view for people, as data URLs.

    Attributes:
        index: number of the view.
        psnr: of the result, dB.
        before: the original, at most SHOWN_SIDE pixels.
        after: the result, as large.
        error: map of the result's error, as large.
        crop_before: the worst place of the original, pixel for pixel.
        crop_after: the same of the result.
        place: left and top of that place.
        size: width and height of the crops.
    """

    index: int
    psnr: float
    before: str
    after: str
    error: str
    crop_before: str
    crop_after: str
    place: tuple[int, int]
    size: tuple[int, int]


def view_details(index: int, psnr: float, original: Pixels, decoded: Pixels) -> ViewDetails:
    """The pictures of a view; the page that holds them stays small however large the view is."""
    error = np.abs(original.astype(np.int16) - decoded.astype(np.int16)).mean(axis=2).astype(np.float32)
    left, top, width, height = worst_place(error)
    crop = slice(top, top + height), slice(left, left + width)
    return ViewDetails(
        index,
        psnr,
        jpeg_url(reduced(original, SHOWN_SIDE), 88),
        jpeg_url(reduced(decoded, SHOWN_SIDE), 88),
        jpeg_url(reduced(error_colours(error), SHOWN_SIDE), 80),
        jpeg_url(Image.fromarray(original[crop]), 95),
        jpeg_url(Image.fromarray(decoded[crop]), 95),
        (left, top),
        (width, height),
    )


def worst_place(error: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of the window of CROP_SIDE pixels (less in small pictures) with the largest squared error."""
    rows, columns = error.shape
    height, width = min(CROP_SIDE, rows), min(CROP_SIDE, columns)
    sums = np.zeros((rows + 1, columns + 1))
    np.cumsum(np.cumsum(np.square(error, dtype=np.float64), axis=0), axis=1, out=sums[1:, 1:])
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(left), int(top), width, height


def error_colours(error: np.ndarray) -> Pixels:
    """An error map in colours: black is none, then violet, red, orange, and pale yellow from WHITE_ERROR levels on."""
    place = np.clip(error / WHITE_ERROR, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(place.astype(int), len(_COLOURS) - 2)
    part = (place - low)[..., None]
    return (_COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part).round().astype(np.uint8)


def reduced(pixels: Pixels, side: int) -> Image.Image:
    """A picture whose longer side is at most `side`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BOX if side < 200 else Image.Resampling.LANCZOS)
    return picture


def thumbnail(pixels: Pixels) -> str:
    """A small picture for a list."""
    return jpeg_url(reduced(pixels, THUMBNAIL_SIDE), 72)


def jpeg_url(picture: Image.Image, quality: int) -> str:
    """A picture as a data URL."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, subsampling=0 if quality > 85 else 2)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
