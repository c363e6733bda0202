"""What the page draws in 3D: cameras with small pictures, sparse points, and on request the reference tree and depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lmvic_ns.drawing.pair import PictureWithDepth, depth_points
from lmvic_ns.geometry.cameras import invert_rigid
from lmvic_ns.viewer.layout import Layout, frustum_scale, quaternion, tree_colours
from lmvic_ns.viewer.sources import PageSource

_SELECTED = (230, 0, 126)
_CAMERA = (70, 100, 150)


class Scene3D:
    """The scene of a viser server.

    Args:
        server: a `viser.ViserServer`.
        source: what to draw.
        shown: the chosen view.
        on_click: called with the number of a camera that is clicked.

    Attributes:
        layout: where things stand.
        thumbnails: small pictures of the views, [h, w, 3] of 8 bits.
        with_tree: the reference tree is drawn, and cameras have its colours.
        with_others: cameras beside the chosen one are drawn.
    """

    def __init__(self, server: Any, source: PageSource, shown: int, on_click: Callable[[int], None]) -> None:
        self._server, self._source, self._shown, self._on_click = server, source, shown, on_click
        self.layout = Layout.around(source.cameras)
        self.thumbnails: dict[int, np.ndarray] = {}
        self.with_tree, self.with_others = False, True
        self._palette = tree_colours(source.tree.depth)
        self._edges: list[Any] = []
        self._sparse: Any = None
        self._depth: Any = None
        server.scene.set_up_direction(tuple(self.layout.up.tolist()))
        self.draw_cameras()
        server.on_client_connect(self._set_first_pose)

    def choose(self, view: int) -> None:
        """Mark a view as the chosen one; depth of the one before is taken away."""
        before, self._shown = self._shown, view
        for changed in {before, view}:
            self._add_frustum(changed)
        if before != view:
            self.draw_depth(None)

    def add_thumbnail(self, view: int, pixels: np.ndarray) -> None:
        """Put a small picture into a camera."""
        self.thumbnails[view] = pixels
        self._add_frustum(view)

    def draw_cameras(self) -> None:
        """All cameras afresh."""
        for view in range(len(self._source.names)):
            self._add_frustum(view)

    def draw_tree(self, visible: bool) -> None:
        """Lines from each view to its reference, coloured from blue (coded alone) to red (many references deep)."""
        self.with_tree = visible
        if visible and not self._edges:
            centres = self.layout.place(self._source.cameras.centers)
            for view, parent in enumerate(self._source.tree.parent):
                if parent >= 0:
                    ends = tuple(tuple(float(x) for x in centres[end]) for end in (parent, view))
                    colour = tuple(int(c) for c in self._palette[view])
                    self._edges.append(
                        self._server.scene.add_spline_catmull_rom(
                            f"/tree/{view}", ends, line_width=3.0, color=colour, segments=1
                        )
                    )
        for edge in self._edges:
            edge.visible = visible
        self.draw_cameras()

    def draw_sparse(self, positions: np.ndarray, colours: np.ndarray, visible: bool) -> None:
        """Sparse points, [n, 3] in the scene's world, 8-bit colours."""
        if len(positions):
            self._sparse = self._server.scene.add_point_cloud(
                "/sparse",
                self.layout.place(torch.from_numpy(np.ascontiguousarray(positions))),
                np.ascontiguousarray(colours),
                point_size=0.018,
                point_shape="circle",
                visible=visible,
            )

    def show_sparse(self, visible: bool) -> None:
        """Show or hide the sparse points."""
        if self._sparse is not None:
            self._sparse.visible = visible

    def draw_depth(self, picture: PictureWithDepth | None) -> None:
        """A view's decoded depth as points; None takes them away."""
        points, rgb = (torch.zeros(0, 3), None) if picture is None else depth_points(picture)
        if not len(points) or rgb is None:
            if self._depth is not None:
                self._depth.visible = False
            return
        self._depth = self._server.scene.add_point_cloud(
            "/depth",
            self.layout.place(points),
            (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            point_size=0.012,
        )

    def _add_frustum(self, view: int) -> None:
        camera = self._source.cameras[view]
        height, width = camera.size
        pose = invert_rigid(camera.world_to_camera)[0]
        selected = view == self._shown
        slope = height / 2 / float(camera.intrinsics[0, 1, 1])
        colour = tuple(int(c) for c in self._palette[view]) if self.with_tree else _CAMERA
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/{view}",
            fov=2 * math.atan(slope),
            aspect=width / height,
            scale=frustum_scale(self.layout.frustum * (1.35 if selected else 1.0), slope, width / height),
            color=_SELECTED if selected else colour,
            image=self.thumbnails.get(view),
            wxyz=quaternion(pose[:3, :3]),
            position=self.layout.place(pose[None, :3, 3])[0],
            visible=selected or self.with_others,
        )
        handle.on_click(lambda _: self._on_click(view))

    def _set_first_pose(self, client: Any) -> None:
        eye, target = self.layout.overview()
        with client.atomic():
            client.camera.position = eye
            client.camera.look_at = target
