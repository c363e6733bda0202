"""Which views an export takes, at which size, and which cameras it refuses."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import parsed_scenes
import pytest
from export_scenes import lmvic, write_weights
from nerfstudio.configs.method_configs import all_methods
from parser_round_trip import train

from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.depth_source import splat_scene


@pytest.mark.slow
def test_splits_and_full_size(tmp_path, monkeypatch, capsys):
    """Three lists: `all` has every one, `eval` all that was not trained on. Prepared at the pictures' own size."""
    scene = parsed_scenes.three_lists(tmp_path / "scene")
    meta = json.loads((scene.folder / "transforms.json").read_text())
    config = train(scene, tmp_path / "outputs", monkeypatch, "--pipeline.datamanager.camera-res-scale-factor", "0.5")
    assert [len(splat_scene(config, split).scene) for split in ("all", "train", "eval")] == [10, 6, 4]
    assert lmvic(monkeypatch, "prepare", "--load-config", config, "--output", tmp_path / "prepared") == 0
    assert MultiViewScene.from_dataset(tmp_path / "prepared" / "scene").cameras.size == (48, 64)
    from lmvic_ns.cli.evaluation_scenes import trained_scene

    assert trained_scene(config)[1].image(0).shape == (3, 48, 64)
    meta["val_filenames"] = meta["val_filenames"][:1]
    (scene.folder / "transforms.json").write_text(json.dumps(meta))
    capsys.readouterr()
    assert len(splat_scene(config).scene) == 9
    assert "1 photographs that belong to no split are left out" in capsys.readouterr().out
    assert lmvic(monkeypatch, "prepare", "--load-config", config, "--output", tmp_path, "--overwrite") == 2
    for place in (scene.folder / "export", scene.folder):
        assert lmvic(monkeypatch, "export", "--load-config", config, "--output-dir", place, "--overwrite") == 2
        assert "which this command reads" in capsys.readouterr().err
    (scene.folder / "sparse_pc.ply").unlink()
    command = ("export", "--load-config", config, "--output-dir", tmp_path / "out", "--reference-structure", "none")
    command = (*command, "--weights", write_weights(tmp_path / "small.safetensors"), "--no-verify")
    assert lmvic(monkeypatch, *command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sparse_pc.ply" in error and "--points none" in error
    assert lmvic(monkeypatch, *command, "--points", "none") == 0


MODELS = ("OPENCV_FISHEYE", "EQUIRECTANGULAR", "ORTHOPHOTO", "VR180_L", "OMNIDIRECTIONALSTEREO_R", "FISHEYE624")


@pytest.mark.parametrize("model", MODELS)
def test_other_cameras_are_refused_by_name(model, tmp_path):
    """Before training, with coefficients of zero too, which nerfstudio leaves as they are."""

    def manager(name, change):
        scene = parsed_scenes.nerfstudio_scene(tmp_path / name, np.zeros(3), change)
        config = deepcopy(all_methods["lmvic-splat"].pipeline.datamanager)
        config.data = scene.folder
        return config.setup(device="cpu", test_mode="val")

    with pytest.raises(SceneError, match="is not supported; undistort") as caught:
        manager("scene", lambda meta: meta.update(camera_model=model))
    assert model.removeprefix("OPENCV_") in str(caught.value) and "000.png" in str(caught.value)
    with pytest.raises(SceneError, match=model):  # a frame's own word, which nerfstudio does not read
        manager("frame", lambda meta: (meta.pop("camera_model"), meta["frames"][0].update(camera_model=model)))
