"""What sparse points cost in a file, and how exact they are: `python benchmarks/points.py SCENE... [--downscale N]`.

For each dataset: bytes a point as they were stored before this format (rounded, deflated), exact, and compact; the largest
movement of a point in any view that has it in its frame, in pixels, and in distances from the nearest camera; and how far
colours are from those of the dataset, in levels of 255 (mean of red, green and blue). With `--code Q` a file is made at that
quality, and colours are those that `lmvic decode` writes, taken from the decoded pictures; without, from the photographs.
"""

from __future__ import annotations

import argparse
import math
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points import compact as compact_points
from lmvic_ns.sparse_points.exact import SparsePoints, pack_points, scene_points
from lmvic_ns.sparse_points.grid import Pinholes, movements
from lmvic_ns.sparse_points.sections import FilePoints, colours_at
from lmvic_ns.workflows.encoding import downscaled, encode_scene
from lmvic_ns.workflows.options import CodingOptions


def rounded_and_deflated(points: SparsePoints) -> int:
    """Bytes of the points as format 4.0 stored them: to 1/8192 of their spread, along a Morton curve, by columns of bytes."""
    positions = points.positions.astype(np.float64)
    spread = float(np.median(np.linalg.norm(positions - np.median(positions, axis=0), axis=1)))
    step = 2.0 ** math.floor(math.log2(spread / 8192))
    positions = np.round(positions / step) * step
    ranks = np.argsort(np.argsort(positions, axis=0, kind="stable"), axis=0, kind="stable") * 1023 // (len(positions) - 1)
    code = sum(((ranks[:, axis] >> bit) & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3))
    order = np.argsort(code, kind="stable")
    planes = [positions[order].astype("<f4").view(np.uint8).reshape(-1, 12).T]
    if points.colours is not None:
        planes.append(points.colours[order].T)
    return 5 + len(zlib.compress(b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes), 9))


def matched(decoded: np.ndarray, original: np.ndarray, cameras: Pinholes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each original point the decoded one that moved least, of the eight nearest: its number, pixels, distances."""
    from scipy.spatial import KDTree

    candidates = KDTree(decoded).query(original, k=min(8, len(decoded)))[1].reshape(len(original), -1)
    found = [movements(cameras, original, decoded[candidates[:, k]]) for k in range(candidates.shape[1])]
    worst = np.stack([np.maximum(p / compact_points.PIXEL_TOLERANCE, d / compact_points.DISTANCE_TOLERANCE) for p, d in found])
    best, every = worst.argmin(axis=0), np.arange(len(original))
    pixels, distances = (np.stack(part)[best, every] for part in zip(*found, strict=True))
    return candidates[every, best], pixels, distances


def measure(folder: Path, downscale: int, quality: int | None) -> str:
    """A row of the table."""
    scene = downscaled(MultiViewScene.from_dataset(folder), downscale)
    points = scene_points(scene)
    if points is None:
        raise SystemExit(f"{folder}: no sparse points")
    count, cameras = len(points.positions), Pinholes.to_be_stored(scene.cameras)
    pictures: dict[int, torch.Tensor] = {}

    def colour_of(view: int, pixels: np.ndarray) -> np.ndarray:
        if view not in pictures:
            pictures[view] = scene.image(view)
        return colours_at(pictures[view], pixels)

    begin = time.process_time()
    data = compact_points.pack_compact(points.positions, points.colours, cameras, colour_of)
    packed = time.process_time()
    found = compact_points.unpack_compact(data, cameras)
    unpacked = time.process_time()
    kept = len(found.view)
    positions, colours = found.positions, np.zeros((kept, 3), dtype=np.uint8)
    if quality is None:
        for view in np.unique(found.view):
            own = found.view == view
            colours[own] = colour_of(int(view), cameras.project(int(view), positions[own].astype(float))[0])
    else:
        with tempfile.TemporaryDirectory() as folder_of_file:
            path = Path(folder_of_file) / "scene.lmvic"
            codec = load_codec("tiny")
            options = CodingOptions(quality=quality, effort="fast", reference_structure="none")
            encode_scene(scene.with_inverse_depth(None), path, options, codec)
            with Reader(path) as reader:
                cloud = FilePoints(reader)
                for decoded_view in codec.decode(reader):
                    cloud.add_view(decoded_view)
            decoded = cloud.finish()
            assert decoded is not None and decoded.colours is not None
            positions, colours = decoded.positions, decoded.colours
    shown = np.any([cameras.project(v, points.positions.astype(float))[2] for v in range(len(cameras))], axis=0)
    number, pixels, distances = matched(positions.astype(float), points.positions[shown].astype(float), cameras)
    off = "no colours"
    if points.colours is not None:
        levels = np.abs(colours[number].astype(float) - points.colours[shown]).mean(axis=1)
        off = f"{np.median(levels):.1f} / {levels.mean():.1f} / {(levels > 32).mean():.1%}"
    before, exact = rounded_and_deflated(points) / count, len(pack_points(points)) / count
    layers = struct.unpack_from("<H", data, 4)[0]
    size = f"{int(cameras.size[0, 0])}x{int(cameras.size[0, 1])}"
    return (
        f"| {folder.name} | {len(scene)} of {size} | {count:,} | {kept:,} | {before:.2f} | {exact:.2f} "
        f"| **{len(data) / kept:.2f}** | {layers} | {pixels.max():.3f} | 1/{1 / max(distances.max(), 1e-9):.0f} | {off} "
        f"| {packed - begin:.1f} s, {unpacked - packed:.2f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--code", type=int, metavar="Q", help="code the pictures at this quality and take their colours")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| scene | views | points | shown | before | exact | **compact** | grids | most, pixels | most, distance "
        "| colours off: median / mean / over 32 | packing, reading |"
    )
    print("|---|---|" + "---:|" * 10)
    for folder in arguments.scenes:
        print(measure(folder, arguments.downscale, arguments.code), flush=True)


if __name__ == "__main__":
    main()
