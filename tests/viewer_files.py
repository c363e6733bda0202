"""A little room and its coded file, for tests of viewers."""

from __future__ import annotations

from pathlib import Path

from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.sections import point_sections


def write_room(folder: Path, views: int) -> Path:
    """Write scene/ (96 x 72 pixels, with depth and points), room.lmvic, and w.safetensors, the untrained weights of it."""
    write_demo_scene(folder / "scene", DemoSceneConfig(views=views, width=96, height=72, supersample=1, seed_points=50))
    save_weights(build_model("tiny"), folder / "w.safetensors", {"name": "untrained", "preset": "tiny"})
    scene = MultiViewScene.from_dataset(folder / "scene")
    load_codec(folder / "w.safetensors").encode(scene, folder / "room.lmvic", sections=point_sections(scene, "compact"))
    return folder
