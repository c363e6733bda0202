"""Speed, memory and complexity of a codec, by stage, as the paper's Table 3; each measurement in a fresh process.

Stages are timed from outside: for the time of a measurement, the functions that make a stage are replaced by timed ones. A
stage's time is exclusive of the stages called within it, so that all of them sum up to the whole.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.options import EffortName

STAGES = ("geometry", "depth", "image networks", "loop filter", "latent fitting", "entropy coder", "file", "other")


@dataclass(frozen=True)
class SpeedResult:
    """One weights file on one device.

    Attributes:
        weights: Name; "(untrained)" is added where a preset has no weights.
        device: "cpu" or "cuda".
        machine: Processor or GPU, cores, threads.
        views: How many views were coded, each of `pixels` pixels.
        pixels: Pixels of one view.
        encode_s: Seconds for a view, by stage and in all ("total"), and "processor": seconds of all threads together, a fair
            measure on a machine that others use too.
        decode_s: The same for decoding.
        encode_peak_mb: Peak memory of the encoding process (on a GPU: of the device).
        decode_peak_mb: The same for decoding.
        encode_macs: Multiply-accumulates a pixel of an encoded view that has a reference.
        decode_macs: The same for decoding.
        parameters: All parameters of the model.
        bits_per_pixel: Of the file.
    """

    weights: str
    device: str
    machine: str
    views: int
    pixels: int
    encode_s: dict[str, float]
    decode_s: dict[str, float]
    encode_peak_mb: float
    decode_peak_mb: float
    encode_macs: float
    decode_macs: float
    parameters: int
    bits_per_pixel: float


@dataclass
class StageClock:
    """Exclusive wall-clock time by stage; `synchronize` is called at each boundary (a GPU works on while Python goes ahead)."""

    synchronize: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _stack: list[str] = field(default_factory=list)
    _since: float = 0.0

    def _switch(self) -> None:
        self.synchronize()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time spent here counts to `name`, except where another stage begins inside."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    @contextmanager
    def timed(self, targets: list[tuple[Any, str, str]]) -> Iterator[None]:
        """Replace attributes (owner, name, stage) by timed versions for as long as the block lasts."""
        kept: list[tuple[Any, str, bool, Any]] = []

        def wrapped(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.stage(stage):
                    return function(*args, **kwargs)

            return call

        try:
            for owner, name, stage in targets:
                own = name in vars(owner)
                kept.append((owner, name, own, vars(owner).get(name)))
                setattr(owner, name, wrapped(getattr(owner, name), stage))
            yield
        finally:
            for owner, name, own, value in reversed(kept):
                if own:
                    setattr(owner, name, value)
                else:
                    delattr(owner, name)


def stage_targets(model: Any) -> list[tuple[Any, str, str]]:
    """What makes each stage of a codec's model, the practical one or the paper's."""
    from lmvic_ns.bitstream import rans
    from lmvic_ns.bitstream.reader import Reader
    from lmvic_ns.bitstream.writer import Writer

    common = [
        (rans.Encoder, "encode", "entropy coder"),
        (rans.Encoder, "finish", "entropy coder"),
        (rans.Decoder, "decode", "entropy coder"),
        (rans.Decoder, "finish", "entropy coder"),
        (Writer, "add_unit", "file"),
        (Reader, "unit", "file"),
    ]
    return common + (_paper_targets(model.codec) if hasattr(model, "codec") else _practical_targets(model))


def _practical_targets(model: Any) -> list[tuple[Any, str, str]]:
    from lmvic_ns.codec import view_encoder
    from lmvic_ns.codec.depth import search as depth_search
    from lmvic_ns.codec.networks import model as module

    names = ("disparity_and_mask", "upsample_inverse_depth", "downsample_inverse_depth", "warp", "predict_inverse_depth")
    # a name is timed where it is called from: the encoder of a view has its own of some
    geometry = [(place, name) for place in (module, view_encoder) for name in names if hasattr(place, name)]
    filters = [(module, name) for name in ("read_loop_filter", "apply_loop_filter")]
    filters += [(view_encoder, name) for name in ("fit_loop_filter", "apply_loop_filter", "write_loop_filter")]
    return [
        *((place, name, "geometry") for place, name in geometry),
        *((place, name, "loop filter") for place, name in filters),
        (view_encoder, "refine_latent", "latent fitting"),
        (model.depth, "code", "depth"),
        (module, "read_depth", "depth"),
        (module, "WarpCosts", "depth"),
        (depth_search.QuadtreeEncoder, "__call__", "depth"),
        *((view_encoder, name, "depth") for name in ("refine_inverse_depth",) if hasattr(view_encoder, name)),
        *((model.image, name, "image networks") for name in ("analysis", "priors", "synthesis")),
        *((model.image.entropy, name, "image networks") for name in ("compress", "code")),
    ]


def _paper_targets(codec: Any) -> list[tuple[Any, str, str]]:
    from lmvic_ns.paper import image as image_module
    from lmvic_ns.paper import model as module

    targets = [(module, name, "geometry") for name in ("disparity_and_mask", "predict_inverse_depth")]
    targets.append((image_module, "warp", "geometry"))
    for part, stage in ((codec.image, "image networks"), (codec.depth, "depth")):
        targets += [(part, "context", stage), (part.encoder, "forward", stage), (part.decoder, "forward", stage)]
        targets += [(part.entropy, "compress", stage), (part.entropy, "decompress", stage)]
    return targets


def machine_name(device: str, threads: int) -> str:
    """What ran: the GPU's or the processor's name, cores, threads."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {os.cpu_count()} cores, {threads} threads"


def run_worker(task: str, **arguments: Any) -> dict[str, Any]:
    """One task of `speed_worker` in a fresh process.

    Raises:
        LmvicError: It failed; with its last line.
    """
    command = [sys.executable, "-m", "lmvic_ns.evaluation.speed_worker", task, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LmvicError(f"measuring failed ({task}): {(done.stderr.strip() or '?').splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_speed(
    weights: str,
    device: str,
    scene: Path | None,
    folder: Path,
    *,
    views: int,
    size: tuple[int, int],
    quality: int,
    threads: int,
    effort: EffortName = "medium",
) -> SpeedResult:
    """Encode and decode a scene, each in a fresh process after a warm-up view, and count the operations.

    Args:
        weights: Weights by name or path, or a preset without weights (then it is coded with an untrained model).
        device: "cpu" or "cuda".
        scene: Dataset with depth; without one, a synthetic plane with a texture.
        folder: For temporary files.
        views: Views to code.
        size: (height, width) of the synthetic views.
        quality: Level.
        threads: Threads of torch on the CPU.
        effort: As of `lmvic encode`.

    Raises:
        LmvicError: Something failed in the other process.
    """
    shared = {
        "weights": weights,
        "device": device,
        "scene": str(scene) if scene else None,
        "file": str(folder / "speed.lmvic"),
        "model": str(folder / "untrained.safetensors"),
        "views": views,
        "size": size,
        "quality": quality,
        "threads": threads,
        "effort": effort,
    }
    prepared = run_worker("prepare", **shared)
    encoded = run_worker("encode", **shared)
    decoded = run_worker("decode", **shared)
    return SpeedResult(
        weights=prepared["name"],
        device=device,
        machine=machine_name(device, threads),
        views=encoded["views"],
        pixels=encoded["pixels"],
        encode_s=encoded["seconds"],
        decode_s=decoded["seconds"],
        encode_peak_mb=encoded["peak_mb"],
        decode_peak_mb=decoded["peak_mb"],
        encode_macs=prepared["encode_macs"],
        decode_macs=prepared["decode_macs"],
        parameters=prepared["parameters"],
        bits_per_pixel=encoded["bits_per_pixel"],
    )


def speed_rows(result: SpeedResult) -> list[list[str]]:
    """Two rows of the table: encoding and decoding."""
    rows = []
    for what, seconds, peak, macs in (
        ("encode", result.encode_s, result.encode_peak_mb, result.encode_macs),
        ("decode", result.decode_s, result.decode_peak_mb, result.decode_macs),
    ):
        total = seconds["total"]
        rows.append(
            [f"{result.weights}, {result.device}, {what}", f"{total:.3f}", f"{result.pixels / total / 1e6:.2f}"]
            + [f"{seconds['processor']:.3f}"]
            + [f"{seconds[stage]:.3f}" for stage in STAGES]
            + [f"{peak:.0f}", f"{macs / 1e3:.1f}", f"{result.parameters / 1e6:.2f}"]
        )
    return rows


SPEED_HEADER = [
    "weights, device",
    "s a view",
    "MP/s",
    "processor s",
    *(f"{stage}, s" for stage in STAGES),
    "peak MB",
    "kMAC a pixel",
    "M parameters",
]


def as_record(result: SpeedResult) -> dict[str, Any]:
    """Plain data of a result, for JSON."""
    return asdict(result)
