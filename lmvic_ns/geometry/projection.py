"""Equation (3) on rows of pixels: float64, elementwise, a fixed order of operations; positions rounded to 1/64 pixel.

Separate torch multiplications and additions cannot be fused (no addcmul, no alpha), division by a Python scalar is
avoided (CUDA turns it into a product with the reciprocal), so every device and any split of batch or rows gives the
same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS_PER_PIXEL = 64
"""Positions are multiples of 1/64 pixel."""

NEAREST_RATIO = 1e-6
"""Points whose depth from the reference is below this share of their depth from the view count as behind the reference.
"""

LARGEST_INVERSE_DEPTH = 1e30
"""Keeps every product finite in float32."""

CHUNK_PIXELS = 1 << 15  # float64 rows of a chunk: 256 KiB an operand, so that intermediates stay in the L2 cache


class Projection(NamedTuple):
    """Where pixels of a chunk land in the reference."""

    x: Float[Tensor, "b h w"]  # float64 multiples of 1/64, within one picture width around the reference, always finite
    y: Float[Tensor, "b h w"]
    depth_ratio: Float[Tensor, "b h w"]  # depth from the reference / depth from the view, kept >= NEAREST_RATIO
    in_front: Bool[Tensor, "b h w"]


def pixel_centers(size: int, device: torch.device) -> Float[Tensor, "n"]:
    """0.5, 1.5, ... in float64."""
    return torch.arange(size, dtype=torch.float64, device=device) + 0.5


def clean_inverse_depth(inverse_depth: Float[Tensor, "*s"], dtype: torch.dtype = torch.float64) -> Float[Tensor, "*s"]:
    """What is negative or not finite becomes 0 (infinitely far), what is beyond LARGEST_INVERSE_DEPTH stops there."""
    finite = torch.nan_to_num(inverse_depth.to(dtype), nan=0.0, posinf=0.0, neginf=0.0)
    return finite.clamp_(min=0.0, max=LARGEST_INVERSE_DEPTH)


def chunks(batch: int, height: int, width: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """(views, rows) slices that keep the intermediates in cache on a CPU; all at once on other devices."""
    if device.type != "cpu":
        yield slice(0, batch), slice(0, height)
        return
    if height * width <= CHUNK_PIXELS:
        step = max(1, CHUNK_PIXELS // max(1, height * width))
        for start in range(0, batch, step):
            yield slice(start, min(start + step, batch)), slice(0, height)
        return
    step = max(1, CHUNK_PIXELS // width)
    for view in range(batch):
        for start in range(0, height, step):
            yield slice(view, view + 1), slice(start, min(start + step, height))


def project(
    inverse_depth: Float[Tensor, "b h w"],
    homography: Float[Tensor, "b 3 3"],
    offset: Float[Tensor, "b 3"],
    u: Float[Tensor, "w"],
    v: Float[Tensor, "h"],
    reference_size: tuple[int, int],
) -> Projection:
    """Positions in the reference of pixels (u, v) with the given clean inverse depth; (M, b) as `relative_projection`
    gives them.

    Points behind the reference get a position at the clamp in their direction and in_front = False.
    """
    m = homography[..., None, None]
    column, row = u[None, None, :], v[None, :, None]

    def linear(k: int) -> Tensor:
        value = m[:, k, 0] * column + (m[:, k, 1] * row + m[:, k, 2])
        return value.add_(inverse_depth * offset[:, k, None, None])

    depth_ratio = linear(2)
    in_front = depth_ratio > NEAREST_RATIO
    depth_ratio.clamp_(min=NEAREST_RATIO)
    scale = torch.reciprocal(depth_ratio)
    height, width = reference_size

    def snapped(k: int, size: int) -> Tensor:
        position = linear(k).mul_(scale).clamp_(-float(size), 2.0 * size)
        return position.mul_(float(STEPS_PER_PIXEL)).round_().mul_(1.0 / STEPS_PER_PIXEL)

    return Projection(snapped(0, width), snapped(1, height), depth_ratio, in_front)


def grid_index(x: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"], size: tuple[int, int]) -> Tensor:
    """Flat index (int64) of the pixel that holds each position, clamped to the picture."""
    height, width = size
    column = x.floor().clamp_(0.0, width - 1.0)
    row = y.floor().clamp_(0.0, height - 1.0)
    return row.mul_(float(width)).add_(column).long()
