"""The panel in nerfstudio's viewer: how well one photograph predicts another, while the splat trains or afterwards."""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from lmvic_ns.drawing import colours
from lmvic_ns.drawing.images import PanelImage, beside
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import Correspondence, PictureWithDepth, as_picture, correspond
from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene.names import view_names
from lmvic_ns.splat.captures import Capture, data_folder, evaluating, list_captures
from lmvic_ns.splat.live import (
    captured_view,
    distances_to,
    pinhole,
    rendered_view,
    viewer_outputs,
)
from lmvic_ns.splat.model_tab import ModelTab

NEAREST = "nearest"
VISER_NERFSTUDIO_SCALE_RATIO = 10.0  # nerfstudio's units in its viewer
_WIDEST = 320  # pixels of the captures that are rendered here: the panel shows no more
_STALE_STEPS = 25  # a reference's depth may be this many training steps old
_SHARE = 0.05  # of the training time that refreshing may take, with a client

TAB = "Prediction"
TITLE = "How one photograph predicts another"
HELP = (
    "Good: the warped reference looks like the target, few pink stripes, black or dark red error. Bad: torn edges, yellow "
    "and white error. The menu Output type has the same for your own camera."
)


class CorrespondencePanel(ViewerElement, ViewerControl):
    """A viewer element with two menus, figures and live pictures; nerfstudio installs it and hands it the viewer.

    Attributes:
        updates: how often the pictures were renewed.
    """

    def __init__(self) -> None:
        ViewerElement.__init__(self, TITLE, cb_hook=lambda element: element.refresh())
        self.updates = 0
        self._pipeline: Any = None
        self._captures: list[Capture] = []
        self._names: list[str] = []
        self._cached: tuple[tuple[int, int, int], PictureWithDepth] | None = None
        self._next_refresh = 0.0
        self._hidden: Any = None

    # --- nerfstudio's side ----------------------------------------------------------------------------------------

    def _create_gui_handle(self, viser_server: Any) -> None:
        gui = viser_server.gui
        self._tab = ModelTab(gui, TAB, TITLE)
        with self._tab.place:
            gui.add_markdown(f"**{TITLE}**")
            self._target = gui.add_dropdown(
                "Target", (NEAREST,), hint="The photograph that is predicted. nearest: the one nearest to your camera"
            )
            self._reference = gui.add_dropdown(
                "Reference",
                (NEAREST,),
                hint="The photograph that predicts, here and in Output type. nearest: the one nearest to the target, never "
                "the target itself",
            )
            self._go = gui.add_button("Look from the target", hint=f"Moves your camera to where it was taken. {HELP}")
            self._go.on_click(lambda _: self.look_from_target())
            self._facts = gui.add_markdown("")
            self._pictures = {name: PanelImage(gui, "") for name in ("target", "warped", "error", "disparity", "mask")}
        self.gui_handle = self._reference

    def install(self, viser_server: Any) -> None:
        """Add the widgets to a tab of their own."""
        self._create_gui_handle(viser_server)
        for menu in (self._reference, self._target):
            menu.on_update(lambda _: self.cb_hook(self))

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        self._tab.remove_empty_folders()
        try:
            captures = list_captures(viewer.pipeline)
        except LmvicError as error:
            self._facts.content = f"⚠️ {literal(str(error))}"
            return
        self._names = view_names([capture.path for capture in captures], data_folder(viewer.pipeline))
        self._captures, self._pipeline = captures, viewer.pipeline
        for menu in (self._reference, self._target):
            menu.options = (NEAREST, *self._names)
        # in a thread of its own: viser holds a lock here that asking for the clients would need too
        viewer.viser_server.on_client_connect(
            lambda _: threading.Thread(target=lambda: self.cb_hook(self), daemon=True).start()
        )

    # --- the viewer's own camera ----------------------------------------------------------------------------------

    def add_outputs(self, model: Any, camera: NerfstudioCameras, outputs: dict[str, Any]) -> dict[str, Any]:
        """The model's outputs, and for nerfstudio's viewer alone those that compare them with the reference capture.

        Args:
            model: in evaluation mode.
            camera: that `outputs` are of.
            outputs: of `get_outputs`.
        """
        if self._pipeline is None or not _in_viewer_thread() or outputs.get("median_depth") is None:
            return outputs
        view = rendered_view(camera, outputs)
        reference = self._captured(model, self._reference_index(self._target_index(view.camera)))
        pair = correspond(view, reference)
        return outputs if pair is None else {**outputs, **viewer_outputs(view, pair)}

    def _target_index(self, camera: Cameras | None) -> int:
        """The chosen target, or the photograph nearest to a camera (the first one where nobody looks yet)."""
        if self._target.value in self._names:
            return self._names.index(self._target.value)
        return 0 if camera is None else int(distances_to(camera, self._captures, self._spread()).argmin())

    def _reference_index(self, target: int) -> int:
        """The chosen reference, or the photograph nearest to the target, which is never the target itself."""
        if self._reference.value in self._names:
            return self._names.index(self._reference.value)
        distances = distances_to(pinhole(self._captures[target].camera), self._captures, self._spread())
        if len(self._captures) > 1:
            distances[target] = math.inf
        return int(distances.argmin())

    def _captured(self, model: Any, index: int) -> PictureWithDepth:
        """A capture with its depth, at most a few training steps old."""
        key = (index, int(getattr(model, "step", 0)) // _STALE_STEPS, _WIDEST)
        cached = self._cached
        if cached is not None and cached[0] == key:
            return cached[1]
        view = captured_view(model, self._captures[index], _WIDEST)
        self._cached = (key, view)  # last and at once: viewer threads are interrupted at any line
        return view

    # --- the panel ------------------------------------------------------------------------------------------------

    def after_step(self, step: int) -> None:
        """Called after training steps, under the train lock; costs nothing while nobody looks."""
        if self._pipeline is None or time.monotonic() < self._next_refresh or not self.viser_server.get_clients():
            return
        self.refresh()

    def refresh(self) -> None:
        """Renew figures and pictures of the chosen pair."""
        if self._pipeline is None:
            return
        started = time.monotonic()
        self._renew_captures()
        model = self._pipeline.model
        with evaluating(self._pipeline), torch.no_grad():
            target_index = self._target_index(self._own_camera())
            target = captured_view(model, self._captures[target_index], _WIDEST)
            index = self._reference_index(target_index)
            reference = captured_view(model, self._captures[index], _WIDEST)
            pair = correspond(target, reference)
        if pair is not None:
            self._show(target, pair, self._names[target_index], self._names[index])
        self.updates += 1
        ended = time.monotonic()
        self._next_refresh = ended + (ended - started) / _SHARE

    def look_from_target(self) -> None:
        """Move every client's camera to where the target was photographed, with its field of view."""
        if self._pipeline is None:
            return
        import viser.transforms as tf

        capture = self._captures[self._target_index(self._own_camera())]
        camera = capture.camera
        self._hide_frustum(capture)
        pose = camera.camera_to_worlds[0].double().cpu().numpy()
        for client in self.viser_server.get_clients().values():
            with client.atomic():
                # OpenGL's axes to OpenCV's
                client.camera.wxyz = (tf.SO3.from_matrix(pose[:, :3]) @ tf.SO3.from_x_radians(math.pi)).wxyz
                client.camera.position = pose[:, 3] * VISER_NERFSTUDIO_SCALE_RATIO
                client.camera.fov = 2 * math.atan(0.5 * float(camera.height) / float(camera.fy))

    def _hide_frustum(self, capture: Capture) -> None:
        """Take the photograph's own frustum out of the picture that is seen from it, and put back the one before."""
        if self._hidden is not None:
            self._hidden.visible, self._hidden = True, None
        paths = self._pipeline.datamanager.train_dataset.image_filenames
        handles = getattr(self.viewer, "camera_handles", {})
        handle = handles.get(paths.index(capture.path)) if capture.path in paths else None
        if handle is not None and handle.visible:
            handle.visible, self._hidden = False, handle

    def _own_camera(self) -> Cameras | None:
        """Of whoever looks; None where nobody does."""
        camera = self.get_camera(60, 80)
        return None if camera is None else pinhole(camera)

    def _spread(self) -> float:
        """The cameras' spread: the unit of length where nothing was rendered yet."""
        centres = torch.cat([capture.camera.camera_to_worlds[:, :3, 3] for capture in self._captures])
        return float((centres - centres.mean(0)).norm(dim=1).mean()) or 1.0

    def _renew_captures(self) -> None:
        """Poses move while a camera optimizer is on."""
        optimizer = getattr(self._pipeline.model, "camera_optimizer", None)
        if optimizer is not None and optimizer.config.mode != "off":
            self._captures = list_captures(self._pipeline)

    def _show(self, target: PictureWithDepth, pair: Correspondence, name: str, reference: str) -> None:
        name, reference = literal(name), literal(reference)
        self._facts.content = f"**{name}** from **{reference}**\n\n{pair.describe()}"
        mask, photograph, warped = pair.mask.cpu().numpy(), as_picture(target.image), as_picture(pair.warped)
        show: dict[str, tuple[colours.Picture, str]] = {
            "target": (photograph, f"**Target** {name}"),
            "warped": (
                colours.mask_overlay(warped, mask),
                f"**Warped reference** {reference}; pink stripes: not seen there",
            ),
            "error": (colours.error_colours(abs(warped - photograph).mean(-1), mask), "**Error**: black none, white large"),
            "disparity": (
                colours.disparity_colours(pair.disparity.cpu().numpy(), mask=mask),
                "**Disparity**: colour is the direction, see the wheel",
            ),
            "mask": (mask[..., None].repeat(3, -1).astype("float32"), "**Mask**: white is seen by both"),
        }
        if mask.shape[0] > mask.shape[1]:  # two portraits fit beside each other
            for left, right in (("target", "warped"), ("error", "disparity")):
                show[left] = beside(*show[left], *show.pop(right))
        for key, element in self._pictures.items():
            shot, caption = show.get(key, (None, None))
            element.show(shot, caption)


def _in_viewer_thread() -> bool:
    """Whether this is a thread that renders for nerfstudio's viewer; training and evaluation use others."""
    module = sys.modules.get("nerfstudio.viewer.render_state_machine")
    return module is not None and isinstance(threading.current_thread(), module.RenderStateMachine)
