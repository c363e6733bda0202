"""Shared fixtures: where the real data lies, and quiet threads."""

from __future__ import annotations

import os
from pathlib import Path

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
