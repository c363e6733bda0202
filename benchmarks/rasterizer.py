"""The CPU rasterizer in figures: ours against plain torch, scaling with intersections, and the share of each stage.

Run: python benchmarks/rasterizer.py
Times are medians of forward + backward (loss on rgb and median depth, SH degree 1, gradients to all parameters), memory
is the growth of the peak resident set in a process of its own, over what it was before the first iteration.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

GOAL_SPEED, GOAL_MEMORY = 15.0, 0.2


@dataclass
class Benchmark:
    """What to measure."""

    counts: tuple[int, ...] = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
    """Numbers of Gaussians for the scaling of ours, at 640x480."""
    repeats: int = 5
    """Timed iterations of ours; the median counts (plain torch runs once after a warm-up)."""
    only: tuple[Literal["reference", "compiled"], int, int, int] | None = None
    """Internal: measure one rasterizer (name, Gaussians, width, height) and print JSON."""


def surface_scene(count: int, width: int) -> list[Tensor]:
    """Gaussians on a wavy wall, as a trained scene has them: flat, overlapping, a few large, half of them opaque."""
    g = torch.Generator().manual_seed(0)
    xy = (torch.rand(count, 2, generator=g) - 0.5) * torch.tensor([4.4, 3.3])
    z = 0.3 * torch.sin(3 * xy.sum(-1, keepdim=True)) + 0.05 * torch.randn(count, 1, generator=g)
    spacing = (4.4 * 3.3 / count) ** 0.5
    scales = spacing * torch.exp(0.6 * torch.randn(count, 3, generator=g)) * torch.tensor([1.0, 1.0, 0.3])
    scales[: count // 100] *= 8
    view = torch.eye(4)[None].clone()
    view[0, 2, 3] = 3.5
    return [
        torch.cat([xy, z], -1),
        torch.randn(count, 4, generator=g) * 0.3 + torch.tensor([1.0, 0, 0, 0]),
        scales,
        torch.sigmoid(2 * torch.randn(count, generator=g)),
        0.3 * torch.randn(count, 4, 3, generator=g),
        view,
        torch.tensor([[[0.8 * width, 0, 0.5 * width], [0, 0.8 * width, 0.375 * width], [0, 0, 1]]]),
    ]


def measure(name: str, count: int, width: int, height: int, repeats: int) -> dict[str, float | int | dict[str, float]]:
    """Seconds, bytes and intersections of one rasterizer; with ours also the seconds of each stage."""
    from lmvic_ns.splat.rasterization import rasterize
    from lmvic_ns.splat.reference import rasterize_reference

    draw = rasterize if name == "compiled" else rasterize_reference
    target = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1))
    intersections = 0

    def iteration(scene: list[Tensor], width: int, height: int) -> float:
        nonlocal intersections
        for tensor in scene[:5]:
            tensor.grad = None
            tensor.requires_grad_()
        start = time.perf_counter()
        drawn = draw(*scene, width, height, sh_degree=1, absgrad=True)  # pyright: ignore[reportCallIssue]
        loss = (drawn.rgb - target[:, :height, :width]).abs().mean() + 0.01 * drawn.median_depth.mean()
        loss.backward()
        intersections = len(drawn.info["flatten_ids"])
        return time.perf_counter() - start

    iteration(surface_scene(50, 32), 32, 24)  # compiles, loads, starts threads
    scene = surface_scene(count, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    iteration(scene, width, height)
    seconds = [iteration(scene, width, height) for _ in range(repeats if name == "compiled" else 1)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = {"seconds": statistics.median(seconds), "bytes": (after - before) * 1024, "intersections": intersections}
    return out | ({"stages": stage_seconds(lambda: iteration(scene, width, height))} if name == "compiled" else {})


def stage_seconds(iteration) -> dict[str, float]:
    """Seconds in each compiled kernel during one iteration, by wrapping them; the rest is torch and Python."""
    from lmvic_ns.splat import blend_kernels, projection_kernels, tile_kernels

    spent: dict[str, float] = defaultdict(float)
    stages = {
        "project": (projection_kernels, ("project_forward", "colors_forward")),
        "tile lists": (tile_kernels, ("pack_records", "count_tiles", "fill_spans", "count_per_tile", "fill_tiles")),
        "blend": (blend_kernels, ("blend_forward",)),
        "blend backward": (blend_kernels, ("blend_backward", "sum_by_gaussian")),
        "project backward": (projection_kernels, ("project_backward", "colors_backward")),
    }
    replaced = []
    for stage, (module, names) in stages.items():
        for name in names:
            kernel = getattr(module, name, None)
            if kernel is None:
                continue

            def timed(*arguments, kernel=kernel, stage=stage):
                start = time.perf_counter()
                result = kernel(*arguments)
                spent[stage] += time.perf_counter() - start
                return result

            replaced.append((module, name, kernel))
            setattr(module, name, timed)
    try:
        total = iteration()
    finally:
        for module, name, kernel in replaced:
            setattr(module, name, kernel)
    return dict(spent) | {"torch and Python": total - sum(spent.values())}


def in_a_process(name: str, count: int, width: int, height: int, repeats: int) -> dict:
    """`measure` in a fresh process, so that peaks of memory do not mix."""
    command = [sys.executable, __file__, "--repeats", str(repeats), "--only", name, str(count), str(width), str(height)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main(config: Benchmark) -> None:
    if config.only is not None:
        print(json.dumps(measure(*config.only, config.repeats)))
        return
    console = Console()
    console.print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    slow, fast = (in_a_process(n, 20_000, 320, 240, config.repeats) for n in ("reference", "compiled"))
    table = Table("20,000 Gaussians, 320x240", "plain torch", "compiled", "ratio", "goal")
    speed, memory = slow["seconds"] / fast["seconds"], fast["bytes"] / slow["bytes"]
    table.add_row(
        "forward + backward", f"{slow['seconds']:.2f} s", f"{fast['seconds']:.3f} s", f"{speed:.0f}x", f">= {GOAL_SPEED:.0f}x"
    )
    table.add_row(
        "peak memory",
        f"{slow['bytes'] / 2**20:.0f} MiB",
        f"{fast['bytes'] / 2**20:.0f} MiB",
        f"{memory:.3f}",
        f"< {GOAL_MEMORY}",
    )
    table.add_row("intersections", f"{slow['intersections']:,}", f"{fast['intersections']:,}", "", "")
    console.print(table)

    rows = {count: in_a_process("compiled", count, 640, 480, config.repeats) for count in config.counts}
    stages = list(next(iter(rows.values()))["stages"])
    table = Table("compiled, 640x480", "intersections", "ms", "ns / intersection", "MiB", *stages)
    for count, row in rows.items():
        total = sum(row["stages"].values())
        table.add_row(
            f"{count:,}",
            f"{row['intersections']:,}",
            f"{1e3 * row['seconds']:.0f}",
            f"{1e9 * row['seconds'] / row['intersections']:.0f}",
            f"{row['bytes'] / 2**20:.0f}",
            *(f"{100 * row['stages'].get(stage, 0.0) / total:.0f} %" for stage in stages),
        )
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
