"""Bilinear warping of images and feature maps by a disparity."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry import kernels

_CHUNK_VALUES = 1 << 17  # float32 values of a chunk: 512 KiB an operand (measured: 15 to 19 give 53, 45, 41, 84 ms a megapixel)


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
    needs_gradient = torch.is_grad_enabled() and (features.requires_grad or disparity.requires_grad)
    batch, channels = features.shape[:2]
    height, width = disparity.shape[1:3]
    planes = features.flatten(2)  # one gather a corner serves all channels
    source_size = int(features.shape[2]), int(features.shape[3])
    if needs_gradient or features.device.type != "cpu":
        return _sampled(planes, disparity, source_size, scale, 0).view(batch, channels, height, width)
    result = features.new_empty(batch, channels, height, width)
    if kernels.usable(features, disparity):
        per_pixel = np.float32(1.0 / scale)
        for view in range(batch):
            arguments = kernels.array(features[view]), kernels.array(disparity[view]), per_pixel
            kernels.warp_loop(*arguments, result[view].numpy())
        return result
    step = max(1, _CHUNK_VALUES // (channels * width))
    for view in range(batch):
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            part = _sampled(planes[view : view + 1], disparity[view : view + 1, rows], source_size, scale, start)
            result[view, :, rows] = part.view(channels, -1, width)
    return result


def _sampled(
    planes: Float[Tensor, "b c n"],
    disparity: Float[Tensor, "b h w 2"],
    source_size: tuple[int, int],
    scale: int,
    first_row: int,
) -> Float[Tensor, "b c m"]:
    """Bilinear samples at the rows that start with `first_row` of the result."""
    source_height, source_width = source_size
    x = _source_positions(disparity[..., 0], source_width, scale, axis=2, first=0)
    y = _source_positions(disparity[..., 1], source_height, scale, axis=1, first=first_row)
    x0, y0 = _cell(x, source_width), _cell(y, source_height)
    fx, fy = (x - x0).flatten(1)[:, None], (y - y0).flatten(1)[:, None]
    index = (y0.long() * source_width + x0.long()).flatten(1)[:, None]
    right, below = min(1, source_width - 1), source_width * min(1, source_height - 1)

    def corner(offset: int) -> Tensor:
        values = planes.gather(2, (index + offset).expand(-1, planes.shape[1], -1))
        return values.to(torch.promote_types(values.dtype, torch.float32))

    first, last = corner(0), corner(below)
    upper = first + (corner(right) - first) * fx
    lower = last + (corner(below + right) - last) * fx
    return (upper + (lower - upper) * fy).to(planes.dtype)


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


def _source_positions(disparity: Tensor, source_size: int, scale: int, axis: int, first: int) -> Tensor:
    """Positions in feature pixels, relative to the centre of the first one, clamped to the map."""
    shape = [1, 1, 1]
    shape[axis] = size = disparity.shape[axis]
    # (i scale + scale/2 + d) / scale - 1/2 = i + d / scale
    grid = torch.arange(first, first + size, device=disparity.device).to(disparity.dtype).view(shape)
    return (grid + disparity * (1.0 / scale)).clamp(0.0, source_size - 1.0)


def _cell(position: Tensor, size: int) -> Tensor:
    """The lower grid point of each position, such that the upper one exists too (size permitting)."""
    return position.detach().floor().clamp_(0.0, max(size - 2.0, 0.0))
