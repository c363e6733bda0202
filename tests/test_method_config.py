"""The method as nerfstudio sees it: registered, tuned to the machine, trainable, loadable, resumable."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.eval_utils import eval_setup

from lmvic_ns.cli.demo import MARKER_FILE, demo_folder, prepare_folder
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.captures import captured_scene, world_transform
from lmvic_ns.splat.schedule import rescheduled

STEPS = 60


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo room, and on top of it what nerfstudio's own tools write: a COLMAP world turned by applied_transform."""
    config = DemoSceneConfig(views=10, width=96, height=72, seed_points=800)
    folder = write_demo_scene(tmp_path_factory.mktemp("room"), config)
    meta = json.loads((folder / "transforms.json").read_text())
    meta["applied_transform"] = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.5]]
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def small_config(scene: Path, output: Path, steps: int = STEPS) -> Any:
    method: Any = all_methods["lmvic-splat"]
    config: Any = rescheduled(method, steps)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.experiment_name, config.timestamp, config.vis = output, "room", "test", "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.viewer.quit_on_train_completion = True
    config.pipeline.model.num_downscales = 0
    # what ns-train does with a config from the command line
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    return config


@pytest.fixture(scope="module")
def trained(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer after a short training with optimized poses."""
    config = small_config(scene, tmp_path_factory.mktemp("outputs"))
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.optimizers["camera_opt"]["scheduler"].warmup_steps = 0
    config.save_config()
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    return trainer


def test_entry_points_and_machine():
    specs = [point.load() for point in entry_points(group="nerfstudio.method_configs") if "lmvic" in point.name]
    assert {spec.config.method_name for spec in specs} == {"lmvic-splat", "lmvic-splat-big"}
    for spec in specs:
        assert isinstance(spec, MethodSpecification)
        assert spec.config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_gpu_schedule_is_splatfactos():
    """On a GPU the quality must be splatfacto's: its optimizers, steps and model, field by field."""
    from lmvic_ns.method_configs import lmvic_splat as module  # type: ignore[reportMissingImports]

    for name, reference in [("lmvic-splat", "splatfacto"), ("lmvic-splat-big", "splatfacto-big")]:
        ours: Any = module.gpu_config(name)
        theirs: Any = all_methods[reference]
        assert ours.max_num_iterations == theirs.max_num_iterations
        for group, settings in theirs.optimizers.items():
            assert ours.optimizers[group]["optimizer"] == settings["optimizer"], group
            mine, other = ours.optimizers[group]["scheduler"], settings["scheduler"]
            assert (mine is None) == (other is None), group
            if other is not None:
                assert vars(mine) == vars(other), group
        for field, value in vars(theirs.pipeline.model).items():
            if field != "_target":
                assert vars(ours.pipeline.model)[field] == value, field


def test_cpu_schedule_ends_before_it_is_useless():
    method: Any = rescheduled(all_methods["lmvic-splat"], 300)  # type: ignore[arg-type]
    assert method.max_num_iterations == 300
    assert method.pipeline.model.stop_split_at < 300
    assert method.optimizers["means"]["scheduler"].max_steps == 300


def test_checkpoint_loads_with_weights_only(trained):
    """torch's default refuses nerfstudio's checkpoints; the plugin allows the one thing that is in the way."""
    file = next(trained.checkpoint_dir.glob("*.ckpt"))
    state = torch.load(file, map_location="cpu", weights_only=True)
    assert state["step"] == STEPS - 1
    assert not [name for name in state["pipeline"] if "lpips" in name]


def test_captured_views_lie_in_the_datasets_world(trained, scene: Path):
    """eval_setup, then every photograph with pose, size and median depth in the units of transforms.json."""
    _, pipeline, _, step = eval_setup(trained.config.get_base_dir() / "config.yml", test_mode="test")
    assert step == STEPS - 1
    captured, truth = captured_scene(pipeline), MultiViewScene.from_dataset(scene)
    assert captured.names == truth.names
    torch.testing.assert_close(captured.cameras.intrinsics, truth.cameras.intrinsics, atol=1e-3, rtol=0)
    moved = (captured.cameras.world_to_camera - truth.cameras.world_to_camera).abs().amax(dim=(1, 2))
    held_out = pipeline.datamanager.eval_dataset.image_filenames  # type: ignore[attr-defined]
    evaluated = [truth.names.index(path.stem) for path in held_out]
    training = [i for i in range(len(truth)) if i not in evaluated]
    # views of the eval split keep the poses of the file; those of the train split carry the optimizer's
    assert evaluated and moved[evaluated].max() < 1e-5
    assert moved[training].min() > 1e-6 and moved[training].max() < 0.05
    errors = []
    for i in range(len(truth)):
        torch.testing.assert_close(captured.image(i), truth.image(i))
        inverse, exact = captured.inverse_depth(i), truth.inverse_depth(i)
        known = inverse > 0
        assert known.float().mean() > 0.5
        errors.append((inverse / exact - 1).abs()[known])
    # a wrong unit or a missing scale would be off by tens of percent
    assert torch.cat(errors).median() < 0.05


def test_world_transform_of_distant_scales(trained):
    """x_model = s R (x + t): the pose of the first view goes there and back."""
    world = world_transform(trained.pipeline)
    pose = trained.pipeline.datamanager.train_dataset.cameras.camera_to_worlds[0].double()
    back = world.undo_pose(pose)
    there = world.scale * (world.rotation @ back[:3, 3] + world.translation)
    torch.testing.assert_close(there, pose[:, 3], atol=1e-6, rtol=0)
    torch.testing.assert_close(world.rotation @ back[:3, :3], pose[:, :3], atol=1e-6, rtol=0)


def test_resume_goes_on_where_it_stopped(trained, scene: Path, tmp_path: Path):
    config = small_config(scene, tmp_path, steps=3)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.load_dir = trained.checkpoint_dir
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == STEPS
    torch.testing.assert_close(trainer.pipeline.model.means, trained.pipeline.model.means)
    trainer.train()
    assert (trainer.checkpoint_dir / f"step-{STEPS + 2:09d}.ckpt").is_file()


def test_render_and_eval_commands(trained, tmp_path: Path):
    """ns-render's raw median depth and ns-eval's pictures, through nerfstudio's own classes."""
    from nerfstudio.scripts.eval import ComputePSNR
    from nerfstudio.scripts.render import DatasetRender

    config = trained.config.get_base_dir() / "config.yml"
    names = ["median_depth", "raw-median_depth"]
    DatasetRender(load_config=config, output_path=tmp_path / "r", rendered_output_names=names, split="train").main()
    raw = sorted((tmp_path / "r").rglob("raw-median_depth/*.npy.gz"))
    assert raw and sorted((tmp_path / "r").rglob("median_depth/*.jpg"))
    with gzip.open(raw[0]) as stream:
        depth = np.load(stream)
    assert depth.shape == (72, 96, 1) and (depth > 0).mean() > 0.5
    ComputePSNR(load_config=config, output_path=tmp_path / "m.json", render_output_path=tmp_path / "p").main()
    assert json.loads((tmp_path / "m.json").read_text())["results"]["psnr"] > 12
    assert list((tmp_path / "p").glob("*median_depth*.png"))


def test_more_than_500_pictures_without_a_gpu(scene: Path, tmp_path: Path):
    """nerfstudio would then pin memory, which fails where there is no accelerator."""
    config = small_config(scene, tmp_path)
    config.pipeline.datamanager.cache_images = "cpu"
    manager = config.pipeline.datamanager.setup(device="cpu", test_mode="val")
    assert manager.config.cache_images == ("cpu" if torch.cuda.is_available() else "gpu")
    assert manager.next_train(0)[1]["image"].shape == (72, 96, 3)


def test_missing_picture_is_one_line(scene: Path, tmp_path: Path):
    meta = json.loads((scene / "transforms.json").read_text())
    meta["frames"][3]["file_path"] = "images/gone.png"
    meta["ply_file_path"] = str(scene / "sparse_pc.ply")
    for frame in meta["frames"]:
        frame["file_path"] = str(scene / frame["file_path"])
        frame["depth_file_path"] = str(scene / frame["depth_file_path"])
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(SceneError, match=r"gone\.png"):  # before anything is trained or cached
        small_config(tmp_path, tmp_path).pipeline.datamanager.setup(device="cpu", test_mode="val")


def test_config_file_names_importable_classes(trained):
    text = (trained.config.get_base_dir() / "config.yml").read_text()
    assert "lmvic_ns.splat.model.LmvicSplatModel" in text
    loaded: Any = yaml.load(text, Loader=yaml.Loader)
    assert loaded.pipeline.model.max_gaussians == trained.config.pipeline.model.max_gaussians


def test_demo_replaces_only_its_own_folder(tmp_path: Path):
    with demo_folder(tmp_path / "new"):
        (tmp_path / "new" / "scene").mkdir()
        (tmp_path / "new" / "scene" / "made by the demo").touch()
    (tmp_path / "new" / "thesis.txt").touch()
    with pytest.raises(SceneError, match="not the demo's"):
        prepare_folder(tmp_path / "new")
    assert (tmp_path / "new" / "thesis.txt").exists() and (tmp_path / "new" / "scene" / "made by the demo").exists()
    (tmp_path / "new" / "thesis.txt").unlink()
    prepare_folder(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [MARKER_FILE]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").touch()
    with pytest.raises(SceneError, match="--output"):
        prepare_folder(tmp_path / "own")
    assert (tmp_path / "own" / "thesis.txt").exists()


@pytest.mark.slow
def test_nerfstudio_says_our_errors_in_one_line(scene: Path, tmp_path: Path):
    """`ns-train` on a scene whose picture is gone; `ns-eval` of a scene of which no picture is kept for evaluation."""
    meta = json.loads((scene / "transforms.json").read_text())
    meta["frames"] = meta["frames"][:4]
    for frame in meta["frames"]:
        frame["file_path"] = str(scene / frame["file_path"])
        del frame["depth_file_path"]
    meta["ply_file_path"] = str(scene / "sparse_pc.ply")
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    config = small_config(tmp_path, tmp_path / "outputs", steps=1)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    no_eval = run_command(
        "ns-eval", "--load-config", config.get_base_dir() / "config.yml", "--output-path", tmp_path / "m.json"
    )
    assert no_eval.returncode == 2 and "eval-interval" in no_eval.stderr.splitlines()[-1], no_eval.stderr
    assert "Traceback" not in no_eval.stderr
    meta["frames"][1]["file_path"] = str(tmp_path / "gone.png")
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    missing = run_command("ns-train", "lmvic-splat", "--data", tmp_path, "--vis", "tensorboard", "--output-dir", tmp_path / "o")
    assert missing.returncode == 2 and "gone.png" in missing.stderr.splitlines()[-1], missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU does")
def test_large_pictures_and_a_compiler_without_a_gpu(tmp_path: Path):
    """`ns-train` advises smaller pictures and trains; an nvcc that is on the path is never asked to build anything."""
    scene = write_demo_scene(tmp_path / "wide", DemoSceneConfig(views=3, width=1700, height=24, seed_points=100))
    toolkit = tmp_path / "toolkit" / "bin"
    toolkit.mkdir(parents=True)
    compiler, called = toolkit / "nvcc", tmp_path / "nvcc-was-called"
    compiler.write_text(f"#!/bin/sh\ntouch '{called}'\nexit 1\n")
    compiler.chmod(0o755)
    environment = {"PATH": f"{toolkit}{os.pathsep}{os.environ['PATH']}", "CUDA_HOME": str(toolkit.parent)}
    options = ("--max-num-iterations", "2", "--vis", "tensorboard", "--data", scene, "--output-dir", tmp_path / "outputs")
    done = run_command("ns-train", "lmvic-splat", *options, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "1700 pixels long" in done.stdout and "camera-res-scale-factor 0.47" in " ".join(done.stdout.split())
    assert list((tmp_path / "outputs").rglob("step-000000001.ckpt"))
    assert not called.exists()


def run_command(name: str, *args: Any, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A console script beside the running Python."""
    command = [Path(sys.executable).with_name(name), *args]
    folder, variables = args[-1].parent, {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder, env=variables)
