"""Inverse depth of a whole scene by plane sweep stereo: the better stand-in where no splat has been trained.

Each view is swept against its nearest neighbours at a low resolution; what at least one neighbour's own depth does not
confirm is dropped, and the holes are filled from around them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.depth_sources.plane_sweep import PlaneSweepConfig, plane_sweep
from lmvic_ns.depth_sources.sfm import project_points, scene_positions
from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import pose_distance

_LEAST = 8  # points that a view must show to bound its depth


@dataclass(frozen=True)
class StereoConfig:
    """How a scene's depth is searched.

    Attributes:
        side: longer side of the images that are matched, in pixels.
        neighbours: views that each view is matched with.
        agreement: relative difference of inverse depth up to which a neighbour confirms a pixel.
        sweep: the search itself.
    """

    side: int = 320
    neighbours: int = 4
    agreement: float = 0.04
    sweep: PlaneSweepConfig = field(default_factory=PlaneSweepConfig)


def with_stereo_depth(
    scene: MultiViewScene, config: StereoConfig | None = None, on_view: Callable[[int], None] | None = None
) -> MultiViewScene:
    """The scene with inverse depth from its own photographs.

    Args:
        scene: at least two views, with SfM points (they bound the depth).
        config: search parameters.
        on_view: called after each view is swept.

    Raises:
        SceneError: a single view, or no points that any view sees.
    """
    config = config or StereoConfig()
    if len(scene) < 2:
        raise SceneError("stereo needs two views at least; the scene has one")
    points = scene_positions(scene)
    small = [_reduced(scene, view, config.side) for view in range(len(scene))]
    cameras = Cameras.cat([camera for _image, camera in small])
    bounds = [_bounds(points, cameras[view]) for view in range(len(scene))]
    everywhere = [b for b in bounds if b is not None]
    if not everywhere:
        raise SceneError(
            f"no view shows {_LEAST} of the scene's {len(points)} sparse points, too few for stereo; if its poses are right, "
            "use --depth none"
        )
    middle = float(np.median([b[1] for b in everywhere]))
    order = pose_distance(cameras.world_to_camera, translation_scale=2.0 / middle).argsort(1)
    near = [[j for j in order[view].tolist() if j != view][: config.neighbours] for view in range(len(scene))]
    found: list[Tensor] = []
    for view in range(len(scene)):
        limits = bounds[view] or (0.0, max(b[1] for b in everywhere))
        images = [small[j][0] for j in near[view]]
        found.append(plane_sweep(small[view][0], cameras[view], images, cameras[near[view]], limits, config.sweep))
        if on_view is not None:
            on_view(view)
    depth = [_checked(found, cameras, view, near[view], config.agreement) for view in range(len(scene))]

    def inverse_depth(view: int) -> Tensor:
        size = int(scene.cameras.height[view]), int(scene.cameras.width[view])
        return F.interpolate(depth[view][None, None], size, mode="bilinear", align_corners=False)[0, 0]

    return scene.with_inverse_depth(inverse_depth)


def _reduced(scene: MultiViewScene, view: int, side: int) -> tuple[Tensor, Cameras]:
    image = scene.image(view)
    h, w = image.shape[-2:]
    factor = min(1.0, side / max(h, w))
    height, width = max(1, round(h * factor)), max(1, round(w * factor))
    return F.interpolate(image[None], (height, width), mode="area")[0], scene.cameras[view].resize(height, width)


def _bounds(points: Float[np.ndarray, "n 3"], camera: Cameras) -> tuple[float, float] | None:
    _position, rho = project_points(points, camera)
    if len(rho) < _LEAST:
        return None
    far, near = np.quantile(rho, (0.01, 0.99))
    return 0.5 * float(far), 1.25 * float(near)


def _checked(found: list[Tensor], cameras: Cameras, view: int, near: list[int], agreement: float) -> Tensor:
    """Drops what no neighbour confirms, then fills the holes from coarse to fine."""
    confirmed = torch.zeros_like(found[view], dtype=torch.bool)
    for other in near:
        seen = disparity_and_mask(found[view][None], cameras[view], found[other][None], cameras[other])
        h, w = found[other].shape
        v, u = torch.meshgrid(torch.arange(seen.mask.shape[1]), torch.arange(seen.mask.shape[2]), indexing="ij")
        x = (u + 0.5 + seen.disparity[0, ..., 0]).floor().clamp(0, w - 1).long()
        y = (v + 0.5 + seen.disparity[0, ..., 1]).floor().clamp(0, h - 1).long()
        there = found[other][y, x]
        inside = seen.mask[0] | (seen.inverse_depth[0] > 0)
        confirmed |= inside & ((seen.inverse_depth[0] - there).abs() <= agreement * there.abs().clamp(min=1e-9))
    return _filled(found[view], confirmed)


def _filled(x: Tensor, known: Tensor) -> Tensor:
    value, weight = (x * known)[None, None], known.float()[None, None]
    if not bool(known.any()):
        return x
    if bool(known.all()):
        return x
    h, w = x.shape
    coarse_weight = F.avg_pool2d(F.pad(weight, (0, w % 2, 0, h % 2)), 2)
    coarse = F.avg_pool2d(F.pad(value, (0, w % 2, 0, h % 2)), 2) / coarse_weight.clamp(min=1e-6)
    below = coarse[0, 0] if min(coarse.shape[-2:]) <= 1 else _filled(coarse[0, 0], coarse_weight[0, 0] > 0)
    up = F.interpolate(below[None, None], scale_factor=2.0, mode="bilinear", align_corners=False)[0, 0, :h, :w]
    return torch.where(known, x, up)
