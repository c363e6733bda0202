"""Sparse points into a file and out of it, with the colours that compact points take from the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.errors import BitstreamError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.sparse_points import PointStorage
from lmvic_ns.sparse_points import compact as compact_points
from lmvic_ns.sparse_points import exact as points
from lmvic_ns.sparse_points.grid import Pinholes


def point_sections(scene: MultiViewScene, storage: PointStorage) -> dict[str, bytes]:
    """The file's section of sparse points, by its tag; nothing where the scene has none or none is wanted.

    Args:
        scene: as it is coded: pictures at their final size.
        storage: how points are stored.

    Raises:
        SceneError: the scene's file of points is damaged, or holds too many.
    """
    cloud = points.scene_points(scene) if storage != "none" else None
    if cloud is None:
        return {}
    if storage == "exact":
        return {points.TAG: points.pack_points(cloud)}
    cameras = Pinholes.to_be_stored(scene.cameras)
    data = compact_points.pack_compact(
        cloud.positions, cloud.colours, cameras, lambda view, pixels: colours_at(scene.image(view), pixels)
    )
    return {compact_points.TAG: data} if data else {}


def left_out(scene: MultiViewScene, sections: Mapping[str, bytes]) -> str:
    """A line for people on points that compact storage leaves out, since no view shows them; empty if all are there."""
    data = sections.get(compact_points.TAG)
    cloud = None if points.TAG in sections else points.scene_points(scene)
    count = 0 if cloud is None else len(cloud.positions)
    kept = compact_points.stored_points(data) if data else 0
    if kept >= count:
        return ""
    return f"{count - kept} of {count} sparse points are left out, since no view shows them (--points exact keeps all)"


class FilePoints:
    """The sparse points of a file, whole once the views that are wanted have gone through `add_view`.

    Args:
        reader: the file.

    Raises:
        BitstreamError: the section is damaged.
    """

    def __init__(self, reader: Reader) -> None:
        self._exact: SparsePoints | None = None
        self._compact: compact_points.CompactPoints | None = None
        section = reader.section(points.TAG)
        if section is not None:
            self._exact = points.unpack_points(section)
            return
        section = reader.section(compact_points.TAG)
        if section is None:
            return
        self._cameras = Pinholes.of_file(reader.header)
        try:
            self._compact = compact_points.unpack_compact(section, self._cameras)
        except BitstreamError as error:
            raise BitstreamError(f"{reader.path.name}: {error}") from None
        self._colours = np.zeros((len(self._compact.view), 3), dtype=np.uint8)
        self._coloured = np.zeros(len(self._compact.view), dtype=bool)

    @property
    def needs_views(self) -> bool:
        """Whether colours, and so points, come only with `add_view`."""
        return self._compact is not None

    def add_view(self, view: DecodedView) -> None:
        """Take colours from a decoded view: those of its own points, and of others that it shows and that have none."""
        if self._compact is None:
            return
        pixels, _, inside = self._cameras.project(view.index, self._compact.positions)
        own = self._compact.view == view.index
        which = np.flatnonzero(own | (inside & ~self._coloured))
        self._colours[which] = colours_at(view.image, pixels[which])
        self._coloured[which] = True

    def so_far(self) -> SparsePoints | None:
        """All points at any time, grey where no view has coloured them yet; None if there are none."""
        if self._compact is None:
            return self._exact
        colours = np.where(self._coloured[:, None], self._colours, np.uint8(150))
        return SparsePoints(self._compact.positions, colours) if len(colours) else None

    def finish(self) -> SparsePoints | None:
        """The points that a view shows; None if there are none. Exact ones all, with their own colours."""
        if self._compact is None:
            return self._exact
        if not self._coloured.any():
            return None
        cloud = SparsePoints(self._compact.positions[self._coloured], self._colours[self._coloured])
        return cloud if cloud.far else replace(cloud, positions=cloud.positions.astype(np.float32))


def colours_at(image: Float[Tensor, "3 h w"], pixels: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n 3"]:
    """What a picture shows at positions (pixel centres at +0.5), between pixels linearly; the border is repeated."""
    height, width = image.shape[1:]
    place = torch.from_numpy(np.ascontiguousarray(pixels)).float() - 0.5
    x, y = place[:, 0].clamp(0, width - 1), place[:, 1].clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    a, b = x - left, y - top
    picture = image.detach().cpu().float().clamp(0, 1)
    upper = picture[:, top, left] * (1 - a) + picture[:, top, right] * a
    lower = picture[:, bottom, left] * (1 - a) + picture[:, bottom, right] * a
    return ((upper * (1 - b) + lower * b) * 255).round().to(torch.uint8).T.numpy()
