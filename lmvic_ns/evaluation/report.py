"""Tables and curves of a comparison: CSV (per set and per view), Markdown, PNG, HTML. Each names the command that made it."""

from __future__ import annotations

import csv
import html
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmvic_ns.evaluation.rd import BDEntry, Comparison, RatePoint, curves

TABLES = ("rd.csv", "rd-views.csv", "bd-rate.csv", "rd.md")


def comparison_names(sets: Iterable[str], html: bool) -> list[str]:
    """Names of the files that `write_comparison` writes for sets of these names."""
    return [*TABLES, *(f"rd-{name}.{kind}" for name in sets for kind in ("png", *(("html",) if html else ())))]


def command_line() -> str:
    """The command that is running, as a person would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], command: str) -> None:
    """A CSV file whose first line is the command, as a comment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {command}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are right-aligned."""

    def line(cells: Sequence[Any]) -> str:
        # names of folders and views may hold the sign that ends a cell
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    lines = [line(header), "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|", *map(line, rows)]
    return "\n".join(lines) + "\n"


def write_comparison(
    comparison: Comparison, entries: Sequence[BDEntry], anchor: str, folder: Path, command: str, *, html: bool = True
) -> list[Path]:
    """rd.csv, rd-views.csv, bd-rate.csv, rd.md, and curves as rd-SET.png and rd-SET.html; returns what was written."""
    written = [folder / name for name in TABLES]
    points = sorted(comparison.points, key=lambda p: (p.images, p.label, p.bits_per_pixel))
    write_csv(
        written[0],
        ["images", "codec", "order", "setting", "bytes", "bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s", "version"],
        (
            (p.images, p.codec, p.order, f"{p.setting:g}", p.bytes, f"{p.bits_per_pixel:.5f}", f"{p.psnr:.4f}",
             f"{p.ms_ssim:.6f}", f"{p.encode_s:.2f}", f"{p.decode_s:.2f}", p.version)
            for p in points
        ),
        command,
    )  # fmt: skip
    write_csv(
        written[1],
        ["images", "codec", "order", "setting", "view", "bytes", "bpp", "psnr_db", "ms_ssim"],
        (
            (p.images, p.codec, p.order, f"{p.setting:g}", v.view, v.bytes, f"{8 * v.bytes / v.pixels:.5f}",
             f"{v.psnr:.4f}", f"{v.ms_ssim:.6f}")
            for p in points
            for v in p.views
        ),
        command,
    )  # fmt: skip
    write_csv(
        written[2],
        ["images", "codec", "anchor", "bd_rate_psnr_percent", "bd_rate_ms_ssim_percent", "note"],
        ((e.images, e.codec, anchor, _number(e.psnr), _number(e.ms_ssim), e.reason) for e in entries),
        command,
    )
    written[3].write_text(_summary(comparison, entries, anchor, command), encoding="utf-8")
    for images in dict.fromkeys(p.images for p in points):
        chosen = [p for p in points if p.images == images]
        written.append(folder / f"rd-{images}.png")
        plot_png(chosen, written[-1], images)
        if html:
            written.append(folder / f"rd-{images}.html")
            plot_html(chosen, written[-1], images)
    return written


def _summary(comparison: Comparison, entries: Sequence[BDEntry], anchor: str, command: str) -> str:
    text = ["# Rate and distortion\n", f"```\n{command}\n```\n"]
    text.append(f"## BD-rate against {anchor}, % (negative: fewer bits)\n")
    sets = list(dict.fromkeys(e.images for e in entries))
    labels = list(dict.fromkeys(e.codec for e in entries))
    by_key = {(e.images, e.codec): e for e in entries}
    header = ["codec", *(f"{s}, {q}" for s in sets for q in ("PSNR", "MS-SSIM"))]
    rows = []
    for label in labels:
        cells: list[str] = [label]
        for s in sets:
            entry = by_key.get((s, label))
            cells += [_percent(entry.psnr if entry else None), _percent(entry.ms_ssim if entry else None)]
        rows.append(cells)
    text.append(markdown_table(header, rows))
    if any(e.reason for e in entries):
        text.append("No figure where curves share too little quality range.\n")
    for (images, label), curve in curves(comparison.points).items():
        text.append(f"## {images}: {label}\n")
        text.append(f"{curve[0].version}\n")
        text.append(
            markdown_table(
                ["setting", "bytes", "bits per pixel", "PSNR, dB", "MS-SSIM"],
                ((f"{p.setting:g}", p.bytes, f"{p.bits_per_pixel:.4f}", f"{p.psnr:.2f}", f"{p.ms_ssim:.4f}") for p in curve),
            )
        )
    if comparison.missing:
        text.append("## Not measured\n")
        text += [f"- {name}: {reason}" for name, reason in comparison.missing.items()]
    return "\n".join(text).rstrip() + "\n"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:+.1f}"


def curve_style(number: int, label: str) -> dict[str, Any]:
    """Colour, marker and width of the curve of a codec; ours are wide."""
    return {
        "color": f"C{number % 10}",
        "marker": "os^vD"[number % 5],
        "markersize": 4,
        "linewidth": 2.2 if label.startswith("lmvic") else 1.2,
        "label": label,
    }


@contextmanager
def two_plots(path: Path, title: str, rate: str, qualities: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Two pairs of axes side by side, to be drawn on: qualities over a rate in logarithmic steps. Then they are written.

    Args:
        path: the PNG file.
        title: above both.
        rate: label of the horizontal axes.
        qualities: labels of the vertical ones.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names of folders may hold dollar signs
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5))
    yield axes
    for axis, name in zip(axes, qualities, strict=True):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(rate)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def plot_png(points: Sequence[RatePoint], path: Path, title: str) -> None:
    """PSNR and MS-SSIM (in dB) over bits per pixel, side by side."""
    with two_plots(path, title, "bits per pixel", ("PSNR, dB", "MS-SSIM, dB")) as axes:
        for number, ((_, label), curve) in enumerate(curves(points).items()):
            style = curve_style(number, label) | {"linestyle": "--" if "file order" in label else "-"}
            rates = [p.bits_per_pixel for p in curve]
            axes[0].plot(rates, [p.psnr for p in curve], **style)
            axes[1].plot(rates, [p.ms_ssim_db for p in curve], **style)


def plot_html(points: Sequence[RatePoint], path: Path, title: str) -> None:
    """The same curves, to hover over (plotly; the page loads its script from plotly's own delivery network)."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("PSNR, dB", "MS-SSIM, dB"))
    palette = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
    for number, ((_, label), curve) in enumerate(curves(points).items()):
        shared: Mapping[str, Any] = {
            "x": [p.bits_per_pixel for p in curve],
            "name": html.escape(label),
            "legendgroup": label,
            "mode": "lines+markers",
            "line": {"color": palette[number % len(palette)]},
            "text": [f"setting {p.setting:g}, {p.bytes} bytes" for p in curve],
        }
        figure.add_trace(go.Scatter(y=[p.psnr for p in curve], **shared), row=1, col=1)
        figure.add_trace(go.Scatter(y=[p.ms_ssim_db for p in curve], showlegend=False, **shared), row=1, col=2)
    figure.update_xaxes(type="log", title_text="bits per pixel")
    figure.update_layout(title=html.escape(title))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs="cdn")
