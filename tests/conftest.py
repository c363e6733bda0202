"""Shared fixtures: where the real data lies, and quiet threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with `photos/` and `scenes/`; the test is skipped where it is absent."""
    root = Path(os.environ.get("LMVIC_DATA", "../shared/data"))
    if not root.is_absolute():
        root = REPOSITORY / root
    if not (root / "scenes").is_dir():
        pytest.skip(f"no real data at {root}; set LMVIC_DATA to a folder with photos/ and scenes/")
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small untrained codec, in a file. What is shared like this is read, never changed."""
    from export_scenes import write_weights

    return write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with depth."""
    from export_scenes import write_room

    return write_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def copy(room: Path, tmp_path: Path) -> Path:
    """The room, to be damaged."""
    return Path(shutil.copytree(room, tmp_path / "copy"))


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real browser; the test is skipped where there is none."""
    from browser import start_browser

    yield from start_browser()


@pytest.fixture(scope="session")
def file(room: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room, coded with these weights."""
    from lmvic_ns.scene import MultiViewScene
    from lmvic_ns.workflows.encoding import encode_scene
    from lmvic_ns.workflows.options import CodingOptions

    path = tmp_path_factory.mktemp("file") / "room.lmvic"
    encode_scene(MultiViewScene.from_dataset(room), path, CodingOptions(weights=str(weights), device="cpu"))
    return path
