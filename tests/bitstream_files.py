"""Headers and small files that the tests of the file format share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.writer import Writer

VIEWS = 6
PARENT = (-1, 0, 0, 1, 3, -1)  # two trees; the longest branch is 0, 1, 3, 4
ORDER = (0, 2, 1, 3, 4, 5)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def scene(count: int = VIEWS, **changes: object) -> dict:
    rng = np.random.default_rng(0)
    k = np.tile(np.eye(3), (count, 1, 1))
    k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2] = 2759.48, 2764.16, 1520.69, 1006.81
    motions = np.tile(np.eye(4), (count, 1, 1))
    for motion in motions:
        motion[:3, :3] = rotation(rng.normal(size=3), rng.uniform(0, math.pi))
        motion[:3, 3] = rng.normal(size=3)
    values: dict = {
        "names": [f"images/frame_{i:05d}.jpg" for i in range(count)],
        "intrinsics": k,
        "world_to_camera": motions,
        "height": np.full(count, 2048),
        "width": np.full(count, 3072),
        "parent": PARENT if count == VIEWS else (-1, *range(count - 1)),
        "order": ORDER if count == VIEWS else tuple(range(count)),
        "preset": "tiny",
        "weights_name": "tiny-1",
        "weights_hash": bytes(range(16)),
        "quality": 32,
        "inverse_depth_scale": 0.25,
    }
    return values | changes


def parts(view: int) -> tuple[bytes, bytes]:
    rng = np.random.default_rng(100 + view)
    return rng.bytes(40 + view), rng.bytes(700 + 90 * view)


def write(path: Path, header: FileHeader) -> Path:
    with Writer(path, header) as writer:
        writer.add_section("META", b'{"software": "test"}')
        for view in header.order:
            writer.add_unit(view, *parts(view))
    return path


def replaced(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path
