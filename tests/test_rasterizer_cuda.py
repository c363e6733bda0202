"""The CUDA backend: Triton's kernel in its interpreter and compiled ahead of time; with a GPU, against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from splat_scenes import PICTURES, random_scene, relative_error, weighted_sum

INTERPRETED = """
import torch
from splat_scenes import random_scene
from lmvic_ns.splat.reference import rasterize_reference
from lmvic_ns.splat.triton_median import median_indices

for packed in (False, True):
    scene = random_scene(120, 37, 35, cameras=2, size=0.2)
    with torch.no_grad():
        info = rasterize_reference(*scene.arguments(), packed=packed).info
    names = ("means2d", "conics", "opacities", "isect_offsets", "flatten_ids")
    median = median_indices(*(info[name] for name in names), 37, 35, 16)
    share = (median >= 0).float().mean()
    assert 0.2 < share < 0.95, share
    assert torch.equal(median, info["median_ids"].int()), (median != info["median_ids"]).sum()
empty = median_indices(torch.zeros(1, 0, 2), torch.zeros(1, 0, 3), torch.zeros(1, 0), torch.zeros(1, 3, 3).int(),
                       torch.zeros(0).int(), 37, 35, 16)
assert (empty == -1).all()
"""

AHEAD_OF_TIME = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lmvic_ns.splat.triton_median import median_index_kernel

pointers = {name: "*fp32" for name in ("means2d", "conics", "opacities")}
pointers |= {name: "*i32" for name in ("offsets", "flatten_ids", "out")}
sizes = ("intersections", "tiles", "tile_width", "tile_height", "width", "height")
signature = pointers | {name: "i32" for name in sizes} | {"TILE": "constexpr", "BLOCK": "constexpr"}
for capability in (80, 90):
    source = ASTSource(fn=median_index_kernel, signature=signature, constexprs={"TILE": 16, "BLOCK": 256})
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in binary.asm["ptx"]
    assert len(binary.asm["cubin"]) > 1000
"""


def run_python(code: str, **environment: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def test_median_kernel_in_tritons_interpreter_equals_the_reference():
    pytest.importorskip("triton")
    run_python(INTERPRETED, TRITON_INTERPRET="1")


def test_median_kernel_compiles_ahead_of_time_for_ampere_and_hopper(tmp_path):
    pytest.importorskip("triton")
    # a cache of its own, or the test would only find what was compiled before
    run_python(AHEAD_OF_TIME, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gsplat_on_a_gpu_equals_the_reference(packed, mode):
    from lmvic_ns.splat.rasterization import rasterize
    from lmvic_ns.splat.reference import rasterize_reference

    options = {"sh_degree": 2, "rasterize_mode": mode, "packed": packed, "absgrad": True}
    scene = random_scene(2000, 120, 85, cameras=2, sh_degree=2, size=0.08)
    truth_scene, scene = scene.to("cuda", torch.float64), scene.to("cuda")
    background = torch.rand(2, 3, device="cuda")
    truth = rasterize_reference(*truth_scene.arguments(), background=background.double(), **options)
    drawn = rasterize(*scene.arguments(), background=background, **options)
    same = torch.ones(drawn.alpha.shape[:3], dtype=torch.bool, device="cuda")
    for name in PICTURES:
        error = (getattr(drawn, name) - getattr(truth, name)).abs().amax(-1)
        same &= error < 1e-4 * (1 + getattr(truth, name).abs().amax(-1))
    assert (~same).float().mean() < 5e-3
    weighted_sum(truth, keep=same).backward()
    weighted_sum(drawn, keep=same).backward()
    for mine, theirs in zip(scene.leaves(), truth_scene.leaves(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert relative_error(mine.grad, theirs.grad) < 2e-3
