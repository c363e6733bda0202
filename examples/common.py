"""What the examples share: the demo room on disk, the weights to use, and pictures side by side.

Everything is written to `examples/outputs/`. Weights are those of the package, or those of the file that is given:
`python examples/01_compress_a_scene.py my.safetensors`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lmvic_ns._util.output import whole_file
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.demo.scene import DemoSceneConfig, write_demo_scene
from lmvic_ns.errors import LmvicError
from lmvic_ns.scene import MultiViewScene

OUTPUT = Path(__file__).resolve().parent / "outputs"


def room(name: str = "room", seed: int = 0) -> Path:
    """A small room as a nerfstudio dataset with exact poses and depth; made once."""
    folder = OUTPUT / name
    if not (folder / "transforms.json").is_file():
        write_demo_scene(folder, DemoSceneConfig(views=8, width=192, height=144, seed_points=1000, seed=seed))
    return folder


def codec() -> MultiViewCodec:
    """The codec with the package's weights, or with those named on the command line."""
    try:
        return load_codec(sys.argv[1] if len(sys.argv) > 1 else "tiny")
    except LmvicError as error:
        raise SystemExit(str(error)) from None


def compressed_room(codec: MultiViewCodec) -> Path:
    """The room as a file, made with these weights."""
    path = OUTPUT / "room.lmvic"
    codec.encode(MultiViewScene.from_dataset(room()), path, quality=40)
    return path


def save_row(name: str, *pictures: Tensor) -> Path:
    """Pictures [3, h, w] of 0..1 and one height, side by side in a PNG."""
    row = torch.cat([picture.detach().cpu().float().clamp(0, 1) for picture in pictures], dim=2)
    path = OUTPUT / name
    with whole_file(path) as partial:
        Image.fromarray((row * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(partial)
    return path
