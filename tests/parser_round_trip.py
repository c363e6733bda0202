"""A data set through the real ns-train, the export and lmvic decode: poses, points and cameras come back."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import parsed_scenes
import pytest
from export_scenes import lmvic, write_weights
from nerfstudio.scripts import train as ns_train
from nerfstudio.utils import writer
from open3d_library import open3d_loads
from parsed_scenes import ROOM, ParsedScene

from lmvic_ns.demo.scene import intrinsics
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points

BY_NERFSTUDIO = ("plain", "colmap", "blender")
"""One kind of each data parser goes through ns-train and ns-export in other processes: `plain` has one for each command, the
others one for both, which imports nerfstudio once. Other kinds are trained in this process and go through `lmvic export`."""
BOTH_COMMANDS = """
import json, sys
from pathlib import Path
from nerfstudio.scripts import exporter  # first: our subcommand joins while it is loaded
from nerfstudio.scripts import train
outputs, training, exporting = json.loads(sys.argv[1])
sys.argv = ["ns-train", *training]
train.entrypoint()
(config,) = Path(outputs).rglob("config.yml")
sys.argv = ["ns-export", *exporting, "--load-config", str(config)]
exporter.entrypoint()
"""


def run(command: list[str], *args: object) -> str:
    """What a Python program prints, without a terminal to ask questions on."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *command, *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, env=variables)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def extent(scene: ParsedScene) -> float:
    centres = np.array([pose[:3, 3] for pose in scene.poses.values()])
    return float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())


def training_words(scene: ParsedScene, outputs: Path, *options: object) -> list[str]:
    """Arguments of ns-train for a few steps."""
    common = ("--vis", "tensorboard", "--output-dir", outputs, "--max-num-iterations", 3)
    return list(map(str, ("lmvic-splat", *common, "--data", scene.folder, *options, *scene.parser)))


def train(scene: ParsedScene, outputs: Path, patch: pytest.MonkeyPatch, *options: object) -> Path:
    """config.yml after a few steps of ns-train in this process."""
    writer.EVENT_WRITERS.clear()  # else the writers of earlier trainings go on writing
    patch.setattr(sys, "argv", ["ns-train", *training_words(scene, outputs, *options)])
    ns_train.entrypoint()
    return next(outputs.rglob("config.yml"))


def train_and_export(kind: str, scene: ParsedScene, folder: Path, weights: Path, patch: pytest.MonkeyPatch) -> str:
    """A few steps of ns-train, then folder/export/scene.lmvic; returns what the export printed."""
    outputs = folder / "outputs"
    options = ["--output-dir", folder / "export", "--weights", weights, "--reference-structure", "none", "--points", "exact"]
    exporting = ["lmvic-codec", *map(str, options), "--verify", "False"]
    if kind not in BY_NERFSTUDIO or not open3d_loads():
        config = train(scene, outputs, patch)
        with redirect_stdout(io.StringIO()) as said:
            assert lmvic(patch, "export", "--load-config", config, *options, "--no-verify") == 0
        return said.getvalue()
    training = training_words(scene, outputs)
    if kind != "plain":
        return run(["-c", BOTH_COMMANDS], json.dumps([str(outputs), training, exporting]))
    run(["-m", "nerfstudio.scripts.train"], *training)
    (config,) = outputs.rglob("config.yml")
    return run(["-m", "nerfstudio.scripts.exporter"], *exporting, "--load-config", config)


def check_round_trip(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of this kind through training, export and decoding."""
    scene: ParsedScene = getattr(parsed_scenes, kind)(tmp_path / "scene")
    before = {path: path.read_bytes() for path in scene.folder.rglob("*") if path.is_file()}
    weights = write_weights(tmp_path / "small.safetensors")
    out = tmp_path / "export"
    said = train_and_export(kind, scene, tmp_path, weights, monkeypatch)
    assert f"{len(scene.poses)} photographs (all)" in said
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
