"""The CUDA rasterizer: gsplat's own, unchanged, and the median depth that it lacks. Import only where CUDA is."""

from __future__ import annotations

import torch
from gsplat.rendering import rasterization

from lmvic_ns.splat.stages import RasterInputs, RasterOutput, gather_median_depth
from lmvic_ns.splat.triton_median import median_indices


def rasterize_gsplat(inputs: RasterInputs) -> RasterOutput:
    """`lmvic_ns.splat.rasterization.rasterize` by gsplat; `info` is its meta plus `median_ids`."""
    render, alpha, info = rasterization(
        means=inputs.means,
        quats=inputs.quats,
        scales=inputs.scales,
        opacities=inputs.opacities,
        colors=inputs.colors,
        viewmats=inputs.world_to_camera,
        Ks=inputs.intrinsics,
        width=inputs.width,
        height=inputs.height,
        near_plane=inputs.near,
        far_plane=inputs.far,
        eps2d=inputs.eps2d,
        sh_degree=inputs.sh_degree,
        packed=inputs.packed,
        tile_size=inputs.tile_size,
        backgrounds=inputs.background,
        render_mode="RGB+ED",
        absgrad=inputs.absgrad,
        rasterize_mode=inputs.rasterize_mode,
    )
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()
    with torch.cuda.device(inputs.means.device):
        info["median_ids"] = median_indices(
            info["means2d"],
            info["conics"],
            info["opacities"],
            info["isect_offsets"],
            info["flatten_ids"],
            inputs.width,
            inputs.height,
            inputs.tile_size,
        )
    return RasterOutput(
        rgb=render[..., :3],
        alpha=alpha,
        expected_depth=render[..., 3:4],
        median_depth=gather_median_depth(info["depths"], info["median_ids"]),
        info=info,
    )
