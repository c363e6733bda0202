"""Crops a second of a training step on a GPU, part by part.

usage: python benchmarks/gpu_training.py [--weights WEIGHTS] [--batch 64 128] [--seconds 4]

Steps of photographs, pairs and chains of two views, on random pictures, in bfloat16.
"""

from __future__ import annotations

import argparse
import time

import torch

from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.quality import depth_lambda_of_level, lambda_of_level
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.training.data import PhotoBatch
from lmvic_ns.training.objectives import ChainObjective, LossConfig
from lmvic_ns.training.pairs import PairBatch
from lmvic_ns.training.runner import load_initial_weights
from lmvic_ns.training.scenes import ChainBatch
from lmvic_ns.training.speed import faster_convolutions


def batches(crops: int, device: str) -> dict[str, object]:
    """One batch of each kind, of so many crops."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(crops, 3, 16, 16, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (256, 256), mode="bicubic").clamp(0, 255).to(torch.uint8)
    level = torch.rand(crops, generator=generator) * 63
    half = crops // 2
    intrinsics = torch.tensor([[250.0, 0, 128], [0, 250, 128], [0, 0, 1]], dtype=torch.float64).expand(half, 3, 3)
    pose = torch.eye(4, dtype=torch.float64).expand(half, 4, 4).clone()
    moved = pose.clone()
    moved[:, 0, 3] = 0.05
    size = torch.full((half,), 256)
    cameras = [Cameras(intrinsics, p, size, size) for p in (pose, moved)]
    depth = torch.rand(half, 2, 1, 1, generator=generator).expand(half, 2, 256, 256).contiguous()
    keep = torch.tensor([[False, True]]).expand(half, 2)
    return {
        "photographs": PhotoBatch(image, level).to(device),
        "pairs": PairBatch(image, level).to(device),
        "chains": ChainBatch(image.view(half, 2, 3, 256, 256), depth, cameras, level[:half], keep).to(device),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take most of a step of chains")
    o = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    model = build_model(o.preset)
    if o.weights:
        load_initial_weights(model, o.weights)
    model = model.to(o.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    faster_convolutions(model)
    model.depth.requires_grad_(False)
    objective = ChainObjective(
        LossConfig(), lambda_of_level, depth_lambda_of_level, model.levels, view_weights=(1.0,), given_depth=True
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def step(batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(o.device, torch.bfloat16):
            loss = objective(model, batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    synchronize = torch.cuda.synchronize if o.device == "cuda" else lambda: None
    for crops in o.batch:
        for name, batch in batches(crops, o.device).items():
            started = time.perf_counter()
            step(batch)
            step(batch)
            synchronize()
            warm = time.perf_counter() - started
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < o.seconds:
                step(batch)
                count += 1
                synchronize()
            seconds = (time.perf_counter() - started) / count
            memory = torch.cuda.max_memory_allocated() / 2**30 if o.device == "cuda" else 0.0
            print(
                f"{name:11} {crops:4} crops: {seconds * 1e3:7.1f} ms a step, "
                f"{crops / seconds:6.0f} crops/s (first two steps {warm:.1f} s, {memory:.1f} GiB)",
                flush=True,
            )
    if o.profile:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            step(batches(o.batch[-1], o.device)["chains"])
            synchronize()
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
