"""Projection and view-dependent colours on the CPU: the compiled kernels behind torch's autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.splat import projection_kernels
from lmvic_ns.splat.jit import as_numpy, launching
from lmvic_ns.splat.projection import ProjectedGaussians, view_dependent_colors


class _Project(torch.autograd.Function):
    """(means, quats, scales, views) -> (means2d, depths, conics, compensations, radii)."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        views: Tensor,
        intrinsics: Tensor,
        width: int,
        height: int,
        near: float,
        far: float,
        eps2d: float,
    ) -> tuple[Tensor, ...]:
        c, n = views.shape[0], means.shape[0]
        inputs = [as_numpy(tensor) for tensor in (means, quats, scales)]
        inputs += [as_numpy(tensor, torch.float64) for tensor in (views, intrinsics)]
        radii = np.empty((c, n), np.int32)
        shapes = ((c, n, 2), (c, n), (c, n, 3), (c, n))
        means2d, depths, conics, compensations = (np.empty(shape, np.float32) for shape in shapes)
        with launching():
            projection_kernels.project_forward(
                *inputs, float(width), float(height), float(near), float(far), float(eps2d),
                radii, means2d, depths, conics, compensations,
            )  # fmt: skip
        ctx.inputs, ctx.radii = inputs, radii
        ctx.scalars = (float(width), float(height), float(eps2d))
        out = tuple(torch.from_numpy(values) for values in (means2d, depths, conics, compensations, radii))
        ctx.mark_non_differentiable(out[4])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        c, n = ctx.radii.shape
        grad_means, grad_quats, grad_scales = (np.empty((n, k), np.float32) for k in (3, 4, 3))
        grad_views = np.zeros((projection_kernels.CHUNKS, c, 3, 4), np.float64)
        with launching():
            projection_kernels.project_backward(
                *ctx.inputs, *ctx.scalars, ctx.radii, *(as_numpy(g) for g in gradients[:4]),
                grad_means, grad_quats, grad_scales, grad_views,
            )  # fmt: skip
        views = np.zeros((c, 4, 4), np.float32)
        views[:, :3] = grad_views.sum(0)
        grads = [torch.from_numpy(values) for values in (grad_means, grad_quats, grad_scales, views)]
        return (*grads, *(None,) * 6)


class _Colorize(torch.autograd.Function):
    """(coefficients, means, centres) -> colours."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, means: Tensor, centres: Tensor, degree: int) -> Tensor:
        inputs = (as_numpy(coefficients), degree, as_numpy(means), as_numpy(centres, torch.float64))
        colors = np.empty((centres.shape[0], means.shape[0], 3), np.float32)
        with launching():
            projection_kernels.colors_forward(*inputs, colors)
        ctx.inputs, ctx.colors = inputs, colors
        return torch.from_numpy(colors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        coefficients, _, means, centres = ctx.inputs
        grad_coefficients, grad_means = np.empty_like(coefficients), np.empty_like(means)
        grad_centres = np.zeros((projection_kernels.CHUNKS, *centres.shape), np.float64)
        with launching():
            projection_kernels.colors_backward(
                *ctx.inputs, ctx.colors, as_numpy(gradients[0]), grad_coefficients, grad_means, grad_centres
            )
        return (
            torch.from_numpy(grad_coefficients),
            torch.from_numpy(grad_means),
            torch.from_numpy(grad_centres.sum(0)),
            None,
        )


def project_compiled(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    world_to_camera: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    eps2d: float = 0.3,
) -> ProjectedGaussians:
    """`projection.project_gaussians`, compiled; float32 in and out, no gradient to the intrinsics."""
    means2d, depths, conics, compensations, radii = _Project.apply(  # pyright: ignore[reportGeneralTypeIssues]
        means, quats, scales, world_to_camera, intrinsics, width, height, near, far, eps2d
    )
    return ProjectedGaussians(radii, means2d, depths, conics, compensations)


def colorize_compiled(
    coefficients: Float[Tensor, "n k 3"],
    degree: int,
    means: Float[Tensor, "n 3"],
    world_to_camera: Float[Tensor, "c 4 4"],
) -> Float[Tensor, "c n 3"]:
    """`projection.view_dependent_colors`, compiled up to degree 3 (plain torch for degree 4)."""
    if degree > projection_kernels.MAX_SH_DEGREE:
        return view_dependent_colors(coefficients, degree, means, world_to_camera)
    centres = torch.linalg.inv(world_to_camera.double())[:, :3, 3]
    return _Colorize.apply(coefficients, means, centres, degree)  # pyright: ignore[reportReturnType]
