"""Distances between views, the order in which they are coded, and the tree of references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_to_surfaces, farthest_of_neighbours
from lmvic_ns.tree.reference_tree import ReferenceTree, TreeError
from lmvic_ns.tree.spanning import SpanningTree, farthest_first

__all__ = [
    "ReferenceTree",
    "TreeError",
    "covisibility",
    "greedy_chain",
    "independent_views",
    "pose_distance",
    "reference_tree",
    "scene_translation_scale",
    "scene_tree",
]

_HUBS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # numbers of hubs that are tried, the root included
MOST_VIEWS_OF_A_TREE = 2048
"""Larger scenes are cut into neighbourhoods with a tree each: distances of all pairs take 8 bytes times the views squared."""
_NEIGHBOURHOOD = 256
_FEW_HUBS = (4, 16)
MOST_VIEWS_OF_A_CHAIN = 20_000


def pose_distance(
    world_to_camera: Float[Tensor, "v 4 4"],
    *,
    translation_scale: float,
    norm: Literal["frobenius", "spectral"] = "frobenius",
) -> Float[Tensor, "v v"]:
    """The paper's distance (8), D(i, j) = ||T_i T_j^-1 - I||, with translations divided by a length of the scene.

    T_i T_j^-1 - I = R_i (P_j - P_i) with P the upper 3 x 4 part of the camera-to-world matrices, and a rotation changes
    neither norm.
    So D is the norm of a difference of matrices: a metric, and independent of the world's origin and axes.

    Args:
        world_to_camera: Rigid transforms.
        translation_scale: Length that counts as much as a unit of rotation; the scene's median depth is the default
            elsewhere
            (`scene_translation_scale`).
        norm: Frobenius, sqrt(||R_i R_j^T - I||_F^2 + (||t_ij|| / s)^2), as in the paper's experiments; or the largest
            singular value.

    Returns:
        Symmetric float64 matrix with a zero diagonal.

    Raises:
        ValueError: The scale is not positive and finite, or the norm is unknown.
    """
    if not (translation_scale > 0 and np.isfinite(translation_scale)):
        raise ValueError(f"translation_scale must be positive and finite, not {translation_scale}")
    pose = _pose_vectors(world_to_camera, translation_scale).unflatten(1, (3, 4))
    views = len(pose)
    if norm == "frobenius":
        squared = torch.zeros(views, views, dtype=torch.float64, device=pose.device)
        for entry in pose.flatten(1).unbind(1):  # 12 plain passes: no cancellation as in |a|^2 + |b|^2 - 2 a b
            difference = entry[:, None] - entry[None, :]
            squared.add_(difference.mul_(difference))
        return squared.sqrt_()
    if norm == "spectral":
        first, second = torch.triu_indices(views, views, offset=1, device=pose.device)
        difference = pose[first] - pose[second]
        largest = torch.linalg.eigvalsh(difference @ difference.transpose(1, 2))[:, -1].clamp(min=0.0).sqrt()
        distances = torch.zeros(views, views, dtype=torch.float64, device=pose.device)
        distances[first, second] = largest
        distances[second, first] = largest
        return distances
    raise ValueError(f"unknown norm {norm!r}: use 'frobenius' or 'spectral'")


def _pose_vectors(world_to_camera: Float[Tensor, "v 4 4"], translation_scale: float) -> Float[Tensor, "v 12"]:
    """Poses as vectors whose Euclidean distance is (8)."""
    transforms = torch.as_tensor(world_to_camera).to(torch.float64)
    rotation = transforms[:, :3, :3].transpose(1, 2)
    center = -(rotation * transforms[:, None, :3, 3]).sum(-1, keepdim=True) / translation_scale
    return torch.cat([rotation, center], dim=2).flatten(1)


def scene_tree(
    world_to_camera: Float[Tensor, "v 4 4"], *, translation_scale: float, max_depth: int | None = 8
) -> ReferenceTree:
    """The reference tree of a scene by the paper's distance (8), for any number of views.

    More than `MOST_VIEWS_OF_A_TREE` views are halved by their poses until 256 or fewer are left, and each such neighbourhood
    has a tree, and a root, of its own.

    Raises:
        ValueError: as `pose_distance` and `reference_tree`.
    """
    views = len(world_to_camera)
    if views <= MOST_VIEWS_OF_A_TREE:
        return reference_tree(pose_distance(world_to_camera, translation_scale=translation_scale), max_depth=max_depth)
    vectors = _pose_vectors(world_to_camera, translation_scale).numpy()
    if not np.isfinite(vectors).all():
        raise ValueError("distances must be finite and not negative: is there a view without a pose?")
    order: list[int] = []
    parent = np.full(views, -1)
    parts = [np.arange(views)]
    while parts:
        part = parts.pop()
        if len(part) > _NEIGHBOURHOOD:
            axis = int(np.ptp(vectors[part], axis=0).argmax())
            ranked = part[np.argsort(vectors[part, axis], kind="stable")]
            parts += [np.sort(ranked[len(part) // 2 :]), np.sort(ranked[: len(part) // 2])]
            continue
        apart = pose_distance(world_to_camera[torch.from_numpy(part)], translation_scale=translation_scale)
        tree = reference_tree(apart, max_depth=max_depth, hubs=_FEW_HUBS)
        order += part[list(tree.order)].tolist()
        above = np.array(tree.parent)
        parent[part[above >= 0]] = part[above[above >= 0]]
    return ReferenceTree.from_parents(order, parent.tolist())


def scene_translation_scale(inverse_depths: Sequence[Float[Tensor, "h w"]], cameras: Cameras) -> float:
    """The scene's median depth; without any finite depth, the cameras' root mean square distance from their centroid (1
    if that is 0).
    """
    samples = [m[m > 0].flatten()[:: max(1, m.numel() // 4096)] for m in inverse_depths]
    known = torch.cat([s.double() for s in samples]) if samples else torch.empty(0)
    if known.numel():
        return float(1.0 / known.median())
    centers = cameras.centers
    spread = float((centers - centers.mean(0)).square().sum(1).mean().sqrt())
    return spread if spread > 0 else 1.0


def covisibility(
    inverse_depths: Sequence[Float[Tensor, "h w"]],
    cameras: Cameras,
    *,
    width: int = 32,
    relative_margin: float = 0.05,
) -> Float[Tensor, "v v"]:
    """Share of a view's pixels that another view shows too (mask (4) = 1), the mean of both directions.

    Every view is sampled on a grid of `width` columns (rows by the first view's aspect) and looked up in maps of four
    times that size, so that the occlusion test does not suffer from the coarse grid. 1 - covisibility is a distance for
    `reference_tree`.

    Args:
        inverse_depths: One map a view, at any size of the view's own shape; 0 = infinitely far.
        cameras: The views.
        width: Columns of the sampling grid.
        relative_margin: tau of (4).

    Returns:
        Symmetric float64 matrix in 0..1, ones on the diagonal.

    Raises:
        ValueError: Not one map a view.
    """
    if len(inverse_depths) != len(cameras):
        raise ValueError(f"{len(inverse_depths)} inverse depth maps for {len(cameras)} views")
    height = max(1, round(width * int(cameras.height[0]) / int(cameras.width[0])))
    coarse = torch.stack([_sampled(m, height, width) for m in inverse_depths])
    # maps of four times the size are looked up, so that the coarse grid does not blur the occlusion test
    surfaces = farthest_of_neighbours(torch.stack([_sampled(m, 4 * height, 4 * width) for m in inverse_depths]))
    # the pixel margin is one of the pictures' own pixels
    pixel_margin = 0.5 * 4 * width / int(cameras.width[0])
    coarse_cameras, fine_cameras = cameras.resize(height, width), cameras.resize(4 * height, 4 * width)
    views = len(cameras)
    shares = torch.empty(views, views, dtype=torch.float64)
    for view in range(views):
        grid = coarse[view].expand(views, -1, -1)
        result = disparity_to_surfaces(grid, coarse_cameras[view], surfaces, fine_cameras, relative_margin, pixel_margin, 1.0)
        shares[view] = result.mask.flatten(1).double().mean(1).cpu()
    shares = (shares + shares.T) * 0.5
    shares.fill_diagonal_(1.0)
    return shares


def reference_tree(distances: Float[Tensor, "v v"], *, max_depth: int | None = 8, hubs: Sequence[int] = _HUBS) -> ReferenceTree:
    """Prim's algorithm from the medoid, at most `max_depth` references deep: views refer to near views coded before them.

    Without the bound (None), or where it does not bind, the result is a minimum spanning tree, so its length is at most
    that of any chain. Where it binds, plain Prim spends the depth on the first few views and hangs all others far from
    their neighbours (10 times the unbounded length on a video of 101 frames). So trees that first connect some hubs,
    views far from each other, are grown too, and the shortest is taken (1.7 times). Ties go to the lower index.

    Raises:
        ValueError: Distances are not a symmetric, finite, non-negative square matrix, or the bound is below 1.
    """
    matrix = _checked(distances)
    if max_depth is not None and max_depth < 1:
        raise ValueError(f"max_depth must be at least 1 (or None), not {max_depth}; use independent_views for no references")
    views = len(matrix)
    root = int(matrix.sum(axis=1).argmin())
    everything = np.arange(views)
    tree = SpanningTree(matrix, root)
    tree.grow(everything, None)
    if max_depth is not None and max(tree.depth) > max_depth:
        tree = SpanningTree(matrix, root)
        tree.grow(everything, max_depth)
        spread = farthest_first(matrix, root)
        for count in (h for h in hubs if h <= views // 2):
            for hub_depth in sorted({max_depth // 2, max_depth - 3, max_depth - 1}):
                if hub_depth >= 1:
                    other = SpanningTree(matrix, root)
                    other.grow(spread[:count], hub_depth)
                    other.grow(everything, max_depth)
                    tree = min(tree, other, key=lambda t: t.length)
    return ReferenceTree(tuple(tree.order), tuple(tree.parent.tolist()), tuple(tree.depth.tolist()))


def greedy_chain(distances: Float[Tensor, "v v"], start: int | None = None) -> ReferenceTree:
    """The paper's order: from a first view (`start`, by default view 0) always on to the nearest view that is left; a
    chain without a bound.

    Raises:
        ValueError: As `reference_tree`, or there is no view `start`.
    """
    matrix = _checked(distances)
    views = len(matrix)
    view = 0 if start is None else start
    if not 0 <= view < views:
        raise ValueError(f"there is no view {start} among {views}")
    order = [view]
    parent = [-1] * views
    waiting = np.ones(views, dtype=bool)
    waiting[view] = False
    while waiting.any():
        following = int(np.where(waiting, matrix[view], np.inf).argmin())
        parent[following] = view
        waiting[following] = False
        order.append(following)
        view = following
    return ReferenceTree.from_parents(tuple(order), tuple(parent))


def independent_views(n: int) -> ReferenceTree:
    """n views without references, in their own order."""
    return ReferenceTree(tuple(range(n)), (-1,) * n, (0,) * n)


def _checked(distances: Tensor | np.ndarray) -> np.ndarray:
    matrix = np.asarray(torch.as_tensor(distances).detach().cpu().double().numpy())
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"distances must be a square matrix of at least one view, not {matrix.shape}")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise ValueError("distances must be finite and not negative: is there a view without a pose?")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9):
        raise ValueError("distances must be symmetric")
    return matrix


def _sampled(inverse_depth: Float[Tensor, "h w"], height: int, width: int) -> Float[Tensor, "h2 w2"]:
    """The pixels at the centres of a coarser (or finer) grid; nothing is averaged across edges."""
    h, w = inverse_depth.shape
    rows = torch.div((torch.arange(height) * 2 + 1) * h, 2 * height, rounding_mode="floor")
    columns = torch.div((torch.arange(width) * 2 + 1) * w, 2 * width, rounding_mode="floor")
    return inverse_depth[rows.to(inverse_depth.device)][:, columns.to(inverse_depth.device)]
