"""Through the real ns-train, ns-export and lmvic decode: every data parser's poses, points and cameras come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import parsed_scenes
import pytest
from export_scenes import lmvic, write_weights
from nerfstudio.configs.method_configs import all_methods
from parsed_scenes import ROOM, ParsedScene

from lmvic_ns.demo.scene import intrinsics
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points
from lmvic_ns.splat.depth_source import splat_scene

KINDS = (
    "plain", "geographic", "outdated", "outdated_points", "applied", "three_lists", "two_lists", "colmap",
    "geographic_colmap", "blender",
)  # fmt: skip


def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """One of nerfstudio's commands, without a terminal to ask questions on."""
    command = [sys.executable, "-m", f"nerfstudio.scripts.{name}", *map(str, args)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, env=variables)


def train(scene: ParsedScene, outputs: Path, *options: object) -> Path:
    """config.yml after a few steps."""
    common = ("--vis", "tensorboard", "--output-dir", outputs, "--max-num-iterations", 3)
    words = (*common, "--data", scene.folder, *options, *scene.parser)
    done = run("train", "lmvic-splat", *words)
    assert done.returncode == 0, done.stderr + done.stdout
    return next(outputs.rglob("config.yml"))


def extent(scene: ParsedScene) -> float:
    centres = np.array([pose[:3, 3] for pose in scene.poses.values()])
    return float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_poses_points_and_cameras_come_back(kind, tmp_path, monkeypatch):
    scene: ParsedScene = getattr(parsed_scenes, kind)(tmp_path / "scene")
    before = {path: path.read_bytes() for path in scene.folder.rglob("*") if path.is_file()}
    config, out, weights = (
        train(scene, tmp_path / "outputs"),
        tmp_path / "export",
        write_weights(tmp_path / "small.safetensors"),
    )
    options = ("--weights", weights, "--reference-structure", "none", "--verify", "False", "--points", "exact")
    exported = run("exporter", "lmvic-codec", "--load-config", config, "--output-dir", out, *options)
    assert exported.returncode == 0, exported.stderr
    assert f"{len(scene.poses)} photographs (all)" in exported.stdout
    assert lmvic(monkeypatch, "decode", out / "scene.lmvic", tmp_path / "back", "--weights", weights) == 0
    assert {path: path.read_bytes() for path in scene.folder.rglob("*") if path.is_file()} == before
    back = MultiViewScene.from_dataset(tmp_path / "back")
    assert set(back.names) == set(scene.poses)
    found = back.cameras.to_opengl_camera_to_world().numpy()
    tolerance = 4e-7 * extent(scene)
    for name, pose in zip(back.names, found, strict=True):
        assert np.abs(pose[:3, 3] - scene.poses[name][:3, 3]).max() < tolerance
        assert np.abs(pose[:3, :3] - scene.poses[name][:3, :3]).max() < 1e-6
    expected = intrinsics(ROOM).clone()
    if kind == "blender":  # its format has the principal point in the middle
        expected[0, 2], expected[1, 2] = ROOM.width / 2, ROOM.height / 2
    assert np.allclose(back.cameras.intrinsics, expected, atol=1e-4)
    positions = read_points(tmp_path / "back" / "sparse_pc.ply")[0]
    spread = float(np.median(np.linalg.norm(scene.points - np.median(scene.points, axis=0), axis=1)))
    distances = np.linalg.norm(positions[:, None] - scene.points[None], axis=2)
    assert len(positions) == len(scene.points)
    assert distances.min(axis=1).max() < spread / 8000 and distances.min(axis=0).max() < spread / 8000
    # seen where they belong: most points project into most pictures, in front of the cameras
    camera = back.cameras.world_to_camera.numpy()
    local = np.einsum("vij,nj->vni", camera[:, :3, :3], positions) + camera[:, None, :3, 3]
    pixels = np.einsum("vij,vnj->vni", back.cameras.intrinsics.numpy(), local)
    inside = (local[..., 2] > 0) & (np.abs(pixels[..., 0] / pixels[..., 2] - 32) < 32)
    assert inside.mean() > 0.3


@pytest.mark.slow
def test_splits_and_full_size(tmp_path, monkeypatch, capsys):
    """Three lists: `all` has every one, `eval` all that was not trained on. Prepared at the pictures' own size."""
    scene = parsed_scenes.three_lists(tmp_path / "scene")
    meta = json.loads((scene.folder / "transforms.json").read_text())
    config = train(scene, tmp_path / "outputs", "--pipeline.datamanager.camera-res-scale-factor", "0.5")
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

    def manager(change):
        scene = parsed_scenes.nerfstudio_scene(tmp_path / "scene", np.zeros(3), change)
        config = deepcopy(all_methods["lmvic-splat"].pipeline.datamanager)
        config.data = scene.folder
        return config.setup(device="cpu", test_mode="val")

    with pytest.raises(SceneError, match="is not supported; undistort") as caught:
        manager(lambda meta: meta.update(camera_model=model))
    assert model.removeprefix("OPENCV_") in str(caught.value) and "000.png" in str(caught.value)
    with pytest.raises(SceneError, match=model):  # a frame's own word, which nerfstudio does not read
        manager(lambda meta: (meta.pop("camera_model"), meta["frames"][0].update(camera_model=model)))
