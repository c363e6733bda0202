"""What coding costs a splat, as tables and curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lmvic_ns.evaluation.downstream import ORIGINALS, Run
from lmvic_ns.evaluation.report import curve_style, markdown_table, two_plots, write_csv

TABLES = ("downstream.csv", "downstream.md")


def downstream_names(scenes: Sequence[str]) -> list[str]:
    """Names of the files that `write_downstream` writes for scenes of these names."""
    return [*TABLES, *(f"downstream-{name}.png" for name in scenes)]


def write_downstream(runs: Sequence[Run], folder: Path, command: str, remarks: Sequence[str]) -> None:
    """downstream.csv, downstream.md and a picture for each scene."""
    write_csv(
        folder / TABLES[0],
        ["images", "codec", "setting", "seed", "bytes", "bpp", "coded_psnr_db", "psnr_db", "ssim", "lpips", "gaussians",
         "seconds"],
        (
            (r.images, r.codec, "" if r.codec == ORIGINALS else f"{r.setting:g}", r.seed, r.bytes, f"{_rate(r):.5f}",
             f"{r.coded_psnr:.4f}", f"{r.psnr:.4f}", f"{r.ssim:.6f}", "" if r.lpips is None else f"{r.lpips:.6f}",
             r.gaussians, f"{r.seconds:.1f}")
            for r in runs
        ),
        command,
    )  # fmt: skip
    scenes = list(dict.fromkeys(run.images for run in runs))
    text = ["# What coding costs a splat\n", f"```\n{command}\n```\n", *(f"{remark}\n" for remark in remarks)]
    for name in scenes:
        text += [f"## {name}\n", downstream_table([run for run in runs if run.images == name])]
    (folder / TABLES[1]).write_text("\n".join(text), encoding="utf-8")
    for name in scenes:
        plot_downstream([run for run in runs if run.images == name], folder / f"downstream-{name}.png", name)


def downstream_table(runs: Sequence[Run]) -> str:
    """One scene: the originals with the spread of their seeds, then each codec from its largest file to its smallest."""
    originals = [run for run in runs if run.codec == ORIGINALS]
    base_psnr, base_ssim = _mean([r.psnr for r in originals]), _mean([r.ssim for r in originals])
    with_lpips = all(run.lpips is not None for run in runs)
    header = ["trained on", "bytes", "bits a pixel", "training views, dB", "held out, dB", "change", "SSIM", "change"]
    rows = []
    if originals:
        spread = f" ± {_half_range([r.psnr for r in originals]):.2f}" if len(originals) > 1 else ""
        first = originals[0]
        row = [f"{ORIGINALS} (as PNG)", f"{first.bytes:,}", f"{_rate(first):.3f}", "exact", f"{base_psnr:.2f}{spread}", ""]
        rows.append(
            [*row, f"{base_ssim:.4f}", "", *([f"{_mean([r.lpips or 0.0 for r in originals]):.4f}"] if with_lpips else [])]
        )
    for run in (run for run in sorted(runs, key=_by_codec(runs)) if run.codec != ORIGINALS):
        row = [f"{run.codec} {run.setting:g}", f"{run.bytes:,}", f"{_rate(run):.3f}", f"{run.coded_psnr:.2f}"]
        row += [f"{run.psnr:.2f}", f"{run.psnr - base_psnr:+.2f}", f"{run.ssim:.4f}", f"{run.ssim - base_ssim:+.4f}"]
        rows.append([*row, *([f"{run.lpips:.4f}"] if with_lpips and run.lpips is not None else [])])
    return markdown_table([*header, *(["LPIPS"] if with_lpips else [])], rows)


def plot_downstream(runs: Sequence[Run], path: Path, title: str) -> None:
    """PSNR and SSIM of held-out views over bytes, side by side; the originals are a line, their seeds a band."""
    originals = [run for run in runs if run.codec == ORIGINALS]
    codecs = [name for name in dict.fromkeys(run.codec for run in runs) if name != ORIGINALS]
    title = f"{title}: a splat trained on coded pictures, against held-out photographs"
    labels = ("held-out views, PSNR, dB", "held-out views, SSIM")
    with two_plots(path, title, "all training views, kB", labels) as axes:
        for axis, quality in zip(axes, ("psnr", "ssim"), strict=True):
            values = [getattr(run, quality) for run in originals]
            if values:
                seeds = f", mean of {len(values)} seeds" if len(values) > 1 else ""
                axis.axhline(_mean(values), color="0.4", linestyle="--", label=f"trained on the originals{seeds}")
                axis.axhspan(min(values), max(values), color="0.85")
            for number, codec in enumerate(codecs):
                curve = sorted((run for run in runs if run.codec == codec), key=lambda run: run.bytes)
                sizes = [run.bytes / 1000 for run in curve]
                axis.plot(sizes, [getattr(run, quality) for run in curve], **curve_style(number, codec))


def _by_codec(runs: Sequence[Run]) -> Callable[[Run], tuple[int, int]]:
    order = list(dict.fromkeys(run.codec for run in runs))
    return lambda run: (order.index(run.codec), -run.bytes)


def _rate(run: Run) -> float:
    return 8.0 * run.bytes / run.pixels


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _half_range(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / 2
