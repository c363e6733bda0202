"""A headless Chromium for tests of pages, and the small coded scene that they show."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,1000",
]
ARTIFACTS = Path(__file__).resolve().parent.parent / "test-artifacts"


def start_browser() -> Iterator[Any]:
    """A browser for a fixture; skips where there is none."""
    if os.environ.get("LMVIC_BROWSER_TESTS") != "1":
        # on two busy cores a page drawn without a GPU once took many minutes, which no test limit should have to wait for
        pytest.skip("browser tests run on request: LMVIC_BROWSER_TESTS=1")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'lmvic-ns[dev]'")
    from selenium.webdriver.chrome.service import Service

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    browser = selenium.Chrome(options=options, service=Service(driver))
    browser.set_page_load_timeout(120)
    try:
        yield browser
    finally:
        browser.quit()


def wait_for(what: str, check: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true value of `check`; fails with `what` when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = check()
        if value:
            return value
        time.sleep(0.2)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


def text(browser: Any) -> str:
    """The page's visible text."""
    return browser.execute_script("return document.body.innerText")


def pictures(browser: Any) -> list[str]:
    """Addresses of the pictures in the panel, in order."""
    script = "return [...document.querySelectorAll('img')].filter(i => i.naturalWidth > 20).map(i => i.src)"
    return [address for address in browser.execute_script(script) if address.startswith(("data:image", "blob:"))]


def screenshot(browser: Any, name: str) -> Path:
    """A picture of the page among the test artefacts."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    assert browser.save_screenshot(str(path))
    return path
