"""A headless Chromium for tests of pages: draws a few frames a second, ends after a fixed time, leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--force-device-scale-factor=1",
    # over a pipe Chromium ends by itself when its driver is gone
    "--remote-debugging-pipe",
]
ARTIFACTS = Path(__file__).resolve().parent.parent / "test-artifacts"
LIMIT = 150.0
"""Seconds that a test may have a browser; then it is killed, so that the test fails at its next word to the page."""
FRAMES = 4
"""Frames a second. three.js draws as often as it is let, and without a GPU that takes all cores from what is tested."""
_FEWER_FRAMES = """
const draw = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = callback => setTimeout(() => draw(callback), %d);
window.cancelAnimationFrame = clearTimeout;
"""


def start_browser(width: int = 1100, height: int = 850) -> Iterator[Any]:
    """A browser for a fixture of one test; skips where there is none, and only there."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'lmvic-ns[dev]'")
    from selenium.webdriver.chrome.service import Service

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--window-size={width},{height}"]:
        options.add_argument(flag)
    # a session of its own: whatever the driver starts is found and ended by it
    own_session = {"start_new_session": True, "preexec_fn": _end_with_parent()}
    service = Service(driver, popen_kw=own_session, log_output=subprocess.DEVNULL)
    watch = None
    try:
        browser = selenium.Chrome(options=options, service=service)
        watch = threading.Timer(LIMIT, end_session, [service.process.pid])
        watch.daemon = True
        watch.start()
        browser.set_page_load_timeout(60)
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _FEWER_FRAMES % (1000 // FRAMES)})
        yield browser
    finally:
        if watch is not None:
            watch.cancel()
        if service.process is not None:
            end_session(service.process.pid)
            service.process.wait(timeout=10)


def _end_with_parent() -> Callable[[], Any] | None:
    """Has the kernel kill the driver when the tests are killed (Linux), and Chromium then ends with its pipe."""
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, signal.SIGKILL)


def end_session(leader: int) -> None:
    """Kill every process of a session (Linux; elsewhere the leader alone, whose children follow it)."""
    members = [leader]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == leader:
                members.append(int(entry.name))
        except (ProcessLookupError, PermissionError):
            continue
    for member in members:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `check`; fails with `what` when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = check()
        if value:
            return value
        time.sleep(0.2)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


def click(browser: Any, xpath: str) -> None:
    """Click an element once it is there and takes clicks: a page draws its panels when its server has sent them."""
    from selenium.common.exceptions import WebDriverException

    def clicked() -> bool:
        try:
            browser.find_element("xpath", xpath).click()
        except WebDriverException:
            return False
        return True

    wait_for(f"a click on {xpath}", clicked)


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
