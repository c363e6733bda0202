"""What every codec in a comparison offers, and the list of those that can be asked for.

A codec writes files and reads them back: rates are sizes of files, pictures come from those files alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.image_set import ImageSet

Picture = UInt8[np.ndarray, "h w 3"]


class MissingCodecError(LmvicError):
    """The codec's package or program is not on this machine; the message says what would bring it."""


class NotApplicableError(LmvicError):
    """The codec cannot take this set of pictures (views of several sizes as a video, photographs as a scene)."""


@dataclass(frozen=True)
class Encoded:
    """Files of one encoding, and how many of their bytes belong to each view (in file order).

    Bytes shared by all views (headers, cameras) count to the view that is coded first, so that the sum is all bytes of all
    files.
    """

    files: tuple[Path, ...]
    view_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        written = sum(path.stat().st_size for path in self.files)
        if written != sum(self.view_bytes):
            raise ValueError(f"{written} bytes were written, {sum(self.view_bytes)} are accounted for")


class Codec(Protocol):
    """A codec under test.

    Attributes:
        name: As on the command line.
        settings: Default values of its one knob, from low to high quality or the other way.
        setting_name: What the knob is called.
        uses_views_together: Takes a scene's views as one sequence (then `order` matters and photographs are not for it).
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def setting_name(self) -> str: ...  # noqa: D102
    @property
    def uses_views_together(self) -> bool: ...  # noqa: D102

    def version(self) -> str:
        """Version of the implementation, with everything about it that changes results.

        Raises:
            MissingCodecError: It is not on this machine.
        """
        ...

    def encode(self, images: ImageSet, order: Sequence[int], setting: float, folder: Path) -> Encoded:
        """Write files into an existing empty folder.

        Raises:
            NotApplicableError: The codec cannot take these pictures.
        """
        ...

    def decode(self, encoded: Encoded, order: Sequence[int]) -> list[Picture]:
        """All pictures, in file order, from the files alone."""
        ...
