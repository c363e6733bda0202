"""The panel and the outputs in nerfstudio's own viewer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import click, pictures, screenshot, text, wait_for

from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.splat.live import OUTPUTS, pinhole
from lmvic_ns.splat.panel import TAB, TITLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lmvic_ns.demo.training import train

    folder = tmp_path_factory.mktemp("nerfstudio")
    scene = DemoSceneConfig(views=5, width=96, height=72, supersample=1, seed_points=1500)
    return train(write_demo_scene(folder / "scene", scene), folder / "out", 60).pipeline


@pytest.fixture(scope="module")
def viewer(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from open_viewer(pipeline, tmp_path_factory.mktemp("viewer"))


def open_viewer(pipeline: Any, folder: Path) -> Iterator[Any]:
    """nerfstudio's viewer as `ns-viewer` opens it."""
    from nerfstudio.configs.base_config import LoggingConfig, ViewerConfig
    from nerfstudio.utils import writer
    from nerfstudio.viewer.viewer import Viewer

    config = ViewerConfig(websocket_host="127.0.0.1", default_composite_depth=False)
    viewer = Viewer(config, folder / "viewer.log", pipeline.datamanager.get_datapath(), pipeline, train_lock=threading.Lock())
    logging = LoggingConfig()
    logging.local_writer.enable = False
    writer.setup_local_writer(logging, max_iter=1)
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
    viewer.update_scene(step=1)
    yield viewer
    viewer.viser_server.stop()


def stand_at(viewer: Any, capture: Any) -> None:
    """Put the only client's camera where a photograph was taken, with its field of view."""
    import viser.transforms as tf

    (client,) = viewer.viser_server.get_clients().values()
    pose = capture.camera.camera_to_worlds[0].double().cpu().numpy()
    with client.atomic():
        client.camera.wxyz = (tf.SO3.from_matrix(pose[:, :3]) @ tf.SO3.from_x_radians(np.pi)).wxyz
        client.camera.position = pose[:, 3] * 10.0
        client.camera.fov = 2 * np.arctan(0.5 * float(capture.camera.height) / float(capture.camera.fy))


def choose(browser: Any, label: str, option: str) -> None:
    """Choose from a menu of the panel as a person would."""
    menu = f"//label[normalize-space()='{label}']/following::input[1]"
    wait_for(f"the menu {label}", lambda: browser.find_elements("xpath", menu))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", browser.find_element("xpath", menu))
    click(browser, menu)
    find = f"//*[@role='option'][normalize-space()='{option}']"
    entry = wait_for(
        f"{option} in the menu {label}", lambda: [e for e in browser.find_elements("xpath", find) if e.is_displayed()]
    )
    entry[0].click()


def test_training_and_evaluation_render_what_they_did(pipeline: Any, viewer: Any):
    """A viewer is open, yet only its own threads get the additional outputs."""
    pipeline.eval()
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert set(outputs) == {"rgb", "depth", "median_depth", "accumulation", "background"}
    assert not any("correspondence" in name for name in pipeline.model.state_dict())


def test_training_does_not_wait_while_nobody_looks(pipeline: Any, viewer: Any):
    panel = pipeline.model.correspondence
    before, started = panel.updates, time.perf_counter()
    for step in range(1000):
        panel.after_step(step)
    assert panel.updates == before
    assert (time.perf_counter() - started) / 1000 < 0.001


def test_nearest_is_never_the_photograph_itself_and_the_same_in_the_outputs(
    pipeline: Any, viewer: Any, monkeypatch: pytest.MonkeyPatch
):
    panel = pipeline.model.correspondence
    used: list[int] = []
    take = panel._captured
    monkeypatch.setattr("lmvic_ns.splat.panel._in_viewer_thread", lambda: True)
    monkeypatch.setattr(panel, "_captured", lambda model, index: used.append(index) or take(model, index))
    pipeline.eval()
    for number, capture in enumerate(panel._captures):
        outputs = pipeline.model.get_outputs_for_camera(capture.camera)
        assert set(OUTPUTS) <= set(outputs)
        assert panel._target_index(pinhole(capture.camera)) == number
        assert used[-1] == panel._reference_index(number) != number


@pytest.mark.flaky(reruns=1)  # a browser on a loaded machine
def test_the_panel_in_a_browser(pipeline: Any, viewer: Any, browser: Any):
    panel = pipeline.model.correspondence
    browser.get(f"http://127.0.0.1:{viewer.viser_server.get_port()}")
    wait_for("nerfstudio's own tab", lambda: "Output type" in text(browser))
    assert "Custom Elements" not in text(browser), "an empty folder is left in nerfstudio's own tab"
    click(browser, f"//button[@role='tab'][contains(., '{TAB}')]")
    wait_for("the panel's pictures", lambda: len(pictures(browser)) == 5)
    assert TITLE in text(browser) and "match: the reference shows" in text(browser)
    assert len(text(browser).split(TITLE)[1]) < 700, "long explanations belong into hints"
    stand_at(viewer, panel._captures[1])

    before, updates = pictures(browser), panel.updates
    choose(browser, "Target", "003")
    wait_for("the callback of the menu", lambda: panel.updates > updates and "003 from" in text(browser))
    choose(browser, "Reference", "000")
    wait_for("the pair 003 from 000", lambda: "003 from 000" in text(browser))
    wait_for("other pictures", lambda: len(set(pictures(browser)) - set(before)) >= 3)

    before = panel.get_camera(60, 80)
    click(browser, "//button[contains(., 'Look from the target')]")
    place = panel._captures[3].camera.camera_to_worlds[0, :, 3].cpu()
    wait_for(
        "the client at the target", lambda: torch.allclose(panel.get_camera(60, 80).camera_to_worlds[0, :, 3], place, atol=1e-3)
    )
    assert not torch.allclose(before.camera_to_worlds[0, :, 3], place, atol=1e-3)

    own = pipeline.datamanager.train_dataset.image_filenames.index(panel._captures[3].path)
    wait_for("the target's frustum out of its own picture", lambda: not viewer.camera_handles[own].visible)
    assert sum(not handle.visible for handle in viewer.camera_handles.values()) == 1

    # training goes on: the pictures follow
    before, updates = _settled(browser, panel), panel.updates
    with torch.no_grad():
        pipeline.model.means.add_(0.05)
    panel._next_refresh = 0.0
    panel.after_step(100)
    with torch.no_grad():
        pipeline.model.means.sub_(0.05)
    assert panel.updates == updates + 1
    wait_for(
        "pictures of the moved gaussians", lambda: pictures(browser)[0] == before[0] and pictures(browser)[1:] != before[1:]
    )
    screenshot(browser, "nerfstudio-panel")


def _settled(browser: Any, panel: Any) -> list[str]:
    """The page's pictures once the panel has renewed none for a while: connecting and both menus each asked for some."""

    def unchanged() -> list[str]:
        before = panel.updates, pictures(browser)
        time.sleep(2.0)
        return before[1] if before == (panel.updates, pictures(browser)) else []

    return wait_for("a page at rest", unchanged)


@pytest.mark.flaky(reruns=1)  # a browser on a loaded machine
def test_outputs_move_with_the_camera(pipeline: Any, viewer: Any, browser: Any):
    panel = pipeline.model.correspondence
    browser.get(f"http://127.0.0.1:{viewer.viser_server.get_port()}")
    machine = wait_for("a renderer", lambda: next(iter(viewer.render_statemachines.values()), None))
    wait_for("the outputs", lambda: set(OUTPUTS) <= set(machine.output_keys))
    seen: dict[str, bytes] = {}
    hide = "//button[contains(., 'Hide Train Cams')]"
    wait_for("the panel", lambda: browser.find_elements("xpath", hide))
    browser.execute_script("document.querySelectorAll('[data-scrollarea]').forEach(e => e.scrollTop = 0)")
    click(browser, hide)
    canvas = browser.find_element("css selector", "canvas")
    stand_at(viewer, panel._captures[1])
    for name in ("disparity", "disparity_mask", "warped_reference", "warp_error", "median_depth"):
        choose(browser, "Output type", name)
        wait_for(name, lambda: viewer.control_panel.output_render == name and machine.state == "high")  # noqa: B023
        time.sleep(1.5)
        seen[name] = canvas.screenshot_as_png
        screenshot(browser, f"nerfstudio-{name}")
    assert len(set(seen.values())) == len(seen)
    choose(browser, "Output type", "disparity")
    stand_at(viewer, panel._captures[3])
    wait_for("another picture from another place", lambda: canvas.screenshot_as_png not in seen.values())
