"""What goes into and comes out of one coded view of the `paper` preset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras


@dataclass(frozen=True)
class ReferenceState:
    """What the decoder has of a view that others may refer to.

    Attributes:
        image: reconstruction, 0..1.
        features: the image decoder's kept features at 1/2, 1/4, 1/8 of the size padded to multiples of 64.
        inverse_depth: reconstruction, 1 / z in scene units.
        cameras: one each, at the images' size.
    """

    image: Float[Tensor, "b 3 h w"]
    features: tuple[Tensor, Tensor, Tensor]
    inverse_depth: Float[Tensor, "b h w"]
    cameras: Cameras

    def detach(self) -> ReferenceState:
        """Without gradients (to cut a training chain)."""
        features = tuple(f.detach() for f in self.features)
        return ReferenceState(self.image.detach(), features, self.inverse_depth.detach(), self.cameras)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ViewOutput:
    """What training and evaluation need of one view.

    Attributes:
        image_hat: reconstruction, 0..1 (while training, the clamp lets gradients through).
        depth: normalised depth that was coded (depth / scene scale, clamped).
        depth_hat: its reconstruction.
        inverse_depth_hat: the same as 1 / z in scene units.
        likelihoods: of all symbols: "image_y", "image_z", "depth_y", "depth_z".
        image_bits: estimated bits of the image part.
        depth_bits: estimated bits of the depth part.
        state: what later views may refer to.
    """

    image_hat: Float[Tensor, "b 3 h w"]
    depth: Float[Tensor, "b h w"]
    depth_hat: Float[Tensor, "b h w"]
    inverse_depth_hat: Float[Tensor, "b h w"]
    likelihoods: dict[str, Tensor]
    image_bits: Float[Tensor, "b"]
    depth_bits: Float[Tensor, "b"]
    state: ReferenceState


def normalised_depth(
    inverse_depth: Float[Tensor, "b h w"], depth_scale: float | Tensor, max_depth: float
) -> Float[Tensor, "b h w"]:
    """Depth / scene scale, at most `max_depth`; infinity, unknown and what is not finite become `max_depth`.

    Args:
        inverse_depth: 1 / z in scene units; 0 = infinitely far or unknown.
        depth_scale: of the scene, in scene units: one number or one for each sample.
        max_depth: in scales of the scene.
    """
    rho = inverse_depth * _per_sample(depth_scale, inverse_depth)
    rho = torch.where(torch.isfinite(rho), rho, torch.zeros_like(rho))
    return rho.clamp(min=1.0 / max_depth).reciprocal()


def inverse_of_normalised(depth: Float[Tensor, "b h w"], depth_scale: float | Tensor) -> Float[Tensor, "b h w"]:
    """1 / z in scene units of a positive normalised depth."""
    return (depth * _per_sample(depth_scale, depth)).reciprocal()


def _per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
