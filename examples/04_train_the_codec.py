"""Train the codec on scenes of your own.

Two stages: photographs alone (`lmvic train photos`), then chains of views with depth (`lmvic train scenes`). This example
trains a few steps of each on two small rooms, to show the commands and the files. Real training takes hours and
thousands of photographs: see docs/training.md. The picture shows a photograph before and after coding with the weights
that were just trained (bad ones, after so few steps).
"""

from __future__ import annotations

import shutil

from common import OUTPUT, room, save_row

from lmvic_ns.cli.main import run
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.training.runner import load_initial_weights

QUICK = ["--max-steps", "3", "--precision", "32-true", "--threads", "1", "--workers", "0"]


def main() -> None:
    scenes = OUTPUT / "scenes"
    for name, seed in (("first", 0), ("second", 1)):
        made = room(f"{name}-room", seed)
        shutil.copytree(made, scenes / name, dirs_exist_ok=True)
    shutil.rmtree(OUTPUT / "photos-run", ignore_errors=True)
    shutil.rmtree(OUTPUT / "scenes-run", ignore_errors=True)
    photographs = ["--data", str(scenes / "first" / "images"), "--validation-photos", "2", *QUICK]
    run(["train", "photos", "--output", str(OUTPUT / "photos-run"), "--batch", "2", "--crop-size", "128", *photographs])
    start = ["--init", str(OUTPUT / "photos-run" / "last.safetensors")]
    chains = ["--scenes", str(scenes), "--validation-scene", "second", "--validation-chains", "1", "--chain-size", "128"]
    command = ["train", "scenes", "--output", str(OUTPUT / "scenes-run"), "--batch", "1", "--crop-size", "128"]
    run([*command, *start, *chains, *photographs])
    # a run's weights become a weights file that codes: named, in half precision, with its integer tables
    model = build_model("tiny")
    load_initial_weights(model, OUTPUT / "scenes-run" / "last.safetensors")
    save_weights(model, OUTPUT / "mine.safetensors", {"name": "mine", "preset": "tiny"})
    trained = load_codec(OUTPUT / "mine.safetensors")
    scene = MultiViewScene.from_dataset(scenes / "second").select([0, 1])
    trained.encode(scene, OUTPUT / "trained.lmvic")
    decoded = list(trained.decode(OUTPUT / "trained.lmvic"))[-1]
    print(save_row("04_before_and_after.png", scene.image(decoded.index), decoded.image))


if __name__ == "__main__":
    main()
