"""Result of an encode: the finished file, figures of its views, and lines for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmvic_ns.codec.records import EXACT_PSNR, EncodedView
from lmvic_ns.errors import LmvicError
from lmvic_ns.report.terminal import duration_text, size_text
from lmvic_ns.tree.reference_tree import ReferenceTree

_FAR_WORSE, _NAMED = 6.0, 5
DO_NOT_RELY = "do not rely on this file, and please report it"


@dataclass
class EncodedFile:
    """A finished file.

    Attributes:
        path: where it is.
        views: one record a view, in coding order.
        tree: the references.
        quality: level that was used.
        points_bytes: of the points' section, 0 without.
        pixels: of all views.
        tries: what the search tried, lines for people.
        taken_over: views from an interrupted run; their PSNR was measured on what the finished file decodes to.
        lossless: every picture was to be stored bit for bit.
        missed: how the file misses the target, for people; empty if it does not, or if there was none.
    """

    path: Path
    views: list[EncodedView]
    tree: ReferenceTree
    quality: int
    points_bytes: int
    pixels: int
    tries: list[str] = field(default_factory=list)
    taken_over: frozenset[int] = frozenset()
    missed: str = ""
    lossless: bool = False

    @property
    def views_by_index(self) -> dict[int, EncodedView]:
        """The records by the views' numbers."""
        return {view.index: view for view in self.views}

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return self.path.stat().st_size

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file without the points: what `--target-bpp` bounds."""
        return (self.size - self.points_bytes) * 8 / self.pixels

    @property
    def psnr(self) -> float:
        """Mean of the views' PSNR, dB."""
        return sum(map(known_psnr, self.views)) / len(self.views)


def known_psnr(view: EncodedView) -> float:
    """PSNR of a view that was measured, dB."""
    assert view.psnr is not None
    return view.psnr


def psnr_8bit(decoded: torch.Tensor, original: torch.Tensor) -> float:
    """PSNR in dB of two pictures rounded to 8 bits; 99 for equal ones.

    Raises:
        LmvicError: there is none, since one holds what is no finite number.
    """
    levels = [(x.detach().cpu().float() * 255).round() for x in (decoded, original)]
    error = float((levels[0] - levels[1]).square().mean())
    if not math.isfinite(error):
        raise LmvicError(f"a view decodes to values that are not finite: {DO_NOT_RELY}")
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def summary(encoded: EncodedFile) -> str:
    """One line on a finished file."""
    points = f" ({size_text(encoded.points_bytes)} of it sparse points)" if encoded.points_bytes else ""
    without = f" ({encoded.bits_per_pixel:.4f} without the points)" if encoded.points_bytes else ""
    return (
        f"{encoded.path}: {len(encoded.views)} views at quality {encoded.quality}, {size_text(encoded.size)}{points}, "
        f"{encoded.size * 8 / encoded.pixels:.4f} bits a pixel{without}, mean PSNR {encoded.psnr:.2f} dB"
    )


def closing_line(encoded: EncodedFile, files: Sequence[Path], seconds: float, downscale: int = 1) -> str:
    """What a person wants to know in the end: before, after, ratio, the worst view, time.

    Args:
        encoded: the finished file.
        files: the captured files.
        seconds: what all of it took.
        downscale: how much smaller the coded pictures are.
    """
    before, after = sum(path.stat().st_size for path in files if path.is_file()), encoded.size
    worst = min(encoded.views, key=known_psnr)
    quality = (
        "every picture bit for bit"
        if known_psnr(worst) >= EXACT_PSNR
        else f"worst view {worst.name}, {known_psnr(worst):.1f} dB"
    )
    ratio = f"{before / after:.1f} times smaller" if before >= after else f"{after / before:.2f} times larger" if before else ""
    ratio += f" (at 1/{downscale} of the size)" if downscale > 1 else ""
    return f"{size_text(before)} to {size_text(after)}, {ratio}; {quality}; {duration_text(seconds)}"


def result_data(encoded: EncodedFile, files: Sequence[Path], seconds: float, *, done_before: bool = False) -> dict[str, Any]:
    """What `lmvic encode --json` prints of one file; a PSNR is null where it was not measured."""
    return {
        "file": str(encoded.path),
        "bytes": encoded.size,
        "points_bytes": encoded.points_bytes,
        "captured_bytes": sum(path.stat().st_size for path in files if path.is_file()),
        "quality": encoded.quality,
        "pixels": encoded.pixels,
        "bits_per_pixel": encoded.size * 8 / encoded.pixels,
        "psnr": None if any(view.psnr is None for view in encoded.views) else encoded.psnr,
        "missed_target": encoded.missed or None,
        "done_before": done_before,
        "seconds": seconds,
        "views": [
            {
                "name": view.name,
                "reference": encoded.views_by_index[view.parent].name if view.parent >= 0 else None,
                "depth_bytes": view.depth_bytes,
                "image_bytes": view.image_bytes,
                "psnr": view.psnr,
                "stored": view.stored,
            }
            for view in sorted(encoded.views, key=lambda view: view.index)
        ],
    }


def remarkable_views(views: Sequence[EncodedView], lossless: bool = False) -> list[str]:
    """A line on views that are stored as ordinary pictures, and one on those that came out far worse than the mean."""
    inexact = [known_psnr(view) for view in views if known_psnr(view) < EXACT_PSNR] or [EXACT_PSNR]
    mean = sum(inexact) / len(inexact)  # exact views would make all others look bad
    lines = []
    stored = [] if lossless else [view for view in views if view.stored]
    for what, found in (
        ("stored as ordinary pictures, which cost less than the networks", stored),
        (f"{_FAR_WORSE:g} dB or more below the mean", [view for view in views if known_psnr(view) <= mean - _FAR_WORSE]),
    ):
        if found:
            worst = sorted(found, key=known_psnr)
            names = ", ".join(f"{view.name} ({known_psnr(view):.2f} dB)" for view in worst[:_NAMED])
            more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
            lines.append(f"{len(worst)} of {len(views)} views {what}: {names}{more}")
    return lines
