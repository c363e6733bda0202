"""What errors of a root's depth cost the views that inherit it.

A root has no reference, so its own picture does not need its depth. An error moves pixels of the views below it along their
epipolar lines, and how much that harms depends on what is there: nothing in a sky, a lot at an edge across the line. The root's
picture shows this by itself: compared with itself, moved by as many steps as the depth is off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.depth.quadtree import UNIT
from lmvic_ns.geometry.cameras import Cameras, relative_projection

FARTHEST = 6
"""Errors of more steps cost as much as this many."""
_MOST_CHILDREN = 4


def error_costs(
    image: Float[Tensor, "1 3 h w"],
    cameras: Cameras,
    children: Sequence[Cameras],
    inverse_depth: Float[Tensor, "h4 w4"],
    step: int,
    noise: float,
    leaf: int,
) -> Float[Tensor, "k rows columns"]:
    """log2(1 + squared error / noise) of each leaf, when its depth is off by -6..6 steps; mean over the children.

    Args:
        image: of the root, 0..1.
        cameras: of the root.
        children: cameras of the views that refer to it; at most four of them are looked at.
        inverse_depth: of the root, normalised, at a quarter of its resolution.
        step: in units of 1/65536.
        noise: squared error that does not matter.
        leaf: side of a leaf in pixels.
    """
    h, w = image.shape[-2:]
    stride = 2 if h * w < 1 << 20 else 4
    samples = leaf // stride
    rows, columns = (torch.arange(0, n + -n % leaf, stride, device=image.device) + stride // 2 for n in (h, w))
    inside = F.avg_pool2d(((rows < h)[:, None] & (columns < w)[None]).float()[None, None], samples)[0, 0]
    picture = image.float()
    shown = F.pad(picture, (0, -w % leaf, 0, -h % leaf), mode="replicate")[:, :, rows][..., columns]
    mean, square = F.avg_pool2d(shown, 2 * samples, ceil_mode=True), F.avg_pool2d(shown.square(), 2 * samples, ceil_mode=True)
    worst = (square - mean.square()).clamp(min=0).mean(1)[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    worst = worst[: inside.shape[0], : inside.shape[1]]
    u, v = columns.double() + 0.5, rows.double() + 0.5
    grid = torch.stack([(u * (2 / w) - 1)[None].expand(len(v), -1), (v * (2 / h) - 1)[:, None].expand(-1, len(u))], -1)
    rho = F.grid_sample(inverse_depth.double()[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
    stridden = list(children)[:: max(1, -(-len(children) // _MOST_CHILDREN))]
    moves = [displacement(cameras, child, u[None], v[:, None], rho, step / UNIT) for child in stridden]
    costs = []
    for k in range(-FARTHEST, FARTHEST + 1):
        total = torch.zeros_like(inside)
        for move in moves:
            place = (grid + k * move * torch.tensor([2 / w, 2 / h], dtype=torch.float64)).float()
            moved = F.grid_sample(picture, place[None], padding_mode="border", align_corners=False)
            error = F.avg_pool2d((moved - shown).square().mean(1, keepdim=True), samples)[0, 0]
            total += torch.log2(1 + torch.minimum(error, worst) / noise)
        costs.append(total / max(len(moves), 1) * inside)
    return torch.stack(costs)


def displacement(cameras: Cameras, child: Cameras, u: Tensor, v: Tensor, rho: Tensor, change: float) -> Float[Tensor, "h w 2"]:
    """How far the root's pixel moves, in pixels (x, y), that a child's pixel finds, when the inverse depth there changes.

    The child's pixel moves along its epipolar line; the root's moves as the child's does, turned and scaled by the local
    homography between both pictures.

    Args:
        cameras: of the root.
        child: camera of a view that refers to it.
        u: columns of the root's pixels.
        v: rows.
        rho: their inverse depth.
        change: of the inverse depth.
    """
    homography, offset = (m[0].double().to(rho.device) for m in relative_projection(cameras, child))

    def position(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
        q = [homography[k, 0] * x + homography[k, 1] * y + homography[k, 2] + r * offset[k] for k in range(3)]
        z = q[2].clamp(min=1e-6)
        return torch.stack([q[0] / z, q[1] / z], -1)

    here = position(u, v, rho)
    by_depth = position(u, v, rho + change) - here
    by_u, by_v = position(u + 1, v, rho) - here, position(u, v + 1, rho) - here
    determinant = by_u[..., 0] * by_v[..., 1] - by_u[..., 1] * by_v[..., 0]
    determinant = torch.where(determinant.abs() < 1e-6, torch.full_like(determinant, 1e-6), determinant)
    x = (by_v[..., 1] * by_depth[..., 0] - by_v[..., 0] * by_depth[..., 1]) / determinant
    y = (by_u[..., 0] * by_depth[..., 1] - by_u[..., 1] * by_depth[..., 0]) / determinant
    return torch.stack([x, y], -1).clamp(-64, 64)
