"""Through the real ns-train, ns-export and lmvic decode: lists of views, COLMAP and Blender."""

from __future__ import annotations

from pathlib import Path

import pytest
from parser_round_trip import check_round_trip

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["three_lists", "two_lists", "colmap", "geographic_colmap", "blender"])
def test_poses_points_and_cameras_come_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_round_trip(kind, tmp_path, monkeypatch)
