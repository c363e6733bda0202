"""The first thing to run on a machine with a GPU: does it decode what a CPU encoded, and how fast is it?

usage: python benchmarks/gpu.py [--weights tiny] [--side 1024] [--no-tests]

Takes a few minutes. Two views of an analytic scene are encoded on the CPU and on the GPU, each file is decoded on both;
depth must be the same bits, pictures the same within a thousandth of a grey level. Then megapixels a second, peak GPU
memory, and the tests marked `gpu`. Exit code 1 if anything differs or fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from codec_scenes import plane_scene

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.records import DecodedView, EncodeOptions

QUALITIES = (10, 32, 55)
REPOSITORY = Path(__file__).resolve().parent.parent


def decoded(path: Path, device: str, weights: str) -> list[DecodedView]:
    return sorted(load_codec(weights, device).decode(path), key=lambda view: view.index)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--no-tests", action="store_true")
    o = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: run this on a machine with an NVIDIA GPU")
        return 2
    print(torch.cuda.get_device_name(), torch.__version__)
    scene = plane_scene([(o.side * 3 // 4, o.side)] * 2, detail=4.0)
    megapixels = 2 * o.side * o.side * 0.75e-6
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for quality in QUALITIES:
            for encoder in ("cpu", "cuda"):
                path = Path(folder) / f"{encoder}-{quality}.lmvic"
                options = EncodeOptions(quality, effort=Effort.named("fast"))
                load_codec(o.weights, encoder).encode(scene, path, options=options)
                a, b = decoded(path, "cpu", o.weights), decoded(path, "cuda", o.weights)
                largest = max(float((x.image - y.image.cpu()).abs().max()) * 255 for x, y in zip(a, b, strict=True))
                depth = all(
                    x.inverse_depth is not None
                    and y.inverse_depth is not None
                    and torch.equal(x.inverse_depth, y.inverse_depth.cpu())
                    for x, y in zip(a, b, strict=True)
                )
                good = depth and largest < 1e-3
                failed += not good
                print(
                    f"quality {quality}, encoded on {encoder}: {path.stat().st_size} bytes, depth "
                    f"{'the same' if depth else 'DIFFERS'}, pictures differ by at most {largest:.6f} grey levels"
                    f"{'' if good else '  <-- FAILED'}",
                    flush=True,
                )
        codec = load_codec(o.weights, "cuda")
        for name, work in {
            "encode fast": lambda: codec.encode(
                scene, Path(folder) / "t.lmvic", options=EncodeOptions(32, effort=Effort.named("fast"))
            ),
            "decode": lambda: list(codec.decode(Path(folder) / "cuda-32.lmvic")),
        }.items():
            work()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            print(f"{name}: {megapixels / seconds:.2f} MP/s, {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB", flush=True)
    if not o.no_tests:
        # those files alone: others need nerfstudio to be collected
        files = sorted(str(p) for p in (REPOSITORY / "tests").glob("test_*.py") if "mark.gpu" in p.read_text())
        failed += subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", *files]).returncode != 0
    print("all is well" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
