"""Masks of views without loss, as the file's section `MASK`; a mask that many views share is stored once.

    u16 x views     number of each view's mask + 1, 0 without
    u16             number of masks m
    u32 x m         bytes of each
    m pictures      PNG or lossless WebP, whichever is smaller, one channel of 8 bits (WebP: three equal ones)

Masks have the size and the frame of the captured photograph, also where it was undistorted to make the view.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lmvic_ns._util.picture_files import LONGEST_SIDE, MAX_PICTURE_PIXELS, open_picture, picture_of_bytes
from lmvic_ns.errors import BitstreamError, LmvicError, SceneError

TAG = "MASK"
Mask = UInt8[np.ndarray, "h w"]
LEAST_PIXELS = 1 << 20
"""Of a mask that any program takes, however small its views are."""
MOST_TIMES = 256
"""Pixels of a mask for each pixel of the largest view: views may be a sixteenth of their photographs, on each side."""


def most_pixels(largest_view: int) -> int:
    """Pixels that a mask may have in a file whose largest view has this many: a small file cannot ask for much memory."""
    return min(max(MOST_TIMES * largest_view, LEAST_PIXELS), MAX_PICTURE_PIXELS)


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Mask:
    """A mask file as 8-bit values (0 is masked out); colours are taken where all channels are equal.

    Args:
        path: the file.
        size: height and width that it must have.

    Raises:
        SceneError: it is missing, damaged, coloured, deeper than 8 bits, or of another size.
    """
    with open_picture(path) as picture:
        if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
            raise SceneError(f"{path}: a mask must have 8 bits a pixel, not {picture.mode}; save it anew as 8-bit PNG")
        if picture.mode in ("1", "L"):
            values = np.asarray(picture.convert("L"))
        else:
            alpha = picture.convert("RGBA").getchannel("A").getextrema() if picture.has_transparency_data else (255, 255)
            if alpha[0] != 255:
                raise SceneError(f"{path}: a mask must have one channel, this one is transparent; save it as 8-bit grey PNG")
            colours = np.asarray(picture.convert("RGB"))
            values = colours[..., 0]
            if (colours != values[..., None]).any():
                raise SceneError(f"{path}: a mask must have one channel, this one has colours; save it anew as 8-bit grey PNG")
        if size is not None and values.shape != size:
            raise SceneError(
                f"{path}: the mask is {values.shape[1]} x {values.shape[0]} pixels, its photograph {size[1]} x {size[0]}; make "
                "them equal"
            )
        return values


def pack_masks(masks: Sequence[Path | None], sizes: Sequence[tuple[int, int]]) -> bytes:
    """The section's bytes; empty if no view has a mask.

    Args:
        masks: file of each view's mask, None without.
        sizes: height and width of each view's photograph.

    Raises:
        SceneError: see `read_mask`.
    """
    numbers: dict[bytes, int] = {}
    views, seen = [], {}
    for path, size in zip(masks, sizes, strict=True):
        if path is None:
            views.append(0)
            continue
        if path not in seen:
            seen[path] = numbers.setdefault(_coded(read_mask(path, size)), len(numbers) + 1)
        views.append(seen[path])
    if not numbers:
        return b""
    lengths = np.array([len(data) for data in numbers], dtype="<u4")
    head = np.array([*views, len(numbers)], dtype="<u2")
    return head.tobytes() + lengths.tobytes() + b"".join(numbers)


class FileMasks:
    """The masks of a file, each unpacked when it is asked for.

    Args:
        data: the section.
        views: of the file.
        max_pixels: of a mask that is unpacked. Masks have the photographs' size, which may be larger than the views'.

    Raises:
        BitstreamError: the section breaks the format's rules.
    """

    def __init__(self, data: bytes, views: int, max_pixels: int = MAX_PICTURE_PIXELS) -> None:
        self._max_pixels = min(max_pixels, MAX_PICTURE_PIXELS)
        head = 2 * views + 2
        if len(data) < head:
            raise BitstreamError(f"section {TAG}: expected {head} bytes at least, found {len(data)}")
        numbers = np.frombuffer(data, "<u2", views + 1)
        self._views, count = numbers[:-1].astype(int), int(numbers[-1])
        if len(data) < head + 4 * count or int(self._views.max(initial=0)) > count:
            raise BitstreamError(f"section {TAG}: expected masks below {count} and their sizes")
        lengths = np.frombuffer(data, "<u4", count, head).astype(np.int64)
        ends = head + 4 * count + np.cumsum(lengths)
        if (int(ends[-1]) if count else head) != len(data):
            raise BitstreamError(f"section {TAG}: expected {ends[-1] if count else head} bytes, found {len(data)}")
        self._pictures = [data[int(end - size) : int(end)] for end, size in zip(ends, lengths, strict=True)]

    def check_sizes(self) -> None:
        """Looks at the headers of all masks.

        Raises:
            BitstreamError: a mask is too large, or no grey picture.
        """
        for number, data in enumerate(self._pictures):
            self._check(data, f"mask {number + 1}")

    def number(self, view: int) -> int:
        """Which of the file's masks is a view's, from 1 on; 0 without."""
        return int(self._views[view])

    def has(self, view: int) -> bool:
        """Whether a view has a mask."""
        return bool(self._views[view])

    def mask(self, view: int) -> Mask | None:
        """A view's mask at the photograph's size, 0 is masked out; None without.

        Raises:
            BitstreamError: it is damaged.
        """
        number = int(self._views[view])
        if not number:
            return None
        try:
            return self._unpacked(self._pictures[number - 1], f"mask of view {view}")
        except BitstreamError:
            raise
        except LmvicError as error:
            raise BitstreamError(f"section {TAG}: not what an encoder writes: {error}") from None

    def _check(self, data: bytes, name: str) -> None:
        with picture_of_bytes(data, name, pixels=False) as picture:  # what its header claims, before memory is taken
            if picture.format not in ("PNG", "WEBP") or picture.mode not in ("L", "RGB"):
                raise BitstreamError(f"section {TAG}: {name}: expected a grey PNG or WebP picture")
            if picture.width * picture.height > self._max_pixels:
                raise BitstreamError(
                    f"section {TAG}: {name}: expected at most {self._max_pixels / 1e6:g} megapixels, found {picture.width} x "
                    f"{picture.height}"
                )

    def _unpacked(self, data: bytes, name: str) -> Mask:
        self._check(data, name)
        with picture_of_bytes(data, name) as picture:
            return np.asarray(picture if picture.mode == "L" else picture.getchannel(0))


def nearest(mask: Mask, height: int, width: int) -> Mask:
    """A mask at another size, each pixel from the nearest one."""
    if mask.shape == (height, width):
        return mask
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask[rows][:, columns]


def _coded(mask: Mask) -> bytes:
    """The smaller of PNG and lossless WebP."""
    png, webp = io.BytesIO(), io.BytesIO()
    Image.fromarray(mask).save(png, "PNG", optimize=True)
    if max(mask.shape) > LONGEST_SIDE["webp"]:
        return png.getvalue()
    Image.fromarray(mask).convert("RGB").save(webp, "WEBP", lossless=True, quality=100, method=4)
    return min(png.getvalue(), webp.getvalue(), key=len)
