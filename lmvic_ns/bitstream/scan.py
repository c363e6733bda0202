"""Finding units without an index: after a cut, a splice, or in the partial file of an interrupted encode."""

from __future__ import annotations

import re
from typing import IO

from lmvic_ns.bitstream import limits
from lmvic_ns.bitstream.crc32c import PIECE, crc32c
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.layout import (
    SECTION_ENTRY,
    SECTION_HEADER_BYTES,
    SECTION_SYNC,
    UNIT_HEADER_BYTES,
    UNIT_SYNC,
    Block,
    unpack_section_header,
    unpack_unit_header,
)
from lmvic_ns.errors import BitstreamError

_CHUNK = 1 << 20
_SYNC_BYTES = len(UNIT_SYNC)
_SYNC_MARKER = re.compile(re.escape(UNIT_SYNC) + b"|" + re.escape(SECTION_SYNC))
_COST_OF_A_MARKER = 1024  # bytes of checksum that looking at a false marker is counted as


def scan_blocks(file: IO[bytes], header: FileHeader, binding: int, begin: int, end: int) -> list[Block]:
    """Every block between two offsets whose checksums hold, in file order; the first one of each view.

    Checksums of about twice the file's size are computed at most, so that forged markers cannot make this slow.
    """
    blocks: list[Block] = []
    seen: set[int] = set()
    markers = _MarkerScanner(file, end)
    budget = 2 * (end - begin) + _CHUNK
    at, sections = begin, 0
    while (at := markers.next_from(at)) >= 0 and budget > 0:
        try:
            block, checked = _intact_block(file, header, binding, at, end, budget)
        except BitstreamError:
            block, checked = None, 0
        budget -= max(checked, _COST_OF_A_MARKER)
        if block is None:
            at += 1
            continue
        at += block.size
        sections += block.entry == SECTION_ENTRY
        if block.entry not in seen and (block.entry != SECTION_ENTRY or sections <= limits.MAX_SECTIONS):
            blocks.append(block)
        if block.entry != SECTION_ENTRY:
            seen.add(block.entry)
    return blocks


def leading_blocks(file: IO[bytes], header: FileHeader, binding: int, begin: int, end: int) -> list[Block]:
    """The unbroken run of intact blocks from `begin` on: what an interrupted encode has finished."""
    blocks: list[Block] = []
    seen: set[int] = set()
    at = begin
    while at < end:
        try:
            block, _ = _intact_block(file, header, binding, at, end, 2 * (end - begin))
        except BitstreamError:
            break
        if block is None or (block.entry != SECTION_ENTRY and block.entry in seen):
            break
        seen.add(block.entry)
        blocks.append(block)
        at += block.size
    return blocks


def crc_of_range(file: IO[bytes], offset: int, size: int, crc: int) -> int:
    """CRC-32C of a range of the file, continuing from `crc`, in bounded memory; 0 bytes are missing silently."""
    file.seek(offset)
    while size > 0:
        piece = file.read(min(size, PIECE))
        if not piece:
            break
        crc = crc32c(piece, crc)
        size -= len(piece)
    return crc


def _intact_block(
    file: IO[bytes], header: FileHeader, binding: int, at: int, end: int, budget: int
) -> tuple[Block | None, int]:
    """The block at `at`, or None if a checksum fails; and how many bytes were checked.

    Raises:
        BitstreamError: no block begins here.
    """
    file.seek(at)
    head = file.read(min(UNIT_HEADER_BYTES, end - at))
    if head[:_SYNC_BYTES] == SECTION_SYNC:
        _, payload, crc, fields_crc = unpack_section_header(head, binding)
        size = SECTION_HEADER_BYTES + payload
        if size > min(end - at, budget):
            return None, SECTION_HEADER_BYTES
        good = crc_of_range(file, at + SECTION_HEADER_BYTES, payload, fields_crc) == crc
        return (Block(SECTION_ENTRY, at, size) if good else None), size
    unit = unpack_unit_header(head, header, binding)
    if unit.size > min(end - at, budget):
        return None, UNIT_HEADER_BYTES
    begin = at + UNIT_HEADER_BYTES
    if crc_of_range(file, begin, unit.depth_bytes, unit.fields_crc) != unit.depth_crc:
        return None, UNIT_HEADER_BYTES + unit.depth_bytes
    good = crc_of_range(file, begin + unit.depth_bytes, unit.image_bytes, unit.fields_crc) == unit.image_crc
    return (Block(unit.view + 1, at, unit.size) if good else None), unit.size


class _MarkerScanner:
    """Looks for the sync markers of units and sections, reading every part of the file about once."""

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file, self._end = file, end
        self._chunk, self._begin = b"", 0

    def next_from(self, at: int) -> int:
        """Offset of the first marker at or after `at`, -1 if there is none."""
        while at + _SYNC_BYTES <= self._end:
            inside = at - self._begin
            if not 0 <= inside <= len(self._chunk) - _SYNC_BYTES:
                self._file.seek(at)
                self._chunk, self._begin, inside = self._file.read(min(_CHUNK, self._end - at)), at, 0
                if len(self._chunk) < _SYNC_BYTES:
                    return -1
            place = _SYNC_MARKER.search(self._chunk, inside)
            if place:
                return self._begin + place.start()
            at = self._begin + len(self._chunk) - _SYNC_BYTES + 1
        return -1
