"""The CPU rasterizer: compiled tile lists, blending and gradients behind torch's autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.splat import blend_kernels, tile_kernels
from lmvic_ns.splat.cpu_projection import colorize_compiled, project_compiled
from lmvic_ns.splat.jit import as_numpy, launching
from lmvic_ns.splat.stages import BlendOutput, RasterInputs, RasterOutput, ScreenGaussians, Stages, rasterize_by_stages
from lmvic_ns.splat.tiles import TileLists, tile_grid


@dataclass(frozen=True)
class _Intersections:
    """Tile lists as numpy arrays; `slots` is each intersection's place when sorted by Gaussian."""

    records: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    slots: np.ndarray
    slot_begin: np.ndarray
    tiles: np.ndarray
    tile_order: np.ndarray
    tile_width: int
    tile_height: int


def _exclusive_sum(counts: np.ndarray) -> np.ndarray:
    """Start of each of the runs that `counts` are the lengths of, and the end of the last."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def _intersect(splats: ScreenGaussians, cameras: int, width: int, height: int, tile_size: int, threads: int) -> _Intersections:
    m = splats.radii.numel()
    tile_width, tile_height = tile_grid(width, height, tile_size)
    radii, camera_ids = splats.radii.reshape(m).numpy(), splats.camera_ids.numpy()
    records = np.empty((m, tile_kernels.RECORD), np.float32)
    records[:, :2] = as_numpy(splats.means2d).reshape(m, 2)
    records[:, 2:5] = as_numpy(splats.conics).reshape(m, 3)
    records[:, 5] = as_numpy(splats.opacities).reshape(m)
    records[:, 6:9] = as_numpy(splats.colors).reshape(m, 3)
    records[:, 9] = as_numpy(splats.depths).reshape(m)

    boxes, levels = np.empty((m, 4), np.int32), np.empty((m, 2), np.float64)
    tile_kernels.count_tiles(records, radii, tile_size, tile_width, tile_height, height, boxes, levels)
    row_begin = _exclusive_sum(boxes[:, 3] - boxes[:, 2])
    spans, tiles = np.empty((row_begin[-1], 2), np.int32), np.empty(m, np.int64)
    tile_kernels.fill_spans(records, boxes, levels, row_begin, tile_size, height, spans, tiles)
    slot_begin = _exclusive_sum(tiles)

    visible = np.flatnonzero(tiles)
    order = visible[np.argsort(records[visible, tile_kernels.DEPTH], kind="stable")]
    rows, bands = cameras * tile_height, min(cameras * tile_height, threads)
    counts = np.zeros(rows * tile_width, np.int64)
    tile_kernels.count_per_tile(order, camera_ids, boxes, spans, row_begin, tile_width, tile_height, bands, rows, counts)
    offsets = _exclusive_sum(counts)
    ids, slots = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)
    tile_kernels.fill_tiles(
        order, camera_ids, boxes, spans, row_begin, slot_begin, tile_width, tile_height, bands, rows,
        offsets[:-1].copy(), ids, slots,
    )  # fmt: skip
    longest_first = np.argsort(-counts, kind="stable")
    return _Intersections(records, offsets, ids, slots, slot_begin, tiles, longest_first, tile_width, tile_height)


class _Blend(torch.autograd.Function):
    """(means2d, conics, opacities, colors, depths) -> (rgb, depth, transmittance, median ids)."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        depths: Tensor,
        lists: _Intersections,
        cameras: int,
        width: int,
        height: int,
        tile_size: int,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = (cameras, height, width)
        rgb, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
        transmittance, last = np.empty(shape, np.float32), np.empty(shape, np.int32)
        median = np.empty(shape, np.int32)
        with launching() as threads:
            blend_kernels.blend_forward(
                lists.tile_order, lists.offsets, lists.ids, lists.records, lists.tile_width, lists.tile_height,
                tile_size, threads, rgb, depth, transmittance, last, median,
            )  # fmt: skip
        ctx.save_for_backward(means2d)
        ctx.lists, ctx.transmittance, ctx.last = lists, transmittance, last
        ctx.tile_size, ctx.absgrad = tile_size, absgrad
        ctx.shapes = [t.shape for t in (means2d, conics, opacities, colors, depths)]
        out = [torch.from_numpy(values) for values in (rgb, depth[..., None], transmittance[..., None], median)]
        out = [values.to(means2d.dtype) for values in out[:3]] + out[3:]
        ctx.mark_non_differentiable(out[3])
        return out[0], out[1], out[2], out[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (means2d,) = ctx.saved_tensors
        lists: _Intersections = ctx.lists
        grad_rgb, grad_depth, grad_transmittance = (as_numpy(g) for g in gradients[:3])
        rows = np.empty((len(lists.ids), blend_kernels.GRADIENTS), np.float32)
        sums = np.empty((len(lists.records), blend_kernels.GRADIENTS), np.float32)
        with launching() as threads:
            blend_kernels.blend_backward(
                lists.tile_order, lists.offsets, lists.ids, lists.slots, lists.records, lists.tile_width,
                lists.tile_height, ctx.tile_size, threads, ctx.absgrad, ctx.transmittance, ctx.last,
                grad_rgb, grad_depth[..., 0], grad_transmittance[..., 0], rows,
            )  # fmt: skip
            blend_kernels.sum_by_gaussian(rows, lists.slot_begin, lists.tiles, sums)
        total = torch.from_numpy(sums).to(means2d.dtype)
        if ctx.absgrad:
            means2d.absgrad = total[:, 2:4].reshape(ctx.shapes[0])
        columns = (total[:, 0:2], total[:, 4:7], total[:, 7], total[:, 8:11], total[:, 11])
        return (*(c.reshape(shape) for c, shape in zip(columns, ctx.shapes, strict=True)), *(None,) * 6)


def blend_compiled(
    splats: ScreenGaussians, cameras: int, width: int, height: int, tile_size: int, absgrad: bool = False
) -> BlendOutput:
    """`reference.blend_reference`, compiled. Tiles out of Gaussians' reach are dropped.

    Raises:
        ValueError: the tile size is not in 1..32.
    """
    if not 1 <= tile_size <= blend_kernels.MAX_TILE_SIZE:
        raise ValueError(f"tile_size must be 1 to {blend_kernels.MAX_TILE_SIZE} on a CPU, got {tile_size}")
    with launching() as threads:
        lists = _intersect(splats, cameras, width, height, tile_size, threads)
    rgb, depth, transmittance, median = _Blend.apply(  # pyright: ignore[reportGeneralTypeIssues]
        splats.means2d, splats.conics, splats.opacities, splats.colors, splats.depths,
        lists, cameras, width, height, tile_size, absgrad,
    )  # fmt: skip
    tile_lists = TileLists(torch.from_numpy(lists.ids), torch.from_numpy(lists.offsets), lists.tile_width, lists.tile_height)
    return BlendOutput(rgb, depth, transmittance, median, tile_lists)


COMPILED = Stages(project_compiled, colorize_compiled, blend_compiled)


def rasterize_cpu(inputs: RasterInputs) -> RasterOutput:
    """`lmvic_ns.splat.rasterization.rasterize` by compiled kernels, in float32."""
    return rasterize_by_stages(COMPILED, inputs.in_float32())
