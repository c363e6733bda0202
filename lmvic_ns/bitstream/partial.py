"""The `.partial` file of an encode that is running or was interrupted: its path, content and settings.

After its last unit stands a marker with the settings that it is coded with, laid out as a section. The next unit takes its
place, and the finished file has none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lmvic_ns._util.output import check_plain
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.layout import (
    MAGIC,
    PREAMBLE_BYTES,
    SECTION_ENTRY,
    SECTION_HEADER_BYTES,
    Block,
    binding_of,
    stored_header_bytes,
    unpack_preamble_and_header,
    unpack_section_header,
)
from lmvic_ns.bitstream.scan import leading_blocks
from lmvic_ns.errors import BitstreamError, LmvicError

SUFFIX = ".partial"
SETTINGS_TAG = "RSME"


@dataclass(frozen=True)
class PartialState:
    """What is in a partial file.

    Attributes:
        header: of the scene; None if not even that is whole.
        done: numbers of the views whose units are whole.
        settings: what it is coded with, as the writer was given; None if that is not known.
    """

    header: FileHeader | None
    done: frozenset[int]
    settings: bytes | None


def finished_path(path: str | os.PathLike[str]) -> Path:
    """The file that `path` stands for: a link is followed, so that its target is replaced and not the link."""
    path = Path(path)
    return path.resolve() if path.is_symlink() else path


def partial_path(path: str | os.PathLike[str]) -> Path:
    """The partial file of a finished file."""
    place = finished_path(path)
    return place.with_name(place.name + SUFFIX)


def settings_of(file: BinaryIO, blocks: list[Block]) -> bytes | None:
    """The settings in a partial file's marker, if its last block is one."""
    if not blocks or blocks[-1].entry != SECTION_ENTRY:
        return None
    file.seek(blocks[-1].offset)
    data = file.read(blocks[-1].size)
    if unpack_section_header(data[:SECTION_HEADER_BYTES], 0)[0] != SETTINGS_TAG:  # its checksum was looked at when it was found
        return None
    return data[SECTION_HEADER_BYTES:]


def read_partial(partial: Path) -> PartialState:
    """What an encode has left, or written so far.

    Raises:
        LmvicError: it cannot be read, or is no partial file at all.
    """
    check_plain(partial)  # a pipe would be waited for without end
    try:
        with partial.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            preamble = file.read(PREAMBLE_BYTES)
            if preamble[: len(MAGIC)] != MAGIC[: len(preamble)]:
                raise LmvicError(f"{partial}: is not a file that lmvic began; move it away")
            try:
                stored = file.read(stored_header_bytes(preamble))
                header = unpack_preamble_and_header(preamble, stored)
            except BitstreamError:
                return PartialState(None, frozenset(), None)
            blocks = leading_blocks(file, header, binding_of(preamble), PREAMBLE_BYTES + len(stored), end)
            done = frozenset(block.entry - 1 for block in blocks if block.entry != SECTION_ENTRY)
            return PartialState(header, done, settings_of(file, blocks))
    except OSError as error:
        raise LmvicError(f"cannot read {partial}: {error.strerror or error}") from error
