"""What the examples share: your scene or a small room, one file made of it, and labelled pictures side by side.

    python examples/01_compress_a_scene.py SCENE

SCENE is a nerfstudio dataset with depth files, or a COLMAP or nerfstudio dataset without (then views stand alone). Without
one, a small rendered room is taken. Everything is written to `examples/outputs/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import lmvic_ns

OUTPUT = Path(__file__).resolve().parent / "outputs"


def scene_folder() -> Path:
    """The scene that is named on the command line, or a small room with exact poses and depth, made once."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    folder = OUTPUT / "room"
    if not (folder / "transforms.json").is_file():
        from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene  # not public: the room of `lmvic demo`

        write_demo_scene(folder, DemoSceneConfig(views=8, width=384, height=288, seed_points=1000))
    return folder


def scene() -> lmvic_ns.Scene:
    """That scene, or one line on what is wrong with it."""
    try:
        return lmvic_ns.Scene.from_dataset(scene_folder())
    except lmvic_ns.LmvicError as error:
        raise SystemExit(str(error)) from None


def coded(quality: int = 32) -> Path:
    """The scene as a file at a quality level; coded once."""
    path = OUTPUT / f"{scene_folder().resolve().name}-{quality}.lmvic"
    if not path.is_file():
        OUTPUT.mkdir(exist_ok=True)
        fast = lmvic_ns.EncodeOptions(quality=quality, effort=lmvic_ns.Effort.named("fast"))
        lmvic_ns.load_codec("tiny").encode(scene(), path, options=fast, on_view=lambda view: print(f"  {view.name}"))
    return path


def save_row(name: str, pictures: dict[str, Tensor]) -> Path:
    """Pictures [3, h, w] of 0..1 and one height side by side, each under its label, as a PNG."""
    columns = []
    for label, picture in pictures.items():
        values = (picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
        shown = Image.fromarray(values.permute(1, 2, 0).numpy())
        column = Image.new("RGB", (shown.width, shown.height + 22), "white")
        column.paste(shown, (0, 22))
        ImageDraw.Draw(column).text((6, 5), label, fill="black")
        columns.append(column)
    row = Image.new("RGB", (sum(c.width for c in columns) + 6 * (len(columns) - 1), max(c.height for c in columns)), "white")
    left = 0
    for column in columns:
        row.paste(column, (left, 0))
        left += column.width + 6
    OUTPUT.mkdir(exist_ok=True)
    row.save(OUTPUT / name)
    return OUTPUT / name
