"""The page of `lmvic view`: one photograph after another, against its original where there is one; cameras in 3D."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmvic_ns.codec.records import EXACT_PSNR
from lmvic_ns.drawing import colours
from lmvic_ns.drawing.images import PanelImage, beside, fit
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import PictureWithDepth, as_picture, correspond
from lmvic_ns.errors import LmvicError
from lmvic_ns.report.terminal import size_text
from lmvic_ns.viewer.compare import DisplayedView, PictureFiles, busy_mdx, no_picture_mdx, picture_mdx
from lmvic_ns.viewer.plots import bits_chart, distance_chart
from lmvic_ns.viewer.scene_3d import Scene3D
from lmvic_ns.viewer.sources import PageSource

_THUMBNAIL = 96  # pixels across
_SETTLE = 0.15  # seconds without another wish, before a view is decoded: sliders pass many on their way
_REFRESH = 16  # decoded views after which the points' colours and the list of the worst are renewed
_CODING_HELP = (
    "Black or dark red error: the reference predicts the view well. Torn edges, yellow and white error, many pink stripes: "
    "it does not, and the view costs more bits."
)
STEPS = ("Previous", "Next")
WORST = "Next worst"
SWITCH_COLOURS = "Switch dark and light"


class ViewPage:
    """The page; give it a running viser server and a source.

    Args:
        server: a `viser.ViserServer`, freshly started.
        source: what to show.
        thumbnails: decode every view once, in the background, for the pictures in the cameras.
        root: folder that the server hands out (`client.own_client`), None where it is viser's own.
        dark: light words on a dark page for everyone; else each browser's own setting counts, where `root` is given.

    Attributes:
        shown: number of the view on show.
        updates: how often a view was put on show completely.
    """

    def __init__(
        self, server: Any, source: PageSource, *, thumbnails: bool = True, root: Path | None = None, dark: bool = False
    ) -> None:
        self.server, self.source = server, source
        self.shown = 0
        self.updates = 0
        self._wanted = 0
        self._by_worst = False  # the last step was one down the list of the worst
        self._showing, self._preparing = threading.Lock(), threading.Lock()
        self._closing, self._work = threading.Event(), threading.Event()
        self._picture_files = PictureFiles(root)
        self._ready: dict[int, DisplayedView] = {}
        self._spent, self._problem = 0.0, source.trouble
        self._failed: set[int] = set()
        self._thumbnails_wanted = thumbnails
        # our style sheet hides the share button; viser 0.2.7 breaks in narrow windows where it is taken away
        self._theme = {"control_layout": "collapsible", "control_width": "large", "show_logo": False}
        self._theme |= {"show_share_button": root is not None}
        server.gui.configure_theme(**self._theme, dark_mode=dark)
        self.scene_3d = Scene3D(server, source, self.shown, self.go)
        self._add_panel()
        if root is not None and not dark:
            server.on_client_connect(self._follow_browser)
        self._draw_sparse()
        self._worker = threading.Thread(target=self._prefetch, name="work ahead", daemon=True)
        # the page is there at once, and says that the first view is being decoded
        threading.Thread(target=self.show, args=(self.shown,), name="first view", daemon=True).start()
        if source.trouble is None:
            self._worker.start()

    # --- the panel ------------------------------------------------------------------------------------------------

    def _add_panel(self) -> None:
        gui, source = self.server.gui, self.source
        gui.add_markdown(self._headline())
        for words in filter(None, (source.trouble, source.note)):
            gui.add_markdown(f"⚠️ {literal(words)}")
        self._picture = gui.add_markdown("", image_root=Path())
        self._facts = gui.add_markdown("")
        names = source.names
        self._find = gui.add_dropdown(
            "Find a view", tuple(names), names[self.shown], hint="Type a part of the name, or choose from the list (key: /)"
        )
        self._find.on_update(lambda _: self.go(names.index(self._find.value)))
        # viser's sliders need a range; one view alone has none
        self.slider = gui.add_slider("View", 1, max(2, len(names)), 1, self.shown + 1, disabled=len(names) == 1)
        self.slider.on_update(lambda _: self.go(min(int(self.slider.value), len(names)) - 1))
        steps = (*STEPS, WORST) if source.originals is not None else STEPS
        hint = "Keys: N next, P previous" + (", X the next worst: lowest PSNR first" if source.originals is not None else "")
        self._steps = gui.add_button_group("Go to", steps, hint=hint)
        self._steps.on_click(lambda _: self._stepped())
        self._progress = gui.add_markdown("", visible=False)
        with gui.add_folder("Cameras in 3D", expand_by_default=True):
            self._add_drawing_options()
        self._details = gui.add_checkbox(
            "How it was coded", False, hint="Reference, prediction, disparity, depth, and the bits of all views"
        )
        self._details.on_update(lambda _: self._refresh_details())
        # no folder: viser 0.2.7 does not show one that was hidden at first
        self._words = gui.add_markdown("", visible=False)
        self._pictures = {name: PanelImage(gui, "") for name in ("prediction", "error", "disparity", "depth")}
        self._chart = gui.add_plotly(self._figure(), aspect=1.0, visible=False)

    def _follow_browser(self, client: Any) -> None:
        """A button that the page's script hides, and presses where the browser's setting is another than the page's."""
        dark = False

        def switch(_: Any) -> None:
            nonlocal dark
            dark = not dark
            client.gui.configure_theme(**self._theme, dark_mode=dark)

        client.gui.add_button(SWITCH_COLOURS).on_click(switch)

    def _add_drawing_options(self) -> None:
        gui, source = self.server.gui, self.source
        self._show_points = gui.add_checkbox("Sparse points", True)
        self._show_depth = gui.add_checkbox(
            "Depth of this view", False, disabled=not source.has_depth, hint="The decoded depth as points, one for each 4 x 4"
        )
        self._show_others = gui.add_checkbox("Other cameras", True)
        roots = len(source.tree.roots)
        self._show_tree = gui.add_checkbox(
            "Reference tree",
            False,
            hint=f"Lines join each view to the one that predicts it. Blue: coded alone ({roots}); red: {source.tree.max_depth} "
            "references deep",
        )
        self._empty = gui.add_markdown("", visible=False)
        self._show_points.on_update(lambda _: self.scene_3d.show_sparse(self._show_points.value))
        self._show_depth.on_update(lambda _: self._draw_depth())
        self._show_others.on_update(lambda _: self._draw_others())
        self._show_tree.on_update(lambda _: self.scene_3d.draw_tree(self._show_tree.value))

    def _headline(self) -> str:
        source = self.source
        text = f"### {literal(source.title)}\n{_count(len(source.names), 'view')}, "
        if not source.coded:
            return text + "not coded yet"
        text += f"{size_text(source.file_bytes)}, {source.bits_per_pixel:.3f} bits a pixel"
        if source.points_bytes:
            without = source.bits_per_pixel * (1 - source.points_bytes / source.file_bytes)
            text += f" ({without:.3f} without the sparse points)"
        if source.originals is None:
            text += "\n\nThe originals are not here: `--scene FOLDER` compares with them"
        return text

    def _figure(self) -> Any:
        source, order = self.source, range(len(self.source.names))
        if source.coded:
            bits = [(_bits(source, view, "image"), _bits(source, view, "depth")) for view in order]
            return bits_chart(bits, source.names, self.shown)
        return distance_chart([source.distances[view] for view in order], source.names, self.shown)

    # --- the scene ------------------------------------------------------------------------------------------------

    def _draw_sparse(self) -> None:
        try:
            positions, shades = self.source.points()
        except LmvicError as error:
            positions, shades = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
            self._empty.content = f"⚠️ {literal(str(error))}"
        self.scene_3d.draw_sparse(positions, shades, self._show_points.value)
        lacking = [what for what, there in (("sparse points", len(positions)), ("depth", self.source.has_depth)) if not there]
        self._show_points.disabled = not len(positions)
        if lacking:
            kind = "file" if self.source.coded else "scene"
            self._empty.content = self._empty.content or f"This {kind} has no {' and no '.join(lacking)}."
        self._empty.visible = bool(self._empty.content)

    def _draw_others(self) -> None:
        self.scene_3d.with_others = self._show_others.value
        self.scene_3d.draw_cameras()

    def _draw_depth(self) -> None:
        wanted = self._show_depth.value and self.source.trouble is None
        try:
            self.scene_3d.draw_depth(self.source.load(self.shown)[0] if wanted else None)
        except LmvicError:  # said beside the picture
            self.scene_3d.draw_depth(None)

    # --- going from view to view ----------------------------------------------------------------------------------

    def go(self, view: int) -> None:
        """Put a view on show, unless it is; what a click on a camera, the slider and the list do."""
        if view != self._wanted:
            self._by_worst = False
            self.show(view)

    def _stepped(self) -> None:
        where = str(self._steps.value)
        if where:
            self._steps.value = ""  # viser 0.2.7 passes a button of a group on only if it is another than the last one
            self.step(where)

    def step(self, where: str) -> None:
        """Go to the previous or the next view, or down the list of the worst ones."""
        count = len(self.source.names)
        if where != WORST:
            self.go((self._wanted + (1 if where == STEPS[1] else -1)) % count)
            return
        ranking = [] if self.source.originals is None else self.source.originals.worst()
        if not ranking:
            self._facts.content = "no view has been compared with its original yet"
            return
        place = ranking.index(self._wanted) + 1 if self._by_worst and self._wanted in ranking else 0
        self._by_worst = True
        self.show(ranking[place % len(ranking)])

    def show(self, view: int) -> None:
        """Decode a view and put it on show; when several are asked for at a time, only the last one stays."""
        self._wanted = view
        if self.slider.value != view + 1:
            self.slider.value = view + 1
        if self._find.value != self.source.names[view]:
            self._find.value = self.source.names[view]
        if view not in self._ready and not self.source.kept(view) and self.source.trouble is None:
            self._facts.content = busy_mdx(f"decoding {literal(self.source.names[view])} ...")
            self._closing.wait(_SETTLE)
        with self._showing:
            if self._wanted != view or self._closing.is_set():
                return
            self.shown = view
            problem, started = self.source.trouble, time.monotonic()
            if problem is None:
                try:
                    self._prepare(view)
                except LmvicError as error:
                    problem = str(error)
            shown = self._ready.get(view)
            if self.source.trouble is None:
                name = self.source.names[view]
                self._picture.content = no_picture_mdx(name) if shown is None else picture_mdx(shown, name)
            self._spent, self._problem = time.monotonic() - started, problem
            self._facts.content = self._describe(view, shown)
            self.scene_3d.choose(view)
            if self._show_depth.value:
                self._draw_depth()
            self._fill_details()
            self.updates += 1
            self._work.set()

    def _prepare(self, view: int) -> None:
        """Pictures of a view, ready to be shown; decodes it if need be."""
        with self._preparing:
            if view not in self._ready:
                self._ready[view] = self._prepared_view(view)

    def _prepared_view(self, view: int) -> DisplayedView:
        decoded = (self.source.load(view)[0].image * 255).round().to(torch.uint8)
        address = self._picture_files.add(f"{view}d", decoded.permute(1, 2, 0).numpy())
        originals = self.source.originals
        original = None if originals is None else originals.image(view)
        if originals is None or original is None:
            return DisplayedView(address)
        psnr = originals.compare(view, decoded, original)
        return DisplayedView(address, self._picture_files.add(f"{view}o", original.permute(1, 2, 0).numpy()), psnr)

    def _describe(self, view: int, shown: DisplayedView | None) -> str:
        source, spent, problem = self.source, self._spent, self._problem
        height, width = source.cameras[view].size
        facts = [f"{width} x {height} pixels"]
        bits = source.bits(view)
        facts += [] if bits is None else [f"**{bits:.3f}** bits a pixel"]
        if shown is not None and shown.psnr is not None:
            facts.append("exact" if shown.psnr >= EXACT_PSNR else f"**{shown.psnr:.2f} dB**")
        facts += [f"decoded in {spent:.1f} s"] if spent > 0.3 and source.coded else []
        lines = [f"**{literal(source.names[view])}**, view {view + 1} of {len(source.names)}", ", ".join(facts)]
        originals = source.originals
        if originals is not None and view in originals.psnr:
            place, known = originals.worst().index(view), len(originals.psnr)
            so_far = "" if known == len(source.names) else " compared so far"
            rank = f"{_ordinal(place + 1)} worst" if place else "the worst"
            rank = "the best" if place == known - 1 else rank
            lines += [f"{rank} of {_count(known, 'view')}{so_far}"] if known > 1 else []
        elif originals is not None and shown is not None:
            lines.append("the scene has no original of this view")
        if problem is not None and problem != source.trouble:
            lines.append(f"⚠️ {literal(problem)}")
        return "\n\n".join(lines)

    # --- how it was coded -----------------------------------------------------------------------------------------

    def _refresh_details(self) -> None:
        with self._showing:
            self._fill_details()

    def _fill_details(self) -> None:
        """Only while they are looked at: they take longer than the picture itself."""
        self._words.visible = self._chart.visible = self._details.value
        if not self._details.value:
            for element in self._pictures.values():
                element.show(None)
            return
        view, source = self.shown, self.source
        parent, place = source.tree.parent[view], source.tree.order.index(view) + 1
        lines = [_CODING_HELP, f"{_ordinal(place)} view in the file's order"]
        if parent < 0:
            lines.append("coded **alone**: no other view predicts it")
        else:
            lines.append(
                f"predicted from **{literal(source.names[parent])}**, {_count(source.tree.depth[view], 'reference')} deep"
            )
        if source.bits(view) is not None:
            image, depth = _bits(source, view, "image"), _bits(source, view, "depth")
            lines.append(f"picture {image:.3f}, depth {depth:.3f} bits a pixel")
        shots: dict[str, tuple[colours.Picture, str]] = {}
        if source.trouble is None:
            try:
                shots = self._coding_pictures(view, parent, lines)
            except LmvicError as error:
                lines.append(f"⚠️ {literal(str(error))}")
        self._words.content = "\n\n".join(lines)
        for name, element in self._pictures.items():
            element.show(*shots.get(name, (None, None)))
        self._chart.figure = self._figure()

    def _coding_pictures(self, view: int, parent: int, lines: list[str]) -> dict[str, tuple[colours.Picture, str]]:
        loaded = self.source.load(*([view] if parent < 0 else [view, parent]))
        picture: PictureWithDepth = loaded[0]
        pair = correspond(picture, loaded[1]) if parent >= 0 else None
        shots: dict[str, tuple[colours.Picture, str]] = {}
        if pair is not None:
            lines.append(pair.describe())
            mask, warped = pair.mask.cpu().numpy(), as_picture(pair.warped)
            shots["prediction"] = (
                colours.mask_overlay(warped, mask),
                f"**Prediction** from {literal(self.source.names[parent])}; pink stripes: not seen there",
            )
            shots["error"] = (
                colours.error_colours(np.abs(warped - as_picture(picture.image)).mean(-1), mask),
                "**Error of the prediction**: black is none, red is small, white is large",
            )
            shots["disparity"] = (
                colours.disparity_colours(pair.disparity.cpu().numpy(), mask=mask),
                "**Disparity** to the reference: colour is the direction, see the wheel; white is none",
            )
            if mask.shape[0] > mask.shape[1]:  # two portraits fit beside each other
                shots["prediction"] = beside(*shots["prediction"], *shots.pop("error"))
        elif parent >= 0:
            lines.append("no depth, so nothing can be predicted from the reference")
        if picture.inverse_depth is None:
            lines.append("the file holds no depth of this view" if self.source.coded else "there is no depth of this view")
        else:
            depth = colours.inverse_depth_colours(picture.inverse_depth.numpy())
            shots["depth"] = depth, "**Depth**: red is near, blue is far, grey unknown"
        return shots

    # --- in the background ----------------------------------------------------------------------------------------

    def _prefetch(self) -> None:
        """Get the neighbours of the shown view ready, then small pictures (and PSNR) of all others, one at a time."""
        done = 0
        while not self._closing.is_set():
            self._work.clear()
            view, neighbour = self._next_work()
            if view is None:
                self._refresh()
                self._work.wait()
                continue
            try:
                picture = self.source.prepare(view)
                if view not in self.scene_3d.thumbnails:
                    self.scene_3d.add_thumbnail(view, fit(as_picture(picture.image), _THUMBNAIL))
                if neighbour:
                    self._prepare(view)
                elif self.source.originals is not None and view not in self.source.originals.psnr:
                    original = self.source.originals.image(view)
                    if original is not None:
                        self.source.originals.compare(view, (picture.image * 255).round().to(torch.uint8), original)
            except LmvicError:  # said when the view is looked at
                self._failed.add(view)
            done += 1
            if done % _REFRESH == 0:
                self._refresh()
            self._say_progress()

    def _next_work(self) -> tuple[int | None, bool]:
        count = len(self.source.names)
        around = [(self.shown + step) % count for step in (0, 1, -1)]
        ranking = [] if self.source.originals is None else self.source.originals.worst()
        if self._by_worst and self.shown in ranking:
            around.append(ranking[(ranking.index(self.shown) + 1) % len(ranking)])
        for view in around:
            if view not in self._failed and (view not in self._ready or view not in self.scene_3d.thumbnails):
                return view, True
        if self._thumbnails_wanted:
            # in the file's order each view finds the one that it refers to
            left = (v for v in self.source.tree.order if v not in self.scene_3d.thumbnails and v not in self._failed)
            return next(left, None), False
        return None, False

    def _refresh(self) -> None:
        """What changes as more views are decoded: colours of points, places among the worst."""
        self._draw_sparse()
        with self._showing:
            if self._wanted == self.shown:
                self._facts.content = self._describe(self.shown, self._ready.get(self.shown))

    def _say_progress(self) -> None:
        done, count = len(self.scene_3d.thumbnails) + len(self._failed), len(self.source.names)
        self._progress.visible = self._thumbnails_wanted and done < count
        self._progress.content = f"{'decoding' if self.source.coded else 'reading'} the other views: {done} of {count}"

    def close(self) -> None:
        """Stop decoding; the server is its owner's to stop."""
        self._closing.set()
        self._work.set()
        if self._worker.is_alive():
            self._worker.join(timeout=10)
        self.source.close()


def _bits(source: PageSource, view: int, part: str) -> float:
    size = source.sizes[view]
    return 0.0 if size is None else 8 * getattr(size, part) / source.pixels(view)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
