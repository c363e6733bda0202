"""What every codec in a comparison offers, and the list of those that can be asked for.

A codec writes files and reads them back: rates are sizes of files, pictures come from those files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def codec_factories(weights: str = "tiny", device: str = "cpu") -> dict[str, Callable[[], Codec]]:
    """Name -> constructor, of every codec that can be asked for; the arguments are for our own."""
    from lmvic_ns.evaluation import own_codec, still, video

    return {
        "lmvic": lambda: own_codec.OwnCodec(weights, device, references=True),
        "lmvic-slow": lambda: own_codec.OwnCodec(weights, device, references=True, name="lmvic-slow", effort="slow"),
        "lmvic-intra": lambda: own_codec.OwnCodec(weights, device, references=False),
        "lmvic-intra-slow": lambda: own_codec.OwnCodec(
            weights, device, references=False, name="lmvic-intra-slow", effort="slow"
        ),
        "jpeg": still.Jpeg,
        "webp": still.WebP,
        "avif": still.Avif,
        "jxl": still.JpegXl,
        "x265-intra": lambda: video.X265(intra=True),
        "x265-intra-noinfo": lambda: video.X265(intra=True, info=False),
        "x265-ldp": lambda: video.X265(intra=False),
        "x265-ldp-noinfo": lambda: video.X265(intra=False, info=False),
        "svtav1": video.SvtAv1,
        "vvenc": video.VVenC,
    }


def make_codec(name: str, *, weights: str = "tiny", device: str = "cpu") -> Codec:
    """The codec of that name; `weights` and `device` are for our own.

    Ours may name its weights: `lmvic-intra@base`, or `lmvic@FILE.safetensors`; it then goes by that whole name, so that several
    weights can be compared in one table.

    Raises:
        LmvicError: There is no such codec, or one that is not ours is to take weights.
    """
    from lmvic_ns.evaluation.own_codec import OwnCodec

    plain, _, own_weights = name.partition("@")
    factories = codec_factories(own_weights or weights, device)
    if plain not in factories:
        raise LmvicError(f"there is no codec '{plain}'; there are {', '.join(factories)}")
    codec = factories[plain]()
    if "@" in name:
        if not isinstance(codec, OwnCodec) or not own_weights:
            raise LmvicError(f"'{name}' is to be a codec of ours and its weights, such as lmvic@tiny")
        codec.name = name
    return codec
