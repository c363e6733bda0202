"""What the scene codec takes and gives: options of an encode, records of coded and decoded views, and the codec of one view."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from lmvic_ns.bitstream.header import ENCODE_BYTES
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.state import ReferenceState
from lmvic_ns.geometry.cameras import Cameras

DEFAULT_QUALITY = 32
EXACT_PSNR = 99.0
"""PSNR in dB that stands for a picture without any error."""


class ViewCodec(Protocol):
    """One view at a time; `MultiViewModel` and the `paper` preset are such."""

    def compress(
        self,
        image: Tensor,
        inverse_depth: Tensor | None,
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        depth_level: int | None = None,
        effort: Effort | None = None,
    ) -> tuple[bytes, bytes, ReferenceState]:
        """Depth part, image part, and the state that the decoder will have."""
        ...

    def decompress(
        self,
        depth: bytes,
        image: bytes,
        size: tuple[int, int],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        name: str = "view",
    ) -> ReferenceState:
        """The state that `compress` returned."""
        ...

    def is_stored(self, image: bytes) -> bool:
        """Whether an image part holds an ordinary picture in place of symbols."""
        ...


@dataclass(frozen=True)
class EncodedView:
    """What one view cost, reported as it is written.

    Attributes:
        index: number of the view in the scene.
        name: its name.
        parent: its reference, -1 for none.
        depth_bytes: size of its depth part.
        image_bytes: size of its image part.
        psnr: of the reconstruction in 8 bits, in dB; None for a view taken over from an interrupted encode, which this one
            did not look at.
        stored: as an ordinary picture, since the networks failed on it or cost more.
    """

    index: int
    name: str
    parent: int
    depth_bytes: int
    image_bytes: int
    psnr: float | None
    stored: bool = False


@dataclass(frozen=True)
class DecodedView:
    """A view out of a file.

    Attributes:
        index: number of the view.
        name: its name.
        image: RGB, 0..1.
        inverse_depth: 1 / z in scene units at the coded resolution (a quarter of the image's), 0 = infinity; None if
            the file holds no depth.
        camera: of this view alone, at the image's size.
    """

    index: int
    name: str
    image: Float[Tensor, "3 h w"]
    inverse_depth: Float[Tensor, "h4 w4"] | None
    camera: Cameras


@dataclass(frozen=True)
class EncodeOptions:
    """How a scene is coded.

    Attributes:
        quality: level 0..63, of the views' mean.
        lossless: store every picture bit for bit, as the smallest of a PNG, a lossless WebP and the scene's own file.
        equal_quality: code all views at this level; else what others refer to is coded better (`quality_offsets`).
        depth_quality: level of the depth of all views; None finds each view's, as far as `effort` goes.
        with_depth: code depth even for views that no reference needs (so that a decoder can give it out).
        effort: what is fitted to each view before it is coded: by default its depth, to how well it warps
            (`Effort.named`).
        resume: go on with the `.partial` file of an interrupted encode, and keep it on failure; without, one that holds views
            is refused.
        settings: what stands for all else that the units depend on, such as the pictures: a `.partial` file must have been
            begun with the same to be gone on with (see `Writer`), and files that differ in it share no units.
    """

    quality: int = DEFAULT_QUALITY
    lossless: bool = False
    equal_quality: bool = False
    depth_quality: int | None = None
    with_depth: bool = True
    effort: Effort = field(default_factory=lambda: Effort.named("medium"))
    resume: bool = False
    settings: bytes | None = None


def options_digest(options: EncodeOptions) -> bytes:
    """Stands for the options in the header, so that units of two encodes of one scene are never mixed."""
    text = repr(replace(options, resume=False))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=ENCODE_BYTES).digest()
