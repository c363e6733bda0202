"""Two views of a textured plane, for tests of the encoder's searches."""

from __future__ import annotations

import torch
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras

SIZE = (96, 128)
SHIFT = 9.0  # pixels between the views, at the true inverse depth 0.5


def camera(baseline: float) -> Cameras:
    intrinsics = torch.tensor([[[120.0, 0, SIZE[1] / 2], [0, 120.0, SIZE[0] / 2], [0, 0, 1]]], dtype=torch.float64)
    transform = torch.eye(4, dtype=torch.float64)[None].clone()
    transform[:, 0, 3] = baseline
    return Cameras(intrinsics, transform, torch.tensor([SIZE[0]]), torch.tensor([SIZE[1]]))


def picture(shift: float) -> Tensor:
    """A smooth random texture on a plane, seen from a camera that is moved aside."""
    x = torch.arange(SIZE[1], dtype=torch.float64)[None] + shift
    y = torch.arange(SIZE[0], dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(3)
    planes = torch.zeros(3, *SIZE, dtype=torch.float64)
    for _ in range(24):
        fx, fy, phase = torch.rand(3, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 0.5, 6.3])
        weight = torch.rand(3, 1, 1, generator=generator, dtype=torch.float64) - 0.5
        planes += weight * torch.sin(x * fx + y * fy + phase)
    return (0.5 + 0.08 * planes)[None].float().clamp(0, 1)
