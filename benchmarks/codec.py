"""Speed of the presets side by side on the same views: by stage, as ratios against `paper` in the same run.

    python benchmarks/codec.py --scene prepared-scenes/fountain --threads 2

Ratios of processor seconds hold on a machine that is busy with other work too. Also says what share of a pass the
entropy coder takes, and how far the bits in the file are from the estimated rate.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from lmvic_ns.codec import build_model, load_weights, weights_names
from lmvic_ns.codec.effort import EffortName
from lmvic_ns.codec.symbols import SymbolWriter
from lmvic_ns.evaluation.speed import SPEED_HEADER, SpeedResult, measure_speed, speed_rows


@dataclass(frozen=True)
class CodecBenchmark:
    """What is timed."""

    scene: Path | None = None
    """Dataset with depth (what `lmvic prepare` wrote); without one, a synthetic textured plane."""
    presets: tuple[str, ...] = ("paper", "base", "tiny")
    views: int = 2
    height: int = 384
    width: int = 512
    quality: int = 32
    threads: int = 2
    effort: EffortName = "fast"
    """Of encoding; `paper` has no other."""


def rate_error(preset: str, size: tuple[int, int], quality: int) -> float:
    """Bits in the file over the estimated bits, minus one, of one image without a reference; sides are rounded up to 64."""
    size = -(-size[0] // 64) * 64, -(-size[1] // 64) * 64
    model = load_weights(preset).model if preset in weights_names() else build_model(preset)
    model.eval()
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 16, size[1] // 16)
    image = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        estimated = model.forward_photo(image, torch.tensor([float(quality)])).image_bits.item()
        latent = model.image.analysis(image, torch.tensor([float(quality)]))
        writer = SymbolWriter(model.tables)
        model.image.entropy.compress(latent, quality, writer)
    return 8 * len(writer.finish()) / estimated - 1


def main(config: CodecBenchmark) -> None:
    """Times every preset and prints the tables."""
    console = Console(width=200)
    results: list[SpeedResult] = []
    for preset in config.presets:
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                measure_speed(
                    preset,
                    "cpu",
                    config.scene,
                    Path(folder),
                    views=config.views,
                    size=(config.height, config.width),
                    quality=config.quality,
                    threads=config.threads,
                    effort=config.effort,
                )
            )
    table = Table(title=f"{results[0].views} views of {results[0].pixels / 1e6:.2f} MP; {results[0].machine}")
    for name in SPEED_HEADER:
        table.add_column(name, justify="right")
    for result in results:
        for row in speed_rows(result):
            table.add_row(*row)
    console.print(table)
    first = results[0]
    ratios = Table(title=f"against {first.weights}")
    for name in (
        "weights",
        "encode, times faster",
        "decode, times faster",
        "encode, by processor seconds",
        "decode, by processor seconds",
        "coder's share, encode",
        "decode",
        "file / estimate",
    ):
        ratios.add_column(name, justify="right")
    for preset, result in zip(config.presets, results, strict=True):
        share = [seconds["entropy coder"] / seconds["total"] for seconds in (result.encode_s, result.decode_s)]
        error = "" if preset == "paper" else f"{100 * rate_error(preset, (config.height, config.width), config.quality):+.2f} %"
        ratios.add_row(
            result.weights,
            f"{first.encode_s['total'] / result.encode_s['total']:.1f}",
            f"{first.decode_s['total'] / result.decode_s['total']:.1f}",
            f"{first.encode_s['processor'] / result.encode_s['processor']:.1f}",
            f"{first.decode_s['processor'] / result.decode_s['processor']:.1f}",
            f"{100 * share[0]:.1f} %",
            f"{100 * share[1]:.1f} %",
            error,
        )
    console.print(ratios)


if __name__ == "__main__":
    main(tyro.cli(CodecBenchmark))
