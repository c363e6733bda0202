"""The median Gaussian of every pixel on a GPU: one Triton kernel over the tile intersections that gsplat has made.

Import this module only where Triton is wanted: on a CUDA machine, or with TRITON_INTERPRET=1 set before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


@triton.jit
def median_index_kernel(
    means2d, conics, opacities, offsets, flatten_ids, out, intersections, tiles, tile_width, tile_height, width, height,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for a tile; writes the index of each pixel's median Gaussian, -1 where there is none."""
    tile = tl.program_id(0)
    camera = tile // (tile_width * tile_height)
    lane = tl.arange(0, BLOCK)
    row = tile // tile_width % tile_height * TILE + lane // TILE
    column = tile % tile_width * TILE + lane % TILE
    inside = (lane < TILE * TILE) & (row < height) & (column < width)
    x = column.to(tl.float32) + 0.5
    y = row.to(tl.float32) + 0.5
    position = tl.load(offsets + tile)
    end = tl.load(offsets + tile + 1, mask=tile + 1 < tiles, other=intersections)
    # pixels outside the picture start crossed, so that they do not hold back the early exit
    transmittance = tl.where(inside, 1.0, 0.0)
    median = tl.full([BLOCK], -1, tl.int32)
    while (position < end) & (tl.max(transmittance, 0) >= 0.5):  # pyright: ignore[reportOperatorIssue]
        g = tl.load(flatten_ids + position)
        dx = tl.load(means2d + 2 * g) - x
        dy = tl.load(means2d + 2 * g + 1) - y
        a = tl.load(conics + 3 * g)
        b = tl.load(conics + 3 * g + 1)
        c = tl.load(conics + 3 * g + 2)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = tl.minimum(0.999, tl.load(opacities + g) * tl.exp(-sigma))
        # a Gaussian that is dropped for taking T to 1e-4 would meet T <= 0.1: the median is found long before
        after = transmittance * (1.0 - tl.where((sigma >= 0.0) & (alpha >= 1.0 / 255.0), alpha, 0.0))
        median = tl.where((transmittance >= 0.5) & (after < 0.5), g, median)
        transmittance = after
        position += 1
    tl.store(out + (camera * height + row) * width + column, median, mask=inside)


def median_indices(
    means2d: Float[Tensor, "*m 2"],
    conics: Float[Tensor, "*m 3"],
    opacities: Float[Tensor, "*m"],
    isect_offsets: Int[Tensor, "c th tw"],
    flatten_ids: Int[Tensor, "i"],
    width: int,
    height: int,
    tile_size: int,
) -> Int[Tensor, "c h w"]:
    """Index into the flattened leading axes of the median Gaussian (equation (2)), -1 where there is none.

    The arguments are those of gsplat's meta, packed or not.
    """
    cameras, tile_height, tile_width = isect_offsets.shape
    out = torch.full((cameras, height, width), -1, dtype=torch.int32, device=means2d.device)
    if flatten_ids.numel() == 0:
        return out
    median_index_kernel[(isect_offsets.numel(),)](
        means2d.detach().float().contiguous(),
        conics.detach().float().contiguous(),
        opacities.detach().float().contiguous(),
        isect_offsets.int().contiguous(),
        flatten_ids.int().contiguous(),
        out,
        flatten_ids.numel(),
        isect_offsets.numel(),
        tile_width,
        tile_height,
        width,
        height,
        TILE=tile_size,  # pyright: ignore[reportArgumentType]
        BLOCK=triton.next_power_of_2(tile_size * tile_size),  # pyright: ignore[reportArgumentType]
    )
    return out
