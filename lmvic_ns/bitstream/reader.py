"""Reading an `.lmvic` file: any view by itself, trusting nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

from lmvic_ns.bitstream.crc32c import crc32c
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.layout import (
    PREAMBLE_BYTES,
    SECTION_ENTRY,
    SECTION_HEADER_BYTES,
    SECTION_TAGS,
    TRAILER,
    UNIT_HEADER_BYTES,
    Block,
    Unit,
    UnitHeader,
    binding_of,
    index_bytes,
    must_be_known,
    stored_header_bytes,
    unpack_index,
    unpack_preamble_and_header,
    unpack_section_header,
    unpack_unit_header,
)
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.partial import SETTINGS_TAG, SUFFIX
from lmvic_ns.bitstream.scan import scan_blocks
from lmvic_ns.bitstream.sources import Source, open_source, size_of
from lmvic_ns.errors import BitstreamError


@dataclass(frozen=True)
class UnitSize:
    """Bytes of one view in the file: its two parts, and the whole unit with its fields."""

    depth: int
    image: int
    total: int


def _units(blocks: list[Block]) -> dict[int, Block]:
    return {block.entry - 1: block for block in blocks if block.entry != SECTION_ENTRY}


class Reader:
    """Random access to the units of a file. Threads may share one reader.

    A damaged index or trailer is made up for by searching the file for intact units; `problems` then says so.

    Args:
        path: the file: a path, a binary file that can be sought in, or an address that fsspec can open.
        max_pixels: refuse files with larger views than this (what a program can afford to decode).

    Attributes:
        header: cameras, names, tree, quality.
        problems: what was found wrong on opening; empty for an intact file.
        file_size: bytes of the whole file.
        max_pixels: as given.

    Raises:
        BitstreamError: the file cannot be read, or its header is damaged or against the format's rules.
    """

    def __init__(self, path: Source, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self.problems: list[str] = []
        self.max_pixels = max_pixels
        self._lock = threading.Lock()
        self._file, self.path, self._ours = open_source(path)
        try:
            self._open(max_pixels)
        except OSError as error:
            self.close()
            raise BitstreamError(f"cannot read {self.path}: {error.strerror or error}") from error
        except BitstreamError as error:
            self.close()
            raise BitstreamError(f"{self.path.name}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, max_pixels: int) -> None:
        self.file_size = size_of(self._file)
        preamble = self._read(0, PREAMBLE_BYTES)
        size = stored_header_bytes(preamble)
        self._binding = binding_of(preamble)
        if size > self.file_size - PREAMBLE_BYTES:
            raise BitstreamError(f"header: expected {size} bytes, the file ends after {self.file_size}")
        self.header: FileHeader = unpack_preamble_and_header(preamble, self._read(PREAMBLE_BYTES, size))
        for number, view in enumerate(self.header.views):
            if view.width * view.height > max_pixels:
                size, most = f"{view.width}x{view.height}", f"{max_pixels / 1e6:g} megapixels"
                raise BitstreamError(
                    f"header: view {number}: expected at most {most}, found {size}: raise --max-megapixels if you trust it"
                )
        begin = self._begin = PREAMBLE_BYTES + size
        self._found: dict[int, Block] | None = None  # units found by searching the file
        try:
            blocks = self._indexed_blocks(begin)
        except BitstreamError as error:
            self.problems.append(f"{error}; searched the file for intact units instead")
            blocks = scan_blocks(self._file, self.header, self._binding, begin, self.file_size)
            self._found = _units(blocks)
        self._units = _units(blocks)
        self._sections: dict[str, Block] = {}
        for block in blocks:
            if block.entry == SECTION_ENTRY:
                self._add_section(block)
        damaged = self.damaged_tags()  # one wrong bit makes a small letter of a capital one: no reason to refuse the file
        for tag in self._sections:
            if must_be_known(tag) and tag not in SECTION_TAGS and tag not in damaged:
                raise BitstreamError(f"section {tag}: this version does not know it, and it has to be: use a newer lmvic-ns")

    def _indexed_blocks(self, begin: int) -> list[Block]:
        available = self.file_size - TRAILER.size - begin
        trailer = self._read(max(begin, self.file_size - TRAILER.size), TRAILER.size)
        size = index_bytes(trailer, max(available, 0))
        end = self.file_size - TRAILER.size - size
        return unpack_index(self._read(end, size), trailer, begin, end, len(self.header.views))

    def _add_section(self, block: Block) -> None:
        try:
            tag, size, _, _ = unpack_section_header(self._read(block.offset, SECTION_HEADER_BYTES), self._binding)
            if size + SECTION_HEADER_BYTES != block.size or tag in self._sections:
                raise BitstreamError(f"section {tag}: expected once, with {block.size - SECTION_HEADER_BYTES} bytes")
            self._sections[tag] = block
        except BitstreamError as error:
            self.problems.append(f"section at byte {block.offset}: {error}")

    def unit(self, view: int) -> Unit:
        """The coded bytes of one view; reads those bytes only.

        Raises:
            BitstreamError: no intact unit of this view; names the view, its part, and what was expected.
        """
        if not 0 <= view < len(self.header.views):
            raise BitstreamError(f"{self.path.name}: expected a view below {len(self.header.views)}, found {view}")
        try:
            return self._unit_in(self._units.get(view), view)
        except BitstreamError:
            found = self._search(view)  # units may have moved, as a whole, from where the index has them
            if found is None or found == self._units.get(view):
                raise
            return self._unit_in(found, view)

    def _unit_in(self, block: Block | None, view: int) -> Unit:
        what = f"{self.path.name}: view {view} ({self.header.views[view].name})"
        if block is None:
            raise BitstreamError(f"{what}: expected its unit, found no intact one in the file")
        try:
            head = self._unit_header(block, view)
        except BitstreamError as error:
            raise BitstreamError(f"{what}: unit: {error}") from None
        begin = block.offset + UNIT_HEADER_BYTES
        depth, image = self._read(begin, head.depth_bytes), self._read(begin + head.depth_bytes, head.image_bytes)
        for part, content, crc in (("depth", depth, head.depth_crc), ("image", image, head.image_crc)):
            found = crc32c(content, head.fields_crc)
            if found != crc:
                raise BitstreamError(f"{what}: {part} part: damaged: expected CRC-32C {crc:08x}, found {found:08x}")
        return Unit(depth, image)

    def _unit_header(self, block: Block, view: int) -> UnitHeader:
        head = unpack_unit_header(self._read(block.offset, UNIT_HEADER_BYTES), self.header, self._binding)
        if head.view != view or head.size != block.size:
            raise BitstreamError(f"expected view {view} with {block.size} bytes, found view {head.view} with {head.size}")
        return head

    def _search(self, view: int) -> Block | None:
        """An intact unit of this view, wherever it lies in the file; searches once."""
        with self._lock:
            if self._found is None:
                try:
                    self._found = _units(scan_blocks(self._file, self.header, self._binding, self._begin, self.file_size))
                except OSError as error:
                    raise BitstreamError(f"cannot read {self.path}: {error.strerror or error}") from error
            return self._found.get(view)

    def section(self, tag: str) -> bytes | None:
        """The bytes of an optional section, None if the file has none of this tag.

        Raises:
            BitstreamError: it is damaged.
        """
        block = self._sections.get(tag)
        if block is None:
            return None
        data = self._read(block.offset, block.size)
        if len(data) != block.size:
            raise BitstreamError(f"{self.path.name}: section {tag}: expected {block.size} bytes, found {len(data)}")
        _, _, crc, fields_crc = unpack_section_header(data[:SECTION_HEADER_BYTES], self._binding)
        found = crc32c(memoryview(data)[SECTION_HEADER_BYTES:], fields_crc)
        if found != crc:
            raise BitstreamError(f"{self.path.name}: section {tag}: damaged: expected CRC-32C {crc:08x}, found {found:08x}")
        return data[SECTION_HEADER_BYTES:]

    def sections(self) -> tuple[str, ...]:
        """Tags of the optional sections."""
        return tuple(self._sections)

    def section_bytes(self, tag: str) -> int:
        """Size of a section's data, read or not, whole or not; 0 if the file has none of this tag."""
        block = self._sections.get(tag)
        return block.size - SECTION_HEADER_BYTES if block is not None else 0

    def damaged_tags(self) -> dict[str, str]:
        """What is wrong with sections of tags that are not in use: damage may have made one of another's tag, and nobody
        would read it or miss it.
        """
        found: dict[str, str] = {}
        for tag in self._sections:
            if tag not in SECTION_TAGS and tag != SETTINGS_TAG:
                try:
                    self.section(tag)
                except BitstreamError as error:
                    found[tag] = str(error)
        return found

    @property
    def unfinished(self) -> bool:
        """Whether this is the partial file of an encode that is in progress or was interrupted."""
        return bool(self.problems) and (self.path.name.endswith(SUFFIX) or SETTINGS_TAG in self._sections)

    def written(self, view: int) -> bool:
        """Whether there is a unit of this view, whole or not."""
        return view in self._units

    def ancestors(self, view: int) -> tuple[int, ...]:
        """Views that must be decoded before this one, the root first."""
        return self.header.ancestors(view)

    def sizes(self) -> tuple[UnitSize | None, ...]:
        """Bytes of every view, None where there is no readable unit. Reads the units' fields only."""
        sizes: list[UnitSize | None] = []
        for view in range(len(self.header.views)):
            block = self._units.get(view)
            try:
                if block is None:
                    raise BitstreamError("not found")
                head = self._unit_header(block, view)
            except BitstreamError:
                block = self._search(view)
                head = self._unit_header(block, view) if block else None
            sizes.append(UnitSize(head.depth_bytes, head.image_bytes, head.size) if head else None)
        return tuple(sizes)

    def verify(self) -> list[str]:
        """Read everything and say what is wrong, a line each; an empty list means that every byte is as written."""
        found = list(self.problems)
        for view in range(len(self.header.views)):
            try:
                self.unit(view)
            except BitstreamError as error:
                found.append(str(error))
        for tag in self._sections:
            try:
                self.section(tag)
            except BitstreamError as error:
                found.append(str(error))
        return found

    def damaged_views(self) -> dict[int, str]:
        """Views that cannot be decoded, each with the reason: the first broken unit on its way from the root."""
        reasons: dict[int, str] = {}
        for view in self.header.order:
            parent = self.header.views[view].parent
            if parent in reasons:
                reasons[view] = reasons[parent]
                continue
            try:
                self.unit(view)
            except BitstreamError as error:
                reasons[view] = str(error)
        return reasons

    def close(self) -> None:
        """Close the file, unless it was given open."""
        if self._ours:
            self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, offset: int, size: int) -> bytes:
        try:
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)
        except ValueError as error:  # of a file that was closed
            raise BitstreamError(f"cannot read {self.path}: {error}") from error
        except OSError as error:
            raise BitstreamError(f"cannot read {self.path}: {error.strerror or error}") from error
