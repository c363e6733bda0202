"""The rasterizer in plain torch: slow, clear, differentiable by autograd, in any precision, on any device.

It is what the fast backends are tested against. Contribution rule: gsplat 1.4.0, `rasterize_to_pixels_fwd.cu`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmvic_ns.splat.projection import project_gaussians, view_dependent_colors
from lmvic_ns.splat.stages import BlendOutput, RasterInputs, RasterOutput, ScreenGaussians, Stages, rasterize_by_stages
from lmvic_ns.splat.tiles import intersect_tiles

MAX_ALPHA = 0.999
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4


def blend_tile(
    delta: Float[Tensor, "g p 2"],
    conics: Float[Tensor, "g 3"],
    opacities: Float[Tensor, "g"],
    features: Float[Tensor, "g f"],
) -> tuple[Float[Tensor, "p f"], Float[Tensor, "p"], Int[Tensor, "p"]]:
    """Blend Gaussians, given nearest first, at pixel centres; `delta` is mean minus pixel centre.

    Returns:
        sum of a t feature (equation (1)), final transmittance, and the position of the median Gaussian (2), -1 where
        the transmittance never falls below one half.
    """
    dx, dy = delta.unbind(-1)
    a, b, c = conics[:, :, None].unbind(1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = torch.clamp_max(opacities[:, None] * torch.exp(-sigma.clamp(min=0.0)), MAX_ALPHA)
    alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, torch.zeros_like(alpha))
    # the Gaussian that would take the transmittance to 1e-4 or below is left out, and all behind it
    with torch.no_grad():
        after = torch.cumprod(1 - alpha, 0)
        crossed = after < 0.5
        median = torch.where(crossed.any(0), crossed.int().argmax(0), -1)
    alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    return (alpha * before).T @ features, after[-1], median


def blend_reference(
    splats: ScreenGaussians, cameras: int, width: int, height: int, tile_size: int, absgrad: bool = False
) -> BlendOutput:
    """Blend every tile of every camera, see `BlendOutput`; with `absgrad`, backward fills `splats.means2d.absgrad`."""
    m = splats.radii.numel()
    means2d, conics, colors = (t.reshape(m, -1) for t in (splats.means2d, splats.conics, splats.colors))
    depths, opacities = splats.depths.reshape(m), splats.opacities.reshape(m)
    lists = intersect_tiles(means2d, splats.radii.reshape(m), depths, splats.camera_ids, cameras, width, height, tile_size)
    features = torch.cat([colors, depths[:, None]], -1)
    steps = torch.arange(tile_size, device=means2d.device, dtype=means2d.dtype) + 0.5
    offsets = lists.offsets.tolist()
    total = torch.zeros_like(means2d) if absgrad else None
    if total is not None:
        splats.means2d.absgrad = total.view_as(splats.means2d)  # pyright: ignore[reportAttributeAccessIssue]
    blended, transmittance, median = [], [], []
    for tile in range(cameras * lists.tile_height * lists.tile_width):
        row, column = tile // lists.tile_width % lists.tile_height, tile % lists.tile_width
        y, x = torch.meshgrid(row * tile_size + steps, column * tile_size + steps, indexing="ij")
        pixels = torch.stack([x, y], -1).reshape(-1, 2)
        ids = lists.flatten_ids[offsets[tile] : offsets[tile + 1]]
        if len(ids) == 0:
            blended.append(features.new_zeros(tile_size**2, features.shape[1]))
            transmittance.append(features.new_ones(tile_size**2))
            median.append(ids.new_full((tile_size**2,), -1))
            continue
        delta = means2d[ids, None, :] - pixels[None, :, :]
        if total is not None and delta.requires_grad:
            delta.register_hook(partial(_add_absolute, total, ids))
        values, t, position = blend_tile(delta, conics[ids], opacities[ids], features[ids])
        blended.append(values)
        transmittance.append(t)
        median.append(torch.where(position >= 0, ids[position.clamp(min=0)], -1))

    def image(tiles: list[Tensor]) -> Tensor:
        grid = torch.stack(tiles).reshape(cameras, lists.tile_height, lists.tile_width, tile_size, tile_size, -1)
        rows = grid.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return rows[:, :height, :width]

    out = image(blended)
    return BlendOutput(out[..., :3], out[..., 3:], image(transmittance), image(median)[..., 0], lists)


def _add_absolute(total: Tensor, ids: Tensor, gradient: Tensor) -> None:
    """The gradient hook of one tile: each pixel's |gradient| to the 2D means (AbsGS), summed."""
    total.index_add_(0, ids, gradient.abs().sum(1))


REFERENCE = Stages(project_gaussians, view_dependent_colors, blend_reference)


def rasterize_reference(*arguments: Any, **options: Any) -> RasterOutput:
    """`lmvic_ns.splat.rasterization.rasterize` with the same arguments, by plain torch wherever the tensors are."""
    return rasterize_by_stages(REFERENCE, RasterInputs(*arguments, **options))
