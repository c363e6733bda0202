"""Projection of 3D Gaussians to the image plane and spherical harmonics, in plain differentiable torch.

Follows gsplat 1.4.0's CUDA kernels (`fully_fused_projection_fwd.cu`, `utils.cuh`, `spherical_harmonics.cuh`) in every
rule that decides what is drawn: near and far planes, clamped Jacobian, blur, radius, frustum test.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_SH_DEGREE = 4


@dataclass(frozen=True)
class ProjectedGaussians:
    """Gaussians as the cameras see them; entries with radius 0 are culled, zero, and take no gradient.

    Units: pixels for `means2d` and `radii`, 1/pixel^2 for `conics` (xx, xy, yy of the inverse covariance), scene units
    for `depths` (z in the camera). `compensations` scales opacities in the antialiased mode.
    """

    radii: Int[Tensor, "c n"]
    means2d: Float[Tensor, "c n 2"]
    depths: Float[Tensor, "c n"]
    conics: Float[Tensor, "c n 3"]
    compensations: Float[Tensor, "c n"]


def quaternions_to_rotations(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of wxyz quaternions, which are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    )
    return torch.stack(rows, -2)


def project_gaussians(
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
    """Project every Gaussian into every camera (OpenCV axes; skew is ignored, as in gsplat).

    Gaussians outside near..far are left out before anything divides by their depth, so gradients stay finite for
    points at z = 0. Differentiable to everything but the intrinsics' zeros.
    """
    cameras, count = world_to_camera.shape[0], means.shape[0]
    with torch.no_grad():
        z = torch.einsum("cj,nj->cn", world_to_camera[:, 2, :3], means) + world_to_camera[:, 2, 3:]
        camera, gaussian = torch.nonzero((z >= near) & (z <= far), as_tuple=True)

    rotation, translation = world_to_camera[camera, :3, :3], world_to_camera[camera, :3, 3]
    x, y, z = ((rotation @ means[gaussian, :, None])[..., 0] + translation).unbind(-1)
    fx, fy, cx, cy = (intrinsics[camera, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))

    # the Jacobian is taken inside a frustum 15 % wider on each side than the image, so that it stays bounded
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    u = torch.clamp(x / z, min=-cx / fx - margin_x, max=(width - cx) / fx + margin_x)
    v = torch.clamp(y / z, min=-cy / fy - margin_y, max=(height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).reshape(-1, 2, 3)

    spread = quaternions_to_rotations(quats)[gaussian] * scales[gaussian, None, :]
    projected = jacobian @ rotation @ spread
    covariance = projected @ projected.transpose(-1, -2)
    raw_a, b, raw_c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    a, c = raw_a + eps2d, raw_c + eps2d
    determinant = a * c - b * b
    solid = determinant > 0
    safe = torch.where(solid, determinant, torch.ones_like(determinant))
    conics = torch.stack([c, -b, a], -1) / safe[:, None]
    # a floor keeps the root's gradient finite; an opacity times 1e-6 is never drawn
    compensation = torch.sqrt(torch.clamp((raw_a * raw_c - b * b) / safe, min=1e-12))
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    with torch.no_grad():
        middle = 0.5 * (a + c)
        radius = torch.ceil(3 * torch.sqrt(middle + torch.sqrt(torch.clamp(middle**2 - determinant, min=0.01))))
        inside = (means2d[:, 0] + radius > 0) & (means2d[:, 0] - radius < width)
        inside &= (means2d[:, 1] + radius > 0) & (means2d[:, 1] - radius < height) & solid
        # beyond 2^30 pixels an int32 would overflow; the Gaussian covers the image either way
        radius = torch.where(inside, radius, torch.zeros_like(radius)).clamp(max=2.0**30)

    flat = camera * count + gaussian

    def scatter(values: Tensor) -> Tensor:
        out = values.new_zeros((cameras * count, *values.shape[1:])).index_copy(0, flat, values)
        return out.reshape(cameras, count, *values.shape[1:])

    return ProjectedGaussians(scatter(radius.int()), scatter(means2d), scatter(z), scatter(conics), scatter(compensation))


def sh_basis(degree: int, directions: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b k"]:
    """Real spherical harmonics of unit `directions` up to `degree` (0 to 4), in the sign convention of splatting.

    Raises:
        ValueError: the degree is not in 0..4.
    """
    if not 0 <= degree <= MAX_SH_DEGREE:
        raise ValueError(f"spherical harmonics of degree 0 to {MAX_SH_DEGREE} are supported, not {degree}")
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    xx, yy, zz = x * x, y * y, z * z
    if degree >= 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * zz - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * zz - 1),
            0.3731763325901154 * z * (5 * zz - 3),
            -0.4570457994644658 * x * (5 * zz - 1),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    if degree >= 4:
        basis += [
            2.5033429417967046 * x * y * (xx - yy),
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (7 * zz - 1),
            -0.6690465435572892 * y * z * (7 * zz - 3),
            0.10578554691520431 * (35 * zz * zz - 30 * zz + 3),
            -0.6690465435572892 * x * z * (7 * zz - 3),
            0.47308734787878004 * (xx - yy) * (7 * zz - 1),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ]
    return torch.stack(basis, -1)


def view_dependent_colors(
    coefficients: Float[Tensor, "n k 3"],
    degree: int,
    means: Float[Tensor, "n 3"],
    world_to_camera: Float[Tensor, "c 4 4"],
) -> Float[Tensor, "c n 3"]:
    """Colours from SH coefficients, seen from the cameras' centres: max(0, basis . coefficients + 1/2).

    Raises:
        ValueError: there are fewer coefficients than (degree + 1)^2.
    """
    bases = (degree + 1) ** 2
    if bases > coefficients.shape[1]:
        raise ValueError(f"SH degree {degree} needs {bases} coefficients, got {coefficients.shape[1]}")
    centres = torch.linalg.inv(world_to_camera)[:, :3, 3]
    directions = torch.nn.functional.normalize(means[None] - centres[:, None], dim=-1)
    colors = torch.einsum("cnk,nkd->cnd", sh_basis(degree, directions), coefficients[:, :bases])
    return torch.clamp_min(colors + 0.5, 0.0)
