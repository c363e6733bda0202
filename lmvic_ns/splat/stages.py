"""What a rasterizer is given and returns, and the frame that our own backends share: project, colour, blend, finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmvic_ns.splat.projection import ProjectedGaussians
from lmvic_ns.splat.tiles import TileLists


@dataclass(frozen=True)
class RasterInputs:
    """What to draw: the arguments of `lmvic_ns.splat.rasterization.rasterize`, where they are described."""

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    colors: Float[Tensor, "n 3"] | Float[Tensor, "n k 3"]
    world_to_camera: Float[Tensor, "c 4 4"]
    intrinsics: Float[Tensor, "c 3 3"]
    width: int
    height: int
    sh_degree: int | None = None
    near: float = 0.01
    far: float = 1e10
    background: Float[Tensor, "c 3"] | None = None
    absgrad: bool = False
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    tile_size: int = 16
    eps2d: float = 0.3
    packed: bool = False

    def check(self) -> None:
        """Raises ValueError where shapes do not fit together, or a value is out of range."""
        if self.width < 1 or self.height < 1:
            raise ValueError(f"the picture must have at least one pixel, got {self.width}x{self.height}")
        if self.rasterize_mode not in ("classic", "antialiased"):
            raise ValueError(f"rasterize_mode is 'classic' or 'antialiased', not {self.rasterize_mode!r}")
        n, c = self.means.shape[0], self.world_to_camera.shape[0]
        expected = {
            "means": (self.means, (n, 3)),
            "quats": (self.quats, (n, 4)),
            "scales": (self.scales, (n, 3)),
            "opacities": (self.opacities, (n,)),
            "world_to_camera": (self.world_to_camera, (c, 4, 4)),
            "intrinsics": (self.intrinsics, (c, 3, 3)),
        }
        if self.background is not None:
            expected["background"] = (self.background, (c, 3))
        if self.sh_degree is None:
            expected["colors"] = (self.colors, (n, 3))
        else:
            bands, found = (self.sh_degree + 1) ** 2, tuple(self.colors.shape)
            if len(found) != 3 or found[1] < bands:
                raise ValueError(f"colors must be (n, k, 3) with k >= {bands} at sh_degree={self.sh_degree}, got {found}")
            expected["colors"] = (self.colors, (n, found[1], 3))
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

    def in_float32(self) -> RasterInputs:
        """The same in float32, except for the background, which only finishes the picture."""
        names = ("means", "quats", "scales", "opacities", "colors", "world_to_camera", "intrinsics")
        return replace(self, **{name: getattr(self, name).float() for name in names})


@dataclass(frozen=True)
class RasterOutput:
    """Pictures of c cameras; depths in scene units along z, 0 where there is none.

    `rgb` is composited over the background and not clamped; `expected_depth` is sum a t z / sum a t; `median_depth` is
    the z of the first Gaussian after which the transmittance is below one half (equation (2)), 0 where no Gaussian
    takes it there. `info` is gsplat's meta, as its densification strategies read it.
    """

    rgb: Float[Tensor, "c h w 3"]
    alpha: Float[Tensor, "c h w 1"]
    expected_depth: Float[Tensor, "c h w 1"]
    median_depth: Float[Tensor, "c h w 1"]
    info: dict[str, Any]


@dataclass(frozen=True)
class ScreenGaussians:
    """Gaussians in the image plane, ready to blend: leading axes (c, n), or packed to the visible ones (m,)."""

    means2d: Float[Tensor, "*m 2"]
    conics: Float[Tensor, "*m 3"]
    opacities: Float[Tensor, "*m"]
    colors: Float[Tensor, "*m 3"]
    depths: Float[Tensor, "*m"]
    radii: Int[Tensor, "*m"]
    camera_ids: Int[Tensor, "flat_m"]


@dataclass(frozen=True)
class BlendOutput:
    """Sums over the Gaussians of each pixel, without background; `median_ids` index the flattened axes, -1 for none."""

    rgb: Float[Tensor, "c h w 3"]
    depth: Float[Tensor, "c h w 1"]
    transmittance: Float[Tensor, "c h w 1"]
    median_ids: Int[Tensor, "c h w"]
    lists: TileLists


@dataclass(frozen=True)
class Stages:
    """The three replaceable parts of a rasterizer; signatures as in projection.py and reference.py."""

    project: Callable[..., ProjectedGaussians]
    colorize: Callable[..., Tensor]
    blend: Callable[..., BlendOutput]


def gather_median_depth(depths: Float[Tensor, "*m"], median_ids: Int[Tensor, "c h w"]) -> Float[Tensor, "c h w 1"]:
    """z of the median Gaussians, differentiable to `depths`; 0 where the index is negative."""
    if depths.numel() == 0:
        return depths.new_zeros((*median_ids.shape, 1))
    picked = depths.reshape(-1)[median_ids.clamp(min=0).long()]
    return torch.where(median_ids >= 0, picked, torch.zeros_like(picked))[..., None]


def rasterize_by_stages(stages: Stages, inputs: RasterInputs) -> RasterOutput:
    """Run the stages on what `lmvic_ns.splat.rasterization.rasterize` was given."""
    means, width, height, tile_size = inputs.means, inputs.width, inputs.height, inputs.tile_size
    cameras, count = inputs.world_to_camera.shape[0], means.shape[0]
    projected = stages.project(
        means,
        inputs.quats,
        inputs.scales,
        inputs.world_to_camera,
        inputs.intrinsics,
        width,
        height,
        near=inputs.near,
        far=inputs.far,
        eps2d=inputs.eps2d,
    )
    seen_opacities = inputs.opacities[None].expand(cameras, count)
    if inputs.rasterize_mode == "antialiased":
        seen_opacities = seen_opacities * projected.compensations
    if inputs.sh_degree is None:
        seen_colors = inputs.colors[None].expand(cameras, count, 3)
    else:
        seen_colors = stages.colorize(inputs.colors, inputs.sh_degree, means, inputs.world_to_camera)

    camera_ids = torch.arange(cameras, device=means.device).repeat_interleave(count)
    gaussian_ids = None
    axes = [projected.means2d, projected.conics, seen_opacities, seen_colors, projected.depths, projected.radii]
    if inputs.packed:
        camera_ids, gaussian_ids = torch.nonzero(projected.radii > 0, as_tuple=True)
        axes = [values[camera_ids, gaussian_ids] for values in axes]
    splats = ScreenGaussians(*axes, camera_ids=camera_ids)
    if splats.means2d.requires_grad:
        splats.means2d.retain_grad()

    blended = stages.blend(splats, cameras, width, height, tile_size, inputs.absgrad)
    alpha = 1 - blended.transmittance
    rgb = blended.rgb
    if inputs.background is not None:
        rgb = rgb + blended.transmittance * inputs.background[:, None, None, :]
    lists = blended.lists
    info = {
        "camera_ids": camera_ids if inputs.packed else None,
        "gaussian_ids": gaussian_ids,
        "radii": splats.radii,
        "means2d": splats.means2d,
        "depths": splats.depths,
        "conics": splats.conics,
        "opacities": splats.opacities,
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "n_cameras": cameras,
        "tile_width": lists.tile_width,
        "tile_height": lists.tile_height,
        "flatten_ids": lists.flatten_ids,
        "isect_offsets": lists.offsets[:-1].reshape(cameras, lists.tile_height, lists.tile_width),
        "median_ids": blended.median_ids,
    }
    return RasterOutput(
        rgb=rgb,
        alpha=alpha,
        # alpha is 0 or at least 1/255, so the floor only guards the empty pixels
        expected_depth=blended.depth / alpha.clamp(min=1e-10),
        median_depth=gather_median_depth(splats.depths, blended.median_ids),
        info=info,
    )
