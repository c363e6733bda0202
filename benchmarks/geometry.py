"""Geometry: time of disparity, mask and warp of a megapixel pair against a plain version, its share of a codec pass, and
what the depth bound of the reference tree costs on real scenes.

    python benchmarks/geometry.py [--threads 1] [--skip-codec] [--preset tiny]

Real scenes are read from LMVIC_DATA (default ../shared/data beside the repository) where that exists.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, downsample_inverse_depth, upsample_inverse_depth
from lmvic_ns.geometry.prediction import predict_inverse_depth
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import covisibility, greedy_chain, pose_distance, reference_tree

SIZE = 1024  # 1024 x 1024: 1.05 megapixels


def pair() -> tuple[Tensor, Tensor, Cameras, Cameras, Tensor]:
    """Inverse depth of a bent surface with steps for two views, their cameras, and the reference's picture."""
    k = torch.tensor([[900.0, 0, SIZE / 2], [0, 900.0, SIZE / 2], [0, 0, 1]]).expand(2, 3, 3)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    turn = 0.05
    poses[1, 0, 0] = poses[1, 2, 2] = np.cos(turn)
    poses[1, 0, 2], poses[1, 2, 0] = np.sin(turn), -np.sin(turn)
    poses[1, 0, 3] = -0.4
    cameras = Cameras(k, poses, torch.tensor([SIZE, SIZE]), torch.tensor([SIZE, SIZE]))
    x = torch.linspace(0, 1, SIZE)
    depth = 0.2 + 0.1 * x[None] * x[:, None] + 0.1 * ((x * 6).floor() % 2)[None]
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return depth[None], depth.flip(1)[None].contiguous(), cameras[0], cameras[1], image


def plain_pair(depth: Tensor, reference_depth: Tensor, view: Cameras, reference: Cameras, image: Tensor) -> Tensor:
    """The same written plainly in float32: torch.linalg, points as a matrix, grid_sample for depth and picture."""
    height, width = depth.shape[1:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    homogeneous = torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1)
    z = 1.0 / depth.reshape(1, -1).clamp(min=1e-6)
    points = torch.linalg.inv(view.intrinsics[0].float()) @ homogeneous * z
    points = torch.cat([points, torch.ones_like(z)])
    motion = reference.world_to_camera[0].float() @ torch.linalg.inv(view.world_to_camera[0].float())
    p = (motion @ points)[:3]
    q = reference.intrinsics[0].float() @ p
    x, y = q[0] / q[2].clamp(min=1e-6), q[1] / q[2].clamp(min=1e-6)
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).view(1, height, width, 2)
    seen = grid_sample(
        1.0 / reference_depth[:, None].clamp(min=1e-6), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    inside = (x >= -1) & (x <= width + 1) & (y >= -1) & (y <= height + 1)
    mask = inside & (p[2] > 0) & (p[2] < 1.05 * seen.view(-1))
    warped = grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped * mask.view(1, 1, height, width)


def timed(function: Callable[[], Any], repeats: int = 7) -> tuple[float, float]:
    """Median wall-clock and CPU seconds after one warm-up (on a busy machine, the CPU's tell more)."""
    function()
    wall, cpu = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    return statistics.median(wall), statistics.median(cpu)


def pair_table() -> None:
    """Ours against the plain version, and the parts."""
    depth, reference_depth, view, reference, image = pair()

    def ours() -> Tensor:
        found = disparity_and_mask(depth, view, reference_depth, reference)
        return warp(image, found.disparity) * found.mask[:, None]

    difference = (ours() - plain_pair(depth, reference_depth, view, reference, image)).abs().mean()
    whole, plain = timed(ours), timed(lambda: plain_pair(depth, reference_depth, view, reference, image))
    disparity = disparity_and_mask(depth, view, reference_depth, reference).disparity
    coarse = downsample_inverse_depth(depth, 4)
    features = torch.rand(1, 128, SIZE // 8, SIZE // 8)
    megapixels = SIZE * SIZE / 1e6
    print(
        f"\n{megapixels:.2f} MP pair, {torch.get_num_threads()} thread(s); "
        f"mean difference of the pictures {float(difference):.2g}"
    )
    rows = {
        "disparity + mask + warp of the picture, ours (float64, 1/64 px)": whole,
        "the same, plain (float32, linalg + grid_sample)": plain,
        "  disparity + mask": timed(lambda: disparity_and_mask(depth, view, reference_depth, reference)),
        "  warp of 3 channels": timed(lambda: warp(image, disparity)),
        "  warp of 128 channels at 1/8": timed(lambda: warp(features, disparity, scale=8)),
        "  upsample inverse depth 4x": timed(lambda: upsample_inverse_depth(coarse, SIZE, SIZE)),
        "  downsample inverse depth 4x": timed(lambda: downsample_inverse_depth(depth, 4)),
        "  predict inverse depth at 1/4": timed(lambda: predict_inverse_depth(coarse, view.coarsen(4), reference.coarsen(4))),
    }
    for name, (wall, cpu) in rows.items():
        print(f"{name:66s} {wall * 1e3:8.1f} ms {megapixels / wall:8.1f} MP/s   CPU {cpu * 1e3:7.1f} ms")
    print(f"ratio plain / ours: {plain[0] / whole[0]:.2f} (wall), {plain[1] / whole[1]:.2f} (CPU)")


def order_table() -> None:
    """A thousand views."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(1000, 3, 3, generator=generator, dtype=torch.float64))[0]
    poses = torch.eye(4, dtype=torch.float64).repeat(1000, 1, 1)
    poses[:, :3, :3] = rotation * torch.linalg.det(rotation)[:, None, None]
    poses[:, :3, 3] = torch.randn(1000, 3, generator=generator)
    distances = pose_distance(poses, translation_scale=1.0)
    cameras = Cameras(torch.tensor([[900.0, 0, 512], [0, 900, 384], [0, 0, 1]]).expand(200, 3, 3), poses[:200], 768, 1024)  # type: ignore[arg-type]
    maps = [torch.full((192, 256), 0.3)] * 200
    print("\norder")
    for name, function in {
        "pose distance, 1000 views, Frobenius (goal: under 2 s)": lambda: pose_distance(poses, translation_scale=1.0),
        "pose distance, 1000 views, spectral": lambda: pose_distance(poses, translation_scale=1.0, norm="spectral"),
        "reference tree, 1000 views, depth 8": lambda: reference_tree(distances),
        "covisibility, 200 views": lambda: covisibility(maps, cameras),
    }.items():
        wall, cpu = timed(function, 3)
        print(f"{name:66s} {wall:8.3f} s   CPU {cpu:7.3f} s")


@contextmanager
def stopwatch(module: Any, names: list[str]) -> Any:
    """Adds up the CPU seconds spent in functions of a module."""
    spent = dict.fromkeys(names, 0.0)

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            result = function(*args, **kwargs)
            spent[name] += time.process_time() - started
            return result

        return call

    patches = [patch.object(module, name, wrapped(name, getattr(module, name))) for name in names]
    for p in patches:
        p.start()
    try:
        yield spent
    finally:
        for p in patches:
            p.stop()


def codec_table(preset: str) -> None:
    """Share of geometry in encoding and decoding a view with a reference, with untrained weights (time is the same)."""
    from lmvic_ns.codec.networks import model as codec_model
    from lmvic_ns.codec.presets import build_model

    model = build_model(preset).eval()
    depth, reference_depth, view, reference, image = pair()
    depth, reference_depth = depth / 0.5, reference_depth / 0.5  # normalised
    names = [
        "disparity_and_mask", "warp", "upsample_inverse_depth", "downsample_inverse_depth", "predict_inverse_depth",
    ]  # fmt: skip
    level = 32
    with torch.no_grad():
        _, _, state = model.compress(image, reference_depth, reference, None, level)
        model.compress(image, depth, view, state, level)
        print(f"\nshare of a codec pass, preset {preset}, {SIZE} x {SIZE}, {torch.get_num_threads()} thread(s)")
        with stopwatch(codec_model, names) as spent:
            started = time.process_time()
            depth_part, image_part, _ = model.compress(image, depth, view, state, level)
            total = time.process_time() - started
        _shares("encode", spent, total)
        with stopwatch(codec_model, names) as spent:
            started = time.process_time()
            model.decompress(depth_part, image_part, (SIZE, SIZE), view, state, level)
            total = time.process_time() - started
        _shares("decode", spent, total)


def _shares(what: str, spent: dict[str, float], total: float) -> None:
    core = spent["disparity_and_mask"] + spent["warp"]
    parts = ", ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in spent.items())
    everything = sum(spent.values())
    print(f"{what}: CPU {total * 1e3:.0f} ms; disparity + mask + warps {100 * core / total:.1f} %", end=", ")
    print(f"all geometry {100 * everything / total:.1f} % (ms: {parts})")


def tree_table(root: Path) -> None:
    """What the depth bound costs in total length, distance (8) with the median depth of the sparse points as scale."""
    print("\nreference trees, distance (8): total length relative to the minimum spanning tree (its depth in brackets)")
    columns = " ".join(f"{name:>9s}" for name in ("depth 16", "depth 8", "depth 4", "depth 2", "chain"))
    print(f"{'scene':12s} {'views':>5s} {'unbounded':>12s} {columns}")
    for folder in sorted(p for p in (root / "scenes").iterdir() if (p / "transforms.json").is_file()):
        scene = MultiViewScene.from_dataset(folder)
        assert scene.sparse_points is not None
        distances = pose_distance(scene.cameras.world_to_camera, translation_scale=median_depth(scene))
        best = reference_tree(distances, max_depth=None)
        length = best.total_length(distances)
        others = [reference_tree(distances, max_depth=d).total_length(distances) / length for d in (16, 8, 4, 2)]
        others.append(greedy_chain(distances).total_length(distances) / length)
        cells = " ".join(f"{ratio:9.3f}" for ratio in others)
        print(f"{folder.name:12s} {len(scene):5d} {length:7.3f} ({best.max_depth:2d}) {cells}")


def median_depth(scene: MultiViewScene) -> float:
    """Median depth of the SfM points over the views that may see them (in front of the camera and inside the picture)."""
    assert scene.sparse_points is not None
    lines = scene.sparse_points.read_text().splitlines()
    points = np.loadtxt(lines[lines.index("end_header") + 1 :], usecols=(0, 1, 2))
    depths = []
    for i in range(len(scene)):
        camera = scene.cameras[i]
        p = points @ camera.world_to_camera[0, :3, :3].numpy().T + camera.world_to_camera[0, :3, 3].numpy()
        p = p[p[:, 2] > 1e-3]
        q = p @ camera.intrinsics[0].numpy().T
        xy = q[:, :2] / q[:, 2:]
        height, width = camera.size
        depths.append(p[((xy >= 0) & (xy < [width, height])).all(1), 2])
    return float(np.median(np.concatenate(depths)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--preset", default="tiny", help="codec preset for the share of a pass")
    parser.add_argument("--skip-codec", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair_table()
    order_table()
    if not arguments.skip_codec:
        codec_table(arguments.preset)
    root = Path(os.environ.get("LMVIC_DATA", Path(__file__).resolve().parent.parent / "../shared/data"))
    if (root / "scenes").is_dir():
        tree_table(root)
    else:
        print(f"\nno real scenes at {root}: set LMVIC_DATA for the table of reference trees")


if __name__ == "__main__":
    main()
