"""Through the real ns-train, ns-export and lmvic decode: nerfstudio's own format, wherever its poses and points are."""

from __future__ import annotations

from pathlib import Path

import pytest
from parser_round_trip import check_round_trip

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["plain", "geographic", "outdated", "outdated_points", "applied"])
def test_poses_points_and_cameras_come_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_round_trip(kind, tmp_path, monkeypatch)
