from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import pictures, screenshot, start_browser, text, wait_for

from lmvic_ns.cli.view import free_port, not_of_closed_connections, viser_server
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import PictureWithDepth, correspond, depth_points, masked_psnr
from lmvic_ns.errors import LmvicError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.viewer.layout import Layout, frustum_scale, tree_colours
from lmvic_ns.viewer.page import ViewPage
from lmvic_ns.viewer.sources import FileSource, SceneSource, open_source


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from start_browser()


VIEWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scene/ (a little room), room.lmvic, and the untrained weights that made it."""
    folder = tmp_path_factory.mktemp("view")
    write_demo_scene(folder / "scene", DemoSceneConfig(views=VIEWS, width=96, height=72, supersample=1, seed_points=50))
    save_weights(build_model("tiny"), folder / "w.safetensors", {"name": "untrained", "preset": "tiny"})
    scene = MultiViewScene.from_dataset(folder / "scene")
    load_codec(folder / "w.safetensors").encode(scene, folder / "room.lmvic")
    return folder


def test_a_file_shows_what_it_holds(folder: Path):
    source = FileSource(folder / "room.lmvic", str(folder / "w.safetensors"))
    assert source.trouble is None and source.names == ["000", "001", "002", "003"]
    assert sum(parent < 0 for parent in source.tree.parent) == 1
    child = next(view for view in source.tree.order if source.tree.parent[view] >= 0)
    view, reference = source.load(child, source.tree.parent[child])
    scene = MultiViewScene.from_dataset(folder / "scene")
    assert masked_psnr(view.image, scene.image(child), torch.ones(72, 96, dtype=torch.bool)) > 20
    pair = correspond(view, reference)
    assert pair is not None and 0.3 < pair.overlap <= 1 and pair.psnr > 15
    assert pair.unmoved < pair.psnr and f"{pair.verdict} match" in pair.describe()
    # the same view and a reference of half the size: the picture shrinks, the motion stays
    half = PictureWithDepth(reference.image[:, ::2, ::2], reference.inverse_depth, reference.camera.resize(36, 48))
    small = correspond(view, half)
    assert small is not None
    assert math.isnan(small.unmoved)
    both = pair.mask & small.mask
    assert float((small.disparity - pair.disparity)[both].abs().median()) < 0.1
    assert dict(source.stream()).keys() == set(range(VIEWS))
    source.close()


def test_depth_becomes_points_where_the_room_is(folder: Path):
    """Every view's points lie on the same surfaces: each is near the point that another view's depth gives there."""
    source = SceneSource(folder / "scene")
    first, second = source.load(0, 1)
    points, rgb = depth_points(first, most=500)
    assert 200 < len(points) <= 500 and rgb.shape == points.shape
    seen = points.double() @ second.camera.world_to_camera[0, :3, :3].T + second.camera.world_to_camera[0, :3, 3]
    pixels = seen @ second.camera.intrinsics[0].T
    x, y = (pixels[:, 0] / pixels[:, 2]).long(), (pixels[:, 1] / pixels[:, 2]).long()
    inside = (x >= 0) & (x < 96) & (y >= 0) & (y < 72) & (seen[:, 2] > 0)
    assert second.inverse_depth is not None and inside.sum() > 100
    ratio = second.inverse_depth[y[inside], x[inside]] * seen[inside, 2]
    assert float((ratio - 1).abs().median()) < 0.02
    assert np.linalg.norm(Layout.around(source.cameras).place(points).mean(0)) < 20


def test_without_the_weights_cameras_and_sizes_remain(folder: Path):
    source = FileSource(folder / "room.lmvic")
    assert source.trouble is not None and "untrained" in source.trouble
    assert all(size is not None and size.total > 0 for size in source.sizes)
    with pytest.raises(LmvicError, match="weights"):
        source.load(0)
    assert list(source.stream()) == []


def test_names_are_shown_and_not_run():
    """viser's markdown runs what stands in braces: a name from a stranger's file must not."""
    assert literal("a_b {fetch('x')}\n<img>") == r"a\_b \{fetch\('x'\)\} \<img\>"


def test_paths_and_ports_that_cannot_be(folder: Path):
    with pytest.raises(LmvicError, match="does not exist"):
        open_source(folder / "nothing.lmvic", None, "cpu")
    with pytest.raises(LmvicError, match="cannot listen"):
        free_port("192.0.2.1", 8080)
    with pytest.raises(LmvicError, match="--port"):
        free_port("127.0.0.1", 70000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port("127.0.0.1", taken.getsockname()[1]) > taken.getsockname()[1]


def test_tree_colours_go_from_blue_to_red():
    colours = tree_colours((0, 1, 2, 3)).astype(int)
    assert colours[0, 2] > colours[0, 0] and colours[3, 0] > colours[3, 2]
    assert len({tuple(colour) for colour in colours}) == 4


@pytest.mark.parametrize("slope", [0.15, 0.5, 1.2])
def test_frustums_are_as_long_under_every_lens(slope: float):
    """viser 0.2.7 divides a frustum's sides, its length of 1 among them, by the cube root of its volume."""
    aspect = 1.5
    volume = slope * (slope * aspect) * 1.0 / 3
    assert math.isclose(frustum_scale(0.4, slope, aspect) / volume ** (1 / 3), 0.4)


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # a browser on a loaded machine
def test_the_page_in_a_browser(folder: Path, browser):
    source = FileSource(folder / "room.lmvic", str(folder / "w.safetensors"))
    order, parent = source.tree.order, source.tree.parent
    with viser_server("127.0.0.1", 0) as server:
        page = ViewPage(server, source)
        browser.get(f"http://127.0.0.1:{server.get_port()}")
        wait_for("the chart of bits", lambda: "Size of each view in the file" in text(browser))
        wait_for("five pictures", lambda: len(pictures(browser)) == 5)
        wait_for("thumbnails of all views", lambda: len(page._thumbnails) == VIEWS)
        assert f"{VIEWS} views" in text(browser) and f"refers to {source.names[parent[order[1]]]}" in text(browser)
        before, updates = pictures(browser), page.updates

        _type_into_slider(browser, VIEWS - 1)
        wait_for("the callback of the slider", lambda: page.updates > updates and page.shown == order[-1])
        wait_for("other pictures", lambda: len(pictures(browser)) == 5 and not set(before) & set(pictures(browser)))
        assert f"coded as number {VIEWS - 1} of {VIEWS}" in text(browser)
        assert re.search(r"image [\d,]+ bits, depth [\d,]+ bits", text(browser))
        screenshot(browser, "lmvic-view-last")

        _type_into_slider(browser, 0)
        wait_for("a root has no prediction", lambda: page.shown == order[0] and len(pictures(browser)) == 2)
        assert "coded alone" in text(browser)

        _click_camera(browser, page)
        assert len(pictures(browser)) >= 2
        screenshot(browser, "lmvic-view-clicked")
        page.close()


def _type_into_slider(browser, value: int) -> None:
    """The number beside the slider, by keyboard, as a person would."""
    from selenium.webdriver.common.keys import Keys

    field = browser.find_element(
        "css selector", "input.mantine-NumberInput-input, input[inputmode=decimal], input[inputmode=numeric]"
    )
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(value), Keys.ENTER)


def _click_camera(browser, page: ViewPage) -> None:
    """Click about the canvas, from its middle outwards, until a camera that was not on show was hit."""
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = browser.find_element("css selector", "canvas")
    shown = page.shown
    for step in range(60):
        angle, radius = 2.4 * step, 14.0 * math.sqrt(step)
        move = ActionChains(browser, duration=50).move_to_element_with_offset(
            canvas, int(radius * math.cos(angle)), int(40 + radius * math.sin(angle))
        )
        move.pause(0.15).click().pause(0.15).perform()
        if page.shown != shown:
            wait_for("the clicked view", lambda: page.slider.value == page.source.tree.order.index(page.shown), 20)
            return
    pytest.fail("60 clicks about the middle hit no camera")


@pytest.mark.parametrize(("file", "kept"), [("/lib/websockets/legacy/protocol.py", False), ("/lib/viser/server.py", True)])
def test_stopping_beside_a_connection_logs_nothing(file: str, kept: bool):
    try:
        exec(compile("raise AttributeError('transfer_data_task')", file, "exec"))
    except AttributeError:
        error = sys.exc_info()
    record = logging.LogRecord("asyncio", logging.ERROR, file, 1, "Task exception was never retrieved", None, error)
    assert not_of_closed_connections(record) is kept
    assert not_of_closed_connections(logging.LogRecord("asyncio", logging.ERROR, file, 1, "no exception", None, None))


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_and_ends_on_a_signal(folder: Path, sign: signal.Signals):
    what = "room.lmvic" if sign == signal.SIGINT else "scene"
    command = [sys.executable, "-m", "lmvic_ns.cli.main", "view", str(folder / what), "--no-thumbnails"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", lines[-1])[1])  # type: ignore[index]
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    process.send_signal(sign)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest and rest.rstrip().endswith("closed")
    if what == "room.lmvic":
        assert any("Pictures need the weights" in line for line in lines)


def test_a_scene_shows_the_tree_that_encode_takes_or_says_that_it_does_not(folder: Path, tmp_path: Path):
    from lmvic_ns.workflows.encoding import build_tree
    from lmvic_ns.workflows.options import CodingOptions
    from lmvic_ns.workflows.sources import dataset_scene

    source = SceneSource(folder / "scene")
    taken = build_tree(dataset_scene(folder / "scene", "auto"), CodingOptions())
    assert source.tree.parent == taken.parent and source.note == ""
    copy = shutil.copytree(folder / "scene", tmp_path / "scene")
    meta = json.loads((copy / "transforms.json").read_text())
    for frame in meta["frames"]:
        del frame["depth_file_path"]
    (copy / "transforms.json").write_text(json.dumps(meta))
    source = SceneSource(copy)
    assert "--stereo" in source.note and set(source.tree.parent) == {-1}
    source = SceneSource(copy, stereo=True)
    taken = build_tree(dataset_scene(copy, "auto"), CodingOptions())
    assert source.note == "" and source.tree.parent == taken.parent and set(taken.parent) != {-1}


def test_the_page_tells_the_size_that_lies_on_the_disk(folder: Path):
    source = FileSource(folder / "room.lmvic")
    assert source.file_bytes == (folder / "room.lmvic").stat().st_size and source.points_bytes == 0
    source.close()
