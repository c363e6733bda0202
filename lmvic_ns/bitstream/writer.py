"""Writing an `.lmvic` file view by view, in memory that does not grow with the number of views."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lmvic_ns._util.output import check_plain
from lmvic_ns.bitstream import limits
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.layout import (
    PREAMBLE_BYTES,
    SECTION_ENTRY,
    UNIT_HEADER_BYTES,
    Block,
    Unit,
    binding_of,
    check_tag,
    pack_index_and_trailer,
    pack_preamble_and_header,
    pack_section_header,
    pack_unit_header,
    stored_header_bytes,
    unpack_preamble_and_header,
    unpack_section_header,
    unpack_unit_header,
)
from lmvic_ns.bitstream.partial import SETTINGS_TAG, finished_path, partial_path, read_partial, settings_of
from lmvic_ns.bitstream.scan import leading_blocks
from lmvic_ns.errors import BitstreamError, LmvicError


class OtherSettingsError(LmvicError):
    """The partial file was begun with other settings, views or weights."""


class BusyError(LmvicError):
    """Another run is writing the partial file."""


class Writer:
    """Writes `path + ".partial"` and renames it when all is there, so that no unfinished file looks whole.

    As a context manager it closes at the end and aborts on an exception.

    Args:
        path: the finished file; an older one is replaced at the end, not before.
        header: of the scene; see `FileHeader.build`.
        resume: go on with the partial file of an interrupted encode, if there is one, and keep it on failure. Without, one
            that holds views is refused.
        settings: what else the units depend on (options, pictures), as some bytes; a partial file that was begun with
            others is refused.

    Raises:
        LmvicError: the file cannot be written, another run is writing it, or an interrupted encode would be lost.
        OtherSettingsError: the partial file was begun with another header or other settings.
        BitstreamError: the header is against the format's rules.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: FileHeader, *, resume: bool = False, settings: bytes | None = None
    ) -> None:
        front = pack_preamble_and_header(header)
        self.path = finished_path(path)
        self.partial = partial_path(path)
        self.header = header
        check_plain(self.path)
        self._settings = settings
        self._binding = binding_of(front)
        self._keep = resume
        self._blocks: list[Block] = []
        self._units: dict[int, Block] = {}
        self._tags: set[str] = set()
        self._end = 0
        self._file: BinaryIO | None = None
        try:
            there = self.partial.exists()
            # not truncated yet: another run may be writing it
            self._file = open(self.partial, "r+b" if there else "w+b")  # noqa: SIM115
            self._lock(self._file)
            if resume and there:
                self._take_up(self._file)
            else:
                if os.fstat(self._file.fileno()).st_size:
                    self._check_nothing_lost()
                    self._file.truncate(0)
                self._append(front)
            self._mark_settings()
        except OSError as error:
            self.abort()
            raise self._failure(error) from error
        except LmvicError:
            if self._file is not None:
                self._file.close()
                self._file = None
            raise

    @classmethod
    def resume(cls, path: str | os.PathLike[str], header: FileHeader) -> Writer:
        """Go on with an interrupted encode: `done` are the views that need not be coded again."""
        return cls(path, header, resume=True)

    @property
    def done(self) -> frozenset[int]:
        """Views whose units are in the file."""
        return frozenset(self._units)

    def add_unit(self, view: int, depth: bytes, image: bytes) -> None:
        """Append the unit of one view, in any order of views.

        Raises:
            BitstreamError: no such view, written before, or a part is larger than the format allows.
            LmvicError: the disk does not take it; the partial file is removed, or kept for `resume`.
        """
        if not 0 <= view < len(self.header.views) or view in self._units:
            raise BitstreamError(f"view {view}: expected each of {len(self.header.views)} views once")
        head = pack_unit_header(view, depth, image, self._binding)
        unpack_unit_header(head, self.header, self._binding)  # the limits of this view
        self._units[view] = self._add(view + 1, head, depth, image)

    def add_section(self, tag: str, data: bytes) -> None:
        """Append a section that readers who do not know its tag skip.

        Raises:
            BitstreamError: not a tag of four letters or digits, written before, or too much data.
            LmvicError: see `add_unit`.
        """
        check_tag(tag)
        if tag in self._tags or len(self._tags) >= limits.MAX_SECTIONS or len(data) > limits.MAX_SECTION_BYTES:
            raise BitstreamError(f"section {tag}: expected once, at most {limits.MAX_SECTIONS} sections, and less data")
        self._add(SECTION_ENTRY, pack_section_header(tag, data, self._binding), data)
        self._tags.add(tag)

    def has_section(self, tag: str) -> bool:
        """Whether it was written, now or before an interruption."""
        return tag in self._tags

    def unit(self, view: int) -> Unit:
        """The bytes of a unit written before (references of a resumed encode).

        Raises:
            BitstreamError: there is none.
        """
        block = self._units.get(view)
        if block is None:
            raise BitstreamError(f"view {view}: its unit is not written yet")
        file = self._open_file()
        file.seek(block.offset)
        head = unpack_unit_header(file.read(UNIT_HEADER_BYTES), self.header, self._binding)
        unit = Unit(file.read(head.depth_bytes), file.read(head.image_bytes))
        file.seek(self._end)
        return unit

    def close(self) -> None:
        """Write the index, bring everything to the disk and give the file its name. Closing twice does nothing.

        Raises:
            LmvicError: views are missing, or the disk fails; the partial file is removed, or kept for `resume`.
        """
        if self._file is None:
            return
        missing = [view for view in range(len(self.header.views)) if view not in self._units]
        if missing:
            self.abort()
            raise LmvicError(f"{self.path}: not finished: view {missing[0]} and {len(missing) - 1} more were not written")
        try:
            self._file.truncate(self._end)
            self._append(pack_index_and_trailer(self._blocks))
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            os.replace(self.partial, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            self.abort()
            raise self._failure(error) from error

    def abort(self) -> None:
        """Give up: the partial file is removed, or kept if this is a resumable encode."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        if not self._keep:
            with suppress(OSError):
                self.partial.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _add(self, entry: int, *parts: bytes) -> Block:
        file = self._open_file()
        offset = self._end
        try:
            self._append(*parts)
            self._mark_settings()
        except OSError as error:
            self._end = offset
            with suppress(OSError):  # the torn block goes, and the marker that it was written over comes back
                file.truncate(offset)
                self._mark_settings()
            self.abort()
            raise self._failure(error) from error
        block = Block(entry, offset, self._end - offset)
        self._blocks.append(block)
        return block

    def _append(self, *parts: bytes) -> None:
        file = self._open_file()
        file.seek(self._end)
        for part in parts:
            file.write(part)
            self._end += len(part)
        file.flush()

    def _mark_settings(self) -> None:
        """Write the settings behind the last block; the next one takes their place."""
        if self._settings is None:
            return
        file = self._open_file()
        file.seek(self._end)
        file.write(pack_section_header(SETTINGS_TAG, self._settings, self._binding) + self._settings)
        file.truncate()
        file.flush()

    def _lock(self, file: BinaryIO) -> None:
        """Let no other run write this partial file at the same time, where the system has such locks.

        Raises:
            BusyError: another run is writing it.
        """
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{self.partial}: another run is writing it; wait for its end, or choose another name") from None
        except OSError:  # a file system without locks
            return

    def _check_nothing_lost(self) -> None:
        """Refuse to begin anew over a partial file that holds views, or that is not ours.

        Raises:
            LmvicError: says how many.
        """
        state = read_partial(self.partial)
        if state.done:
            views = f"{len(state.done)} of {len(state.header.views) if state.header else 0} views"
            raise LmvicError(
                f"{self.partial}: holds {views} of an interrupted encode: go on with it (resume=True), or delete it to begin "
                "anew"
            )

    def _take_up(self, file: BinaryIO) -> None:
        """Read what an interrupted encode left, and cut a torn unit off its end."""
        front = pack_preamble_and_header(self.header)
        begun = file.read(len(front))
        if front.startswith(begun) and len(begun) < len(front):
            file.truncate(0)  # torn before its header was whole: nothing is lost by beginning anew
            self._append(front)
            return
        file.seek(0)
        try:
            preamble = file.read(PREAMBLE_BYTES)
            stored = file.read(stored_header_bytes(preamble))
            same = unpack_preamble_and_header(preamble, stored) == self.header
            self._binding = binding_of(preamble)  # another zlib may have stored the same header otherwise
        except BitstreamError:
            same, stored = False, b""
        begin = PREAMBLE_BYTES + len(stored)
        blocks = leading_blocks(file, self.header, self._binding, begin, file.seek(0, os.SEEK_END)) if same else []
        settings = settings_of(file, blocks)
        if not same or (settings is not None and self._settings is not None and settings != self._settings):
            raise OtherSettingsError(
                f"{self.partial}: begun with other settings or views: begin anew with --overwrite or by deleting it, or give "
                "the settings that it was begun with"
            )
        self._settings = settings if self._settings is None else self._settings
        self._blocks = blocks[:-1] if settings is not None else blocks
        for block in self._blocks:
            if block.entry == SECTION_ENTRY:
                file.seek(block.offset)
                self._tags.add(unpack_section_header(file.read(min(block.size, UNIT_HEADER_BYTES)), self._binding)[0])
            else:
                self._units[block.entry - 1] = block
        self._end = self._blocks[-1].offset + self._blocks[-1].size if self._blocks else begin
        file.truncate(self._end)

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise LmvicError(f"{self.path}: its writer is closed")
        return self._file

    def _failure(self, error: OSError) -> LmvicError:
        kept = " (the part written so far is kept: resume when that is solved)" if self.partial.exists() else ""
        return LmvicError(f"cannot write {self.path}: {error.strerror or error}{kept}")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced at all."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
