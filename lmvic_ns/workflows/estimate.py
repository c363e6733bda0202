"""Estimated size and quality of a scene at each named quality, from a few coded views."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.report.terminal import duration_text, plain_console, progress, size_text
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.sections import point_sections
from lmvic_ns.tree.ordering import independent_views
from lmvic_ns.workflows.encoding import build_tree
from lmvic_ns.workflows.options import NAMED_LEVELS, CodingOptions
from lmvic_ns.workflows.search import take_sample, whole_rate


def estimate_scene(
    codec: MultiViewCodec, scene: MultiViewScene, options: CodingOptions, files: Sequence[Path]
) -> dict[str, Any]:
    """Size, PSNR and time of a whole scene at each named quality.

    Args:
        codec: with the weights.
        scene: all views, at the size at which they would be coded.
        options: how it would be coded; `search_views` views are.
        files: the captured files, for comparison.

    Returns:
        `views`, `coded_views`, `pixels`, `captured_bytes`, `points_bytes`, `peak_memory` (bytes of this process; None where
        the system does not say), and under `qualities` by name `quality`, `bytes`, `bits_per_pixel`, `psnr`, `worst_psnr`,
        `seconds`.
    """
    tree = build_tree(scene, options)
    pixels = int((scene.cameras.height * scene.cameras.width).sum())
    points = sum(map(len, point_sections(scene, options.points).values()))
    found: dict[str, Any] = {}
    sample = take_sample(scene, tree, options.search_views)
    with progress("estimating", len(NAMED_LEVELS) * len(sample.scene)) as step:
        for name, level in NAMED_LEVELS.items():
            chosen: CodingOptions = replace(options, quality=name)  # type: ignore[arg-type]
            whole = tree if not chosen.lossless else independent_views(len(scene))
            sample = take_sample(scene, whole, options.search_views)
            place = Path(tempfile.mkdtemp(prefix="lmvic-estimate-"))
            started = time.perf_counter()
            try:
                views = codec.encode(
                    sample.scene.with_inverse_depth(None) if chosen.lossless else sample.scene,
                    place / "try.lmvic",
                    tree=sample.tree,
                    options=chosen.encode_options(level),
                    on_view=lambda view: step(view.name),
                )
                size = (place / "try.lmvic").stat().st_size
            finally:
                shutil.rmtree(place, ignore_errors=True)
            seconds = time.perf_counter() - started
            coded = int((sample.scene.cameras.height * sample.scene.cameras.width).sum())
            rate = whole_rate(sample, views, size)
            psnr = [view.psnr for view in views if view.psnr is not None]
            found[name] = {
                "quality": level,
                "bytes": round(rate * pixels / 8) + points,
                "bits_per_pixel": rate,
                "psnr": float(np.mean(psnr)),
                "worst_psnr": min(psnr),
                "seconds": seconds * pixels / coded,
            }
    return {
        "views": len(scene),
        "coded_views": len(sample.scene),
        "pixels": pixels,
        "captured_bytes": sum(path.stat().st_size for path in files if path.is_file()),
        "points_bytes": points,
        "peak_memory": _peak_memory(),
        "qualities": found,
    }


def print_estimates(found: dict[str, Any]) -> None:
    """The estimates as a table."""
    from rich.table import Table

    views = f"{found['coded_views']} of {found['views']} views coded"
    memory = f", {size_text(found['peak_memory'])} of memory" if found["peak_memory"] else ""
    before = found["captured_bytes"]
    table = Table(title=f"{size_text(before)} of photographs; {views}{memory}", title_justify="left")
    table.add_column("--quality")
    for title in ("file", "times smaller", "mean PSNR, dB", "worst, dB", "time to encode"):
        table.add_column(title, justify="right")
    for name, row in found["qualities"].items():
        exact = row["worst_psnr"] >= 99
        table.add_row(
            name,
            size_text(row["bytes"]),
            f"{before / row['bytes']:.1f}",
            "exact" if exact else f"{row['psnr']:.1f}",
            "exact" if exact else f"{row['worst_psnr']:.1f}",
            duration_text(row["seconds"]),
        )
    plain_console().print(table)


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
