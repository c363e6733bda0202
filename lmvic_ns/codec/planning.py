"""What is settled before a pixel is coded: tree and order of views, the scale of depth, the cameras as the file holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.cameras import Cameras, relative_projection
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import (
    ReferenceTree,
    independent_views,
    scene_translation_scale,
    scene_tree,
)

LEVELS_PER_DOUBLING = ((34, 3.0), (48, 1.0))
"""Levels that a view gains when the views that depend on it, and itself, double: so many up to the first quality level, so many
from the second, in between on a line (see `quality_offsets`). At high quality less is inherited."""
OFFSET_RANGE = (-4, 10)
"""Bounds of these offsets: the last views of a long chain would be coded visibly worse."""

_NEAR_QUANTILE = 0.999
_NEAR_MARGIN = 1.25  # the scale leaves room above the nearest depth that is not an outlier


def default_tree(scene: MultiViewScene, max_depth: int | None = 8) -> ReferenceTree:
    """The reference tree of a scene by the paper's distance (8), or independent views without depth."""
    if not scene.has_depth or len(scene) == 1:
        return independent_views(len(scene))
    return scene_tree(scene.cameras.world_to_camera, translation_scale=translation_scale(scene), max_depth=max_depth)


def translation_scale(scene: MultiViewScene) -> float:
    """Length that counts as much as a unit of rotation: the scene's median depth, from a few views."""
    step = max(1, len(scene) // 16)
    maps = [scene.inverse_depth(i)[::8, ::8] for i in range(0, len(scene), step)]
    return scene_translation_scale(maps, scene.cameras)


def inverse_depth_scale(scene: MultiViewScene) -> float:
    """Largest inverse depth that the file's depth can hold: a robust near bound over all views, with a margin."""
    near = 0.0
    for view in range(len(scene)):
        values = scene.inverse_depth(view)[::8, ::8].flatten().double().numpy()
        values = values[values > 0]
        if values.size:
            near = max(near, float(np.quantile(values, _NEAR_QUANTILE)))
    return near * _NEAR_MARGIN if near > 0 else 1.0


def root_depth_step(
    cameras: Cameras, view: int, children: Sequence[int], inverse_depth: Float[Tensor, "h w"], pixels: float
) -> int | None:
    """How exact a root's depth has to be for its children, which inherit it.

    Args:
        cameras: of all views, in the codec's units.
        view: the root.
        children: views that refer to it.
        inverse_depth: of the root, normalised, 0..1.
        pixels: how far one step may move the root's median pixel in the child that sees it move most.

    Returns:
        Step in units of 1/65536 of the range, 128..2048; None without children.
    """
    if not children:
        return None
    h, w = inverse_depth.shape
    v, u = torch.meshgrid(torch.arange(4, h, 8, dtype=torch.float64), torch.arange(4, w, 8, dtype=torch.float64), indexing="ij")
    rho = inverse_depth[4::8, 4::8].double().cpu()
    most = 1e-6
    for child in children:
        homography, offset = (m[0].double().cpu() for m in relative_projection(cameras[view], cameras[child]))
        base = [homography[k, 0] * (u + 0.5) + homography[k, 1] * (v + 0.5) + homography[k, 2] for k in range(3)]

        def place(r: Tensor, base: list[Tensor] = base, offset: Tensor = offset) -> tuple[Tensor, Tensor]:
            z = (base[2] + r * offset[2]).clamp(min=1e-6)
            return (base[0] + r * offset[0]) / z, (base[1] + r * offset[1]) / z

        (x0, y0), (x1, y1) = place(rho), place(rho + 1e-3)
        most = max(most, float(torch.hypot(x1 - x0, y1 - y0).median()) / 1e-3)
    return int(min(max(round(pixels / most * 65536), 128), 2048))


def depth_first(tree: ReferenceTree) -> tuple[int, ...]:
    """The views of a tree so that each one's ancestors are the last things kept: pre-order, children as in the order."""
    children: dict[int, list[int]] = {view: [] for view in (-1, *range(len(tree)))}
    for view in tree.order:
        children[tree.parent[view]].append(view)
    order: list[int] = []
    stack = list(reversed(children[-1]))
    while stack:
        view = stack.pop()
        order.append(view)
        stack.extend(reversed(children[view]))
    return tuple(order)


def quality_offsets(tree: ReferenceTree, quality: int = 0) -> tuple[int, ...]:
    """Levels by which each view's quality differs from the scene's: what others inherit is coded better (their mean is
    about 0).

    A view's detail serves all that descend from it, so lambda should grow with their number; how much is what training
    scenes ask for (docs/experiments.md). Independent views are all alike.

    Args:
        tree: which view refers to which.
        quality: level of the scene.
    """
    descendants = [0] * len(tree)
    for view in reversed(tree.order):
        if tree.parent[view] >= 0:
            descendants[tree.parent[view]] += 1 + descendants[view]
    (low, most), (high, least) = LEVELS_PER_DOUBLING
    gain = least + (most - least) * min(max((high - quality) / (high - low), 0.0), 1.0)
    levels = [gain * math.log2(1 + count) for count in descendants]
    mean = sum(levels) / len(levels)
    return tuple(min(max(round(level - mean), OFFSET_RANGE[0]), OFFSET_RANGE[1]) for level in levels)


def file_cameras(header: FileHeader) -> Cameras:
    """Cameras of a file in the codec's units: depth is 1 / normalised inverse depth, so translations are scaled."""
    world_to_camera = torch.from_numpy(header.world_to_camera())
    world_to_camera[:, :3, 3] = world_to_camera[:, :3, 3] * header.inverse_depth_scale
    return _cameras(header, world_to_camera)


def scene_cameras(header: FileHeader) -> Cameras:
    """Cameras of a file in scene units."""
    return _cameras(header, torch.from_numpy(header.world_to_camera()))


def _cameras(header: FileHeader, world_to_camera: Tensor) -> Cameras:
    return Cameras(
        torch.from_numpy(header.intrinsics()),
        world_to_camera,
        torch.tensor([view.height for view in header.views]),
        torch.tensor([view.width for view in header.views]),
    )


def find_views(header: FileHeader, views: Iterable[int | str]) -> list[int]:
    """Numbers of views given by number or name.

    Raises:
        LmvicError: there is no such view.
    """
    by_name = {view.name: number for number, view in enumerate(header.views)}
    found = []
    for view in views:
        if isinstance(view, str) and view in by_name:
            found.append(by_name[view])
            continue
        number = _number(view) if isinstance(view, str) else int(view)
        if number is None:
            raise LmvicError(f"no view {view!r} in the file; it has {', '.join(list(by_name)[:5])}, ...")
        if not 0 <= number < len(header.views):
            raise LmvicError(f"no view {view} in the file; it has 0..{len(header.views) - 1}")
        found.append(number)
    return found


def _number(text: str) -> int | None:
    """The whole number that a text is; None for any other text. (`isdigit` also takes what `int` refuses, such as ².)"""
    if not text.removeprefix("-").isdecimal() or len(text) > 9:
        return None
    return int(text)
