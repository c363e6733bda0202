"""`lmvic demo`: from nothing to a trained splat and pictures of its depth, in a few minutes on any machine."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from lmvic_ns.demo.scene import DemoSceneConfig
from lmvic_ns.errors import SceneError

MARK = ".lmvic-demo"
"""A file that says that a folder was made by the demo, so that it may be replaced."""


@dataclass
class DemoConfig:
    """Make the demo room, train lmvic-splat on it, and write pictures of what it sees."""

    output: Path = Path("demo")
    """Folder for everything; an earlier demo in it is replaced."""
    steps: int = 400
    """Training iterations."""
    scene: DemoSceneConfig = field(default_factory=DemoSceneConfig)
    """The room."""


def demo(config: DemoConfig) -> None:
    """Make the demo room, train lmvic-splat on it, and write pictures of what it sees.

    Raises:
        SceneError: `output` exists and is something else than an earlier demo.
    """
    from lmvic_ns.demo.scene import write_demo_scene

    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", flush=True)

    prepare_folder(config.output)
    scene = write_demo_scene(config.output / "scene", config.scene)
    say(f"a room with {config.scene.views} photographs, exact poses and depth: {scene}")
    from lmvic_ns.demo.training import depth_error, train, write_pictures

    say(f"training lmvic-splat for {config.steps} steps")
    trained = train(scene, config.output / "outputs", config.steps)
    say(f"trained; nerfstudio's commands take --load-config {trained.config_file}")
    pictures = write_pictures(trained.pipeline, config.output / "pictures")
    say(f"rgb, depth and median depth of {len(pictures)} eval views: {config.output / 'pictures'}")
    print(f"eval PSNR {trained.psnr:.1f} dB; median depth is off by {100 * depth_error(trained.pipeline, scene):.1f} %")


def prepare_folder(folder: Path) -> None:
    """An empty folder with our mark; refuses to touch one that the demo did not make."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise SceneError(f"{folder} exists and was not made by the demo; choose another with --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
