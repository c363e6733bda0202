"""Which Gaussians touch which tile of the image, in plain torch: gsplat's rule, front to back within a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TileLists:
    """Intersections sorted by (camera, tile, depth): tile t's are `flatten_ids[offsets[t] : offsets[t + 1]]`.

    `flatten_ids` index the axis of all projected Gaussians; `offsets` has one entry more than there are tiles.
    """

    flatten_ids: Int[Tensor, "i"]
    offsets: Int[Tensor, "tiles_plus_1"]
    tile_width: int
    tile_height: int


def tile_grid(width: int, height: int, tile_size: int) -> tuple[int, int]:
    """Number of tiles across and down."""
    return math.ceil(width / tile_size), math.ceil(height / tile_size)


@torch.no_grad()
def intersect_tiles(
    means2d: Float[Tensor, "m 2"],
    radii: Int[Tensor, "m"],
    depths: Float[Tensor, "m"],
    camera_ids: Int[Tensor, "m"],
    cameras: int,
    width: int,
    height: int,
    tile_size: int,
) -> TileLists:
    """List for each tile the Gaussians whose square of half-side `radii` overlaps it, nearest first, ties by index."""
    tile_width, tile_height = tile_grid(width, height, tile_size)
    limits = means2d.new_tensor([tile_width, tile_height])
    reach = radii[:, None].to(means2d.dtype) / tile_size
    first = torch.minimum(torch.floor(means2d / tile_size - reach).clamp(min=0), limits).long()
    last = torch.minimum(torch.ceil(means2d / tile_size + reach).clamp(min=0), limits).long()
    size = torch.where(radii[:, None] > 0, last - first, 0)
    tiles = size.prod(-1)

    by_depth = torch.argsort(depths, stable=True)
    owner = torch.repeat_interleave(by_depth, tiles[by_depth])
    begin = torch.cumsum(tiles[by_depth], 0) - tiles[by_depth]
    local = torch.arange(len(owner), device=radii.device) - torch.repeat_interleave(begin, tiles[by_depth])
    columns = size[owner, 0]
    row, column = first[owner, 1] + local // columns, first[owner, 0] + local % columns
    tile = (camera_ids[owner] * tile_height + row) * tile_width + column

    order = torch.argsort(tile, stable=True)
    offsets = tiles.new_zeros(cameras * tile_height * tile_width + 1)
    offsets[1:] = torch.cumsum(torch.bincount(tile, minlength=len(offsets) - 1), 0)
    return TileLists(owner[order], offsets, tile_width, tile_height)
