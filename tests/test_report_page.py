"""report.html: what a lead reads, loads nothing, stays small, and works in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import screenshot, start_browser
from export_scenes import lmvic

from lmvic_ns.codec.records import DecodedView, EncodedView
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.report.details import CROP_SIDE, error_colours, view_details, worst_place
from lmvic_ns.report.page import histogram
from lmvic_ns.report.report import ReportCollector
from lmvic_ns.report.still_formats import as_good, available, coded
from lmvic_ns.scene import MultiViewScene


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(room: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the room with two views in detail."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        command = ("encode", room, folder / "room.lmvic", "--weights", weights, "--device", "cpu", "--quality", 20)
        assert lmvic(patch, *command, "--report", folder / "report", "--report-pictures", 2) == 0
    return folder / "report"


def test_the_page_answers_a_lead_and_loads_nothing(report: Path) -> None:
    data = json.loads((report / "report.json").read_text())
    page = Page((report / "report.html").read_text())
    worst = sorted(data["views"], key=lambda view: view["psnr"])
    lead = page.words[page.words.index("kB") - 12 :][:400]
    assert "times smaller than the captured files" in lead and worst[0]["name"] in lead and "Made in" in lead
    assert all(image.get("alt") and str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert not page.all("link") and all("src" not in script for script in page.all("script"))
    ranges = [field for field in page.all("input") if field["type"] == "range"]
    assert len(ranges) == 2 and [worst[i]["name"] in str(ranges[i]["aria-label"]) for i in (0, 1)] == [True, True]
    assert len(page.all("tbody")) >= 4 and data["version"] and data["format"] == "1.0"
    other = data["other_formats"]
    assert other["measured_views"] == 4 and "measured on all 4 views" in page.words
    assert all(found["bytes"] > 0 for name, found in other.items() if name != "measured_views")


def test_it_works_in_a_browser(report: Path) -> None:
    for browser in start_browser(1000, 900):
        browser.get((report / "report.html").as_uri())
        names = browser.execute_script("return [...document.querySelectorAll('#views tbody tr')].map(r => r.dataset.name)")
        psnr = "return [...document.querySelectorAll('#views tbody tr td:nth-child(3)')].map(c => Number(c.dataset.value))"
        assert browser.execute_script(psnr) == sorted(browser.execute_script(psnr))  # the worst first
        for clicks, rising in ((1, True), (2, False)):
            browser.execute_script("document.querySelectorAll('#views th button')[4].click()")
            sizes = browser.execute_script(
                "return [...document.querySelectorAll('#views tbody tr td:nth-child(6)')].map(c => Number(c.dataset.value))"
            )
            assert sizes == sorted(sizes, reverse=not rising), clicks
        browser.execute_script(
            "const f = document.getElementById('filter'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))", names[0]
        )
        rows = "return [...document.querySelectorAll('#views tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
        assert browser.execute_script(rows) == [names[0]]
        assert browser.execute_script("return document.getElementById('shown').textContent") == "1 of 4"
        browser.execute_script(
            "const r = document.querySelector('.card input'); r.value = 20; r.dispatchEvent(new Event('input'))"
        )
        cut = browser.execute_script("return getComputedStyle(document.querySelector('.compare')).getPropertyValue('--cut')")
        assert cut == "20%"
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        for width in (1600, 900, 400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert browser.execute_script(overflow) <= 0, width
        screenshot(browser, "report")


def decoded(names: list[str], seed: int = 0) -> Iterator[tuple[MultiViewScene, list[DecodedView]]]:
    random = np.random.default_rng(seed)
    count, height, width = len(names), 40, 56
    cameras = Cameras(
        torch.tensor([[50.0, 0, 28], [0, 50, 20], [0, 0, 1]], dtype=torch.float64).expand(count, 3, 3).clone(),
        torch.eye(4, dtype=torch.float64).expand(count, 4, 4).clone(),
        torch.full((count,), height),
        torch.full((count,), width),
    )
    image = torch.from_numpy(random.random((3, height, width)).astype(np.float32))
    scene = MultiViewScene(names, cameras, lambda i: (image * 255).round() / 255)
    noise = [0.02 + 0.1 * ((i * 7) % count) / count for i in range(count)]
    views = [
        DecodedView(i, name, (scene.image(i) + noise[i] * (image - 0.5)).clamp(0, 1), None, cameras[i])
        for i, name in enumerate(names)
    ]
    yield scene, views


def test_many_views_and_hostile_names_stay_small_and_harmless(tmp_path: Path) -> None:
    from lmvic_ns.report.page import report_page
    from lmvic_ns.report.results import EncodedFile
    from lmvic_ns.tree.ordering import independent_views

    names = [f"view {i} & 'it' &lt;script&gt;" for i in range(300)]
    for scene, views in decoded(names):
        collector = ReportCollector(scene, [-1] * 300, list(range(300)))
        for view in views:
            collector.add(view)
        assert [shown.psnr for shown in collector.worst] == sorted(collector.psnr.values())[:6]
        records = [EncodedView(i, name, -1, 0, 1000, collector.psnr[i]) for i, name in enumerate(names)]
        (tmp_path / "a.lmvic").write_bytes(bytes(300_000))
        encoded = EncodedFile(tmp_path / "a.lmvic", records, independent_views(300), 32, 0, 300 * 40 * 56)
        rows = [
            {"name": n, "parent": None, "quality": 32.0, "depth_bytes": 0, "image_bytes": 1000, "bits_per_pixel": 3.0,
             "psnr": collector.psnr[i], "ms_ssim": None} for i, n in enumerate(names)
        ]  # fmt: skip
        data: dict[str, Any] = {
            "file": "a<b>.lmvic", "views": rows, "psnr": 30.0, "ms_ssim": None, "pixels": 300 * 40 * 56, "downscale": 2,
            "bytes": {"image": 300_000, "depth": 0, "points": 0, "sections": 0, "container": 0, "total": 300_000},
            "captured_files": {"bytes": 900_000, "count": 300}, "remarks": ["<i>"], "bits_per_pixel_with_points": 3.0,
            "other_formats": collector.formats.as_dict(), "quality": 32, "date": "2026-01-01T00:00:00+00:00",
            "weights": {"name": "w", "hash": "0" * 32}, "version": "0", "format": "6.0", "search": [],
            "seconds": {"encode": 61.0},
        }  # fmt: skip
        text = report_page(encoded, collector, data)
        assert names[0] not in text  # escaped
        assert len(text) < 15e6 and "<b>.lmvic" not in text and "<i>." not in text
        page = Page(text)
        assert len(page.all("script")) == 1 and len([t for t in page.all("tr") if "data-name" in t]) == 300
        assert "measured on 8 of the 300 views" in page.words
        assert "1/2 of their width" in page.words and "1 min 1 s" in page.words


def test_the_worst_place_is_found() -> None:
    error = np.ones((400, 500), np.float32)
    error[200:210, 300:310] = 50
    left, top, width, height = worst_place(error)
    assert (width, height) == (CROP_SIDE, CROP_SIDE) and left <= 300 <= 310 <= left + width and top <= 200 <= top + height
    assert worst_place(np.zeros((3, 500)))[2:] == (CROP_SIDE, 3)
    colours = error_colours(np.array([[0.0, 24.0, 1000.0]]))
    assert colours[0, 0].sum() < 10 and colours[0, 1].min() > 150 and (colours[0, 1] == colours[0, 2]).all()
    shown = view_details(3, 20.0, np.zeros((1, 1, 3), np.uint8), np.ones((1, 1, 3), np.uint8))
    assert shown.size == (1, 1) and shown.before.startswith("data:image/jpeg")


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_other_formats_meet_the_quality(name: str) -> None:
    if not available(name):
        pytest.skip(f"this Pillow writes no {name}")
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8).repeat(3, axis=2)
    pixels = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    size, quality = as_good(name, pixels, 28.0)
    assert quality >= 28.0 and size <= coded(name, pixels, 95)[0]


def test_histograms() -> None:
    assert "Every picture is exact" in histogram([99.0, 99.0])
    assert histogram([30.0]).count("<rect") == 1 and "1 exact" in histogram([30.2, 99.0])
    assert histogram(list(np.linspace(10, 90, 50))).count("<rect") <= 25
