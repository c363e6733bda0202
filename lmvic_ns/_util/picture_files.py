"""Opening of picture files, and the size limits of each format."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from lmvic_ns.errors import LmvicError, SceneError

MEGAPIXEL = 1_000_000
MAX_PICTURE_PIXELS = 1 << 28
"""Of a file that is read (a telephone's 200 megapixels, to be made smaller with --downscale); more is taken for an attack."""
LONGEST_SIDE = {"webp": 16_383, "jpg": 65_500, "jpeg": 65_500, "avif": 65_536}
"""Pixels that a format can hold in each direction, by suffix; a format that is not here has no such bound."""

_ROTATED = (5, 6, 7, 8)  # values of EXIF's orientation that swap width and height
_LIMIT_LOCK = threading.Lock()


@contextmanager
def picture_of_bytes(data: bytes, name: str, *, pixels: bool = True) -> Iterator[Image.Image]:
    """The same as `open_picture`, for a picture in memory.

    Args:
        data: as a file would hold it.
        name: what to call it in errors.
        pixels: see `open_picture`.

    Raises:
        SceneError: see `open_picture`.
    """
    with open_picture(name, pixels=pixels, source=io.BytesIO(data)) as picture:
        yield picture


@contextmanager
def open_picture(path: Path | str, *, pixels: bool = True, source: BinaryIO | None = None) -> Iterator[Image.Image]:
    """A picture file, of which everything that can fail has been done: any damage is one clear line.

    Args:
        path: the file.
        pixels: decode it; without, only the header is read (size, mode, EXIF).
        source: where its bytes come from, if it is no file by itself; `path` then only names it.

    Raises:
        SceneError: the file is missing, is no picture, is damaged, or has more than `MAX_PICTURE_PIXELS`.
    """
    try:
        if source is None and Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for without end
            raise SceneError(f"{path}: is a folder, a device or a pipe, not an image")
        picture = _opened(path, path if source is None else source)
    except LmvicError:
        raise
    except Exception as error:  # Pillow raises anything but a kind of its own: SyntaxError, struct.error, ValueError, ...
        raise _unreadable(path, error) from error
    with picture:
        if pixels:
            try:
                picture.load()
            except Exception as error:
                raise _unreadable(path, error) from error
        yield picture


def is_rotated(picture: Image.Image) -> bool:
    """Whether EXIF asks viewers to swap width and height. Cameras of a scene belong to the stored pixels."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation) in _ROTATED
    except Exception:  # damaged EXIF says nothing
        return False


def check_format_holds(suffix: str, width: int, height: int, name: str) -> None:
    """Refuse a picture that is larger than its format can be, before anything is decoded or coded.

    Args:
        suffix: of the files, such as "webp".
        width: pixels.
        height: pixels.
        name: of the view.

    Raises:
        LmvicError: names the view, the limit and another format.
    """
    longest = LONGEST_SIDE.get(suffix.lstrip(".").lower())
    if longest is not None and max(width, height) > longest:
        raise LmvicError(
            f"view {name!r} is {width} x {height} pixels, and {suffix.lstrip('.')} files hold at most {longest} in each "
            "direction; use --format png"
        )


def _opened(path: Path | str, source: Path | str | BinaryIO) -> Image.Image:
    with _LIMIT_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is checked below, with a hint
        try:
            picture = Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = kept
    width, height = picture.size
    if width * height > MAX_PICTURE_PIXELS:
        picture.close()
        raise SceneError(
            f"{path}: is {width} x {height} pixels, more than {MAX_PICTURE_PIXELS // MEGAPIXEL} megapixels; "
            "make it smaller first"
        )
    return picture


def _unreadable(path: Path | str, error: Exception) -> SceneError:
    if isinstance(error, FileNotFoundError):
        return SceneError(f"{path}: image not found")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return SceneError(f"{path}: cannot be read as an image ({reason}); replace it, or take it out of the scene")
