"""Stereo depth against a wall whose depth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from codec_scenes import plane_scene

from lmvic_ns.depth_sources.plane_sweep import PlaneSweepConfig, plane_sweep
from lmvic_ns.depth_sources.stereo import StereoConfig, with_stereo_depth
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene


def _points_file(path: Path) -> Path:
    """Points on the wall z = 2 + 0.5 x."""
    x, y = torch.meshgrid(torch.linspace(-0.8, 1.2, 12), torch.linspace(-0.8, 0.8, 8), indexing="ij")
    rows = [f"{a:.4f} {b:.4f} {2 + 0.5 * a:.4f}" for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)]
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{properties}end_header\n" + "\n".join(rows) + "\n")
    return path


def test_a_wall_is_found() -> None:
    scene = plane_scene([(60, 80)] * 3, apart=0.2, detail=5.0)
    others = [0, 2]
    found = plane_sweep(
        scene.image(1), scene.cameras[1], [scene.image(i) for i in others], scene.cameras[others], (0.2, 0.9),
        PlaneSweepConfig(planes=40),
    )  # fmt: skip
    truth = scene.inverse_depth(1)
    assert ((found - truth).abs() / truth).median() < 0.02
    with pytest.raises(ValueError, match="bounds"):
        plane_sweep(scene.image(1), scene.cameras[1], [scene.image(0)], scene.cameras[[0]], (0.5, 0.5))


def test_a_scene_gets_depth_at_its_own_size(tmp_path) -> None:
    plain = plane_scene([(60, 80)] * 3, apart=0.2, detail=5.0)
    bare = MultiViewScene(plain.names, plain.cameras, plain.image, sparse_points=_points_file(tmp_path / "points.ply"))
    scene = with_stereo_depth(bare, StereoConfig(side=64, neighbours=2, sweep=PlaneSweepConfig(planes=32)))
    errors = [((scene.inverse_depth(i) - plain.inverse_depth(i)).abs() / plain.inverse_depth(i)).median() for i in range(3)]
    assert scene.has_depth and max(errors) < 0.03


def test_what_stereo_needs_is_named(tmp_path) -> None:
    plain = plane_scene([(20, 20)] * 2)
    with pytest.raises(SceneError, match="has no sparse points"):
        with_stereo_depth(MultiViewScene(plain.names, plain.cameras, plain.image))
    one = plane_scene([(20, 20)])
    with pytest.raises(SceneError, match="two views"):
        with_stereo_depth(MultiViewScene(one.names, one.cameras, one.image, sparse_points=tmp_path / "points.ply"))
