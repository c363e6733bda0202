"""Bits per channel of a picture file. Pillow silently reduces colours of more than 8 bits."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lmvic_ns.errors import SceneError

_HEAD = 1 << 16  # bytes in which a file says how deep it is
_PNM = re.compile(rb"^P[2356](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)")
_PAM = re.compile(rb"^P7\s.*?\bMAXVAL\s+(\d+)", re.S)


def bits_a_channel(path: Path, picture: Image.Image) -> int:
    """Bits of the deepest channel, as the file says; 8 for formats that have no more.

    Args:
        path: the file.
        picture: it, opened (its pixels need not be loaded).
    """
    if picture.mode.startswith(("I", "F")):
        return 32 if picture.mode in ("I", "F") else 16
    with path.open("rb") as file:
        head = file.read(_HEAD)
    kind = picture.format
    if kind == "PNG":
        return head[24]
    if kind == "TIFF":
        sizes = getattr(picture, "tag_v2", {}).get(258, (8,))
        return max(map(int, sizes)) if isinstance(sizes, tuple) else int(sizes)
    if kind == "PPM":
        found = _PNM.match(head) or _PAM.match(head)
        return 16 if found and int(found.group(1)) > 255 else 8
    if kind == "JPEG2000":
        return _jpeg2000_bits(head)
    if kind == "SGI":
        return 8 * head[3]
    if kind == "PSD":
        return int.from_bytes(head[22:24], "big")
    if kind == "AVIF":
        at = head.find(b"av1C")  # two bytes, then the flags: tier, high bit depth, twelve bits, ...
        flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return int(picture.info.get("bit_depth", 8))  # what pillow_heif says


def check_eight_bits(path: Path, picture: Image.Image) -> None:
    """Refuse a picture with more than 8 bits per channel.

    Raises:
        SceneError: more than 8 bits a channel, or the file is damaged where it says so.
    """
    try:
        bits = bits_a_channel(path, picture)
    except OSError as error:
        raise SceneError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged tag may hold anything
        raise SceneError(
            f"{path}: does not say how many bits a channel has ({error or type(error).__name__}); save it anew as PNG or JPEG"
        ) from error
    if bits > 8:
        raise SceneError(f"{path}: more than 8 bits a channel ({bits}); convert it to 8-bit PNG or JPEG first")


def opaque_rgb(path: Path, picture: Image.Image) -> Image.Image:
    """A picture as RGB of 8 bits; grey is repeated, and alpha that hides nothing is dropped.

    Args:
        path: the file, for errors.
        picture: it, with its pixels.

    Raises:
        SceneError: more than 8 bits a channel, or pixels that are not opaque.
    """
    check_eight_bits(path, picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            raise SceneError(f"{path}: has transparent pixels; flatten it onto a background first")
        return rgba.convert("RGB")
    return picture.convert("RGB")


def _jpeg2000_bits(head: bytes) -> int:
    """Of the deepest component: the SIZ marker begins the codestream."""
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(head) < at + 45:
        return 8
    count = int.from_bytes(head[at + 40 : at + 42], "big")
    sizes = head[at + 42 : at + 42 + 3 * count : 3]
    return max((size & 127) + 1 for size in sizes) if sizes else 8
