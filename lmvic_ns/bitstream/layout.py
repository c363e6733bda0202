"""Framing of an `.lmvic` file: preamble, units, sections, index and trailer (docs/file-format.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from lmvic_ns.bitstream import limits
from lmvic_ns.bitstream.crc32c import crc32c
from lmvic_ns.bitstream.header import FileHeader, pack_header, unpack_header
from lmvic_ns.errors import BitstreamError

MAGIC = b"\x89LMVIC\r\n"
MAJOR, MINOR = 1, 0
_DEVELOPMENT = range(2, 8)
"""Major versions that files had before the format was settled; the next after 1 is 8."""
FLAG_DEFLATE = 1
PREAMBLE = struct.Struct("<8s2BH2I")  # magic, major, minor, flags, stored and unpacked bytes of the header; a CRC follows
PREAMBLE_BYTES = PREAMBLE.size + 4

UNIT_SYNC = b"\xf5UNT"  # 0xF5 is never part of UTF-8 text
SECTION_SYNC = b"\xf5SEC"
UNIT_FIELDS = struct.Struct("<4sH2I")  # sync, view, bytes of the depth part and of the image part; two CRCs follow
UNIT_HEADER_BYTES = UNIT_FIELDS.size + 8
SECTION_FIELDS = struct.Struct("<4s4sI")  # sync, tag, bytes; a CRC follows
SECTION_HEADER_BYTES = SECTION_FIELDS.size + 4

END_MAGIC = b"\x89LMVEND\n"
TRAILER = struct.Struct("<2I8s")  # bytes of the index, CRC of the index and that length, magic
SECTION_TAGS = frozenset({"META", "MASK", "PHOT", "PNTC", "PNTS"})  # in use in finished files
SECTION_ENTRY = 0  # of the index; a unit's entry is its view number + 1
MAX_INDEX_BYTES = 10 * (limits.MAX_VIEWS + limits.MAX_SECTIONS)


@dataclass(frozen=True)
class Unit:
    """The coded bytes of one view."""

    depth: bytes
    image: bytes


@dataclass(frozen=True)
class Block:
    """Where a unit or section lies in the file; `entry` is 0 for a section, view number + 1 for a unit."""

    entry: int
    offset: int
    size: int


@dataclass(frozen=True)
class UnitHeader:
    """The fixed fields in front of a unit's parts."""

    view: int
    depth_bytes: int
    image_bytes: int
    depth_crc: int
    image_crc: int
    fields_crc: int

    @property
    def size(self) -> int:
        """Of the whole unit, in bytes."""
        return UNIT_HEADER_BYTES + self.depth_bytes + self.image_bytes


def pack_preamble_and_header(header: FileHeader) -> bytes:
    """The front of the file, deflated where that saves bytes."""
    body = pack_header(header)
    if len(body) > limits.MAX_HEADER_BYTES:
        raise BitstreamError(f"header: expected at most {limits.MAX_HEADER_BYTES} bytes, these views need {len(body)}")
    deflated = zlib.compress(body, 9)
    smaller = len(deflated) < len(body) <= limits.MAX_DEFLATE_RATIO * len(deflated)
    stored, flags = (deflated, FLAG_DEFLATE) if smaller else (body, 0)
    fields = PREAMBLE.pack(MAGIC, MAJOR, MINOR, flags, len(stored), len(body))
    return fields + struct.pack("<I", crc32c(stored, crc32c(fields))) + stored


def stored_header_bytes(preamble: bytes) -> int:
    """How many bytes of header follow this preamble.

    Raises:
        BitstreamError: it is not the start of a file of this version, or claims more than the limits allow.
    """
    if preamble[: len(MAGIC)] != MAGIC and preamble[1:6] == MAGIC[1:6]:
        # like a PNG: line ends and the top bit show it
        raise BitstreamError("magic number: a transfer as text changed the bytes that were expected: copy the file again")
    if preamble[: len(MAGIC)] != MAGIC:
        raise BitstreamError("not an .lmvic file: expected its magic number in the first 8 bytes")
    if len(preamble) < PREAMBLE_BYTES:
        raise BitstreamError(f"header: expected {PREAMBLE_BYTES} bytes in front, found {len(preamble)}")
    _, major, _, flags, stored, unpacked = PREAMBLE.unpack_from(preamble)
    if major < MAJOR or major in _DEVELOPMENT:
        raise BitstreamError(
            f"header: expected version {MAJOR}, found version {major} of before the format was settled: decode the file with "
            "the lmvic-ns that made it, and encode it anew"
        )
    if major != MAJOR or flags & ~FLAG_DEFLATE:
        raise BitstreamError(
            f"header: expected version {MAJOR} and known flags, found version {major}, flags {flags:#x}: "
            "decode it with a newer lmvic-ns"
        )
    if max(stored, unpacked) > limits.MAX_HEADER_BYTES or unpacked > limits.MAX_DEFLATE_RATIO * stored:
        raise BitstreamError(f"header: expected at most {limits.MAX_HEADER_BYTES} bytes, found {stored} -> {unpacked}")
    return stored


def unpack_preamble_and_header(preamble: bytes, stored: bytes) -> FileHeader:
    """The header behind a preamble that `stored_header_bytes` accepted.

    Raises:
        BitstreamError: damaged, or against the format's rules.
    """
    _, _, _, flags, stored_bytes, unpacked = PREAMBLE.unpack_from(preamble)
    (crc,) = struct.unpack_from("<I", preamble, PREAMBLE.size)
    if len(stored) != stored_bytes:
        raise BitstreamError(f"header: expected {stored_bytes} bytes, found {len(stored)}")
    found = crc32c(stored, crc32c(preamble[: PREAMBLE.size]))
    if found != crc:
        raise BitstreamError(f"header: damaged: expected CRC-32C {crc:08x}, found {found:08x}")
    body = stored
    if flags & FLAG_DEFLATE:
        inflate = zlib.decompressobj()
        try:
            body = inflate.decompress(stored, unpacked + 1)
        except zlib.error as error:
            raise BitstreamError(f"header: expected a DEFLATE stream: {error}") from None
        if not inflate.eof or inflate.unused_data:
            raise BitstreamError(f"header: expected one DEFLATE stream of {unpacked} bytes")
    if len(body) != unpacked:
        raise BitstreamError(f"header: expected {unpacked} bytes, found {len(body)}")
    return unpack_header(body)


def binding_of(front: bytes) -> int:
    """The header's CRC, which the checksums of all blocks go on from: a block of another file is then no intact one here.

    Args:
        front: the preamble, or more from the file's first byte on.
    """
    return int(struct.unpack_from("<I", front, PREAMBLE.size)[0])


def pack_unit_header(view: int, depth: bytes, image: bytes, binding: int) -> bytes:
    """What stands in front of a unit's two parts, in the file of this `binding_of`."""
    fields = UNIT_FIELDS.pack(UNIT_SYNC, view, len(depth), len(image))
    crc = crc32c(fields, binding)
    return fields + struct.pack("<2I", crc32c(depth, crc), crc32c(image, crc))


def unpack_unit_header(data: bytes, header: FileHeader, binding: int) -> UnitHeader:
    """Fields of a unit, within the limits of its view; `binding` of the file that is read, see `binding_of`.

    Raises:
        BitstreamError: no unit begins here, or not one of this file's views.
    """
    if len(data) < UNIT_HEADER_BYTES or data[:4] != UNIT_SYNC:
        raise BitstreamError(f"expected a unit's sync marker and {UNIT_HEADER_BYTES} bytes of fields")
    _, view, depth_bytes, image_bytes = UNIT_FIELDS.unpack_from(data)
    if view >= len(header.views):
        raise BitstreamError(f"expected a view below {len(header.views)}, found {view}")
    record = header.views[view]
    most = limits.max_part_bytes(record.width * record.height)
    if max(depth_bytes, image_bytes) > most:
        raise BitstreamError(f"view {view}: expected parts of at most {most} bytes, found {depth_bytes}, {image_bytes}")
    depth_crc, image_crc = struct.unpack_from("<2I", data, UNIT_FIELDS.size)
    return UnitHeader(view, depth_bytes, image_bytes, depth_crc, image_crc, crc32c(data[: UNIT_FIELDS.size], binding))


def pack_section_header(tag: str, data: bytes, binding: int) -> bytes:
    """What stands in front of a section's bytes, in the file of this `binding_of`."""
    fields = SECTION_FIELDS.pack(SECTION_SYNC, check_tag(tag), len(data))
    return fields + struct.pack("<I", crc32c(data, crc32c(fields, binding)))


def unpack_section_header(data: bytes, binding: int) -> tuple[str, int, int, int]:
    """Tag, payload bytes, CRC, and the CRC of the fields that it continues.

    Raises:
        BitstreamError: no section begins here.
    """
    if len(data) < SECTION_HEADER_BYTES or data[:4] != SECTION_SYNC:
        raise BitstreamError(f"expected a section's sync marker and {SECTION_HEADER_BYTES} bytes of fields")
    _, tag, size = SECTION_FIELDS.unpack_from(data)
    if size > limits.MAX_SECTION_BYTES:
        raise BitstreamError(f"section {tag!r}: expected at most {limits.MAX_SECTION_BYTES} bytes, found {size}")
    text = tag.decode("ascii", errors="replace")
    check_tag(text)
    (crc,) = struct.unpack_from("<I", data, SECTION_FIELDS.size)
    return text, size, crc, crc32c(data[: SECTION_FIELDS.size], binding)


def must_be_known(tag: str) -> bool:
    """Whether a reader must refuse a file with this tag if it does not know it: tags that begin with a small letter."""
    return tag[:1].islower()


def check_tag(tag: str) -> bytes:
    """A section's tag as bytes.

    Raises:
        BitstreamError: not four ASCII letters or digits.
    """
    if len(tag) != 4 or not (tag.isascii() and tag.isalnum()):
        raise BitstreamError(f"section: expected a tag of four letters or digits, found {tag!r}")
    return tag.encode("ascii")


def pack_index_and_trailer(blocks: Sequence[Block]) -> bytes:
    """The end of the file. `blocks` are in file order and leave no gaps."""
    index = b"".join(_varint(block.entry) + _varint(block.size) for block in blocks)
    size = struct.pack("<I", len(index))
    return index + TRAILER.pack(len(index), crc32c(size, crc32c(index)), END_MAGIC)


def index_bytes(trailer: bytes, available: int) -> int:
    """Bytes of the index in front of this trailer, at most `available`.

    Raises:
        BitstreamError: this is no trailer.
    """
    if len(trailer) != TRAILER.size or trailer[8:] != END_MAGIC:
        raise BitstreamError("trailer: expected one at the end: the file was cut off or something follows it")
    size = TRAILER.unpack(trailer)[0]
    if size > min(available, MAX_INDEX_BYTES):
        raise BitstreamError(f"trailer: expected an index of at most {min(available, MAX_INDEX_BYTES)} bytes, found {size}")
    return size


def unpack_index(index: bytes, trailer: bytes, begin: int, end: int, views: int) -> list[Block]:
    """Blocks from `begin` to `end`, in file order.

    Raises:
        BitstreamError: damaged, or it does not cover the file with each view once.
    """
    size, crc, _ = TRAILER.unpack(trailer)
    found = crc32c(struct.pack("<I", size), crc32c(index))
    if found != crc:
        raise BitstreamError(f"index: damaged: expected CRC-32C {crc:08x}, found {found:08x}")
    blocks: list[Block] = []
    seen: set[int] = set()
    at, offset, sections = 0, begin, 0
    while at < len(index):
        entry, at = _read_varint(index, at)
        length, at = _read_varint(index, at)
        if entry > views or (entry and entry in seen):
            raise BitstreamError(f"index: expected each of {views} views once, found view {entry - 1}")
        sections += entry == SECTION_ENTRY
        if sections > limits.MAX_SECTIONS:
            raise BitstreamError(f"index: expected at most {limits.MAX_SECTIONS} sections")
        if length < (UNIT_HEADER_BYTES if entry else SECTION_HEADER_BYTES) or offset + length > end:
            raise BitstreamError(f"index: expected blocks inside the file, found one of {length} bytes at {offset}")
        seen.add(entry)
        blocks.append(Block(entry, offset, length))
        offset += length
    if offset != end:
        raise BitstreamError(f"index: expected its blocks to end at byte {end}, they end at {offset}")
    if len(seen - {SECTION_ENTRY}) != views:
        missing = next(view for view in range(views) if view + 1 not in seen)
        raise BitstreamError(f"index: expected {views} views, view {missing} is missing")
    return blocks


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if not data[at - 1] & 128:
            return value, at
    raise BitstreamError("index: expected numbers of at most five bytes")
