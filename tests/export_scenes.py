"""A small room on disk, small weights in a file, and the commands as a person calls them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codec_scenes import small_model

from lmvic_ns._util.output import LIST_NAME
from lmvic_ns.cli import main as cli
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene

ROOM = DemoSceneConfig(views=4, width=64, height=48, supersample=1, seed_points=200)


def write_room(folder: Path, config: DemoSceneConfig = ROOM) -> Path:
    """The room of the demo as a capture of somebody's: without the list by which this program would know its own files."""
    write_demo_scene(folder, config)
    (folder / LIST_NAME).unlink()
    return folder


def write_weights(path: Path, seed: int = 0, name: str = "small") -> Path:
    save_weights(small_model(seed), path, {"name": name})
    return path


def lmvic(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """The exit status of `lmvic ARGS`."""
    monkeypatch.setattr(sys, "argv", ["lmvic", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.entrypoint()
    return int(stop.value.code or 0)


def entries(folder: Path) -> set[str]:
    """Names in a folder, hidden ones included."""
    return {path.name for path in folder.iterdir()}


def edit(folder: Path, change: Callable[[dict], Any]) -> None:
    """Change a dataset's transforms.json."""
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))


def refused(capsys: pytest.CaptureFixture, status: int) -> str:
    """The one line of a command that ended with status 2."""
    error = capsys.readouterr().err.strip()
    assert status == 2 and error.startswith("lmvic: ") and "\n" not in error, error
    return error
