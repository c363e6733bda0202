"""From OpenCV's lens model (k1, k2, k3, p1, p2) to pinhole views, without OpenCV.

The new intrinsics are those of cv2.getOptimalNewCameraMatrix with alpha = 0 (what nerfstudio's datamanager uses): the
largest pinhole view at the same size that sees only pixels of the photograph. Pixel centres at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry.warp import warp

_INVERSION_STEPS = 50
_BORDER_SAMPLES = 9  # a side, as OpenCV samples the border


@dataclass(frozen=True)
class LensDistortion:
    """OpenCV's radial (k) and tangential (p) coefficients."""

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def __bool__(self) -> bool:
        return any((self.k1, self.k2, self.k3, self.p1, self.p2))

    def distort(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where the lens puts normalized pinhole coordinates."""
        r2 = x * x + y * y
        radial = 1.0 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        xy2 = 2.0 * x * y
        return (
            x * radial + self.p1 * xy2 + self.p2 * (r2 + 2.0 * x * x),
            y * radial + self.p1 * (r2 + 2.0 * y * y) + self.p2 * xy2,
        )

    def undistort(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `distort` by fixed-point iteration."""
        px, py = x, y
        for _ in range(_INVERSION_STEPS):
            dx, dy = self.distort(px, py)
            px, py = px + (x - dx), py + (y - dy)
        return px, py


@dataclass(frozen=True)
class PinholeModel:
    """Focal lengths and principal point in pixels, pixel centres at +0.5."""

    fx: float
    fy: float
    cx: float
    cy: float


@lru_cache(maxsize=64)
def undistorted_pinhole(camera: PinholeModel, lens: LensDistortion, height: int, width: int) -> PinholeModel:
    """Intrinsics of the pinhole view that replaces the photograph at the same size.

    Raises:
        ValueError: The lens model folds over inside the picture, so that no such view exists.
    """
    if not lens:
        return camera
    t = torch.linspace(0.0, 1.0, _BORDER_SAMPLES, dtype=torch.float64)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    # outermost pixel centres, as OpenCV: columns 0.5 .. width - 0.5
    side_x, side_y = torch.stack([zero, one, t, t]), torch.stack([t, t, zero, one])
    x = (0.5 + side_x * (width - 1) - camera.cx) / camera.fx
    y = (0.5 + side_y * (height - 1) - camera.cy) / camera.fy
    x, y = lens.undistort(x, y)
    left, right = float(x[0].max()), float(x[1].min())
    top, bottom = float(y[2].max()), float(y[3].min())
    if not (right > left and bottom > top and all(abs(v) < 1e3 for v in (left, right, top, bottom))):
        raise ValueError("its distortion coefficients fold over inside the picture")
    fx, fy = (width - 1) / (right - left), (height - 1) / (bottom - top)
    return PinholeModel(fx, fy, 0.5 - fx * left, 0.5 - fy * top)


@lru_cache(maxsize=2)
def undistortion_map(
    camera: PinholeModel, lens: LensDistortion, pinhole: PinholeModel, height: int, width: int
) -> Float[Tensor, "1 h w 2"]:
    """Position in the photograph minus position in the pinhole view, in pixels; the last maps made are kept (views
    share lenses).
    """
    u = torch.arange(width, dtype=torch.float64)[None, :] + 0.5
    v = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    x, y = lens.distort(*torch.broadcast_tensors((u - pinhole.cx) / pinhole.fx, (v - pinhole.cy) / pinhole.fy))
    return torch.stack([camera.fx * x + camera.cx - u, camera.fy * y + camera.cy - v], dim=-1)[None].float()


def undistort_image(image: Float[Tensor, "c h w"], displacement: Float[Tensor, "1 h w 2"]) -> Float[Tensor, "c h w"]:
    """Bilinear, clamped at the border."""
    return warp(image[None], displacement)[0]


def undistort_nearest(values: Tensor, displacement: Float[Tensor, "1 h w 2"]) -> Tensor:
    """Nearest sample of a map [h, w] (depth must not be mixed across edges)."""
    height, width = values.shape
    displacement = displacement.nan_to_num()  # where a lens that nobody made leads nowhere
    column = (torch.arange(width) + 0.5 + displacement[0, ..., 0]).floor().clamp_(0, width - 1).long()
    row = (torch.arange(height)[:, None] + 0.5 + displacement[0, ..., 1]).floor().clamp_(0, height - 1).long()
    return values[row, column]


def distortion_map(
    camera: PinholeModel, lens: LensDistortion, pinhole: PinholeModel, height: int, width: int
) -> Float[Tensor, "1 h w 2"]:
    """Position in the pinhole view minus position in the photograph, in pixels: the inverse of `undistortion_map`.

    Args:
        camera: of the photograph.
        lens: of the photograph.
        pinhole: of the view.
        height: pixels of the photograph.
        width: pixels of the photograph.
    """
    u = torch.arange(width, dtype=torch.float64)[None, :] + 0.5
    v = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    x, y = lens.undistort(*torch.broadcast_tensors((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy))
    return torch.stack([pinhole.fx * x + pinhole.cx - u, pinhole.fy * y + pinhole.cy - v], dim=-1)[None].float()
