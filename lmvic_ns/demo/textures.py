"""Textures of the demo room: photographs that scikit-image ships, or procedural ones where it does not."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

PHOTOGRAPHS = {
    "bricks": "brick.png",
    "gravel": "gravel.png",
    "grass": "grass.png",
    "coffee": "coffee.png",
    "cat": "chelsea.png",
    "rocket": "rocket.jpg",
    "astronaut": "astronaut.png",
    "galaxies": "hubble_deep_field.jpg",
    "moon": "moon.png",
    "page": "page.png",
}
"""Our name of a texture -> its file in skimage/data (NASA's, or CC0 by their authors)."""


def load_texture(name: str, *, tint: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Float[Tensor, "h w 3"]:
    """A picture in 0..1, at most 512 pixels on its long side, multiplied by `tint` (for the grey ones)."""
    try:
        with files("skimage.data").joinpath(PHOTOGRAPHS[name]).open("rb") as stream:
            picture = Image.open(stream).convert("RGB")
            picture.thumbnail((512, 512), Image.Resampling.LANCZOS)
    except (ModuleNotFoundError, FileNotFoundError):
        picture = _procedural(name)
    texture = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)
    return (texture * torch.tensor(tint)).clamp(0.0, 1.0)


def _procedural(name: str, size: int = 256) -> Image.Image:
    """Noise in octaves with the colours and the seed of its name, for a machine without the photographs."""
    rng = np.random.default_rng(list(name.encode()))
    total = np.zeros((size, size, 3), np.float32)
    for octave in range(2, 8):
        noise = rng.random((2**octave, 2**octave, 3), dtype=np.float32) - 0.5
        channels = [np.asarray(Image.fromarray(noise[..., c]).resize((size, size), Image.Resampling.BICUBIC)) for c in range(3)]
        total += np.stack(channels, axis=-1) / np.float32(octave - 1)
    return Image.fromarray((np.clip(0.5 + 0.6 * total, 0, 1) * 255).astype(np.uint8))


def sample_texture(texture: Float[Tensor, "h w 3"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Bilinear lookup; u goes right, v goes down, and the picture repeats outside 0..1."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None].to(texture.dtype), (y - top)[:, None].to(texture.dtype)
    x0, y0 = left.long() % width, top.long() % height
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height
    flat = texture.reshape(-1, 3)
    upper = flat[y0 * width + x0] * (1 - fx) + flat[y0 * width + x1] * fx
    lower = flat[y1 * width + x0] * (1 - fx) + flat[y1 * width + x1] * fx
    return upper * (1 - fy) + lower * fy
