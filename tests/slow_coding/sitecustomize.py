"""Makes coding slow in processes that have this folder in PYTHONPATH: each view takes as long as the file LMVIC_TEST_SLOW says.

So a test can interrupt small scenes on any machine. Without that file nothing is slowed.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

WRITER = "lmvic_ns.bitstream.writer"


def wait() -> None:
    """Sleep until the time in the file is over, or the file is gone."""
    begun, file = time.monotonic(), Path(os.environ["LMVIC_TEST_SLOW"])
    while True:
        try:
            seconds = float(file.read_text() or 0)
        except FileNotFoundError:
            return
        if time.monotonic() - begun >= seconds:
            return
        time.sleep(0.02)


def slow(module: ModuleType) -> None:
    add_unit = module.Writer.add_unit

    def slowly(self: Any, *args: Any) -> None:
        add_unit(self, *args)
        wait()

    module.Writer.add_unit = slowly  # type: ignore[attr-defined]


class SlowWriter:
    """Changes the writer when it is imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == WRITER else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            slow(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


if "LMVIC_TEST_SLOW" in os.environ:
    sys.meta_path.insert(0, SlowWriter)  # type: ignore[arg-type]
