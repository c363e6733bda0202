"""report.html and report.json of a finished file: rate split, quality of each view, tree, pictures, savings."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lmvic_ns import __version__
from lmvic_ns._util.metrics import ms_ssim
from lmvic_ns._util.output import whole_file
from lmvic_ns.bitstream.layout import MAJOR, MINOR
from lmvic_ns.bitstream.reader import Reader, UnitSize
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.report.details import ViewDetails, thumbnail, view_details
from lmvic_ns.report.files import DATA, MARK, PAGE
from lmvic_ns.report.inspection import byte_split
from lmvic_ns.report.page import report_page
from lmvic_ns.report.pictures import ViewPictures, eight_bit, view_pictures
from lmvic_ns.report.results import EncodedFile, psnr_8bit, remarkable_views
from lmvic_ns.report.still_formats import as_good, available, coded
from lmvic_ns.scene import MultiViewScene

SHOWN_VIEWS = 3
JPEG_QUALITY = 90
_EXACT = 99.0
SHOWN_PICTURES = 6
"""Views that the page shows in detail, the worst ones first."""
COMPARED_VIEWS = 6
"""Views on which WebP and AVIF are tried: each takes several encodes."""


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
class Collector:
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
    png_bytes: int = 0
    jpeg_bytes: int = 0
    jpeg_psnr: list[float] = field(default_factory=list)
    equal_jpeg_bytes: int = 0
    equal_jpeg_psnr: list[float] = field(default_factory=list)
    thumbnails: dict[int, str] = field(default_factory=dict)
    compared: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By format: view and bytes for the same PSNR."""
    _worst: dict[int, ViewDetails] = field(default_factory=dict)
    _kept: dict[int, DecodedView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = np.linspace(0, len(self.order) - 1, min(COMPARED_VIEWS, len(self.order))).round().astype(int)
        self._compared_views = {self.order[place] for place in every.tolist()}
        referring = [view for view in self.order if self.parent[view] >= 0]
        picks = np.linspace(0, len(referring) - 1, min(SHOWN_VIEWS, len(referring))).round().astype(int)
        self.shown = {referring[index] for index in picks.tolist()}
        self._parents = {self.parent[view] for view in self.shown}

    def add(self, view: DecodedView) -> None:
        """Measure a decoded view; a view comes after its reference."""
        original = self.scene.image(view.index)
        pixels, decoded = eight_bit(original), eight_bit(view.image)
        self.psnr[view.index] = psnr_8bit(view.image, original)
        self.ms_ssim[view.index] = ms_ssim(pixels, decoded)
        self.thumbnails[view.index] = thumbnail(decoded)
        self._compare(view.index, pixels)
        self._look_closer(view.index, pixels, decoded)
        self.png_bytes += len(_stored(pixels, "PNG"))
        size, quality = coded("jpeg", pixels, JPEG_QUALITY)
        self.jpeg_bytes += size
        self.jpeg_psnr.append(quality)
        size, quality = jpeg_as_good(pixels, self.psnr[view.index])
        self.equal_jpeg_bytes += size
        self.equal_jpeg_psnr.append(quality)
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

    def _look_closer(self, index: int, pixels: np.ndarray, decoded: np.ndarray) -> None:
        """Keep the view's pictures while it is among the worst so far."""
        found = self.psnr[index]
        if len(self._worst) >= self.details:
            best = max(self._worst.values(), key=lambda shown: (shown.psnr, shown.index), default=None)
            if best is None or (best.psnr, best.index) <= (found, index):
                return
            del self._worst[best.index]
        self._worst[index] = view_details(index, found, pixels, decoded)

    def _compare(self, index: int, pixels: np.ndarray) -> None:
        if index in self._compared_views and self.psnr[index] < _EXACT:
            for name in ("webp", "avif"):
                if available(name):
                    self.compared.setdefault(name, []).append((index, as_good(name, pixels, self.psnr[index])[0]))


def collect(
    encoded: EncodedFile, scene: MultiViewScene, codec: MultiViewCodec, workers: int = 1, details: int = SHOWN_PICTURES
) -> Collector:
    """Decode a finished file for its report without comparing (`verify_file` does both in one pass)."""
    collector = Collector(scene, encoded.tree.parent, encoded.tree.order, details)
    for view in codec.decode(encoded.path, workers=workers):
        collector.add(view)
    return collector


def report_data(
    encoded: EncodedFile, collected: Collector, files: Sequence[Path], seconds: dict[str, float], downscale: int = 1
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
        "generator": MARK,
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
        "same_pictures": {
            "png_bytes": collected.png_bytes,
            f"jpeg_{JPEG_QUALITY}_bytes": collected.jpeg_bytes,
            f"jpeg_{JPEG_QUALITY}_psnr": min(float(np.mean(collected.jpeg_psnr)), 99.0),
            "equal_jpeg_bytes": collected.equal_jpeg_bytes,
            "equal_jpeg_psnr": min(float(np.mean(collected.equal_jpeg_psnr)), 99.0),
        },
        "equal_quality": _equal_quality(collected, sizes),
        "search": encoded.tries,
        "remarks": remarkable_views(encoded.views, encoded.lossless),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "views": [asdict(view) for view in views],
    }


def _equal_quality(collected: Collector, sizes: Sequence[UnitSize | None]) -> dict[str, Any]:
    """Bytes of other formats for the same PSNR, and ours of the same views; the formats' bytes for all views by their ratio."""
    found = {}
    ours_in_all = sum(size.total for size in sizes if size is not None)
    for name, rows in collected.compared.items():
        theirs = sum(size for _, size in rows)
        ours = sum(size.total for view, _ in rows if (size := sizes[view]) is not None)
        found[name] = {
            "views": len(rows),
            "bytes": theirs,
            "our_bytes": ours,
            "estimated_bytes": round(theirs * ours_in_all / ours) if ours else None,
        }
    return found


def write_report(folder: Path, encoded: EncodedFile, collected: Collector, data: dict[str, Any]) -> Path:
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


def jpeg_as_good(pixels: UInt8[np.ndarray, "h w 3"], target: float) -> tuple[int, float]:
    """Bytes and PSNR (dB) of the smallest JPEG with at least the PSNR `target`; of quality 95 where none reaches it."""
    return as_good("jpeg", pixels, target)


def _stored(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
