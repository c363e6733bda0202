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
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import click, screenshot, start_browser, text, wait_for

from lmvic_ns.cli.view import free_port, not_of_closed_connections, viser_server
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import PictureWithDepth, correspond, depth_points, masked_psnr
from lmvic_ns.errors import LmvicError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.sections import point_sections
from lmvic_ns.viewer.client import own_client
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
    points = point_sections(scene, "compact")
    load_codec(folder / "w.safetensors").encode(scene, folder / "room.lmvic", sections=points)
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
    assert not source.kept(source.tree.order[0]) or source.tree.parent[child] == source.tree.order[0]
    assert [source.prepare(view).image.shape for view in range(VIEWS)] == [(3, 72, 96)] * VIEWS
    assert all(map(source.kept, range(VIEWS)))
    assert len({tuple(colour) for colour in source.points()[1]}) > 5, "points have the pictures' colours"
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


@pytest.fixture
def page(folder: Path) -> Iterator[tuple[ViewPage, str]]:
    """The page of the file with its originals, and its address."""
    source = open_source(folder / "room.lmvic", str(folder / "w.safetensors"), "cpu", scene=folder / "scene")
    with own_client() as roots, viser_server("127.0.0.1", 0) as server:
        page = ViewPage(server, source, root=roots[0])
        yield page, f"http://127.0.0.1:{server.get_port()}"
        page.close()


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # a browser on a loaded machine
def test_the_photograph_comes_first_and_is_compared(page: tuple[ViewPage, str], browser):
    view, address = page
    browser.execute_cdp_cmd("Network.enable", {})
    browser.get(address)
    wait_for("the decoded view, large", lambda: stage(browser)[0].endswith("/pictures/0d.jpg"))
    assert stage(browser)[1].endswith("/pictures/0o.jpg")
    words = text(browser)
    assert "000, view 1 of 4" in words and "bits a pixel" in words and " dB" in words
    assert f"{VIEWS} views" in words and not re.search(r"\d bits[,;]|number 0|[\d.]+ kB of each", words)
    assert "How it was coded" in words and "Prediction" not in words, "the codec's pictures come on request"
    wait_for("the other views", lambda: len(view.space.thumbnails) == VIEWS)
    wait_for("a place among the worst", lambda: re.search(r"worst of 4 views(?! compared so far)", text(browser)))
    screenshot(browser, "lmvic-view")

    # the slider, with the mouse and as a button
    assert hidden_share(browser) == 50
    slide_stage(browser, 0.8)
    wait_for("more of the original", lambda: 15 < hidden_share(browser) < 25)
    click(browser, "//section//button[.='Original']")
    wait_for("all of the original", lambda: hidden_share(browser) == 0)

    # from view to view: buttons, keys, list, slider
    click(browser, "//button[.='Next']")
    wait_for("the next view", lambda: view.shown == 1 and stage(browser)[0].endswith("/1d.jpg"))
    press(browser, "n")
    wait_for("the next view by key", lambda: view.shown == 2 and stage(browser)[0].endswith("/2d.jpg"))
    press(browser, "p")
    wait_for("the previous view by key", lambda: view.shown == 1)
    assert view.source.originals is not None
    worst = view.source.originals.worst()
    press(browser, "x")
    wait_for("the worst view", lambda: view.shown == worst[0] and "the worst of 4 views" in text(browser))
    click(browser, "//button[.='Next worst']")
    wait_for("the next worst view", lambda: view.shown == worst[1] and "2nd worst of 4 views" in text(browser))
    press(browser, "/")
    find_view(browser, "003")
    wait_for("the view that was looked for", lambda: view.shown == 3)
    _type_into_slider(browser, 1)
    wait_for("the slider's view", lambda: view.shown == 0 and stage(browser)[0].endswith("/0d.jpg"))

    foreign = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))"
    assert [name for name in browser.execute_script(foreign) if name.startswith("http")] == []
    violation = "document.head.append(Object.assign(document.createElement('script'), {src: arguments[0]}))"
    browser.execute_script(violation, "http://127.0.0.2:9/tag.js")
    logs = wait_for("the refusal", lambda: [entry["message"] for entry in browser.get_log("browser")])
    assert any("Content Security Policy" in message for message in logs)


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
def test_cameras_and_coding_on_request(page: tuple[ViewPage, str], browser):
    view, address = page
    order, parent = view.source.tree.order, view.source.tree.parent
    browser.get(address)
    wait_for("the decoded view", lambda: stage(browser)[0])
    child = next(number for number in order if parent[number] >= 0)
    view.go(child)
    check(browser, "How it was coded")
    wait_for("prediction, error, disparity and depth", lambda: len(panel_pictures(browser)) == 4)
    wait_for("the chart", lambda: "Bits a pixel of each view" in text(browser))
    assert f"predicted from {view.source.names[parent[child]]}" in text(browser)
    assert re.search(r"picture [\d.]+, depth [\d.]+ bits a pixel", text(browser))
    screenshot(browser, "lmvic-view-coding")
    view.go(order[0])
    wait_for("a root has no prediction", lambda: "coded alone" in text(browser) and len(panel_pictures(browser)) <= 1)
    check(browser, "How it was coded")
    wait_for("no codec again", lambda: not panel_pictures(browser))

    press(browser, "c")
    wait_for("the cameras", lambda: not stage_is_shown(browser))
    wait_for("the picture in the panel", lambda: len(panel_pictures(browser)) == 2)
    assert view.space._sparse is not None and view.space._sparse.visible and view.space._depth is None
    check(browser, "Depth of this view")
    wait_for("depth as points", lambda: view.space._depth is not None and view.space._depth.visible)
    check(browser, "Reference tree")
    wait_for("the tree", lambda: view.space._edges and view.space._edges[0].visible)
    check(browser, "Sparse points")
    wait_for("no sparse points", lambda: not view.space._sparse.visible)
    screenshot(browser, "lmvic-view-cameras")
    _click_camera(browser, view)
    click(browser, "//button[.='Show the photograph']")
    wait_for("the photograph", lambda: stage_is_shown(browser))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=400, height=800, deviceScaleFactor=1, mobile=False)
    )
    browser.get(address)
    wait_for("the photograph in a narrow window", lambda: stage_is_shown(browser) and stage(browser)[0])
    inside = "return document.querySelector('.lmvic-pair').getBoundingClientRect().bottom"
    wait_for("above the panel", lambda: 50 < browser.execute_script(inside) < 400)
    screenshot(browser, "lmvic-view-narrow")


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
def test_empty_states_in_a_browser(folder: Path, tmp_path: Path, browser):
    """A file without depth and points, and no originals: nothing is promised that is not there."""
    scene = MultiViewScene.from_dataset(folder / "scene", depth=False)
    plain = MultiViewScene(scene.names, scene.cameras, scene.image)
    load_codec(folder / "w.safetensors").encode(plain, tmp_path / "plain.lmvic")
    source = open_source(tmp_path / "plain.lmvic", str(folder / "w.safetensors"), "cpu")
    assert not source.has_depth
    with own_client() as roots, viser_server("127.0.0.1", 0) as server:
        page = ViewPage(server, source, root=roots[0])
        browser.get(f"http://127.0.0.1:{server.get_port()}")
        wait_for("the decoded view", lambda: stage(browser)[0].endswith("/0d.jpg"))
        words = text(browser)
        assert "This file has no sparse points and no depth" in words and "--scene FOLDER" in words
        assert "worst" not in words and stage(browser)[1] == ""
        assert page._show_depth.disabled and page._show_points.disabled
        check(browser, "How it was coded")
        wait_for("no depth is said", lambda: "the file holds no depth of this view" in text(browser))
        screenshot(browser, "lmvic-view-empty")
        page.close()


def test_a_step_to_a_decoded_view_is_fast(page: tuple[ViewPage, str]):
    """Not timed: nothing is decoded and no picture is written for it."""
    view, _ = page
    wait_for("all views", lambda: len(view.space.thumbnails) == VIEWS)
    wait_for("neighbours made ready", lambda: {3, 0, 1} <= set(view._ready))
    view.source._load = None  # type: ignore[assignment,method-assign]
    view._shelf.add = None  # type: ignore[assignment,method-assign]
    view.step("Next")
    assert view.shown == 1 and "0003" not in view._facts.content and "001" in view._facts.content


def test_viser_asks_no_tag_manager_through_our_server(page: tuple[ViewPage, str]):
    import viser

    _, address = page
    theirs = (Path(viser.__file__).parent / "client" / "build" / "index.html").read_text()
    assert "googletagmanager" in theirs, "viser stopped it: client.py may go"
    with urllib.request.urlopen(address) as answer:
        ours = answer.read().decode()
    assert "googletagmanager" not in ours and not re.findall(r"https?://", ours)
    assert "Content-Security-Policy" in ours and re.search(r'<script type="module"[^>]* src="/assets/', ours)


def test_originals_must_be_of_the_file(folder: Path, tmp_path: Path):
    file, weights = folder / "room.lmvic", str(folder / "w.safetensors")
    with pytest.raises(LmvicError, match="does not exist"):
        open_source(file, weights, "cpu", scene=tmp_path / "nothing")
    with pytest.raises(LmvicError, match="--scene goes with"):
        open_source(folder / "scene", weights, "cpu", scene=folder / "scene")
    copy = shutil.copytree(folder / "scene", tmp_path / "other")
    meta = json.loads((copy / "transforms.json").read_text())
    for frame in meta["frames"]:
        picture = Path(frame["file_path"])
        (copy / picture).rename(copy / picture.with_name(f"x{picture.name}"))
        frame["file_path"] = str(picture.with_name(f"x{picture.name}"))
    (copy / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(LmvicError, match="no view of the names"):
        open_source(file, weights, "cpu", scene=copy)


def stage(browser) -> list[str]:
    """Addresses of the decoded view and of the original that are shown large; empty for none."""
    script = "return ['img:not(.before)', 'img.before'].map(s => document.querySelector('.lmvic-pair ' + s)).map(i => "
    return browser.execute_script(script + "i && !i.hidden && i.naturalWidth > 20 ? i.src : '')")


def stage_is_shown(browser) -> bool:
    return browser.execute_script("const s = document.querySelector('.lmvic-stage'); return !!s && !s.hidden")


def hidden_share(browser) -> float:
    """Percent of the large picture in which the original is cut away."""
    script = "return getComputedStyle(document.querySelector('.lmvic-pair .before')).clipPath"
    found = re.match(r"inset\(0px(?: ([\d.]+)%)?", browser.execute_script(script))
    assert found is not None
    return float(found[1] or 0)


def panel_pictures(browser) -> list[str]:
    """Addresses of the pictures in viser's panel."""
    script = "return [...document.querySelectorAll('#root img')].filter(i => i.offsetWidth > 20).map(i => i.src)"
    return browser.execute_script(script)


def press(browser, key: str) -> None:
    """A key that is pressed on the page itself."""
    event = "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true})"
    browser.execute_script(f"document.activeElement.blur(); document.body.dispatchEvent({event})", key)


def check(browser, label: str) -> None:
    """Click the box beside a label."""
    script = (
        "const l = [...document.querySelectorAll('label')].find(l => l.textContent.trim() === arguments[0]);"
        "l && document.getElementById(l.htmlFor).click(); return !!l"
    )
    wait_for(f"the box {label}", lambda: browser.execute_script(script, label))


def slide_stage(browser, share: float) -> None:
    """Drag the line between original and decoded to a share of the width."""
    from selenium.webdriver.common.action_chains import ActionChains

    pair = browser.find_element("css selector", ".lmvic-pair")
    width = pair.size["width"]
    drag = ActionChains(browser, duration=50).move_to_element(pair).click_and_hold()
    drag.move_to_element_with_offset(pair, int((share - 0.5) * width), 0).release().perform()


def find_view(browser, name: str) -> None:
    """Type into the list of views, which has the focus."""
    from selenium.webdriver.common.keys import Keys

    field = wait_for("the list has the focus", lambda: browser.switch_to.active_element)
    assert field.tag_name == "input"
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(name)
    click(browser, f"//*[@role='option'][normalize-space()='{name}']")


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

    canvas = browser.find_elements("css selector", "canvas")[-1]
    shown = page.shown
    for step in range(60):
        angle, radius = 2.4 * step, 14.0 * math.sqrt(step)
        move = ActionChains(browser, duration=50).move_to_element_with_offset(
            canvas, int(radius * math.cos(angle)), int(40 + radius * math.sin(angle))
        )
        move.pause(0.15).click().pause(0.15).perform()
        if page.shown != shown:
            wait_for("the clicked view", lambda: page.slider.value == page.shown + 1, 20)
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
    assert source.file_bytes == (folder / "room.lmvic").stat().st_size > source.points_bytes > 0
    positions, colours = source.points()
    assert 10 < len(positions) <= 50 and set(colours.ravel()) == {150}, "grey before any view is decoded"
    source.close()
