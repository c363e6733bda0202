"""Bilinear warping of images and feature maps by a disparity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def warp(
    features: Float[Tensor, "b c hr wr"], disparity: Float[Tensor, "b h w 2"], *, scale: int = 1
) -> Float[Tensor, "b c ho wo"]:
    """Reference features sampled at x + disparity(x), bilinear, clamped at the border.

    Args:
        features: Of the reference, at 1 / scale of its resolution, on the grid of `Cameras.coarsen(scale)`.
        disparity: Of the view at full resolution, in full-resolution pixels.
        scale: Feature pixels are scale x scale picture pixels. The disparity is resized to the centres of the feature
            pixels
            (mean of the four pixels round the centre, the centre pixel for an odd scale) and divided by the scale.

    Returns:
        ceil(h / scale) x ceil(w / scale) features in the dtype of `features`. Differentiable with respect to both
        arguments.

    Raises:
        ValueError: Batch sizes differ, or the last axis of disparity is not (dx, dy).

    Positions are multiples of 1/64 pixel (1/256 after the mean): the weights are exact in float32, so devices differ
    only in the rounding of the weighted sum. (grid_sample would round the positions themselves: 6e-5 px at 1000
    pixels.)
    """
    if disparity.ndim != 4 or disparity.shape[-1] != 2 or disparity.shape[0] != features.shape[0]:
        raise ValueError(f"disparity {tuple(disparity.shape)} does not fit features {tuple(features.shape)}")
    if scale != 1:
        disparity = _at_feature_centers(disparity, scale)
    batch, channels, source_height, source_width = features.shape
    height, width = disparity.shape[1:3]
    x = _source_positions(disparity[..., 0], width, source_width, scale, axis=2)
    y = _source_positions(disparity[..., 1], height, source_height, scale, axis=1)
    x0, y0 = _cell(x, source_width), _cell(y, source_height)
    fx, fy = (x - x0).unsqueeze(-1), (y - y0).unsqueeze(-1)

    step_x, step_y = min(1, source_width - 1), source_width * min(1, source_height - 1)
    first = (torch.arange(batch, device=features.device) * (source_height * source_width)).view(batch, 1, 1)
    index = (y0.long() * source_width + x0.long() + first).flatten()
    rows = features.permute(0, 2, 3, 1).reshape(
        -1, channels
    )  # channels last: one gather fetches all channels of a pixel

    def corner(offset: int) -> Tensor:
        return (
            rows.index_select(0, index + offset)
            .view(batch, height, width, channels)
            .to(torch.promote_types(rows.dtype, torch.float32))
        )

    upper = corner(0) * (1.0 - fx) + corner(step_x) * fx
    lower = corner(step_y) * (1.0 - fx) + corner(step_y + step_x) * fx
    result = upper * (1.0 - fy) + lower * fy
    return result.permute(0, 3, 1, 2).to(features.dtype)


def _at_feature_centers(disparity: Float[Tensor, "b h w 2"], scale: int) -> Float[Tensor, "b ho wo 2"]:
    """Disparity in full pixels at the centres of scale x scale blocks; blocks that reach beyond the picture use its
    last row or column.
    """
    height, width = disparity.shape[1:3]

    def picks(size: int, shift: int) -> Tensor:
        starts = torch.arange(0, size, scale, device=disparity.device)
        return (starts + shift).clamp(max=size - 1)

    if scale % 2:
        middle = scale // 2
        return disparity[:, picks(height, middle)][:, :, picks(width, middle)]
    near, far = scale // 2 - 1, scale // 2
    rows = disparity[:, picks(height, near)] + disparity[:, picks(height, far)]
    return (rows[:, :, picks(width, near)] + rows[:, :, picks(width, far)]) * 0.25


def _source_positions(disparity: Tensor, size: int, source_size: int, scale: int, axis: int) -> Tensor:
    """Positions in feature pixels, relative to the centre of the first one, clamped to the map."""
    shape = [1, 1, 1]
    shape[axis] = size
    # (i scale + scale/2 + d) / scale - 1/2 = i + d / scale
    grid = torch.arange(size, dtype=disparity.dtype, device=disparity.device).view(shape)
    return (grid + disparity * (1.0 / scale)).clamp(0.0, source_size - 1.0)


def _cell(position: Tensor, size: int) -> Tensor:
    """The lower grid point of each position, such that the upper one exists too (size permitting)."""
    return position.detach().floor().clamp_(0.0, max(size - 2.0, 0.0))
