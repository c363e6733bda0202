"""A scene whose depth, colour and visibility are known in closed form at any pose: planes, spheres and a sky at infinity.

Written with numpy.linalg and plain ray casting, sharing no code with lmvic_ns.geometry, so that it can judge it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from lmvic_ns.geometry.cameras import Cameras


@dataclass(frozen=True)
class Plane:
    """Points p with normal . p = offset."""

    normal: tuple[float, float, float]
    offset: float

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        normal = np.array(self.normal)
        along = directions @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.offset - origin @ normal) / along
        return np.where((t > 1e-9) & np.isfinite(t), t, np.inf)


@dataclass(frozen=True)
class Sphere:
    center: tuple[float, float, float]
    radius: float

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        between = origin - np.array(self.center)
        a = (directions**2).sum(-1)
        b = directions @ between
        c = between @ between - self.radius**2
        discriminant = b * b - a * c
        root = np.sqrt(np.maximum(discriminant, 0.0))
        t = np.where((-b - root) / a > 1e-9, (-b - root) / a, (-b + root) / a)
        return np.where((discriminant > 0) & (t > 1e-9), t, np.inf)


@dataclass(frozen=True)
class AnalyticScene:
    """Camera looks along +z; floor at y = 1.5, wall at z = 9, two spheres; above the wall's edge lies the sky."""

    surfaces: tuple[Plane | Sphere, ...] = (
        Plane((0.0, 1.0, 0.0), 1.5),
        Sphere((-0.8, 0.4, 5.0), 1.0),
        Sphere((1.4, 0.9, 6.5), 0.6),
        Plane((0.4, 0.0, 1.0), 9.0),
    )
    sky: bool = field(default=False)  # leave out the wall, so that rays may go to infinity

    def shapes(self) -> tuple[Plane | Sphere, ...]:
        return self.surfaces[:-1] if self.sky else self.surfaces

    def cast(self, cameras: Cameras, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(depth along the axis, surface number) seen at pixel positions; infinity and -1 for the sky."""
        k = cameras.intrinsics[index].numpy()
        pose = np.linalg.inv(cameras.world_to_camera[index].numpy())
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(k).T  # z = 1, so t is the depth
        hits = np.stack([s.hit(pose[:3, 3], rays @ pose[:3, :3].T) for s in self.shapes()])
        depth = hits.min(0)
        return depth, np.where(np.isfinite(depth), hits.argmin(0), -1)

    def render(self, cameras: Cameras, index: int = 0) -> Rendering:
        """Everything about one view at its pixel centres."""
        height, width = int(cameras.height[index]), int(cameras.width[index])
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        depth, surface = self.cast(cameras, index, x, y)
        k = cameras.intrinsics[index].numpy()
        pose = np.linalg.inv(cameras.world_to_camera[index].numpy())
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(k).T
        finite = np.isfinite(depth)
        scale = np.where(finite, depth, 1.0)[..., None]
        directions = rays @ pose[:3, :3].T
        points = np.where(finite[..., None], pose[:3, 3], 0.0) + directions * scale
        points = np.where(finite[..., None], points, directions / np.linalg.norm(directions, axis=-1, keepdims=True))
        return Rendering(
            image=torch.from_numpy(_colour(points, surface)).permute(2, 0, 1).float(),
            inverse_depth=torch.from_numpy(np.where(finite, 1.0 / scale[..., 0], 0.0)).float(),
            surface=torch.from_numpy(surface),
            points=points,
            finite=finite,
        )

    def truth(self, view: Rendering, reference: Cameras, index: int = 0) -> Truth:
        """Where the view's points lie in the reference, and whether they are seen there: a ray is cast at the position."""
        world_to_camera = reference.world_to_camera[index].numpy()
        p = view.points @ world_to_camera[:3, :3].T + np.where(view.finite[..., None], world_to_camera[:3, 3], 0.0)
        q = p @ reference.intrinsics[index].numpy().T
        front = q[..., 2] > 1e-6
        z = np.where(front, q[..., 2], 1.0)
        x, y = q[..., 0] / z, q[..., 1] / z
        depth, _ = self.cast(reference, index, x, y)
        distance = np.where(view.finite, z, np.inf)
        with np.errstate(invalid="ignore"):  # infinity - infinity where both are sky
            same = np.where(view.finite, np.abs(distance - depth) <= 1e-6 * distance, ~np.isfinite(depth))
        height, width = int(reference.height[index]), int(reference.width[index])
        inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
        return Truth(
            position=torch.from_numpy(np.stack([x, y], -1)),
            visible=torch.from_numpy(front & same & inside),
            inside=torch.from_numpy(front & inside),
            inverse_depth=torch.from_numpy(np.where(front & view.finite, 1.0 / z, 0.0)),
        )


@dataclass(frozen=True)
class Rendering:
    image: torch.Tensor  # 3 h w
    inverse_depth: torch.Tensor  # h w
    surface: torch.Tensor  # h w, -1 = sky
    points: np.ndarray  # h w 3, world; unit directions for the sky
    finite: np.ndarray  # h w

    def near_edges(self, radius: int = 2) -> torch.Tensor:
        """Pixels within `radius` of another surface."""
        surface = self.surface.float()[None, None]
        size = 2 * radius + 1
        largest = torch.nn.functional.max_pool2d(surface, size, 1, radius)
        smallest = -torch.nn.functional.max_pool2d(-surface, size, 1, radius)
        return (largest != smallest)[0, 0]


@dataclass(frozen=True)
class Truth:
    position: torch.Tensor  # h w 2, in the reference
    visible: torch.Tensor  # h w
    inside: torch.Tensor  # h w
    inverse_depth: torch.Tensor  # h w, seen from the reference


def _colour(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Smooth texture in the world, of wavelengths well above a pixel; each surface has its own phase."""
    phase = surface[..., None] * np.array([0.7, 1.9, 3.1])
    waves = np.array([[2.1, 1.3, 0.9], [-1.7, 2.3, 1.1], [0.8, -1.9, 2.2]])
    return 0.5 + 0.4 * np.sin(points @ waves.T + phase)


def look(
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    focal: float = 220.0,
    height: int = 180,
    width: int = 240,
    skew: float = 0.0,
) -> Cameras:
    """One camera at `centre`, looking along +z turned by yaw (to +x), pitch (to +y) and roll, in degrees."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = about_y @ about_x @ about_z
    pose[:3, 3] = centre
    k = np.array([[focal, skew, width * 0.52], [0, focal * 1.03, height * 0.47], [0, 0, 1]])
    return Cameras(
        torch.from_numpy(k)[None], torch.from_numpy(np.linalg.inv(pose))[None], torch.tensor([height]), torch.tensor([width])
    )


VIEW = look()
REFERENCES = {
    "aside": look((0.6, -0.1, 0.2), yaw=-4.0),
    "forward and rolled": look((-0.3, 0.2, 1.5), roll=12.0, pitch=3.0),
    "other lens and size": look((0.5, -0.3, -0.8), yaw=-6.0, focal=310.0, height=233, width=331, skew=4.0),
    "rotation only": look(yaw=9.0, pitch=-4.0, roll=2.0),
}
