"""EXIF, XMP and colour profiles of photographs, byte for byte, as the file's section `PHOT`; equal ones are stored once.

An xz stream of:

    u32                 number of blobs n
    3 x u32 x views     number + 1 of each view's EXIF, then of each view's XMP, then of each view's ICC profile; 0 without
    u32 x n             bytes of each blob
    n blobs

EXIF begins with its TIFF header, without the `Exif` mark of JPEG files. The small picture that cameras put into EXIF for
previews is filled with zeros: it shows what the view shows.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns.errors import BitstreamError

TAG = "PHOT"
MAX_BYTES = 1 << 28
"""Of all blobs together, unpacked."""
_MARK = b"Exif\0\0"
_XMP_IN_PNG = "XML:com.adobe.xmp"
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 23}]
_MEMORY = 1 << 26  # bytes that unpacking may take: the dictionary and some more


@dataclass(frozen=True)
class PhotographData:
    """What a picture file says beside its pixels; None for what it lacks.

    Attributes:
        exif: from the TIFF header on.
        xmp: the XMP packet.
        icc_profile: the colour profile.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc_profile: bytes | None = None


def read_photograph_data(path: Path, exif: bool = True) -> PhotographData:
    """The data of a picture file.

    Args:
        path: the file.
        exif: with EXIF and XMP.

    Raises:
        SceneError: it cannot be read.
    """
    with open_picture(path, pixels=False) as picture:
        info = picture.info
        profile = info.get("icc_profile") or None
        if profile is not None and profile[16:20] != b"RGB ":
            profile = None  # of grey or CMYK values, which the decoded picture does not have
        if not exif:
            return PhotographData(icc_profile=profile)
        found = info.get("exif")
        xmp = info.get("xmp") or info.get(_XMP_IN_PNG)
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8")
    if isinstance(found, bytes):
        found = without_thumbnail(found.removeprefix(_MARK)) or None
    return PhotographData(found if isinstance(found, bytes) else None, xmp if isinstance(xmp, bytes) and xmp else None, profile)


def pack_photographs(data: Sequence[PhotographData]) -> bytes:
    """The section's bytes; empty if no picture has any."""
    numbers: dict[bytes, int] = {}
    table = []
    for field in ("exif", "xmp", "icc_profile"):
        for one in data:
            blob = getattr(one, field)
            table.append(numbers.setdefault(blob, len(numbers) + 1) if blob else 0)
    if not numbers:
        return b""
    head = np.array([len(numbers), *table, *map(len, numbers)], dtype="<u4").tobytes()
    return lzma.compress(head + b"".join(numbers), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=_FILTERS)


def unpack_photographs(section: bytes, views: int) -> list[PhotographData]:
    """What `pack_photographs` packed.

    Raises:
        BitstreamError: the section breaks the format's rules.
    """
    try:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        data = stream.decompress(section, MAX_BYTES + 1)
    except (lzma.LZMAError, MemoryError, ValueError) as error:
        raise BitstreamError(f"section {TAG}: expected an xz stream ({error})") from None
    if len(data) > MAX_BYTES or not stream.eof or stream.unused_data:
        raise BitstreamError(f"section {TAG}: expected one xz stream of at most {MAX_BYTES} bytes")
    count = int.from_bytes(data[:4], "little")
    head = 4 * (1 + 3 * views + count)
    if len(data) < head:
        raise BitstreamError(f"section {TAG}: expected {head} bytes at least, found {len(data)}")
    numbers = np.frombuffer(data, "<u4", head // 4)
    table, ends = numbers[1 : 1 + 3 * views].astype(int), head + np.cumsum(numbers[1 + 3 * views :], dtype=np.int64)
    if int(table.max(initial=0)) > count or (int(ends[-1]) if count else head) != len(data):
        raise BitstreamError(f"section {TAG}: expected blobs below {count} that fill it")
    begins = [head, *map(int, ends)]

    def blob(kind: int, view: int) -> bytes | None:
        number = int(table[kind * views + view])
        return data[begins[number - 1] : begins[number]] if number else None

    return [PhotographData(blob(0, view), blob(1, view), blob(2, view)) for view in range(views)]


def without_thumbnail(exif: bytes) -> bytes:
    """EXIF whose preview picture is zeros; everything else stays where it is. Damaged EXIF stays as it is."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]

        def number(kind: str, at: int) -> int:
            return struct.unpack_from(order + kind, exif, at)[0]

        first = number("I", 4)
        second = number("I", first + 2 + 12 * number("H", first))
        if not second:
            return exif
        place: dict[int, int] = {}
        for entry in range(number("H", second)):
            at = second + 2 + 12 * entry
            place[number("H", at)] = number("I", at + 8)
        begin, size = place[0x201], place[0x202]
        if not 8 <= begin <= begin + size <= len(exif):
            return exif
        return exif[:begin] + bytes(size) + exif[begin + size :]
    except (KeyError, IndexError, struct.error):
        return exif
