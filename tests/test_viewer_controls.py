"""What a person does with the page of `lmvic view`, in a real browser."""

from __future__ import annotations

import math
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import click, screenshot, text, wait_for
from viewer_files import write_room

from lmvic_ns.cli.view import viser_server
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.errors import BitstreamError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.viewer.client import own_client
from lmvic_ns.viewer.page import ViewPage
from lmvic_ns.viewer.sources import open_source

VIEWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("controls"), VIEWS)


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
    wait_for("the other views", lambda: len(view.scene_3d.thumbnails) == VIEWS)
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
def test_the_page_has_the_colours_of_the_browser(page: tuple[ViewPage, str], browser, capfd):
    _, address = page
    scheme = "return document.documentElement.dataset.mantineColorScheme"
    for wanted in ("dark", "light"):
        feature = {"name": "prefers-color-scheme", "value": wanted}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(address)
        wait_for("the decoded view", lambda: stage(browser)[0])
        wait_for(f"a {wanted} page", lambda: browser.execute_script(scheme) == wanted)  # noqa: B023
        assert "Switch dark and light" not in text(browser)
    assert "Traceback" not in capfd.readouterr().err


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
    assert view.scene_3d._sparse is not None and view.scene_3d._sparse.visible and view.scene_3d._depth is None
    check(browser, "Depth of this view")
    wait_for("depth as points", lambda: view.scene_3d._depth is not None and view.scene_3d._depth.visible)
    check(browser, "Reference tree")
    wait_for("the tree", lambda: view.scene_3d._edges and view.scene_3d._edges[0].visible)
    check(browser, "Sparse points")
    wait_for("no sparse points", lambda: not view.scene_3d._sparse.visible)
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


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
def test_a_damaged_view_is_said_and_the_others_are_shown(folder: Path, browser):
    source = open_source(folder / "room.lmvic", str(folder / "w.safetensors"), "cpu")
    load = source._load

    def damaged(view: int) -> Any:
        if view == 1:
            raise BitstreamError("view 001: its checksum is wrong")
        return load(view)

    source._load = damaged  # type: ignore[method-assign]
    with own_client() as roots, viser_server("127.0.0.1", 0) as server:
        page = ViewPage(server, source, root=roots[0])
        browser.get(f"http://127.0.0.1:{server.get_port()}")
        wait_for("the first view", lambda: stage(browser)[0].endswith("/0d.jpg"))
        press(browser, "n")
        wait_for("what is wrong", lambda: "its checksum is wrong" in text(browser))
        wait_for("no picture of another view", lambda: "This view cannot be decoded" in text(browser))
        assert not browser.find_element("css selector", ".lmvic-pair").is_displayed()
        press(browser, "n")
        wait_for("the view after it", lambda: stage(browser)[0].endswith("/2d.jpg"))
        assert browser.find_element("css selector", ".lmvic-pair").is_displayed()
        wait_for("the small pictures of the others", lambda: sorted(page.scene_3d.thumbnails) == [0, 2, 3])
        page.close()


def test_a_step_to_a_decoded_view_is_fast(page: tuple[ViewPage, str]):
    """Not timed: nothing is decoded and no picture is written for it."""
    view, _ = page
    wait_for("all views", lambda: len(view.scene_3d.thumbnails) == VIEWS)
    wait_for("neighbours made ready", lambda: {3, 0, 1} <= set(view._ready))
    view.source._load = None  # type: ignore[assignment,method-assign]
    view._picture_files.add = None  # type: ignore[assignment,method-assign]
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


@pytest.mark.parametrize(("address", "found"), [("/lmvic.css", True), ("/../" * 12 + "etc/passwd", False), ("/..", False)])
def test_no_file_but_the_page_s_is_handed_out(page: tuple[ViewPage, str], address: str, found: bool):
    """viser 0.2.7 by itself hands out any file of the machine for an address with `..`, which browsers do not send."""
    with socket.create_connection(("127.0.0.1", int(page[1].rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(f"GET {address} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        answer = connection.recv(100).decode()
    assert answer.startswith("HTTP/1.1 200") is found and ("404" in answer) is not found


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
    # a field that shows this number already, since the page has not yet followed, would tell of no change
    wait_for("another number beside the slider", lambda: field.get_attribute("value") != str(value))
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
