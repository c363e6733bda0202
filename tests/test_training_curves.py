"""Learning curves: read, fitted, drawn, and clear about files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmvic_ns.training import TrainingError
from lmvic_ns.training.curves import CurvesConfig, power_law, read_curve, train_curves


def write(path: Path, crops: list[int], law: tuple[float, float, float]) -> Path:
    a, b, c = law
    lines = ["step,seconds,crops,training_loss,score,kind,level,bpp,psnr,ms_ssim,loss"]
    for n in crops:
        for level in (8, 32):
            lines.append(f"{n // 8},1.0,{n},1.0,0.5,photos,{level},0.5,30.0,,{np.exp(a + b * n**-c):.8f}")
        lines.append(f"{n // 8},1.0,{n},1.0,0.5,scenes,8,0.5,30.0,,9.0")
    path.mkdir()
    (path / "curve.csv").write_text("\n".join(lines) + "\n")
    return path


def test_law_is_found_and_extrapolated(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    law = (-0.5, 3.0, 0.4)
    first = write(tmp_path / "photos", [1000, 2000, 4000, 8000], law)
    curve = read_curve(first)
    assert curve.name == "photos" and curve.crops.tolist() == [1000, 2000, 4000, 8000]
    assert power_law(curve.crops, curve.cost) == pytest.approx(law, abs=0.02)
    picture = tmp_path / "pictures" / "curve.png"
    train_curves(CurvesConfig((first,), picture, (10.0,)))
    assert picture.stat().st_size > 5000
    gain = 100 * (1 - np.exp(3.0 * 80000**-0.4 - 3.0 * 8000**-0.4))
    assert f"10 times the compute: {gain:.1f} % less" in capsys.readouterr().out.replace("\n", " ")


def test_later_runs_count_on(tmp_path: Path) -> None:
    second = write(tmp_path / "scenes", [100, 200], (0.0, 1.0, 0.5))
    assert read_curve(second, 8000.0).crops.tolist() == [8100, 8200]


def test_too_few_points_and_no_curve(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    short = write(tmp_path / "short", [100, 200], (0.0, 1.0, 0.5))
    train_curves(CurvesConfig((short,), tmp_path / "short.png"))
    assert "no extrapolation" in capsys.readouterr().out
    with pytest.raises(TrainingError, match="cannot read"):
        read_curve(tmp_path / "missing.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="not a learning curve"):
        read_curve(tmp_path / "other.csv")
