"""The page of `lmvic view --static`: whole, small, without a network, and its controls work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import click, screenshot, text, wait_for
from viewer_files import write_room

from lmvic_ns.cli.main import run
from lmvic_ns.errors import LmvicError
from lmvic_ns.viewer import static
from lmvic_ns.viewer.sources import open_source

VIEWS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_room`; and room.html of four of its views."""
    folder = write_room(tmp_path_factory.mktemp("static"), VIEWS)
    assert make(folder, "room.html", "--scene", str(folder / "scene"), "--static-views", "4") == 0
    return folder


def make(folder: Path, page: str, *more: str, what: str = "room.lmvic") -> int:
    weights = ["--weights", str(folder / "w.safetensors")] if what.endswith(".lmvic") else []
    return run(["view", str(folder / what), "--static", str(folder / page), *weights, *more])


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found[1])


def test_the_page_is_whole_and_names_no_other_place(folder: Path):
    page = (folder / "room.html").read_text()
    assert not re.findall(r"(?i)(?:https?:)?//[a-z0-9]", re.sub(r"data:image/jpeg;base64,[^\"]*", "", strip_data(page)))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; img-src data:;") and "http" not in policy[1]
    data = data_of(folder / "room.html")
    assert len(data["views"]) == len(data["cameras"]) == VIEWS and len(data["pictures"]) == 4
    known = {view: facts["psnr"] for view, facts in enumerate(data["views"])}
    assert all(psnr is not None for psnr in known.values())
    worst = sorted(known, key=lambda view: known[view])[:2]
    assert {str(view) for view in worst} <= set(data["pictures"]), "half of the views are the worst ones"
    assert all(shown["original"] and shown["depth"] for shown in data["pictures"].values())
    assert 10 < len(data["points"]) * 3 / 4 / 6 <= 51


def strip_data(page: str) -> str:
    """The page without the data block's points, whose base64 may hold two slashes."""
    return re.sub(r'"(points|colours)":"[^"]*"', "", page)


def test_many_large_views_stay_small(monkeypatch: pytest.MonkeyPatch):
    """Noise is what JPEG likes least: the sizes are stepped down until the budget holds."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    shown = [static._View(view, noise, noise, noise[:300, :400]) for view in range(2)]
    monkeypatch.setattr(static, "_PAGE_BYTES", 800_000)
    found = static._pictures(shown)
    large = [url for row in found.values() for url in (row["decoded"], row["original"]) if url]
    assert len(large) == 4 and 400_000 < sum(len(url) for row in found.values() for url in row.values() if url) < 801_000
    assert max(map(len, large)) == min(map(len, large)), "original and decoded are reduced alike"


def test_names_are_text(folder: Path):
    """A file is a stranger's: neither its name nor its views' names become elements or programs."""
    source = open_source(folder / "room.lmvic", str(folder / "w.safetensors"), "cpu")
    source.title = "</title><script>alert(1)</script>"
    source.names = ['"><img src=x onerror=alert(1)>', "</script><script>alert(2)</script>", *source.names[2:]]
    shown = [static._load(source, view, static.PageContent(0)) for view in (0, 1)]
    page = static.static_page(source, [view for view in shown if view is not None])
    assert page.count("<script") == page.count("</script>") == 2 and "<img src=x" not in page
    assert json.loads(page.split('id="data">')[1].split("</script>")[0])["views"][1]["name"] == source.names[1]
    source.close()


def test_a_scene_and_a_file_without_originals_have_pages_too(folder: Path):
    assert make(folder, "scene.html", what="scene") == 0
    data = data_of(folder / "scene.html")
    assert len(data["pictures"]) == VIEWS and data["views"][0]["bits"] is None
    assert make(folder, "alone.html", "--static-views", "2") == 0
    data = data_of(folder / "alone.html")
    assert set(data["pictures"]) == {"0", str(VIEWS - 1)} and data["pictures"]["0"]["original"] is None
    assert "Next worst" not in (folder / "alone.html").read_text()


def test_what_cannot_be_written_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(LmvicError, match="--overwrite"):
        make(folder, "room.html")
    (tmp_path / "mine.html").write_text("<p>mine")
    with pytest.raises(LmvicError, match="will not replace"):
        run(["view", str(folder / "room.lmvic"), "--static", str(tmp_path / "mine.html"), "--overwrite"])
    for count in ("0", "201"):
        with pytest.raises(LmvicError, match="--static-views"):
            make(folder, "none.html", "--static-views", count)
    command = [sys.executable, "-m", "lmvic_ns.cli.main", "view", str(folder / "room.lmvic"), "--static"]
    ended = subprocess.run([*command, str(tmp_path / "new/deep/a.html")], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "untrained" in ended.stderr and ended.stdout == ""
    assert not (tmp_path / "new").exists(), "a failing command leaves no empty folder"
    assert make(folder, "room.html", "--scene", str(folder / "scene"), "--static-views", "4", "--overwrite") == 0


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # a browser on a loaded machine
def test_the_page_in_a_browser_without_a_network(folder: Path, browser):
    browser.execute_cdp_cmd("Network.enable", {})
    no_network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", no_network)
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    browser.get((folder / "room.html").as_uri())
    data = data_of(folder / "room.html")
    shown = sorted(map(int, data["pictures"]))
    worst = sorted(shown, key=lambda view: data["views"][view]["psnr"])

    def named(view: int) -> bool:
        return browser.find_element("id", "name").text == data["views"][view]["name"]

    wait_for("the first view", lambda: named(shown[0]))
    assert f"view {shown[0] + 1} of {VIEWS}" in text(browser) and "this page shows 4 of the views" in text(browser)
    sizes = "return [...document.images].map(i => i.naturalWidth)"
    wait_for("all pictures", lambda: min(browser.execute_script(sizes)) > 20)
    assert painted(browser) > 300, "cameras and points are drawn"
    screenshot(browser, "lmvic-view-static")

    click(browser, "//button[.='Next']")
    wait_for("the next view", lambda: named(shown[1]))
    key(browser, "ArrowLeft")
    wait_for("the previous view by key", lambda: named(shown[0]))
    click(browser, "//button[.='Previous']")
    wait_for("the last view", lambda: named(shown[-1]))
    key(browser, "x")
    wait_for("the worst view", lambda: named(worst[0]))
    click(browser, "//button[.='Next worst']")
    wait_for("the next worst view", lambda: named(worst[1]))

    cut = "return getComputedStyle(document.getElementById('compare')).getPropertyValue('--cut')"
    assert browser.execute_script(cut) == "50%"
    click(browser, "//button[.='Original']")
    wait_for("the original alone", lambda: browser.execute_script(cut) == "100%")
    key(browser, "o")
    wait_for("the decoded view alone", lambda: browser.execute_script(cut) == "0%")
    slide = "const c = document.getElementById('cut'); c.value = 30; c.dispatchEvent(new Event('input'))"
    browser.execute_script(slide)
    wait_for("the slider", lambda: browser.execute_script(cut) == "30%")

    click(browser, "//button[.='Depth']")
    source = "return document.getElementById('before').src"
    wait_for("the depth", lambda: browser.execute_script(source) == data["pictures"][str(worst[1])]["depth"])
    assert "red is near" in text(browser)
    key(browser, "d")
    wait_for("no depth", lambda: browser.execute_script(source) == data["pictures"][str(worst[1])]["original"])

    key(browser, "/")
    wait_for("the search has the focus", lambda: browser.switch_to.active_element.get_attribute("id") == "find")
    name = data["views"][shown[2]]["name"]
    browser.switch_to.active_element.send_keys(name)
    wait_for("one view is left", lambda: "1 of 4" in text(browser))
    browser.switch_to.active_element.send_keys("\n")
    wait_for("the view that was looked for", lambda: named(shown[2]))

    before = canvas(browser)
    drag(browser)
    wait_for("the cameras from another side", lambda: canvas(browser) != before)
    other = click_camera(browser, shown, shown[2])
    wait_for("the clicked camera's view", lambda: named(other))
    logs = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert logs == []


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_in_light_and_dark(folder: Path, browser, scheme: str):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=400, height=900, deviceScaleFactor=1, mobile=False)
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((folder / "room.html").as_uri())
    wait_for("the page", lambda: "view 1 of" in text(browser))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    ratio = "const i = document.getElementById('before').getBoundingClientRect(); return i.width / i.height"
    assert abs(browser.execute_script(ratio) - 96 / 72) < 0.02
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    screenshot(browser, f"lmvic-view-static-{scheme}")


def key(browser, name: str) -> None:
    event = "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true})"
    browser.execute_script(f"document.activeElement.blur(); document.body.dispatchEvent({event})", name)


def canvas(browser) -> str:
    return browser.execute_script("return document.getElementById('space').toDataURL()")


def painted(browser) -> int:
    """Pixels of the canvas that are not empty."""
    script = (
        "const c = document.getElementById('space'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
    )
    return browser.execute_script(script)


def drag(browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    space = browser.find_element("id", "space")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", space)
    ActionChains(browser, duration=50).move_to_element(space).click_and_hold().move_by_offset(60, 20).release().perform()


def click_camera(browser, shown: list[int], but: int) -> int:
    """Click about the canvas until a camera was hit; the number of its view."""
    from selenium.webdriver.common.action_chains import ActionChains

    space = browser.find_element("id", "space")
    current = "return Number(document.querySelector('#thumbs [aria-current=true]').dataset.view)"
    width, height = space.size["width"], space.size["height"]
    for y in range(-height // 2 + 20, height // 2 - 20, 30):
        for x in range(-width // 4, width // 4, 30):
            ActionChains(browser, duration=1).move_to_element_with_offset(space, x, y).click().perform()
            found = browser.execute_script(current)
            if found != but:
                assert found in shown
                return found
    pytest.fail("no camera was hit")
