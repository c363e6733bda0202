"""The export of a trained scene: `lmvic export`, the subcommand of ns-export, and nerfstudio reading what comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Union

import pytest
import tyro
from export_scenes import entries, lmvic, write_room
from open3d_library import WHAT_IS_MISSING, open3d_loads

from lmvic_ns.cli import nerfstudio_hook as hook
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.demo.scene import DemoSceneConfig
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.depth_source import cached_depth, splat_scene
from lmvic_ns.workflows.encoding import encode_scene
from lmvic_ns.workflows.options import CodingOptions

ROOM = DemoSceneConfig(views=12, width=64, height=48, supersample=1, seed_points=400)


class Meshes:
    """Some exporter."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Clouds(Meshes):
    """Another one."""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that looks like nerfstudio's exporter while it is being loaded: no Commands yet."""
    module: Any = ModuleType(hook.EXPORTER)
    module.tyro = tyro
    monkeypatch.setitem(sys.modules, hook.EXPORTER, module)
    return module


def test_subcommand_joins_the_exporters_commands(exporter, capsys):
    assert hook.install() and hook.install()
    exporter.Commands = exporter.tyro.conf.FlagConversionOff[
        Union[
            Annotated[Meshes, exporter.tyro.conf.subcommand(name="meshes")],
            Annotated[Clouds, exporter.tyro.conf.subcommand(name="clouds")],
        ]
    ]
    words = ["lmvic-codec", "--load-config", "a.yml", "--output-dir", "out", "--verify", "False", "--target-bpp", "0.2"]
    chosen = exporter.tyro.cli(exporter.Commands, args=words)
    assert type(chosen).__name__ == "ExportLmvicCodec"
    assert (chosen.load_config, chosen.verify, chosen.target_bpp) == (Path("a.yml"), False, 0.2)
    others = exporter.tyro.cli(exporter.Commands, args=["clouds", "--size", "3"])
    assert isinstance(others, Clouds) and others.size == 3
    with pytest.raises(SystemExit):
        exporter.tyro.cli(exporter.Commands, args=["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("meshes", "clouds", "lmvic-codec"))


def test_other_commands_of_that_module_pass_unchanged(exporter):
    assert hook.install()
    exporter.Commands = Union[Meshes, Clouds]
    assert exporter.tyro.cli(Meshes, args=["--size", "4"]).size == 4
    assert exporter.tyro.extras is tyro.extras
    exporter.Commands = Meshes  # a version of nerfstudio with something else there
    assert exporter.tyro.cli(exporter.Commands, args=["--size", "5"]).size == 5


def test_the_exporter_as_the_main_program(monkeypatch):
    """`python -m nerfstudio.scripts.exporter`, whose module has another name."""
    module: Any = ModuleType("__main__")
    module.__spec__, module.tyro, module.Commands = ModuleSpec(hook.EXPORTER, None), tyro, Union[Meshes, Clouds]
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.delitem(sys.modules, hook.EXPORTER, raising=False)
    assert hook.install()
    chosen = module.tyro.cli(module.Commands, args=["lmvic-codec", "--load-config", "a.yml", "--output-dir", "out"])
    assert type(chosen).__name__ == "ExportLmvicCodec"


def test_nothing_happens_in_other_programs(monkeypatch):
    monkeypatch.delitem(sys.modules, hook.EXPORTER, raising=False)
    assert not hook.install()
    strange = ModuleType(hook.EXPORTER)
    monkeypatch.setitem(sys.modules, hook.EXPORTER, strange)
    assert not hook.install() and not hasattr(strange, "tyro")
    assert sys.modules["tyro"] is tyro


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of a splat with a few steps on a small room of 12 photographs."""
    from lmvic_ns.demo.training import train

    folder = tmp_path_factory.mktemp("trained")
    return train(write_room(folder / "room", ROOM), folder / "outputs", 30).config_file


@pytest.mark.slow
def test_trained_scene_to_file_and_back_into_nerfstudio(trained, weights, tmp_path, monkeypatch, capsys):
    out, back = tmp_path / "export", tmp_path / "back"
    command = ("export", "--load-config", trained, "--output-dir", out, "--weights", weights, "--downscale", 2)
    assert lmvic(monkeypatch, *command) == 0
    assert "12 photographs (all) of lmvic-splat" in capsys.readouterr().out
    assert entries(out) == {"scene.lmvic", "report.html", "report.json"}
    report = json.loads((out / "report.json").read_text())
    assert len(report["views"]) == 12 and report["pixels"] == 12 * 32 * 24 and report["bytes"]["points"] > 0
    assert sum(view["parent"] is None for view in report["views"]) == 1
    assert lmvic(monkeypatch, *command) == 2  # it is there already
    assert "--overwrite" in capsys.readouterr().err
    assert lmvic(monkeypatch, "decode", out / "scene.lmvic", back, "--weights", weights) == 0
    check_with_the_real_dataparser(back)
    decoded, original = MultiViewScene.from_dataset(back), MultiViewScene.from_dataset(trained.parents[4] / "room")
    moved = (decoded.cameras.world_to_camera - original.cameras.world_to_camera).abs().max()
    assert decoded.names == original.names and moved < 1e-4


def check_with_the_real_dataparser(folder: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    points = open3d_loads()
    parsed = NerfstudioDataParserConfig(data=folder, load_3D_points=points).setup().get_dataparser_outputs("train")
    if points:
        assert len(parsed.metadata["points3D_xyz"]) == len(parsed.metadata["points3D_rgb"]) > 100
    assert len(parsed.image_filenames) == 11 and all(path.is_file() for path in parsed.image_filenames)
    assert (int(parsed.cameras.width[0]), int(parsed.cameras.height[0])) == (32, 24)
    depths = parsed.metadata["depth_filenames"]
    assert len(depths) == 11 and all(path.is_file() for path in depths)


@pytest.mark.slow
def test_split_full_size_and_depth_rendered_once(trained, weights, tmp_path):
    captured = splat_scene(trained, "eval")
    assert len(captured.scene) == len(captured.files) == 1 and captured.scene.image(0).shape == (3, 48, 64)
    scene = splat_scene(trained, "train").scene
    rendered: list[int] = []
    counting = scene.with_inverse_depth(lambda i: (rendered.append(i), scene.inverse_depth(i))[1])
    with cached_depth(counting, tmp_path) as cached:
        encode_scene(cached, tmp_path / "scene.lmvic", CodingOptions(), load_codec(weights))
    assert rendered == list(range(11)) and entries(tmp_path) == {"scene.lmvic"}


@pytest.mark.slow
def test_outputs_may_lie_elsewhere(trained, tmp_path):
    """nerfstudio notes where the outputs were, often relative to the folder that ns-train ran in."""
    moved = tmp_path / "moved" / "room"
    moved.parent.mkdir()
    shutil.move(trained.parents[2], moved)
    try:
        assert len(splat_scene(moved / trained.relative_to(trained.parents[2])).scene) == 12
    finally:
        shutil.move(moved, trained.parents[2])


@pytest.mark.slow
def test_mistakes_around_a_trained_scene(trained, tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    def broken(name: str, change) -> Path:
        folder = tmp_path / name / "room"
        shutil.copytree(trained.parents[3], folder)
        text = (folder / trained.relative_to(trained.parents[3])).read_text()
        config = folder / trained.relative_to(trained.parents[3])
        config.write_text(change(text))
        return config

    other: Any = all_methods["splatfacto"]
    splatfacto = tmp_path / "splatfacto.yml"
    import yaml

    splatfacto.write_text(yaml.dump(other))
    nonsense = tmp_path / "nonsense.yml"
    nonsense.write_text("!!python/object:no.such.Thing {}\n")
    for config, words in (
        (tmp_path / "config.yml", "not found"),
        (splatfacto, "renders no median depth"),
        (nonsense, "cannot be read as a nerfstudio config"),
        (
            broken("unknown", lambda text: text.replace("method_name: lmvic-splat", "method_name: gone")),
            "is its method installed",
        ),
    ):
        with pytest.raises(SceneError, match=words):
            splat_scene(config)
    pictures = trained.parents[4] / "room"
    away = pictures.with_name("away")
    pictures.rename(away)
    try:
        with pytest.raises(SceneError, match="put them back"):
            splat_scene(trained)
        shutil.copytree(away, pictures)
        (pictures / "images" / "003.png").unlink()
        with pytest.raises(SceneError, match=r"003\.png"):
            splat_scene(trained)
    finally:
        shutil.rmtree(pictures, ignore_errors=True)
        away.rename(pictures)


@pytest.mark.slow
@pytest.mark.skipif(not open3d_loads(), reason=WHAT_IS_MISSING)
def test_ns_export_lists_ours_beside_its_own_and_refuses_in_a_line(tmp_path):
    program = (
        "import sys\nfrom nerfstudio.scripts.exporter import entrypoint\n"
        "for words in (['--help'], sys.argv[1:]):\n"  # in one process, which has imported nerfstudio
        "    sys.argv = ['ns-export', *words]\n"
        "    try: entrypoint()\n"
        "    except SystemExit as end: print('exit status', end.code)\n"
    )
    words = ["--load-config", str(tmp_path / "config.yml"), "--output-dir", str(tmp_path / "out"), "--weights", "no-such"]
    done = subprocess.run([sys.executable, "-c", program, "lmvic-codec", *words], capture_output=True, text=True)
    listed, shown, refused = done.stdout.partition("exit status 0\n")
    assert shown and "gaussian-splat" in listed and "lmvic-codec" in listed, done.stderr
    assert refused.endswith("exit status 2\n") and "ns-export lmvic-codec: no weights 'no-such'" in done.stderr
