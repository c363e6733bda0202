"""Train the codec on scenes of your own.

Two stages: photographs alone (`lmvic train photos`), then chains of views with depth (`lmvic train scenes`). This example
trains a few steps of each on two small rooms, to show the commands and the files. Real training takes hours and
thousands of photographs: see docs/training.md. The picture shows a photograph before and after coding with the weights
that were just trained (bad ones, after so few steps).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from common import OUTPUT, save_row

import lmvic_ns

QUICK = ["--max-steps", "3", "--precision", "32-true", "--threads", "1", "--workers", "0"]


def lmvic(*arguments: str | Path) -> None:
    """Runs a command, as in a terminal."""
    subprocess.run([sys.executable, "-m", "lmvic_ns.cli.main", *map(str, arguments)], check=True)


def main() -> None:
    from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene  # not public: the room of `lmvic demo`

    scenes, photos, chains = OUTPUT / "scenes", OUTPUT / "photos-run", OUTPUT / "scenes-run"
    for folder in (scenes, photos, chains):
        shutil.rmtree(folder, ignore_errors=True)
    for seed, name in enumerate(("first", "second")):
        write_demo_scene(scenes / name, DemoSceneConfig(views=8, width=192, height=144, seed_points=1000, seed=seed))
    data = ["--data", scenes / "first" / "images", "--validation-photos", "2", "--crop-size", "128", *QUICK]
    lmvic("train", "photos", "--output", photos, "--batch", "2", *data)
    others = ["--scenes", scenes, "--validation-scene", "second", "--validation-chains", "1", "--chain-size", "128"]
    start = ["--init", photos / "last.safetensors", "--batch", "1"]
    lmvic("train", "scenes", "--output", chains, *start, *others, *data)
    # a run's weights become a weights file that codes: named, in half precision, with its integer tables
    mine = OUTPUT / "mine.safetensors"
    mine.unlink(missing_ok=True)
    lmvic("train", "publish", chains / "last.safetensors", mine)
    trained = lmvic_ns.load_codec(mine)
    scene = lmvic_ns.Scene.from_dataset(scenes / "second").select([0, 1])
    trained.encode(scene, OUTPUT / "trained.lmvic")
    decoded = list(trained.decode(OUTPUT / "trained.lmvic"))[-1]
    print(save_row("04_before_and_after.png", {"captured": scene.image(decoded.index), "after three steps": decoded.image}))


if __name__ == "__main__":
    main()
