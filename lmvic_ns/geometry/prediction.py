"""Cross-view depth prediction, equation (10): the reference's depth splatted into the view to be coded."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras, relative_projection
from lmvic_ns.geometry.disparity import check_sizes
from lmvic_ns.geometry.projection import chunks, clean_inverse_depth, grid_index, pixel_centers, project


@torch.no_grad()
def predict_inverse_depth(
    reference_inverse_depth: Float[Tensor, "b hr wr"], reference: Cameras, cameras: Cameras
) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
    """Every pixel of the reference writes its inverse depth, seen from the view, at the nearest grid point; the nearest
    point wins.

    The winner is a maximum of inverse depths, so the result does not depend on the order of the points. Points at
    infinity take part (value 0, mask True) and lose against all others.

    Args:
        reference_inverse_depth: 1 / z of the reference; 0 = infinitely far or unknown.
        reference: The reference's cameras at the size of its map.
        cameras: The views to predict; one size within the batch.

    Returns:
        Predicted inverse depth, float32, 0 in holes, and the mask, False in holes.

    Raises:
        ValueError: Sizes do not agree.
    """
    batch, reference_height, reference_width = reference_inverse_depth.shape
    batch = max(batch, len(cameras))
    height, width = cameras.size
    check_sizes(reference, batch, (reference_height, reference_width), "reference")
    check_sizes(cameras, batch, (height, width), "view")
    device = reference_inverse_depth.device
    homography, offset = relative_projection(reference.to(device), cameras.to(device))
    homography, offset = homography.expand(batch, 3, 3), offset.expand(batch, 3)
    maps = reference_inverse_depth.expand(batch, -1, -1)
    u, v = pixel_centers(reference_width, device), pixel_centers(reference_height, device)

    # one extra cell a view takes what lands outside or behind; -1 marks a cell that nothing reached
    target = torch.full((batch, height * width + 1), -1.0, dtype=torch.float32, device=device)
    for views, rows in chunks(batch, reference_height, reference_width, device):
        rho = clean_inverse_depth(maps[views, rows])
        point = project(rho, homography[views], offset[views], u, v[rows], (height, width))
        inside = (point.x >= 0.0) & (point.x < width) & (point.y >= 0.0) & (point.y < height)
        index = grid_index(point.x, point.y, (height, width))
        index.masked_fill_(~(inside & point.in_front), height * width)
        value = (rho / point.depth_ratio).float()
        target[views].scatter_reduce_(1, index.flatten(1), value.flatten(1), reduce="amax")
    target = target[:, :-1].view(batch, height, width)
    return target.clamp(min=0.0), target >= 0.0
