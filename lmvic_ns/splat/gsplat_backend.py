"""The CUDA rasterizer: gsplat's own, unchanged, and the median depth that it lacks. Import only where CUDA is."""

from __future__ import annotations

from typing import Literal

import torch
from gsplat.rendering import rasterization
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.splat.stages import RasterOutput, gather_median_depth
from lmvic_ns.splat.triton_median import median_indices


def rasterize_gsplat(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colors: Float[Tensor, "n 3"] | Float[Tensor, "n k 3"],
    world_to_camera: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    near: float = 0.01,
    far: float = 1e10,
    background: Float[Tensor, "c 3"] | None = None,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    tile_size: int = 16,
    eps2d: float = 0.3,
    packed: bool = False,
) -> RasterOutput:
    """`lmvic_ns.splat.rasterization.rasterize` by gsplat; `info` is its meta plus `median_ids`."""
    render, alpha, info = rasterization(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        colors=colors,
        viewmats=world_to_camera,
        Ks=intrinsics,
        width=width,
        height=height,
        near_plane=near,
        far_plane=far,
        eps2d=eps2d,
        sh_degree=sh_degree,
        packed=packed,
        tile_size=tile_size,
        backgrounds=background,
        render_mode="RGB+ED",
        absgrad=absgrad,
        rasterize_mode=rasterize_mode,
    )
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()
    with torch.cuda.device(means.device):
        info["median_ids"] = median_indices(
            info["means2d"],
            info["conics"],
            info["opacities"],
            info["isect_offsets"],
            info["flatten_ids"],
            width,
            height,
            tile_size,
        )
    return RasterOutput(
        rgb=render[..., :3],
        alpha=alpha,
        expected_depth=render[..., 3:4],
        median_depth=gather_median_depth(info["depths"], info["median_ids"]),
        info=info,
    )
