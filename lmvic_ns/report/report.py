"""report.html and report.json of a finished file: rate split, quality of each view, tree, pictures, savings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from lmvic_ns import __version__
from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns._util.metrics import ms_ssim
from lmvic_ns._util.output import whole_file
from lmvic_ns.bitstream.layout import MAJOR, MINOR
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.report.details import ViewDetails, thumbnail, view_details
from lmvic_ns.report.files import DATA, GENERATOR, PAGE
from lmvic_ns.report.inspection import byte_split
from lmvic_ns.report.page import report_page
from lmvic_ns.report.pictures import ViewPictures, view_pictures
from lmvic_ns.report.results import EncodedFile, psnr_8bit, remarkable_views
from lmvic_ns.report.still_formats import FormatSample
from lmvic_ns.scene import MultiViewScene

SHOWN_VIEWS = 3
SHOWN_PICTURES = 6
"""Views that the page shows in detail, the worst ones first."""


@dataclass(frozen=True)
class ViewResult:
    """One view of the file, measured on what a decoder gives out."""

    name: str
    parent: str | None
    quality: float
    depth_bytes: int
    image_bytes: int
    bits_per_pixel: float
    psnr: float
    ms_ssim: float | None


@dataclass
class ReportCollector:
    """Gathers a report's figures and pictures while the finished file is decoded, view by view.

    Args:
        scene: the originals.
        parent: reference of each view.
        order: coding order.
        details: views that are shown in detail.
    """

    scene: MultiViewScene
    parent: Sequence[int]
    order: Sequence[int]
    details: int = SHOWN_PICTURES
    psnr: dict[int, float] = field(default_factory=dict)
    ms_ssim: dict[int, float] = field(default_factory=dict)
    pictures: list[ViewPictures] = field(default_factory=list)
    thumbnails: dict[int, str] = field(default_factory=dict)
    _worst: dict[int, ViewDetails] = field(default_factory=dict)
    _kept: dict[int, DecodedView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cameras = self.scene.cameras
        self.formats = FormatSample(self.order, (cameras.height * cameras.width).tolist())
        referring = [view for view in self.order if self.parent[view] >= 0]
        picks = np.linspace(0, len(referring) - 1, min(SHOWN_VIEWS, len(referring))).round().astype(int)
        self.shown = {referring[index] for index in picks.tolist()}
        self._parents = {self.parent[view] for view in self.shown}

    def add(self, view: DecodedView) -> None:
        """Measure a decoded view; a view comes after its reference."""
        original = self.scene.image(view.index)
        pixels, decoded = to_8_bit(original), to_8_bit(view.image)
        self.psnr[view.index] = psnr_8bit(view.image, original)
        self.ms_ssim[view.index] = ms_ssim(pixels, decoded)
        self.thumbnails[view.index] = thumbnail(decoded)
        self.formats.add(view.index, pixels, self.psnr[view.index])
        self._keep_if_among_worst(view.index, pixels, decoded)
        if view.index in self.shown:
            found = view_pictures(view, self._kept[self.parent[view.index]], original)
            if found is not None:
                self.pictures.append(found)
        if view.index in self._parents:
            self._kept[view.index] = view

    @property
    def worst(self) -> list[ViewDetails]:
        """The views with the lowest PSNR, the worst first."""
        return sorted(self._worst.values(), key=lambda shown: (shown.psnr, shown.index))

    def _keep_if_among_worst(self, index: int, pixels: np.ndarray, decoded: np.ndarray) -> None:
        """Keep the view's pictures while it is among the worst so far."""
        found = self.psnr[index]
        if len(self._worst) >= self.details:
            best = max(self._worst.values(), key=lambda shown: (shown.psnr, shown.index), default=None)
            if best is None or (best.psnr, best.index) <= (found, index):
                return
            del self._worst[best.index]
        self._worst[index] = view_details(index, found, pixels, decoded)


def collect(
    encoded: EncodedFile, scene: MultiViewScene, codec: MultiViewCodec, workers: int = 1, details: int = SHOWN_PICTURES
) -> ReportCollector:
    """Decode a finished file for its report without comparing (`verify_file` does both in one pass)."""
    collector = ReportCollector(scene, encoded.tree.parent, encoded.tree.order, details)
    for view in codec.decode(encoded.path, workers=workers):
        collector.add(view)
    return collector


def report_data(
    encoded: EncodedFile, collected: ReportCollector, files: Sequence[Path], seconds: dict[str, float], downscale: int = 1
) -> dict[str, Any]:
    """Everything of report.json."""
    with Reader(encoded.path) as reader:
        split, header, sizes = byte_split(reader), reader.header, reader.sizes()
    names = [view.name for view in header.views]
    views = []
    for number in header.order:
        view, size = header.views[number], sizes[number]
        assert size is not None  # the file was decoded just now
        similarity = collected.ms_ssim[number]
        views.append(
            ViewResult(
                name=view.name,
                parent=names[view.parent] if view.parent >= 0 else None,
                quality=view.quality,
                depth_bytes=size.depth,
                image_bytes=size.image,
                bits_per_pixel=size.total * 8 / (view.width * view.height),
                psnr=collected.psnr[number],
                ms_ssim=None if math.isnan(similarity) else similarity,
            )
        )
    similarities = [view.ms_ssim for view in views if view.ms_ssim is not None]
    stored = sum(file.stat().st_size for file in files if file.is_file())
    return {
        "generator": GENERATOR,
        "file": encoded.path.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "format": f"{MAJOR}.{MINOR}",
        "weights": {"name": header.weights_name, "preset": header.preset, "hash": header.weights_hash.hex()},
        "quality": encoded.quality,
        "pixels": encoded.pixels,
        "downscale": downscale,
        "bytes": asdict(split),
        "bits_per_pixel": encoded.bits_per_pixel,
        "bits_per_pixel_with_points": split.total * 8 / encoded.pixels,
        "psnr": float(np.mean([view.psnr for view in views])),
        "ms_ssim": float(np.mean(similarities)) if similarities else None,
        "captured_files": {"bytes": stored, "count": len(files)},
        "other_formats": collected.formats.as_dict(),
        "search": encoded.tries,
        "remarks": remarkable_views(encoded.views, encoded.lossless),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "views": [asdict(view) for view in views],
    }


def write_report(folder: Path, encoded: EncodedFile, collected: ReportCollector, data: dict[str, Any]) -> Path:
    """Write report.html and report.json into a folder; returns the path of the page.

    Raises:
        LmvicError: the disk does not take them.
    """
    page = folder / PAGE
    contents = {folder / DATA: json.dumps(data, indent=1, allow_nan=False), page: report_page(encoded, collected, data)}
    with ExitStack() as stack:  # both get their names, or neither
        for path, text in contents.items():
            stack.enter_context(whole_file(path)).write_text(text, encoding="utf-8")
    return page
