"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.errors import LmvicError


@dataclass(kw_only=True)
class OutputOptions:
    """How much a command prints."""

    quiet: bool = False
    """Print nothing but errors."""


@dataclass(kw_only=True)
class JsonOutputOptions(OutputOptions):
    """Whether a command prints text for people or JSON for scripts."""

    json: bool = False
    """Print one JSON object for scripts, and nothing else but errors."""


@dataclass(kw_only=True)
class ReadingLimits:
    """Limits for files from strangers."""

    HELP_SECTION: ClassVar[str] = "advanced"
    max_megapixels: Annotated[float, tyro.conf.arg(metavar="MEGAPIXELS")] = DEFAULT_MAX_PIXELS / 1e6
    """Refuse a file with a larger view than this, in millions of pixels. Decoding needs memory in proportion to it."""

    @property
    def max_pixels(self) -> int:
        """The most pixels that a view may have.

        Raises:
            LmvicError: the limit is no positive number.
        """
        if not 0 < self.max_megapixels < 1e6:
            raise LmvicError(f"--max-megapixels must be a positive number, not {self.max_megapixels}")
        return int(self.max_megapixels * 1e6)


def check_titles(titles: Sequence[str]) -> None:
    """Check the names under which the results of scenes are written.

    Raises:
        LmvicError: there is no scene, or two have the same name.
    """
    if not titles:
        raise LmvicError("no scene is given: name at least one SCENE")
    if len(set(titles)) != len(titles):
        raise LmvicError("two of the folders have the same name: rename one, so that their results have different names")
