"""Placement of a scene in viser's world, so that it fills the window, upright and seen from behind the cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.drawing.colours import turbo
from lmvic_ns.geometry.cameras import Cameras, invert_rigid

_RADIUS = 2.0  # of the cameras' cloud in viser's units; its mouse speeds and near plane suit such a size


@dataclass(frozen=True)
class Layout:
    """From the scene's world to viser's: (x - centre) * scale, axes unchanged.

    Attributes:
        centre: middle of the cameras.
        scale: viser's units for one of the scene's.
        up: upwards, on average over the cameras.
        forward: where the cameras look, on average; a unit vector (for cameras round an object, some of them).
        frustum: length of a frustum in viser's units, from its tip to its picture, so that neighbours do not hide
            each other.
    """

    centre: Float[Tensor, "3"]
    scale: float
    up: Float[Tensor, "3"]
    forward: Float[Tensor, "3"]
    frustum: float

    @classmethod
    def around(cls, cameras: Cameras) -> Layout:
        """The layout that shows all these cameras."""
        poses = invert_rigid(cameras.world_to_camera)
        positions = poses[:, :3, 3]
        centre = positions.mean(0)
        spread = float((positions - centre).norm(dim=1).max())
        scale = _RADIUS / spread if spread > 0 else 1.0
        gaps = torch.cdist(positions, positions).fill_diagonal_(math.inf).min(1).values * scale
        gap = float(gaps.median()) if len(cameras) > 1 else _RADIUS
        up = _direction(-poses[:, :3, 1].mean(0), torch.tensor([0.0, 0.0, 1.0]))
        forward = _direction(poses[:, :3, 2].mean(0), poses[0, :3, 2])
        return cls(centre, scale, up, forward, min(0.8, max(0.12, 0.9 * gap)))

    def place(self, points: Float[Tensor, "n 3"]) -> np.ndarray:
        """Points of the scene in viser's world."""
        return ((points.double() - self.centre) * self.scale).float().numpy()

    def overview(self) -> tuple[np.ndarray, np.ndarray]:
        """Where a visitor stands, and at what they look: behind and above the cameras."""
        eye = -1.3 * _RADIUS * self.forward + 0.9 * _RADIUS * self.up
        return eye.float().numpy(), (0.8 * _RADIUS * self.forward).float().numpy()


def frustum_scale(length: float, slope: float, aspect: float) -> float:
    """viser's `scale` of a frustum with this length; it takes the cube root of the volume, and narrow lenses grow long.

    Args:
        length: from the tip to the picture.
        slope: half the picture's height over its distance.
        aspect: width over height.
    """
    return length * (slope * slope * aspect / 3) ** (1 / 3)


def _direction(vector: Tensor, otherwise: Tensor) -> Float[Tensor, "3"]:
    vector = vector if float(vector.norm()) > 0.05 else otherwise
    return vector.double() / vector.double().norm()


def quaternion(rotation: Float[Tensor, "3 3"]) -> np.ndarray:
    """(w, x, y, z) of a rotation matrix."""
    import viser.transforms as tf

    return tf.SO3.from_matrix(rotation.double().numpy()).wxyz


def tree_colours(depth: tuple[int, ...]) -> np.ndarray:
    """8-bit colours by depth in the reference tree, [views, 3]: roots blue, the deepest views red."""
    deepest = max(1, max(depth, default=0))
    shades = 0.1 + 0.8 * np.array(depth, dtype=np.float32)[None] / deepest
    return (turbo(shades)[0] * 255).round().astype(np.uint8)
