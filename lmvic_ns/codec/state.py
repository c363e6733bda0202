"""State of a coded view: for the views that refer to it, and for the training loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras


@dataclass
class ReferenceState:
    """What a decoder keeps of a view for the views that refer to it.

    Attributes:
        image: reconstruction, 0..1.
        inverse_depth: normalised inverse depth at 1/4, multiples of 1/65536 when decoding.
        cameras: at full resolution.
        depth_level: quality level of depth that the learned codec coded; None without, and in training.
    """

    image: Float[Tensor, "b 3 h w"]
    inverse_depth: Float[Tensor, "b h4 w4"]
    cameras: Cameras
    depth_level: int | None = None

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
