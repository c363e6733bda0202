"""The second half of the demo: the trained room into one file, back into a dataset, and a table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from nerfstudio.pipelines.base_pipeline import Pipeline

from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.report.terminal import plain_console, size_text
from lmvic_ns.splat.captures import captured_scene
from lmvic_ns.splat.depth_source import cached_depth
from lmvic_ns.workflows.decoding import decode_file
from lmvic_ns.workflows.encoding import encode_scene, finish
from lmvic_ns.workflows.options import CodingOptions
from lmvic_ns.workflows.sources import dataset_files


def export_demo(pipeline: Pipeline, scene: Path, output: Path, codec: MultiViewCodec, quality: int) -> dict[str, Any]:
    """What `ns-export lmvic-codec` does, with the pipeline that was just trained; returns report.json."""
    options = CodingOptions(quality=quality)
    started = time.perf_counter()
    with cached_depth(captured_scene(pipeline), output) as captured:
        encoded = encode_scene(captured, output / "scene.lmvic", options, codec)
        seconds = time.perf_counter() - started
        finish(encoded, captured, codec, options, report=output, files=dataset_files(scene), seconds=seconds)
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def decode_demo(file: Path, folder: Path, weights: str) -> Path:
    """What `lmvic decode` does."""
    return decode_file(file, folder, weights=weights).folder


def print_table(data: dict[str, Any]) -> None:
    """The report in a few lines."""
    from rich.table import Table

    table = Table(title="the room's photographs", title_justify="left")
    table.add_column("stored as")
    for title in ("bytes", "bits a pixel", "PSNR, dB"):
        table.add_column(title, justify="right")
    split, other = data["bytes"], data["other_formats"]
    rows = [
        ("captured files (lossless PNG)", data["captured_files"]["bytes"], "exact"),
        ("JPEG of quality 90", other["jpeg_90"]["bytes"], f"{other['jpeg_90']['psnr']:.2f}"),
        ("JPEG as good as scene.lmvic", other["jpeg"]["bytes"], f"{other['jpeg']['psnr']:.2f}"),
        ("scene.lmvic, with cameras and depth", split["total"], f"{data['psnr']:.2f}"),
    ]
    for name, size, quality in rows:
        table.add_row(name, size_text(size), f"{size * 8 / data['pixels']:.3f}", quality)
    if split["points"]:
        table.add_row("of it sparse points", size_text(split["points"]), f"{split['points'] * 8 / data['pixels']:.3f}", "")
    plain_console().print(table)
