"""`lmvic prepare`: scenes with depth in folders of their own, the scenes themselves untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training_scenes import DISTANCE, plane_scene, write_points

from lmvic_ns.cli.main import run
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.training.scenes import load_scene


def wall_dataset(folder: Path) -> Path:
    """The wall as a data set without depth, with points."""
    plane_scene(3).with_inverse_depth(None).write_dataset(folder)
    random = np.random.default_rng(2)
    points = np.stack([random.uniform(-6, 6, 500), random.uniform(-4, 4, 500), np.full(500, DISTANCE)], 1)
    write_points(folder / "sparse_pc.ply", points, binary=False)
    meta = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps(meta | {"ply_file_path": "sparse_pc.ply"}))
    return folder


def test_points_become_depth_in_a_folder_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture):
    scene = wall_dataset(tmp_path / "wall")
    before = {p: p.stat().st_mtime_ns for p in scene.rglob("*")}
    assert run(["prepare", str(scene), "--stand-in", "points", "--output", str(tmp_path / "out")]) == 0
    prepared = MultiViewScene.from_dataset(tmp_path / "out" / "wall")
    true = plane_scene(3)
    for view in range(3):
        error = (prepared.inverse_depth(view) - true.inverse_depth(view)).abs() / true.inverse_depth(view)
        assert error.median() < 1e-3
    assert len(load_scene(tmp_path / "out" / "wall")) == 3
    assert before == {p: p.stat().st_mtime_ns for p in scene.rglob("*")}
    assert run(["prepare", str(scene), "--stand-in", "points", "--output", str(tmp_path / "out")]) == 0
    assert "already prepared" in capsys.readouterr().out


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(SceneError, match="no scene to prepare"):
        run(["prepare"])
    with pytest.raises(SceneError, match=r"config\.yml"):
        run(["prepare", "--load-config", str(tmp_path / "config.yml")])


@pytest.mark.slow
def test_median_depth_of_a_splat_becomes_a_training_scene(tmp_path: Path):
    from nerfstudio.configs.method_configs import all_methods

    from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
    from lmvic_ns.splat.schedule import rescheduled

    folder = write_demo_scene(tmp_path / "room", DemoSceneConfig(views=4, width=96, height=64, seed_points=800))
    config: Any = rescheduled(all_methods["lmvic-splat"], 20)  # type: ignore[arg-type]
    config.data = config.pipeline.datamanager.data = folder
    config.output_dir, config.experiment_name, config.timestamp = tmp_path / "outputs", "room", "run"
    config.vis = "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    written = config.get_base_dir() / "config.yml"
    assert run(["prepare", "--load-config", str(written), "--output", str(tmp_path / "out")]) == 0
    prepared = load_scene(tmp_path / "out" / "room")
    assert len(prepared) == 4 and prepared.images[0].shape == (64, 96, 3)
    ours, exact = MultiViewScene.from_dataset(tmp_path / "out" / "room"), MultiViewScene.from_dataset(folder)
    found, true = (torch.stack([scene.inverse_depth(i) for i in range(4)]) for scene in (ours, exact))
    known = found > 0  # after 20 steps, few rays cross one half
    assert known.float().mean() > 0.03
    assert ((found - true).abs() / true)[known].median() < 0.3
