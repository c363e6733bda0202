"""`lmvic demo`: the whole job on a room that the project brings: train, export, decode; minutes on any machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lmvic_ns._util.output import LIST_NAME, checksum, files_below, read_list, remove_listed, write_list, writing
from lmvic_ns.demo.scene import DemoSceneConfig
from lmvic_ns.errors import SceneError

if TYPE_CHECKING:
    from lmvic_ns.codec.multiview import MultiViewCodec

MARKER_FILE = ".lmvic-demo"
"""A file that says that a folder was made by the demo, so that it may be replaced."""


@dataclass
class DemoConfig:
    """Render a small synthetic room, train lmvic-splat on it, encode its photographs into one file, and decode that."""

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("demo")
    """Folder for all results. An earlier demo in it is replaced."""
    steps: int = 400
    """Training iterations."""
    quality: int = 32
    """Quality level of the file, 0 to 63."""
    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Weights of the codec: the name of shipped weights, or a .safetensors file."""
    scene: DemoSceneConfig = field(default_factory=DemoSceneConfig)
    """The synthetic room."""


def demo(config: DemoConfig) -> None:
    """Render a small synthetic room, train lmvic-splat on it, encode its photographs into one file, and decode that.

    Raises:
        LmvicError: `output` is not an earlier demo, or the weights are missing.
    """
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.workflows.encoding import pick_device

    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", flush=True)

    codec = load_codec(config.weights, pick_device("auto"))  # before anything slow: they may be missing
    with demo_folder(config.output):
        _run(config, codec, say)
    print(f"the whole demo took {time.perf_counter() - started:.0f} s; look at {config.output / 'export' / 'report.html'}")


def _run(config: DemoConfig, codec: MultiViewCodec, say: Callable[[str], None]) -> None:
    """Everything that makes files."""
    from lmvic_ns.demo.scene import write_demo_scene

    scene = write_demo_scene(config.output / "scene", config.scene)
    say(f"a room with {config.scene.views} photographs, exact poses and depth: {scene}")
    from lmvic_ns.demo.training import depth_error, train, write_pictures

    say(f"training lmvic-splat for {config.steps} steps")
    trained = train(scene, config.output / "outputs", config.steps, say)
    error = depth_error(trained.pipeline, scene)
    quality = "" if math.isnan(trained.psnr) else f"eval PSNR {trained.psnr:.1f} dB, "
    say(f"trained: {quality}median depth off by {100 * error:.1f} %")
    say(f"nerfstudio's commands take --load-config {trained.config_file}")
    write_pictures(trained.pipeline, config.output / "pictures")
    say(f"rgb, depth and median depth of the eval views: {config.output / 'pictures'}")
    from lmvic_ns.demo.coding import decode_demo, export_demo, print_table

    data = export_demo(trained.pipeline, scene, config.output / "export", codec, config.quality)
    say(f"exported: {config.output / 'export' / 'scene.lmvic'}")
    decoded = decode_demo(config.output / "export" / "scene.lmvic", config.output / "decoded", config.weights)
    say(f"decoded: {decoded}, for `ns-train splatfacto --data {decoded}`")
    print_table(data)


@contextmanager
def demo_folder(folder: Path) -> Iterator[None]:
    """An empty folder to work in; in the end, however it comes, a list of the files that were made in it.

    Raises:
        LmvicError: it is something else than an earlier demo, or holds files of somebody else.
    """
    prepare_folder(folder)
    try:
        yield
    finally:
        write_list(folder, {name: checksum(folder / name) for name in files_below(folder)})


def prepare_folder(folder: Path) -> None:
    """An empty folder with our marker file; removes what an earlier demo made there, and nothing else.

    Raises:
        LmvicError: the demo did not make it, or it holds files that the demo did not make.
    """
    if folder.exists() and not folder.is_dir():
        raise SceneError(f"{folder}: is a file; give the name of a folder with --output")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER_FILE).exists():
            raise SceneError(f"{folder} exists and was not made by the demo; choose another with --output")
        foreign = sorted(set(files_below(folder)) - set(read_list(folder) or {}) - {LIST_NAME, MARKER_FILE})
        if foreign:
            raise SceneError(
                f"{folder / foreign[0]}: is not the demo's, or of a demo that was killed: move it away, or choose another "
                "folder with --output"
            )
        remove_listed(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER_FILE).touch()
