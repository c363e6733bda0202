"""The one seam between models and rasterizers: `rasterize` picks the backend by the device of the means."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lmvic_ns.splat.stages import RasterInputs, RasterOutput

__all__ = ["RasterOutput", "rasterize"]


def rasterize(
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
    """Render 3D Gaussians into c pinhole cameras, with colour, opacity, expected and median depth.

    On CUDA this is gsplat's rasterization plus a Triton kernel for the median; elsewhere our compiled CPU kernels,
    which follow the same contribution rule. Both are differentiable to everything but the intrinsics.

    Args:
        means: centres, world units.
        quats: wxyz, need not be normalised.
        scales: standard deviations along the axes, linear, world units.
        opacities: 0..1.
        colors: RGB, or spherical harmonics coefficients when `sh_degree` is given (k >= (sh_degree + 1)^2).
        world_to_camera: OpenCV axes (x right, y down, z forward).
        intrinsics: pixels; pixel centres lie at +0.5.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        sh_degree: bands to use, 0..4; None means that `colors` are RGB.
        near: Gaussians nearer than this z are left out.
        far: Gaussians farther than this z are left out.
        background: RGB behind everything; None is black.
        absgrad: backward also sets `info["means2d"].absgrad`, summed |gradient| of each pixel.
        rasterize_mode: "antialiased" lowers the opacity of Gaussians that the blur `eps2d` widens.
        tile_size: side of the tiles, pixels (the CPU backend takes 1 to 32).
        eps2d: added to the projected variances, pixels^2.
        packed: lay `info` out for the visible Gaussians only, as gsplat does with packed=True.

    Raises:
        ValueError: shapes do not fit together, or a size is out of range.
    """
    inputs = RasterInputs(
        means,
        quats,
        scales,
        opacities,
        colors,
        world_to_camera,
        intrinsics,
        width,
        height,
        sh_degree=sh_degree,
        near=near,
        far=far,
        background=background,
        absgrad=absgrad,
        rasterize_mode=rasterize_mode,
        tile_size=tile_size,
        eps2d=eps2d,
        packed=packed,
    )
    inputs.check()
    if means.is_cuda:
        # imported here: gsplat and triton must not load, let alone compile, on a machine without CUDA
        from lmvic_ns.splat.gsplat_backend import rasterize_gsplat as backend
    else:
        from lmvic_ns.splat.cpu_backend import rasterize_cpu as backend
    return backend(inputs)
