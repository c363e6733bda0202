"""`lmvic-data`: nerfstudio trains from a coded file; what it gets is what `lmvic decode` writes, when it asks for it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import lmvic
from PIL import Image
from test_capture import write_capture

pytest.importorskip("nerfstudio")

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.plugins.registry_dataparser import discover_dataparsers
from open3d_library import WHAT_IS_MISSING, open3d_loads

from lmvic_ns.cli.nerfstudio_data import FileViewPath, LmvicDataParserConfig
from lmvic_ns.errors import SceneError
from lmvic_ns.workflows.file_dataset import FileDataset


@pytest.fixture
def masked(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coded capture in which some views have masks."""
    path = tmp_path / "a.lmvic"
    assert lmvic(monkeypatch, "encode", write_capture(tmp_path / "in"), path, "--weights", weights) == 0
    return path


def test_it_is_registered() -> None:
    parsers, descriptions = discover_dataparsers()
    assert isinstance(parsers["lmvic-data"], LmvicDataParserConfig) and "lmvic" in str(descriptions["lmvic-data"])


@pytest.mark.skipif(not open3d_loads(), reason=WHAT_IS_MISSING)
def test_nerfstudio_gets_what_decode_writes(file: Path, weights: Path, tmp_path: Path, monkeypatch) -> None:
    assert lmvic(monkeypatch, "decode", file, tmp_path / "out", "--weights", weights) == 0
    options = {"eval_mode": "all", "load_3D_points": True}
    ours = LmvicDataParserConfig(data=file, weights=str(weights), **options).setup()
    theirs = NerfstudioDataParserConfig(data=tmp_path / "out", downscale_factor=1, **options).setup()
    first, second = (parser.get_dataparser_outputs("train") for parser in (ours, theirs))
    assert torch.equal(first.cameras.camera_to_worlds, second.cameras.camera_to_worlds)
    assert torch.equal(first.cameras.fx, second.cameras.fx) and first.dataparser_scale == second.dataparser_scale
    assert torch.allclose(first.metadata["points3D_xyz"], second.metadata["points3D_xyz"], atol=1e-5)
    assert torch.equal(first.metadata["points3D_rgb"], second.metadata["points3D_rgb"])
    assert ours.config.data == file  # as config.yml will say
    pictures = [InputDataset(outputs) for outputs in (first, second)]
    for index in range(4):
        assert np.array_equal(pictures[0].get_numpy_image(index), pictures[1].get_numpy_image(index))
    depth = [np.load(outputs.metadata["depth_filenames"][1]) for outputs in (first, second)]
    assert np.allclose(depth[0], depth[1], rtol=1e-5)
    assert [path.name for path in first.image_filenames] == [path.name for path in second.image_filenames]


def test_pictures_are_made_when_they_are_opened(masked: Path, weights: Path) -> None:
    parser = LmvicDataParserConfig(data=masked, weights=str(weights), load_3D_points=False).setup()
    outputs = parser.get_dataparser_outputs("train")  # as the capture's own lists say
    assert [path.name for path in outputs.image_filenames] == ["0001.png", "0001.png"]
    folder = parser.folder
    assert not list(folder.rglob("*.png"))
    path = outputs.image_filenames[1]
    assert isinstance(path, FileViewPath) and path.parent.name == "right"
    with Image.open(path) as picture:
        assert picture.size == (64, 48)
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*.png")] == ["rgb/right/0001.png"]
    mask = np.asarray(Image.open(outputs.mask_filenames[0]))
    assert set(np.unique(mask)) == {0, 200}
    again = pickle.loads(pickle.dumps(outputs.image_filenames[0]))
    with Image.open(again) as picture:
        assert picture.size == (64, 48)
    held_out = parser.get_dataparser_outputs("val")
    whole = np.asarray(Image.open(held_out.mask_filenames[0]))  # this view has no mask, nerfstudio wants one
    assert whole.min() == 255


def test_the_cache_on_disk_is_bounded(masked: Path, weights: Path, monkeypatch) -> None:
    monkeypatch.setattr("lmvic_ns.workflows.file_dataset._KEPT_FILES", 2)
    dataset = FileDataset(masked, str(weights), cache_bytes=1)
    names = [paths.image for paths in dataset.layout.views]
    for name in [*names, names[0]]:
        assert dataset.make(name).stat().st_size > 100
    assert len(list(dataset.folder.rglob("*.png"))) == 2
    folder = dataset.write(points=True)
    assert "ply_file_path" not in json.loads((folder / "transforms.json").read_text())  # the capture has no points
    dataset.close()
    assert not folder.exists()


def test_other_processes_make_files_in_the_same_folder(masked: Path, weights: Path, tmp_path: Path) -> None:
    """Data loaders are processes that may be killed: what they made has to go with the folder of the program."""
    parser = LmvicDataParserConfig(data=masked, weights=str(weights), load_3D_points=False).setup()
    path = parser.get_dataparser_outputs("train").image_filenames[0]
    (tmp_path / "path").write_bytes(pickle.dumps(path))
    (tmp_path / "temporary").mkdir()
    program = "import os, pickle, sys; open(pickle.load(open(sys.argv[1], 'rb')), 'rb').read(); os._exit(7)"
    variables = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "path"], env=variables, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert not list((tmp_path / "temporary").glob("lmvic-data-*"))
    assert [made.name for made in parser.folder.rglob("*.png")] == ["0001.png"]


@pytest.mark.slow
def test_nerfacto_trains_from_a_file(file: Path, weights: Path, tmp_path: Path) -> None:
    """The real ns-train, ns-eval and ns-render, with data loaders in processes of their own.

    nerfacto fetches LPIPS's weights when it starts, with any data: they are left out here.
    """
    (tmp_path / "temporary").mkdir()
    (tmp_path / "run.py").write_text(
        "import importlib, sys\n"
        "from lmvic_ns.splat.lpips import LazyLpips, lazy_lpips\n"
        "LazyLpips._build = lambda self, device: self.leave_out()\n"
        "if __name__ == '__main__':\n"
        "    commands = ' '.join(sys.argv[1:]).split(' + ')\n"
        "    with lazy_lpips():\n"
        "        for command in commands:\n"
        "            sys.argv = command.split(' ')\n"
        "            importlib.import_module(f'nerfstudio.scripts.{sys.argv[0]}').entrypoint()\n"
    )

    def command(*args: object) -> None:
        variables = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
        words = [sys.executable, "run.py", *map(str, args)]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not list((tmp_path / "temporary").glob("lmvic-data-*"))

    sizes = ["--pipeline.datamanager.train-num-rays-per-batch", "128", "--pipeline.datamanager.eval-num-rays-per-batch", "128"]
    small = ["--pipeline.model.num-proposal-samples-per-ray", "16", "8", "--pipeline.model.num-nerf-samples-per-ray", "8"]
    runs = ["--max-num-iterations", "3", "--machine.device-type", "cpu", "--vis", "tensorboard", "--output-dir", "out"]
    data = ["lmvic-data", "--data", file, "--weights", weights, "--eval-mode", "interval", "--eval-interval", "2"]
    command("train", "nerfacto", *runs, *sizes, *small, *data)
    (config,) = (tmp_path / "out").rglob("config.yml")
    evaluated = ("eval", "--load-config", config, "--output-path", "metrics.json")
    rendered = ("render", "dataset", "--load-config", config, "--output-path", "renders", "--rendered-output-names", "rgb")
    command(*evaluated, "+", *rendered)  # in one process, which has imported nerfstudio
    assert 5 < json.loads((tmp_path / "metrics.json").read_text())["results"]["psnr"] < 60
    assert len(list((tmp_path / "renders").rglob("*.jpg"))) == 2


def test_other_sizes_are_refused(masked: Path, weights: Path) -> None:
    parser = LmvicDataParserConfig(data=masked, weights=str(weights), downscale_factor=2).setup()
    with pytest.raises(SceneError, match="camera-res-scale-factor"):
        parser.get_dataparser_outputs("train")
