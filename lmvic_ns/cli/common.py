"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass

from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.errors import LmvicError


@dataclass(kw_only=True)
class Talking:
    """How much a command says."""

    quiet: bool = False
    """Say nothing but errors."""


@dataclass(kw_only=True)
class Answering(Talking):
    """How a command answers."""

    json: bool = False
    """Print one JSON object for scripts, and nothing else but errors."""


@dataclass(kw_only=True)
class ReadingLimits:
    """What a file that nobody vouches for may ask for."""

    max_megapixels: float = DEFAULT_MAX_PIXELS / 1e6
    """Refuse a file with a larger view than this (millions of pixels); decoding takes memory for all of a view's pixels."""

    @property
    def max_pixels(self) -> int:
        """Of one view.

        Raises:
            LmvicError: the limit is no positive number.
        """
        if not 0 < self.max_megapixels < 1e6:
            raise LmvicError(f"--max-megapixels must be a positive number, not {self.max_megapixels}")
        return int(self.max_megapixels * 1e6)
