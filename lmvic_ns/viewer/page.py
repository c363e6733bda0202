"""The page of `lmvic view`: cameras, reference tree, and one view after another with what it cost."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
import torch

from lmvic_ns.drawing import colours
from lmvic_ns.drawing.images import PanelImage, beside, fit
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import Correspondence, PictureWithDepth, as_picture, correspond, depth_points
from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.cameras import invert_rigid
from lmvic_ns.report.terminal import size_text
from lmvic_ns.viewer.layout import Layout, frustum_scale, quaternion, tree_colours
from lmvic_ns.viewer.plots import bits_chart, distance_chart
from lmvic_ns.viewer.sources import PageSource

_SELECTED = (230, 0, 126)
_THUMBNAIL = 96  # pixels across
_SETTLE = 0.15  # seconds without another wish, before a view is decoded: sliders and typed numbers pass many on their way

GUIDE = """\
Click a camera, or walk the coding order with the slider (0 is coded first).

**Good match:** the *prediction* looks like the view, black or dark red error. \
**Bad match:** torn edges, yellow and white error, many pink stripes.
"""


class ViewPage:
    """The page; give it a running viser server and a source.

    Args:
        server: a `viser.ViserServer`, freshly started.
        source: what to show.
        thumbnails: decode every view once, in the background, for the pictures in the frustums.

    Attributes:
        shown: number of the view on show.
        updates: how often a view was put on show completely.
    """

    def __init__(self, server: Any, source: PageSource, *, thumbnails: bool = True) -> None:
        self.server, self.source = server, source
        self.layout = Layout.around(source.cameras)
        # the first view that has a reference, if there is one: it has more to show than a root
        self.shown = next((view for view in source.tree.order if source.tree.parent[view] >= 0), source.tree.order[0])
        self.updates = 0
        self._wanted = self.shown
        self._showing = threading.Lock()
        self._closing = threading.Event()
        self._thumbnails: dict[int, np.ndarray] = {}
        self._palette = tree_colours(source.tree.depth)
        server.gui.configure_theme(
            control_layout="collapsible", control_width="large", show_logo=False, show_share_button=False
        )
        server.scene.set_up_direction(tuple(self.layout.up.tolist()))
        self._add_panel()
        for view in range(len(source.names)):
            self._add_frustum(view)
        self._add_edges()
        server.on_client_connect(self._welcome)
        self.show(self.shown)
        self._worker = threading.Thread(target=self._add_thumbnails, name="thumbnails", daemon=True)
        if thumbnails and source.trouble is None:
            self._worker.start()

    # --- the panel ------------------------------------------------------------------------------------------------

    def _add_panel(self) -> None:
        gui, source = self.server.gui, self.source
        gui.add_markdown(self._headline())
        if source.trouble is not None:
            gui.add_markdown(f"⚠️ {literal(source.trouble)}")
        last = len(source.names) - 1
        # viser's sliders need a range; one view alone has none
        self.slider = gui.add_slider(
            "Coding order", 0, max(1, last), 1, source.tree.order.index(self.shown), disabled=last == 0
        )
        self.slider.on_update(lambda _: self.show(source.tree.order[min(int(self.slider.value), last)]))
        self._facts = gui.add_markdown("")
        self._pictures = {name: PanelImage(gui, "") for name in ("image", "prediction", "error", "disparity", "depth")}
        self._chart = gui.add_plotly(self._figure(), aspect=1.0)
        with gui.add_folder("What is drawn", expand_by_default=False):
            self._show_tree = gui.add_checkbox("Reference tree", True)
            self._show_points = gui.add_checkbox("Depth of this view as points", True)
            self._show_others = gui.add_checkbox("Other cameras", True)
        self._show_tree.on_update(lambda _: self._set_edges_visible())
        self._show_points.on_update(lambda _: self._set_points_visible())
        self._show_others.on_update(lambda _: self._set_frustums_visible())

    def _headline(self) -> str:
        source = self.source
        coded = [size for size in source.sizes if size is not None]
        pixels = int((source.cameras.height * source.cameras.width).sum())
        roots = len(source.tree.roots)
        text = f"### {literal(source.title)}\n{len(source.names)} views, "
        if coded:
            text += f"{size_text(source.file_bytes)}, {8 * source.file_bytes / pixels:.4f} bits a pixel"
            if source.points_bytes:
                text += f" ({8 * (source.file_bytes - source.points_bytes) / pixels:.4f} without the points)"
            text += ". "
        elif source.note:
            text += f"not coded yet; ⚠️ {literal(source.note)}. "
        else:
            text += "not coded yet; the tree is the one that `lmvic encode` takes by default. "
        deepest = source.tree.max_depth
        text += (
            f"\n\nLines join each view to its reference, coloured from blue ({roots} view{'s' if roots > 1 else ''} "
            f"coded alone) to red (depth {deepest} in the tree).\n\n{GUIDE}"
        )
        return text

    def _figure(self) -> Any:
        source = self.source
        if any(size is not None for size in source.sizes):
            return bits_chart(source.tree.order, source.sizes, source.names, self.shown)
        return distance_chart(source.tree.order, source.distances, source.names, self.shown)

    # --- the scene ------------------------------------------------------------------------------------------------

    def _add_frustum(self, view: int) -> None:
        camera = self.source.cameras[view]
        height, width = camera.size
        pose = invert_rigid(camera.world_to_camera)[0]
        selected = view == self.shown
        slope = height / 2 / float(camera.intrinsics[0, 1, 1])
        handle = self.server.scene.add_camera_frustum(
            f"/cameras/{view}",
            fov=2 * math.atan(slope),
            aspect=width / height,
            scale=frustum_scale(self.layout.frustum * (1.35 if selected else 1.0), slope, width / height),
            color=_SELECTED if selected else tuple(int(c) for c in self._palette[view]),
            image=self._thumbnails.get(view),
            wxyz=quaternion(pose[:3, :3]),
            position=self.layout.place(pose[None, :3, 3])[0],
            visible=selected or self._show_others.value,
        )
        handle.on_click(lambda _: self.choose(view))

    def _set_frustums_visible(self) -> None:
        for view in range(len(self.source.names)):
            self._add_frustum(view)

    def _add_edges(self) -> None:
        centres = self.layout.place(self.source.cameras.centers)
        self._edges = []
        for view, parent in enumerate(self.source.tree.parent):
            if parent < 0:
                continue
            ends = tuple(tuple(float(x) for x in centres[end]) for end in (parent, view))
            colour = tuple(int(c) for c in self._palette[view])
            name = f"/tree/{view}"
            self._edges.append(self.server.scene.add_spline_catmull_rom(name, ends, line_width=3.0, color=colour, segments=1))

    def _set_edges_visible(self) -> None:
        for edge in self._edges:
            edge.visible = self._show_tree.value

    def _set_points_visible(self) -> None:
        if self._points is not None:
            self._points.visible = self._show_points.value

    _points: Any = None

    def _welcome(self, client: Any) -> None:
        eye, target = self.layout.overview()
        with client.atomic():
            client.camera.position = eye
            client.camera.look_at = target

    def _add_thumbnails(self) -> None:
        for view, picture in self.source.stream():
            if self._closing.is_set():
                return
            self._thumbnails[view] = fit(as_picture(picture.image), _THUMBNAIL)
            self._add_frustum(view)

    # --- one view -------------------------------------------------------------------------------------------------

    def choose(self, view: int) -> None:
        """As a click on a frustum does: move the slider there, which puts the view on show."""
        place = self.source.tree.order.index(view)
        if int(self.slider.value) == place:
            self.show(view)
        else:
            self.slider.value = place

    def show(self, view: int) -> None:
        """Decode a view and put it on show; when several are asked for at a time, only the last one stays."""
        self._wanted = view
        self._closing.wait(_SETTLE)
        with self._showing:
            if self._wanted != view or self._closing.is_set():
                return
            before, self.shown = self.shown, view
            for changed in {before, view}:
                self._add_frustum(changed)
            self._chart.figure = self._figure()
            parent = self.source.tree.parent[view]
            picture = pair = None
            problem, started, spent = self.source.trouble, time.monotonic(), 0.0
            if problem is None:
                try:
                    loaded = self.source.load(*([view] if parent < 0 else [view, parent]))
                    spent = time.monotonic() - started
                    picture, pair = loaded[0], correspond(loaded[0], loaded[1]) if parent >= 0 else None
                except LmvicError as error:
                    problem = str(error)
            self._facts.content = self._describe(view, parent, picture, pair, problem)
            self._show_pictures(picture, pair, parent, spent)
            self._add_points(picture)
            self.updates += 1

    def _describe(
        self, view: int, parent: int, picture: PictureWithDepth | None, pair: Correspondence | None, problem: str | None
    ) -> str:
        source = self.source
        height, width = source.cameras[view].size
        place = source.tree.order.index(view)
        lines = [
            f"#### {literal(source.names[view])}",
            f"coded as number {place} of {len(source.names)}, {width} x {height} pixels",
        ]
        if parent < 0:
            lines.append("coded **alone**: it refers to no other view")
        else:
            lines.append(
                f"refers to **{literal(source.names[parent])}** (distance {source.distances[view]:.3f}), "
                f"depth {source.tree.depth[view]} in the tree"
            )
        size = source.sizes[view]
        if size is not None:
            bits = 8 * size.total / (height * width)
            lines.append(f"spent: image **{8 * size.image:,}** bits, depth **{8 * size.depth:,}** bits: {bits:.3f} a pixel")
        if pair is not None:
            lines.append(pair.describe())
        elif picture is not None and parent >= 0:
            lines.append("no depth, so nothing can be predicted from the reference")
        if problem is not None and problem != source.trouble:
            lines.append(f"⚠️ {literal(problem)}")
        return "\n\n".join(lines)

    def _show_pictures(
        self, picture: PictureWithDepth | None, pair: Correspondence | None, parent: int, seconds: float
    ) -> None:
        coded = any(size is not None for size in self.source.sizes)
        when = f"decoded just now in {seconds:.1f} s" if seconds > 0.05 else "decoded before"
        shots: dict[str, tuple[colours.Picture, str]] = {}
        if picture is not None:
            shots["image"] = as_picture(picture.image), f"**The view**, {when}" if coded else "**The view**"
        if picture is not None and pair is not None:
            mask = pair.mask.cpu().numpy()
            warped = as_picture(pair.warped)
            shots["prediction"] = (
                colours.mask_overlay(warped, mask),
                f"**Prediction** from {literal(self.source.names[parent])}; pink stripes: not seen there",
            )
            shots["error"] = (
                colours.error_colours(np.abs(warped - shots["image"][0]).mean(-1), mask),
                "**Error of the prediction**: black is none, red is small, white is large",
            )
            shots["disparity"] = (
                colours.disparity_colours(pair.disparity.cpu().numpy(), mask=mask),
                "**Disparity** to the reference: colour is the direction, see the wheel; white is none",
            )
            if mask.shape[0] > mask.shape[1]:  # two portraits fit beside each other
                for left, right in (("image", "prediction"), ("error", "disparity")):
                    shots[left] = beside(*shots[left], *shots.pop(right))
        if picture is not None and picture.inverse_depth is not None:
            depth = colours.inverse_depth_colours(picture.inverse_depth.numpy())
            shots["depth"] = depth, "**Depth**: red is near, blue is far, grey unknown"
        for name, element in self._pictures.items():
            picture_shown, label = shots.get(name, (None, None))
            element.show(picture_shown, label)

    def _add_points(self, picture: PictureWithDepth | None) -> None:
        if picture is None:
            return
        points, rgb = depth_points(picture)
        if not len(points):
            return
        self._points = self.server.scene.add_point_cloud(
            "/points",
            self.layout.place(points),
            (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            point_size=0.012,
            visible=self._show_points.value,
        )

    def close(self) -> None:
        """Stop decoding; the server is its owner's to stop."""
        self._closing.set()
        if self._worker.is_alive():
            self._worker.join(timeout=10)
        self.source.close()
