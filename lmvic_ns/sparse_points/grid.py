"""Where points lie in the pictures of a file, and the grids that the compact points are rounded to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lmvic_ns.bitstream import poses
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.point_cloud import QuantizedPoints
from lmvic_ns.geometry.cameras import Cameras

STEPS_A_PIXEL = 1024
"""Unit of the width of cells."""
CANDIDATES = 4
"""Cells around a point that `Grid.quantize` can name."""


@dataclass(frozen=True)
class Pinholes:
    """The views of a file as a decoder has them, float64.

    Attributes:
        focal, centre: fx, fy and cx, cy in pixels.
        rotation, translation: world to camera, OpenCV axes.
        size: width, height in pixels.
    """

    focal: Float[np.ndarray, "v 2"]
    centre: Float[np.ndarray, "v 2"]
    rotation: Float[np.ndarray, "v 3 3"]
    translation: Float[np.ndarray, "v 3"]
    size: Int[np.ndarray, "v 2"]

    @classmethod
    def of_file(cls, header: FileHeader) -> Pinholes:
        """The cameras that a file holds."""
        sizes = np.array([(view.width, view.height) for view in header.views], dtype=np.int64)
        return cls._of(header.intrinsics(), header.world_to_camera(), sizes)

    @classmethod
    def to_be_stored(cls, cameras: Cameras) -> Pinholes:
        """The cameras that a file with these views will hold.

        Raises:
            SceneError: a pose is not rigid.
        """
        stored = poses.world_to_camera(*poses.round_to_stored(cameras.world_to_camera.numpy()))
        sizes = np.stack([cameras.width.numpy(), cameras.height.numpy()], axis=-1).astype(np.int64)
        return cls._of(cameras.intrinsics.numpy(), stored, sizes)

    @classmethod
    def _of(cls, intrinsics: np.ndarray, motions: np.ndarray, size: np.ndarray) -> Pinholes:
        focal = intrinsics[:, [0, 1], [0, 1]]
        return cls(focal, intrinsics[:, :2, 2], motions[:, :3, :3], motions[:, :3, 3], size)

    def __len__(self) -> int:
        return len(self.focal)

    def positions(self) -> Float[np.ndarray, "v 3"]:
        """The cameras' centres in the world."""
        return -np.einsum("vji,vj->vi", self.rotation, self.translation)

    def project(
        self, view: int, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Pixel positions, depths, and whether the view has the point in front of it and in its frame."""
        seen = points @ self.rotation[view].T + self.translation[view]
        depth = seen[:, 2]
        ahead = depth > 1e-30
        pixels = seen[:, :2] / np.where(ahead, depth, 1.0)[:, None] * self.focal[view] + self.centre[view]
        return pixels, depth, ahead & (pixels >= 0).all(axis=1) & (pixels < self.size[view]).all(axis=1)


@dataclass(frozen=True)
class Grid:
    """Turns cells into positions. Every other layer of depth (odd w) is shifted by half a cell in column and row: so laid,
    half as many cells leave no position further from the middle of one.

    Attributes:
        view: of each layer.
        step: width of each layer's cells, in 1/1024 of a pixel.
        octave: how many cells of depth double the depth.
    """

    view: Int[np.ndarray, "layers"]
    step: Int[np.ndarray, "layers"]
    octave: Int[np.ndarray, "layers"]

    def tree_levels(self, cameras: Pinholes) -> int:
        """Levels of a quadtree that holds the cells of every layer."""
        widest = int((cameras.size[self.view].max(axis=1) * STEPS_A_PIXEL // self.step).max()) + 2
        return (widest - 1).bit_length()

    def quantize(
        self,
        layer: Int[np.ndarray, "n"],
        pixels: Float[np.ndarray, "n 2"],
        depth: Float[np.ndarray, "n"],
        level: int,
        rank: int,
    ) -> QuantizedPoints:
        """Cells for points that are given by their places in their layers' views.

        Args:
            layer: of each point.
            pixels: column and row, in the frame.
            depth: positive.
            level: how often cells are halved.
            rank: 0 for the nearest cell, 1..3 for others around the point.
        """
        finer = float(1 << level)
        exact = pixels * (finer * STEPS_A_PIXEL / self.step[layer])[:, None]
        mantissa, exponent = np.frexp(depth)
        share = (np.sqrt(21.0**2 + 4 * 11 * 32 * (2 * mantissa - 1)) - 21) / 22  # the inverse of what `positions` does
        octaves = (exponent - 1 + share) * self.octave[layer] * finer
        below = np.floor(octaves).astype(np.int64)
        cells, distances = [], []
        for w in (below - 1, below, below + 1, below + 2):
            shift = ((w & 1) * 0.5)[:, None]
            nearest = np.floor(exact - shift + 0.5).clip(0)
            distances.append(((exact - shift - nearest) ** 2).sum(axis=1) + ((octaves - w) / 2) ** 2)
            cells.append(np.concatenate([nearest.astype(np.int64), w[:, None]], axis=1))
        chosen = np.argsort(np.stack(distances), axis=0, kind="stable")[rank]
        u, v, w = np.stack(cells)[chosen, np.arange(len(layer))].T
        return QuantizedPoints(layer, u, v, w, np.full(len(layer), level, dtype=np.int64))

    def positions(self, points: QuantizedPoints, cameras: Pinholes) -> Float[np.ndarray, "n 3"]:
        """Positions in the world: sums, products and quotients in a fixed order, so the same bits everywhere."""
        view, finer = self.view[points.layer], 1 << points.level
        octaves = points.w / (self.octave[points.layer] * finer)
        whole = np.floor(octaves)
        share = octaves - whole
        with np.errstate(over="ignore", invalid="ignore"):  # of damaged files; the caller looks at the result
            z = np.ldexp(1 + share * (21 + 11 * share) / 32, whole.astype(np.int32))
            shift = (points.w & 1) * 0.5
            width = self.step[points.layer] / (STEPS_A_PIXEL * finer)
            place = [
                ((cell + shift) * width - cameras.centre[view, i]) / cameras.focal[view, i] * z
                for i, cell in enumerate((points.u, points.v))
            ]
            x, y, z = (part - cameras.translation[view, i] for i, part in enumerate((*place, z)))
            r = cameras.rotation[view]
            return np.stack([(r[:, 0, i] * x + r[:, 1, i] * y) + r[:, 2, i] * z for i in range(3)], axis=1)


def movements(
    cameras: Pinholes, original: Float[np.ndarray, "n 3"], decoded: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """How far points moved: the most in any view that has them in its frame (pixels), and in distances from the nearest
    camera."""
    pixels, nearest = np.zeros(len(original)), np.full(len(original), np.inf)
    for view, position in enumerate(cameras.positions()):
        before, _, inside = cameras.project(view, original)
        after, depth, _ = cameras.project(view, decoded)
        moved = np.where(depth > 1e-30, np.linalg.norm(after - before, axis=1), np.inf)
        pixels = np.maximum(pixels, np.where(inside, moved, 0.0))
        nearest = np.minimum(nearest, np.linalg.norm(original - position, axis=1))
    return pixels, np.linalg.norm(decoded - original, axis=1) / np.maximum(nearest, 1e-300)
