"""A typed batch of pinhole views.

OpenCV axes (x right, y down, z forward), pixel centres at +0.5: pixel column j covers [j, j+1) and its centre is at j +
0.5, so image coordinates are measured from the picture's corner and resizing is a plain multiplication of the
intrinsics.

Everything is float64 and elementwise in a fixed order (no matmul, no linalg): codec and decoder must see the same bits
on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fixed_order_matmul(a: Float[Tensor, "*b n k"], b: Float[Tensor, "*b k m"]) -> Float[Tensor, "*b n m"]:
    """Product of small matrices, summed left to right with separate multiplications and additions: the same bits
    everywhere.
    """
    total = a[..., :, 0:1] * b[..., 0:1, :]
    for k in range(1, a.shape[-1]):
        total = total + a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


def invert_rigid(transform: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Inverse of rotation + translation in closed form: (R^T, -R^T t)."""
    rotation_t = transform[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(transform)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3:] = -fixed_order_matmul(rotation_t, transform[..., :3, 3:])
    inverse[..., 3, 3] = 1.0
    return inverse


def invert_intrinsics(intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """Inverse of an upper triangular K (focal lengths, skew, principal point; last row 0 0 1) in closed form."""
    fx, fy = intrinsics[..., 0, 0], intrinsics[..., 1, 1]
    skew, cx, cy = intrinsics[..., 0, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]
    inverse = torch.zeros_like(intrinsics)
    inverse[..., 0, 0] = 1.0 / fx
    inverse[..., 1, 1] = 1.0 / fy
    inverse[..., 0, 1] = -(skew / (fx * fy))
    inverse[..., 0, 2] = ((skew * cy) / fy - cx) / fx
    inverse[..., 1, 2] = -(cy / fy)
    inverse[..., 2, 2] = 1.0
    return inverse


@dataclass(frozen=True)
class Cameras:
    """Pinhole views; they may differ in size and intrinsics.

    Attributes:
        intrinsics: K in pixels, float64, upper triangular with last row (0, 0, 1).
        world_to_camera: T, float64, rigid; camera point = R * world point + t, OpenCV axes.
        height: Rows of each view, int64; sizes stay on the CPU whatever the device of the rest, they steer Python code.
        width: Columns of each view, int64, on the CPU.

    Raises:
        ValueError: Shapes do not belong together.
    """

    intrinsics: Float[Tensor, "v 3 3"]
    world_to_camera: Float[Tensor, "v 4 4"]
    height: Int[Tensor, "v"]
    width: Int[Tensor, "v"]

    def __post_init__(self) -> None:
        device = torch.as_tensor(self.intrinsics).device
        views = len(self.intrinsics)
        for name, shape, dtype, where in (
            ("intrinsics", (views, 3, 3), torch.float64, device),
            ("world_to_camera", (views, 4, 4), torch.float64, device),
            ("height", (views,), torch.int64, torch.device("cpu")),
            ("width", (views,), torch.int64, torch.device("cpu")),
        ):
            value = torch.as_tensor(getattr(self, name), device=where).to(dtype)
            if value.ndim == 0:
                value = value.expand(views)
            if tuple(value.shape) != shape:
                raise ValueError(f"Cameras.{name} has shape {tuple(value.shape)}, expected {shape}")
            object.__setattr__(self, name, value.detach())

    def __len__(self) -> int:
        return self.intrinsics.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """Some of the views, always a batch: an int gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"view {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        if not isinstance(index, slice):
            index = torch.as_tensor(index).cpu()
            if index.dtype != torch.bool:
                index = index.long()
        where = index if isinstance(index, slice) else index.to(self.device)
        return Cameras(self.intrinsics[where], self.world_to_camera[where], self.height[index], self.width[index])

    @property
    def device(self) -> torch.device:
        """Where intrinsics and poses lie."""
        return self.intrinsics.device

    @property
    def centers(self) -> Float[Tensor, "v 3"]:
        """Camera positions in world coordinates."""
        return invert_rigid(self.world_to_camera)[:, :3, 3]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) shared by all the views; ValueError where they differ."""
        height, width = self.height.unique(), self.width.unique()
        if len(height) != 1 or len(width) != 1:
            raise ValueError("the views differ in size; take them one at a time or resize them first")
        return int(height), int(width)

    def to(self, device: torch.device | str) -> Cameras:
        """Intrinsics and poses on another device; sizes stay on the CPU."""
        return Cameras(self.intrinsics.to(device), self.world_to_camera.to(device), self.height, self.width)

    def crop(self, x0: int | Tensor, y0: int | Tensor, height: int | Tensor, width: int | Tensor) -> Cameras:
        """Windows with their upper left corner at pixel (x0, y0), one for all the views or one each: the principal
        point moves.
        """
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 2] -= torch.as_tensor(x0, dtype=torch.float64, device=self.device)
        intrinsics[:, 1, 2] -= torch.as_tensor(y0, dtype=torch.float64, device=self.device)
        return Cameras(intrinsics, self.world_to_camera, self._sizes(height), self._sizes(width))

    def resize(self, height: int | Tensor, width: int | Tensor) -> Cameras:
        """The same field of view on height x width pixels (odd sizes too: both scales are exact ratios of the sizes)."""
        height, width = self._sizes(height), self._sizes(width)
        return self._scaled(height.double() / self.height.double(), width.double() / self.width.double(), height, width)

    def coarsen(self, factor: int) -> Cameras:
        """The grid aligned at `factor`: ceil(size / factor) pixels, each covering factor x factor of this view's
        pixels.

        The last row and column may reach beyond the picture, so that the centre of coarse pixel i lies at factor * (i +
        1/2) (4 i + 2 for factor 4) whatever the size. This is the grid of `downsample_inverse_depth` and
        `upsample_inverse_depth`.
        """
        if factor < 1:
            raise ValueError(f"factor must be at least 1, not {factor}")
        scale = torch.full((len(self),), 1.0 / factor, dtype=torch.float64)
        return self._scaled(scale, scale, -(-self.height // factor), -(-self.width // factor))

    def to_opengl_camera_to_world(self) -> Float[Tensor, "v 4 4"]:
        """Poses as nerfstudio stores them: camera to world, OpenGL axes (x right, y up, z backward)."""
        camera_to_world = invert_rigid(self.world_to_camera)
        camera_to_world[:, :, 1:3] *= -1.0
        return camera_to_world

    @classmethod
    def from_opengl(
        cls,
        intrinsics: Float[Tensor, "v 3 3"],
        camera_to_world: Float[Tensor, "v 4 4"],
        height: int | Int[Tensor, "v"],
        width: int | Int[Tensor, "v"],
    ) -> Cameras:
        """From nerfstudio's poses (camera to world, OpenGL axes; [v, 3, 4] is taken too)."""
        intrinsics = torch.as_tensor(intrinsics).to(torch.float64)
        given = torch.as_tensor(camera_to_world).to(torch.float64)
        opencv = torch.zeros(*given.shape[:-2], 4, 4, dtype=torch.float64, device=given.device)
        opencv[..., :3, :] = given[..., :3, :]
        opencv[..., :3, 1:3] *= -1.0
        opencv[..., 3, 3] = 1.0
        views = len(intrinsics)
        return cls(intrinsics, invert_rigid(opencv), _per_view(height, views), _per_view(width, views))

    @classmethod
    def cat(cls, batches: Sequence[Cameras]) -> Cameras:
        """All the views of several batches, in order."""
        return cls(
            torch.cat([c.intrinsics for c in batches]),
            torch.cat([c.world_to_camera for c in batches]),
            torch.cat([c.height for c in batches]),
            torch.cat([c.width for c in batches]),
        )

    def _sizes(self, value: int | Tensor) -> Int[Tensor, "v"]:
        return _per_view(value, len(self))

    def _scaled(self, sy: Tensor, sx: Tensor, height: Tensor, width: Tensor) -> Cameras:
        rows = torch.stack([sx, sy, torch.ones_like(sx)], dim=-1)
        return Cameras(self.intrinsics * rows[:, :, None].to(self.device), self.world_to_camera, height, width)


def _per_view(value: int | Tensor, views: int) -> Int[Tensor, "v"]:
    return torch.as_tensor(value, dtype=torch.int64, device="cpu").expand(views).clone()


def relative_projection(cameras: Cameras, reference: Cameras) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """(M, b) of equation (3) in homogeneous form: q = M (u, v, 1) + rho b, reference position q.xy / q.z, rho the
    inverse depth.

    M = K_r R K_n^-1 and b = K_r t with R, t of T_r T_n^-1. q.z is the ratio of the depth seen from the reference to the
    depth seen from the view.
    """
    rotation = fixed_order_matmul(reference.world_to_camera[:, :3, :3], cameras.world_to_camera[:, :3, :3].transpose(1, 2))
    translation = reference.world_to_camera[:, :3, 3:] - fixed_order_matmul(rotation, cameras.world_to_camera[:, :3, 3:])
    homography = fixed_order_matmul(reference.intrinsics, fixed_order_matmul(rotation, invert_intrinsics(cameras.intrinsics)))
    return homography, fixed_order_matmul(reference.intrinsics, translation)[..., 0]
