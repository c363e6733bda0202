"""Disparity and mask between two views, equations (3) and (4), from inverse depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras, relative_projection
from lmvic_ns.geometry.projection import chunks, clean_inverse_depth, grid_index, pixel_centers, project
from lmvic_ns.geometry.resampling import downsample_inverse_depth, upsample_inverse_depth

__all__ = ["Disparity", "disparity_and_mask", "downsample_inverse_depth", "upsample_inverse_depth"]


@dataclass(frozen=True)
class Disparity:
    """Where each pixel of a view lies in its reference.

    Attributes:
        disparity: (dx, dy) = x' - x in pixels of the maps given, float32, multiples of 1/64, always finite.
        mask: True where the reference shows the same point (4).
        inverse_depth: Of the point, seen from the reference, float32; 0 at infinity and behind the reference.
    """

    disparity: Float[Tensor, "b h w 2"]
    mask: Bool[Tensor, "b h w"]
    inverse_depth: Float[Tensor, "b h w"]


@torch.no_grad()
def disparity_and_mask(
    inverse_depth: Float[Tensor, "b h w"],
    cameras: Cameras,
    reference_inverse_depth: Float[Tensor, "b hr wr"],
    reference: Cameras,
    *,
    relative_margin: float = 0.05,
    frame_margin: float = 1.0,
) -> Disparity:
    """Disparity (3) and mask (4); p = R K^-1 x + rho t, so that rho = 0 (infinity) is a pure rotation.

    Args:
        inverse_depth: 1 / z of the view in scene units; 0 = infinitely far or unknown (so is what is negative or not finite).
        cameras: The view's cameras at the size of `inverse_depth`.
        reference_inverse_depth: The same of the reference; one map may serve the whole batch.
        reference: The reference's cameras at the size of its map.
        relative_margin: tau: a point is hidden when it lies farther than (1 + tau) times the reference's own depth at x'.
            A reference at infinity hides nothing; a point at infinity is hidden by every finite reference depth.
        frame_margin: Pixels that x' may lie outside the reference.

    Raises:
        ValueError: Sizes of maps and cameras do not agree.
    """
    batch, height, width = inverse_depth.shape
    reference_size = reference_inverse_depth.shape[1], reference_inverse_depth.shape[2]
    check_sizes(cameras, batch, (height, width), "view")
    check_sizes(reference, batch, reference_size, "reference")
    device = inverse_depth.device
    homography, offset = relative_projection(cameras.to(device), reference.to(device))
    homography, offset = homography.expand(batch, 3, 3), offset.expand(batch, 3)
    reference_flat = reference_inverse_depth.flatten(1).expand(batch, -1)
    u, v = pixel_centers(width, device), pixel_centers(height, device)

    disparity = torch.empty(batch, height, width, 2, dtype=torch.float32, device=device)
    mask = torch.empty(batch, height, width, dtype=torch.bool, device=device)
    seen = torch.empty(batch, height, width, dtype=torch.float32, device=device)
    for views, rows in chunks(batch, height, width, device):
        rho = clean_inverse_depth(inverse_depth[views, rows])
        point = project(rho, homography[views], offset[views], u, v[rows], reference_size)
        disparity[views, rows, :, 0] = point.x - u
        disparity[views, rows, :, 1] = point.y - v[rows, None]
        seen[views, rows] = (rho / point.depth_ratio).masked_fill_(~point.in_front, 0.0)
        index = grid_index(point.x, point.y, reference_size)
        surface = clean_inverse_depth(reference_flat[views].gather(1, index.flatten(1))).view_as(rho)
        visible = rho * (1.0 + relative_margin) >= surface * point.depth_ratio
        inside = in_frame(point.x, reference_size[1], frame_margin) & in_frame(point.y, reference_size[0], frame_margin)
        mask[views, rows] = point.in_front & visible & inside
    return Disparity(disparity, mask, seen)


def in_frame(position: Tensor, size: int, margin: float) -> Tensor:
    """Whether positions along one axis lie in [-margin, size + margin]."""
    return (position >= -margin) & (position <= size + margin)


def check_sizes(cameras: Cameras, batch: int, size: tuple[int, int], what: str) -> None:
    """ValueError unless there are one or `batch` cameras, all of this size."""
    if len(cameras) not in (1, batch):
        raise ValueError(f"{len(cameras)} {what} cameras for a batch of {batch} maps")
    if bool((cameras.height != size[0]).any()) or bool((cameras.width != size[1]).any()):
        raise ValueError(f"the {what}'s cameras are not of its map's size {size}: use Cameras.resize or Cameras.coarsen first")
