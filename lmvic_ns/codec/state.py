"""State of a coded view: for the views that refer to it, and for the training loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras

MOST_ANCESTORS = 3
"""Views above a reference that a decoder keeps for the views that refer to it."""


@dataclass(frozen=True)
class Ancestor:
    """A decoded view above a view's reference in the tree: HEVC pictures may be predicted from it as well.

    Attributes:
        image: reconstruction, rounded to 0..255.
        cameras: at full resolution.
    """

    image: UInt8[Tensor, "1 3 h w"]
    cameras: Cameras


@dataclass
class ReferenceState:
    """What a decoder keeps of a view for the views that refer to it.

    Attributes:
        image: reconstruction, 0..1.
        inverse_depth: normalised inverse depth at 1/4, multiples of 1/65536 when decoding.
        cameras: at full resolution.
        depth_level: quality level of depth that the learned codec coded; None without, and in training.
        ancestors: the view's own reference, that one's reference, and so on, at most `MOST_ANCESTORS`.
    """

    image: Float[Tensor, "b 3 h w"]
    inverse_depth: Float[Tensor, "b h4 w4"]
    cameras: Cameras
    depth_level: int | None = None
    ancestors: tuple[Ancestor, ...] = ()

    def below(self, reference: ReferenceState | None) -> ReferenceState:
        """This state as that of a view with this reference."""
        if reference is None:
            return replace(self, ancestors=())
        image = (reference.image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        return replace(self, ancestors=(Ancestor(image, reference.cameras), *reference.ancestors)[:MOST_ANCESTORS])

    def detach(self) -> ReferenceState:
        """Without gradients."""
        return replace(self, image=self.image.detach())

    def sample(self, number: int) -> ReferenceState:
        """One sample of a batch."""
        one = slice(number, number + 1)
        return replace(
            self,
            image=self.image[one],
            inverse_depth=self.inverse_depth[one],
            cameras=self.cameras[number],
        )


@dataclass
class ViewOutput:
    """Training pass of one view.

    Attributes:
        image: reconstruction, not clamped.
        image_bits: estimated bits of the image part.
        inverse_depth: reconstruction of the normalised inverse depth at 1/4, or None for a photograph.
        depth_bits: estimated bits of the depth part.
        depth_target: what `inverse_depth` is compared with.
        state: reference for later views.
    """

    image: Float[Tensor, "b 3 h w"]
    image_bits: Float[Tensor, "b"]
    inverse_depth: Float[Tensor, "b h4 w4"] | None
    depth_bits: Float[Tensor, "b"]
    depth_target: Float[Tensor, "b h4 w4"] | None
    state: ReferenceState | None
