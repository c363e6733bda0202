"""Synthetic training pictures: flat, smooth, striped, dithered, noisy. They make the networks robust to unusual input."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

KINDS = 8


def synthetic_picture(random: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """One picture of a kind drawn by `random`."""
    y, x = np.mgrid[0:size, 0:size] / size
    a, b, c = (random.uniform(0, 255, 3) for _ in range(3))
    kind = int(random.integers(KINDS))
    if kind == 0:  # flat
        picture = np.broadcast_to(a, (size, size, 3))
    elif kind in (1, 2):  # smooth: a sky
        angle = random.uniform(0, 2 * np.pi)
        t = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) * random.uniform(0.1, 1.4) + 0.5
        t = t + random.uniform(0, 0.3) * ((x - random.random()) ** 2 + (y - random.random()) ** 2)
        picture = a + (b - a) * t[..., None]
    elif kind == 3:  # stripes and checkers of one to eight pixels
        period, slant = int(random.integers(1, 9)), int(random.integers(-2, 3))
        rows, columns = np.mgrid[0:size, 0:size]
        stripe = ((columns + slant * rows) // period) % 2
        if random.random() < 0.4:
            stripe = (stripe + rows // period) % 2
        picture = a + (b - a) * stripe[..., None]
    elif kind == 4:  # dither of a slope
        t = np.clip(x * random.uniform(-1, 1) + y * random.uniform(-1, 1) + random.random(), 0, 1)
        picture = np.where((random.random((size, size)) < t)[..., None], a, b)
    elif kind == 5:  # noise, from faint to all there is
        picture = a + random.uniform(2, 80) * random.standard_normal((size, size, 3 if random.random() < 0.5 else 1))
    elif kind == 6:  # flat shapes with sharp edges
        picture = np.broadcast_to(a, (size, size, 3)).copy()
        for _ in range(int(random.integers(3, 20))):
            top, left = random.integers(0, size, 2)
            high, wide = random.integers(2, max(size // 2, 3), 2)
            picture[top : top + high, left : left + wide] = random.uniform(0, 255, 3)
    else:  # strokes of one to three pixels on a plain ground, like text
        picture = np.broadcast_to(a, (size, size, 3)).copy()
        for _ in range(int(random.integers(40, 400))):
            top, left = random.integers(0, size, 2)
            thick, long = int(random.integers(1, 4)), int(random.integers(3, 14))
            high, wide = (thick, long) if random.random() < 0.5 else (long, thick)
            picture[top : top + high, left : left + wide] = c
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
