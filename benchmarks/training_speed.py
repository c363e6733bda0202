"""What a training step costs, and what makes it cheaper: CPU seconds of one thread, so that other programs matter less.

python benchmarks/training_speed.py --preset tiny
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.quality import lambda_of_level
from lmvic_ns.training.data import PhotoBatch
from lmvic_ns.training.objectives import LossConfig, PhotoObjective
from lmvic_ns.training.speed import faster_convolutions


@dataclass
class SpeedConfig:
    preset: str = "tiny"
    batch: int = 8
    size: int = 256
    steps: int = 5
    compile: bool = False
    """Also try torch.compile (minutes to compile on a CPU)."""


def cpu_seconds(step: Callable[[], None], steps: int) -> float:
    """Median over steps, after two to warm up."""
    times = []
    for _ in range(steps + 2):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return statistics.median(times[2:])


def main(config: SpeedConfig) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = PhotoBatch(
        torch.randint(0, 256, (config.batch, 3, config.size, config.size), dtype=torch.uint8),
        torch.rand(config.batch) * 63,
    )

    def measure(name: str, *, channels_last: bool, half: bool, patches: bool, compiled: bool = False) -> None:
        model = build_model(config.preset)
        if patches:
            faster_convolutions(model)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            model.forward_photo = torch.compile(model.forward_photo, dynamic=False)  # type: ignore[method-assign]
        objective = PhotoObjective(LossConfig(), lambda_of_level, model.levels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                result = objective(model, batch)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()

        seconds = cpu_seconds(step, config.steps)
        print(f"{name:44} {seconds:6.3f} s  {config.batch / seconds:6.1f} crops per CPU second", flush=True)

    measure("float32", channels_last=False, half=False, patches=False)
    measure("float32, channels-last", channels_last=True, half=False, patches=False)
    measure("bfloat16", channels_last=False, half=True, patches=False)
    measure("bfloat16, channels-last", channels_last=True, half=True, patches=False)
    measure("bfloat16, channels-last, patch convolutions", channels_last=True, half=True, patches=True)
    if config.compile:
        measure("the same, torch.compile", channels_last=True, half=True, patches=True, compiled=True)


if __name__ == "__main__":
    main(tyro.cli(SpeedConfig))
