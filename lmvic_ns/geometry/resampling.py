"""Inverse depth on coarser and finer grids without mixing surfaces.

Inverse depth of a plane is affine in pixel coordinates, so linear interpolation is exact on planes. The coarse grid is
that of `Cameras.coarsen`: coarse pixel i has its centre at factor * (i + 1/2) full pixels, the last one may reach
beyond the picture.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmvic_ns.geometry import kernels
from lmvic_ns.geometry.projection import CHUNK_PIXELS, clean_inverse_depth

_LARGEST_FACTOR = 64


@torch.no_grad()
def upsample_inverse_depth(
    inverse_depth: Float[Tensor, "b h w"],
    height: int,
    width: int,
    *,
    edge_ratio: float = 0.1,
    factor: int | None = None,
) -> Float[Tensor, "b H W"]:
    """Bilinear where the four coarse neighbours belong to one surface, the nearest of them elsewhere.

    Float64, elementwise in a fixed order: the same bits on every device. Beyond the outermost coarse centres the
        surface is continued linearly (planes stay exact up to the border).

    Args:
        inverse_depth: 1 / z on the coarse grid; 0 = infinitely far.
        height, width: Full size; the coarse size must be ceil(size / factor).
        edge_ratio: Neighbours are one surface when (largest - smallest) <= edge_ratio * largest.
        factor: Grid factor; by default the power of two that explains the sizes.

    Returns:
        Inverse depth, float32, finite, >= 0.

    Raises:
        ValueError: No factor explains the sizes.
    """
    coarse = clean_inverse_depth(inverse_depth)
    batch, device = coarse.shape[0], coarse.device
    size = int(coarse.shape[1]), int(coarse.shape[2])
    factor = _factor(size, (height, width), factor)
    row, fy = _linear_cells(size[0], height, factor, device)
    column, fx = _linear_cells(size[1], width, factor, device)
    next_row, next_column = (row + 1).clamp(max=size[0] - 1), (column + 1).clamp(max=size[1] - 1)
    nearest_row, nearest_column = torch.where(fy < 0.5, row, next_row), torch.where(fx < 0.5, column, next_column)
    one_surface = _one_surface(coarse, edge_ratio)

    result = torch.empty(batch, height, width, dtype=torch.float32, device=device)
    if kernels.usable(result):
        tables = [kernels.array(t) for t in (row, fy, column, fx)]
        for view in range(batch):
            surfaces = kernels.array(coarse[view]), kernels.array(one_surface[view])
            kernels.upsample_loop(*surfaces, *tables, result[view].numpy())
        return result
    step = max(1, CHUNK_PIXELS // width) if device.type == "cpu" else height
    for view in range(batch):
        grid, smooth = coarse[view], one_surface[view]
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            down = fy[rows, None]
            vertical = grid[row[rows]] * (1.0 - down) + grid[next_row[rows]] * down
            linear = vertical.index_select(1, column) * (1.0 - fx)
            linear.add_(vertical.index_select(1, next_column).mul_(fx)).clamp_(min=0.0)
            nearest = grid[nearest_row[rows]].index_select(1, nearest_column)
            result[view, rows] = torch.where(smooth[row[rows]].index_select(1, column), linear, nearest)
    return result


def _one_surface(coarse: Float[Tensor, "b h w"], edge_ratio: float) -> Bool[Tensor, "b h w"]:
    """Whether each pixel and its right, lower and diagonal neighbours (repeated at the border) are one surface."""
    padded = torch.nn.functional.pad(coarse[:, None], (0, 1, 0, 1), mode="replicate")[:, 0]
    largest = torch.maximum(padded[:, 1:], padded[:, :-1])
    smallest = torch.minimum(padded[:, 1:], padded[:, :-1])
    largest = torch.maximum(largest[:, :, 1:], largest[:, :, :-1])
    smallest = torch.minimum(smallest[:, :, 1:], smallest[:, :, :-1])
    return largest - smallest <= largest * edge_ratio


@torch.no_grad()
def downsample_inverse_depth(
    inverse_depth: Float[Tensor, "b H W"], factor: int, *, edge_ratio: float = 0.1
) -> Float[Tensor, "b h w"]:
    """One value for each factor x factor block: the mean where the block is one surface, else its median (an actual
    value).

    Blocks that reach beyond the picture see it continued linearly (replicated across edges). Means are exact on planes;
    a block that holds an edge takes the surface that covers more of it, infinity (0) included.

    Args:
        inverse_depth: 1 / z; 0 = infinitely far or no median.
        factor: Grid factor, the grid is that of `Cameras.coarsen(factor)`.
        edge_ratio: A block is one surface when (largest - smallest) <= edge_ratio * largest.

    Returns:
        ceil(H / factor) x ceil(W / factor) values, float32, finite, >= 0.
    """
    if factor == 1:
        return clean_inverse_depth(inverse_depth).float()
    fine = clean_inverse_depth(inverse_depth)
    fine = _continued(fine, factor, edge_ratio)
    fine = _continued(fine.transpose(1, 2), factor, edge_ratio).transpose(1, 2)
    batch, height, width = fine.shape
    blocks = fine.reshape(batch, height // factor, factor, width // factor, factor).permute(0, 1, 3, 2, 4)
    blocks = blocks.reshape(batch, height // factor, width // factor, factor * factor)
    ordered = blocks.sort(dim=-1).values
    smallest, largest = ordered[..., 0], ordered[..., -1]
    total = ordered[..., 0]
    for k in range(1, factor * factor):  # a fixed order, where sum() may choose one
        total = total + ordered[..., k]
    mean = total * (1.0 / (factor * factor))
    median = ordered[..., (factor * factor - 1) // 2]
    return torch.where(largest - smallest <= largest * edge_ratio, mean, median).float()


def _factor(coarse: tuple[int, int], full: tuple[int, int], factor: int | None) -> int:
    candidates = [factor] if factor is not None else [1 << k for k in range(_LARGEST_FACTOR.bit_length())]
    for candidate in candidates:
        if all(-(-f // candidate) == c for c, f in zip(coarse, full, strict=True)):
            return candidate
    wanted = f"factor {factor}" if factor is not None else f"any power of two up to {_LARGEST_FACTOR}"
    raise ValueError(
        f"a map of {coarse} pixels is not the coarse grid of {full} at {wanted}: its size must be ceil(size / factor)"
    )


def _linear_cells(coarse: int, full: int, factor: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower coarse pixel of every full pixel, and the weight of the upper one; beyond the outer centres the weight
    leaves 0..1.
    """
    # ((j + 1/2) / factor - 1/2) in integers: (2 j + 1 - factor) / (2 factor)
    numerator = torch.arange(full, dtype=torch.int64) * 2 + 1 - factor
    cell = torch.div(numerator, 2 * factor, rounding_mode="floor").clamp(0, max(coarse - 2, 0))
    weight = (numerator - cell * (2 * factor)).double() * (1.0 / (2 * factor))
    return cell.to(device), weight.to(device)


def _continued(fine: Float[Tensor, "b H W"], factor: int, edge_ratio: float) -> Float[Tensor, "b H2 W"]:
    """Rows appended up to a multiple of the factor, with the slope over the last `factor` rows where those are one
    surface.
    """
    height = fine.shape[1]
    missing = -height % factor
    if missing == 0:
        return fine
    last = fine[:, -1:]
    steps = torch.arange(1, missing + 1, dtype=torch.float64, device=fine.device).view(1, -1, 1)
    if height <= factor:
        return torch.cat([fine, last.expand(-1, missing, -1)], dim=1)
    before = fine[:, height - 1 - factor : height - factor]
    smooth = (last - before).abs() <= torch.maximum(last, before) * edge_ratio
    slope = ((last - before) * (1.0 / factor)).masked_fill(~smooth, 0.0)
    return torch.cat([fine, (last + slope * steps).clamp_(min=0.0)], dim=1)
