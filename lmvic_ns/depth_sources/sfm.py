"""Inverse depth from structure-from-motion points: the stand-in where no splat has been trained.

The method, for each view: project all points; drop those that a nearer point in the same neighbourhood probably hides
(a coarse z-buffer) and lone points far in front of their neighbours; interpolate inverse depth linearly over the
Delaunay triangulation of what is left (inverse depth of a plane is linear in the image, so planes are exact), and take
the nearest point's value outside of its hull. Computed at a quarter of the resolution, where the codec codes depth.

It knows nothing of edges between points, and the sky gets what lies nearest to it: a splat's median depth is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import upsample_inverse_depth
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points

FACTOR = 4
"""Depth is interpolated on the grid of this coarseness."""


def read_ply_points(path: Path) -> Float[np.ndarray, "n 3"]:
    """Vertex positions of a .ply file, float64.

    Raises:
        SceneError: the file cannot be read (see `lmvic_ns.scene.ply.read_points`), or holds no point.
    """
    points = read_points(path)[0].astype(np.float64)
    if not len(points):
        raise SceneError(f"{path}: no points")
    return points


def scene_positions(scene: MultiViewScene) -> Float[np.ndarray, "n 3"]:
    """Positions of a scene's sparse points, whether they are in a .ply file or in a COLMAP model, float64.

    Raises:
        SceneError: there are none, or their file is damaged.
    """
    cloud = scene.points()
    if cloud is None or not len(cloud.positions):
        raise SceneError(
            f"{scene.sparse_points or 'the scene'}: has no sparse points, which bound the depth: give it some "
            "(ns-process-data and COLMAP write them), use --depth none, or take depth from a trained splat"
        )
    return cloud.positions.astype(np.float64)


def project_points(
    points: Float[np.ndarray, "n 3"], camera: Cameras
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m"]]:
    """Pixel positions and inverse depths of the points that one view has in front of it and in its frame."""
    k, transform = camera.intrinsics[0].cpu().numpy(), camera.world_to_camera[0].cpu().numpy()
    seen = points @ transform[:3, :3].T + transform[:3, 3]
    seen = seen[seen[:, 2] > 1e-9]
    image = seen @ k.T
    position = image[:, :2] / image[:, 2:]
    inside = (position >= 0).all(1) & (position[:, 0] < int(camera.width[0])) & (position[:, 1] < int(camera.height[0]))
    return position[inside], 1.0 / seen[inside, 2]


def visible_points(
    position: Float[np.ndarray, "m 2"], inverse_depth: Float[np.ndarray, "m"], cell: float, *, hidden_ratio: float = 0.8
) -> np.ndarray:
    """Which points this view probably sees: not far behind the nearest of their cell, nor alone far in front.

    Args:
        cell: side of a z-buffer cell in pixels.
        hidden_ratio: a point is hidden when its inverse depth is below this share of its cell's largest.
    """
    from scipy.spatial import KDTree

    keep = np.ones(len(position), dtype=bool)
    if len(position) < 16:
        return keep
    _, nearest = KDTree(position).query(position, k=9)
    around = np.sort(inverse_depth[np.asarray(nearest)[:, 1:]], axis=1)
    keep &= inverse_depth <= 1.25 * around[:, -2]  # two of eight neighbours must be about as near
    keep &= inverse_depth >= hidden_ratio * around[:, 4]  # four of eight are nearer: seen through a surface
    columns = (position // cell).astype(np.int64)
    width = int(columns[:, 0].max()) + 1
    index = columns[:, 1] * width + columns[:, 0]
    front = np.zeros(int(index.max()) + 1)
    np.maximum.at(front, index[keep], inverse_depth[keep])
    return keep & (inverse_depth >= hidden_ratio * front[index])


def densify(
    position: Float[np.ndarray, "m 2"], inverse_depth: Float[np.ndarray, "m"], height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """Inverse depth at pixel centres: linear over the Delaunay triangulation, the nearest point's value outside.

    No point at all gives zeros (infinitely far); fewer than four give their median.
    """
    if not len(position):
        return np.zeros((height, width), dtype=np.float32)
    if len(position) < 4:
        return np.full((height, width), np.median(inverse_depth), dtype=np.float32)
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import QhullError

    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    nearest = NearestNDInterpolator(position, inverse_depth)
    try:
        dense = LinearNDInterpolator(position, inverse_depth)(columns, rows)
    except QhullError:  # all on a line
        dense = np.full((height, width), np.nan)
    outside = ~np.isfinite(dense)
    dense[outside] = nearest(columns[outside], rows[outside])
    return dense.astype(np.float32)


def sfm_inverse_depth(points: Float[np.ndarray, "n 3"], camera: Cameras) -> Float[Tensor, "h w"]:
    """Dense inverse depth of one view from the scene's points, float32 in scene units."""
    height, width = camera.size
    position, inverse = project_points(points, camera)
    keep = visible_points(position, inverse, cell=max(height, width) / 40)
    coarse = densify(position[keep] / FACTOR, inverse[keep], -(-height // FACTOR), -(-width // FACTOR))
    return upsample_inverse_depth(torch.from_numpy(coarse)[None], height, width)[0].float()


def with_sfm_depth(scene: MultiViewScene, points: Path | None = None) -> MultiViewScene:
    """The scene with inverse depth from its SfM points, computed at each access.

    Raises:
        SceneError: there are no points.
    """
    cloud = read_ply_points(points) if points is not None else scene_positions(scene)
    return scene.with_inverse_depth(lambda index: sfm_inverse_depth(cloud, scene.cameras[index]))


def write_depth_cache(scene: MultiViewScene, folder: Path, *, overwrite: bool = False) -> Path:
    """Keep a scene with its depth as a nerfstudio dataset of its own: pinhole PNG images and float32 .npy depth.

    Training reads such folders; the scene's own folder stays as it is.
    """
    return scene.write_dataset(folder, image_format="png", depth_format="npy", overwrite=overwrite)


def find_scenes(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Folders with a transforms.json directly in `folder`, sorted; only those of `names`, if given.

    Raises:
        SceneError: there is none, or one of the names is missing.
    """
    folder = Path(folder)
    found = sorted(p.parent for p in folder.glob("*/transforms.json")) if folder.is_dir() else []
    missing = set(names) - {p.name for p in found}
    if missing or not found:
        what = f"no scene {sorted(missing)[0]!r}" if missing else "no scenes (folders with a transforms.json)"
        raise SceneError(f"{what} in {folder}")
    return [p for p in found if not names or p.name in names]
