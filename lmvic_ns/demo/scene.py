"""The demo room as a nerfstudio dataset: pictures, exact poses, exact depth and seed points as SfM would leave them.

Half of the views are a slow pan (narrow baselines, like video frames), half are taken from all over the room (wide).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmvic_ns.demo.room import Room, demo_room
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.scene.scene import MultiViewScene


@dataclass(frozen=True)
class DemoSceneConfig:
    """The synthetic scene. On one machine, the same values give the same files."""

    views: int = 20
    """Number of photographs."""
    width: int = 320
    """Width of a photograph in pixels."""
    height: int = 240
    """Height of a photograph in pixels."""
    supersample: int = 2
    """Rays per pixel along each axis."""
    seed_points: int = 3000
    """Number of sparse points."""
    seed: int = 0
    """Seed of the camera jitter and of the sparse points."""


@dataclass(frozen=True)
class DemoView:
    """One rendered view."""

    image: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    """z along the optical axis at the pixel centres, metres."""
    camera_to_world: Float[Tensor, "4 4"]
    """OpenCV axes (x right, y down, z forward), float64."""


def intrinsics(config: DemoSceneConfig) -> Float[Tensor, "3 3"]:
    """A lens of 62 degrees across; the principal point is a little off the centre, as in real cameras."""
    focal = 0.5 * config.width / math.tan(math.radians(31.0))
    return torch.tensor(
        [[focal, 0.0, config.width / 2 + 1.5], [0.0, focal, config.height / 2 - 1.0], [0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )


def look_at(eye: Float[Tensor, "3"], target: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """Camera-to-world in OpenCV axes for a level camera at `eye` that looks at `target`; z is up in the world."""
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, eye.new_tensor([0.0, 0.0, 1.0])), dim=0)
    pose = torch.eye(4, dtype=eye.dtype)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, torch.linalg.cross(forward, right), forward, eye
    return pose


def camera_path(config: DemoSceneConfig) -> Float[Tensor, "v 4 4"]:
    """First the pan, then the walk; camera-to-world, OpenCV axes."""
    generator = torch.Generator().manual_seed(config.seed)
    narrow = config.views // 2
    poses = []
    for i in range(config.views):
        jitter = 0.03 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        if i < narrow:
            s = i / max(narrow - 1, 1)
            eye = torch.tensor([-0.45 + 0.9 * s, -1.0 + 0.1 * s, 1.25], dtype=torch.float64)
            target = torch.tensor([-0.1 + 0.3 * s, 1.2, 0.95], dtype=torch.float64)
        else:
            s = (i - narrow) / max(config.views - narrow - 1, 1)
            angle = math.radians(-68 + 136 * s)
            high = 1.25 + 0.45 * math.sin(7.0 * s)
            eye = torch.tensor([1.6 * math.sin(angle), 0.6 - 1.75 * math.cos(angle), high], dtype=torch.float64)
            target = torch.tensor([0.0, 0.9, 0.95], dtype=torch.float64)
        poses.append(look_at(eye + jitter[0], target + jitter[1]))
    return torch.stack(poses)


def pixel_rays(
    camera: Float[Tensor, "3 3"], pose: Float[Tensor, "4 4"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and directions in the world through image positions; directions have z = 1 in the camera."""
    local = torch.stack([(x - camera[0, 2]) / camera[0, 0], (y - camera[1, 2]) / camera[1, 1], torch.ones_like(x)], dim=1)
    direction = local @ pose[:3, :3].to(local.dtype).T
    return pose[:3, 3].to(local.dtype).expand_as(direction), direction


def render_view(room: Room, config: DemoSceneConfig, pose: Float[Tensor, "4 4"]) -> DemoView:
    """Supersampled colours, and depth by one exact ray (float64) through each pixel's centre."""
    camera, n = intrinsics(config), config.supersample

    def grid(per_pixel: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows = (torch.arange(config.height * per_pixel, dtype=torch.float64) + 0.5) / per_pixel
        columns = (torch.arange(config.width * per_pixel, dtype=torch.float64) + 0.5) / per_pixel
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return x.reshape(-1).to(dtype), y.reshape(-1).to(dtype)

    origin, direction = pixel_rays(camera, pose, *grid(n, torch.float32))
    distance, solid = room.cast(origin, direction)
    colours = room.colours(origin + distance[:, None] * direction, solid)
    image = colours.reshape(config.height, n, config.width, n, 3).mean(dim=(1, 3))
    depth, _ = room.cast(*pixel_rays(camera, pose, *grid(1, torch.float64)))
    return DemoView(image, depth.reshape(config.height, config.width), pose)


def seed_points(views: list[DemoView], config: DemoSceneConfig) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n 3"]]:
    """Surface points that at least two other views see, off by a third of a pixel as triangulated ones are.

    Returns:
        Positions in metres and colours 0..255.
    """
    generator = torch.Generator().manual_seed(config.seed + 1)
    camera = intrinsics(config)
    # candidates from every view, more than enough for those that too few others see
    each = -(-2 * config.seed_points // len(views))
    points, colours = [], []
    for view in views:
        pixel = torch.randperm(config.width * config.height, generator=generator)[:each]
        x, y = pixel % config.width, torch.div(pixel, config.width, rounding_mode="floor")
        depth = view.depth[y, x]
        origin, direction = pixel_rays(camera, view.camera_to_world, x.double() + 0.5, y.double() + 0.5)
        error = torch.randn(len(pixel), 3, generator=generator, dtype=torch.float64) / 3.0
        points.append(origin + direction * depth[:, None] + error * (depth / camera[0, 0])[:, None])
        colours.append((view.image[y, x] * 255).round().to(torch.uint8))
    position, colour = torch.cat(points), torch.cat(colours)
    seen = torch.zeros(len(position), dtype=torch.long)
    for view in views:
        local = (position - view.camera_to_world[:3, 3]) @ view.camera_to_world[:3, :3]
        projected = local @ camera.T
        column = (projected[:, 0] / projected[:, 2]).floor().long()
        row = (projected[:, 1] / projected[:, 2]).floor().long()
        inside = (local[:, 2] > 0) & (column >= 0) & (column < config.width) & (row >= 0) & (row < config.height)
        index = inside.nonzero()[:, 0]
        surface = view.depth[row[index], column[index]]
        seen[index] += ((local[index, 2] - surface).abs() < 0.03 * surface).long()
    kept = (seen >= 3).nonzero()[:, 0]
    kept = kept[torch.randperm(len(kept), generator=generator)[: config.seed_points]]
    return position[kept].numpy(), colour[kept].numpy()


def render_demo_scene(config: DemoSceneConfig) -> list[DemoView]:
    """All views, in memory."""
    room = demo_room()
    return [render_view(room, config, pose) for pose in camera_path(config)]


def write_demo_scene(folder: Path, config: DemoSceneConfig | None = None) -> Path:
    """Render the room into `folder` as a nerfstudio dataset and return the folder.

    Depth is `depths/NNN.npy`, float32 millimetres (nerfstudio's unit) along the optical axis.
    """
    config = config or DemoSceneConfig()
    views = render_demo_scene(config)
    cameras = Cameras(
        intrinsics(config).expand(len(views), 3, 3).contiguous(),
        torch.linalg.inv(torch.stack([view.camera_to_world for view in views])),
        torch.full((len(views),), config.height),
        torch.full((len(views),), config.width),
    )
    positions, colours = seed_points(views, config)
    scene = MultiViewScene(
        [f"{i:03d}" for i in range(len(views))],
        cameras,
        [view.image.permute(2, 0, 1) for view in views],
        [1.0 / view.depth for view in views],
        cloud=SparsePoints(positions.astype(np.float32), colours.astype(np.uint8)),
    )
    return scene.write_dataset(folder)
