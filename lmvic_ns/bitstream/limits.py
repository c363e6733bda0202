"""Limits of the file format, checked before memory is allocated. docs/file-format.md lists them too."""

from __future__ import annotations

MAX_SYMBOLS = 1 << 29  # of one entropy-coded stream
MAX_VIEWS = 65_534  # view numbers and parents are 16-bit
MAX_NAME_BYTES = 255  # UTF-8, of a view, a preset, weights or a parameter
MAX_PARAMETERS = 64
MAX_SIDE = 65_535  # pixels
MAX_PIXELS = 1 << 27  # of one view: four times 8K
DEFAULT_MAX_PIXELS = 110_000_000
"""Of one view, by default: no camera for captures has more, and a file of a few kilobytes may
claim more to make a program take gigabytes."""
MAX_HEADER_BYTES = 1 << 25  # before compression
MAX_DEFLATE_RATIO = 16  # a header that claims to expand further is refused (a writer stores such headers as they are)
MAX_SECTIONS = 256
MAX_SECTION_BYTES = 1 << 30
MAX_COORDINATE = 1e15  # of poses and intrinsics, absolute


def max_part_bytes(pixels: int) -> int:
    """The most that one part of a unit may hold: what 32-bit floats for four channels would take, and a little."""
    return 16 * pixels + 4096
