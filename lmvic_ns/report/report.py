"""report.html and report.json of a finished file: rate split, quality of each view, tree, pictures, savings."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lmvic_ns._util.metrics import ms_ssim, psnr
from lmvic_ns._util.output import whole_file
from lmvic_ns._util.picture_files import LONGEST_SIDE
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import DecodedView, MultiViewCodec
from lmvic_ns.report.files import DATA, MARK, PAGE
from lmvic_ns.report.inspection import byte_split
from lmvic_ns.report.pictures import ViewPictures, data_url, eight_bit, tree_svg, view_pictures
from lmvic_ns.report.results import EncodedFile, psnr_8bit, remarkable_views
from lmvic_ns.report.terminal import size_text
from lmvic_ns.scene import MultiViewScene

SHOWN_VIEWS = 3
JPEG_QUALITY = 90
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0 1.6em}td,th{padding:.2em .9em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.grid{display:grid;grid-template-columns:repeat(3,1fr);gap:.6em}
figure{margin:0}img{width:100%;image-rendering:auto}figcaption{font-size:13px;color:#555}
svg{border:1px solid #ddd;max-width:100%;height:auto}"""


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
    """

    scene: MultiViewScene
    parent: Sequence[int]
    order: Sequence[int]
    psnr: dict[int, float] = field(default_factory=dict)
    ms_ssim: dict[int, float] = field(default_factory=dict)
    pictures: list[ViewPictures] = field(default_factory=list)
    png_bytes: int = 0
    jpeg_bytes: int = 0
    jpeg_psnr: list[float] = field(default_factory=list)
    equal_jpeg_bytes: int = 0
    equal_jpeg_psnr: list[float] = field(default_factory=list)
    _kept: dict[int, DecodedView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        referring = [view for view in self.order if self.parent[view] >= 0]
        picks = np.linspace(0, len(referring) - 1, min(SHOWN_VIEWS, len(referring))).round().astype(int)
        self.shown = {referring[index] for index in picks.tolist()}
        self._parents = {self.parent[view] for view in self.shown}

    def add(self, view: DecodedView) -> None:
        """Measure a decoded view; a view comes after its reference."""
        original = self.scene.image(view.index)
        pixels = eight_bit(original)
        self.psnr[view.index] = psnr_8bit(view.image, original)
        self.ms_ssim[view.index] = ms_ssim(pixels, eight_bit(view.image))
        self.png_bytes += len(_stored(pixels, "PNG"))
        size, quality = _jpeg(pixels, JPEG_QUALITY)
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


def collect(encoded: EncodedFile, scene: MultiViewScene, codec: MultiViewCodec, workers: int = 1) -> Collector:
    """Decode a finished file for its report without comparing (`verify_file` does both in one pass)."""
    collector = Collector(scene, encoded.tree.parent, encoded.tree.order)
    for view in codec.decode(encoded.path, workers=workers):
        collector.add(view)
    return collector


def report_data(encoded: EncodedFile, collected: Collector, files: Sequence[Path], seconds: dict[str, float]) -> dict[str, Any]:
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
        "weights": {"name": header.weights_name, "preset": header.preset, "hash": header.weights_hash.hex()},
        "quality": encoded.quality,
        "pixels": encoded.pixels,
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
        "search": encoded.tries,
        "remarks": remarkable_views(encoded.views),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "views": [asdict(view) for view in views],
    }


def write_report(folder: Path, encoded: EncodedFile, collected: Collector, data: dict[str, Any]) -> Path:
    """Write report.html and report.json into a folder; returns the path of the page.

    Raises:
        LmvicError: the disk does not take them.
    """
    page = folder / PAGE
    contents = {folder / DATA: json.dumps(data, indent=1, allow_nan=False), page: report_html(encoded, collected, data)}
    with ExitStack() as stack:  # both get their names, or neither
        for path, text in contents.items():
            stack.enter_context(whole_file(path)).write_text(text, encoding="utf-8")
    return page


def report_html(encoded: EncodedFile, collected: Collector, data: dict[str, Any]) -> str:
    """The page: everything is inside it, nothing is loaded from anywhere."""
    title = html.escape(data["file"])
    similarity = "" if data["ms_ssim"] is None else f", MS-SSIM {data['ms_ssim']:.4f}"
    without_points = f" ({data['bits_per_pixel']:.4f} without the sparse points)" if data["bytes"]["points"] else ""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="generator" content="{MARK}">',
        f"<title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p>{len(data['views'])} views at quality {data['quality']} with the weights {html.escape(data['weights']['name'])}: "
        f"<b>{size_text(data['bytes']['total'])}, "
        f"{data['bits_per_pixel_with_points']:.4f} bits a pixel</b>{without_points}, PSNR {data['psnr']:.2f} dB{similarity}. "
        "All of it is measured on the finished file, decoded afresh.</p>",
        "<h2>Where the bytes go</h2>",
        _rates(data),
        "<h2>Against storing the pictures one by one</h2>",
        _savings(data),
    ]
    if data["search"]:
        parts += ["<h2>Search for the quality</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in data["search"]), "</ul>"]
    parts += ["<h2>Which view refers to which</h2>", _tree(encoded, collected.scene)]
    if collected.pictures:
        parts.append("<h2>What the decoder sees</h2>")
        parts += [_shown(pictures) for pictures in collected.pictures]
    parts += ["<h2>Views, in coding order</h2>", _views(data), "</html>"]
    return "\n".join(parts)


def _rates(data: dict[str, Any]) -> str:
    split = data["bytes"]
    rows = (
        ("pictures", split["image"]),
        ("depth", split["depth"]),
        ("sparse points", split["points"]),
        ("other sections", split["sections"]),
        ("cameras, tree, container", split["container"]),
        ("file", split["total"]),
        ("file without the points", split["total"] - split["points"] if split["points"] else 0),
    )
    cells = [
        [name, f"{value:,}", f"{value / split['total']:.1%}", f"{value * 8 / data['pixels']:.4f}"]
        for name, value in rows
        if value
    ]
    return _table(["part", "bytes", "share", "bits a pixel"], cells)


def _savings(data: dict[str, Any]) -> str:
    total, stored = data["bytes"]["total"], data["same_pictures"]
    rows = [
        (f"the {data['captured_files']['count']} captured files, as they lie on the disk", data["captured_files"]["bytes"]),
        ("the same pictures as PNG (lossless)", stored["png_bytes"]),
        (
            f"the same pictures as JPEG of quality {JPEG_QUALITY} ({stored[f'jpeg_{JPEG_QUALITY}_psnr']:.2f} dB)",
            stored[f"jpeg_{JPEG_QUALITY}_bytes"],
        ),
        (f"the same pictures as JPEG as good as here ({stored['equal_jpeg_psnr']:.2f} dB)", stored["equal_jpeg_bytes"]),
    ]
    cells = [
        [name, size_text(size), f"{size / total:.2f} times this file", f"{1 - total / size:.1%}"] for name, size in rows if size
    ]
    note = (
        "<p>This file also holds cameras, depth"
        + (" and points" if data["bytes"]["points"] else "")
        + "; the pictures in it are not as good as the captured ones: see PSNR.</p>"
    )
    return _table(["stored as", "size", "compared", "saved"], cells) + note


def _tree(encoded: EncodedFile, scene: MultiViewScene) -> str:
    motions = scene.cameras.world_to_camera.numpy()
    rotation, translation = motions[:, :3, :3], motions[:, :3, 3]
    centres = -np.einsum("vji,vj->vi", rotation, translation)
    tree = encoded.tree
    picture = tree_svg(centres, rotation[:, 2], tree.parent, tree.depth, scene.names)
    return (
        picture
        + "<p>Cameras seen from above, a grey tick where each one looks. A line joins a view to its reference; the colour "
        f"is the number of references on the way, up to {max(tree.depth)}; the ring marks views without a reference.</p>"
    )


def _shown(shown: ViewPictures) -> str:
    figures = []
    for title, picture in zip(shown.titles, shown.pictures, strict=True):
        caption = html.escape(title)
        figures.append(f'<figure><img src="{data_url(picture)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return (
        f"<h3>{html.escape(shown.name)}, predicted from {html.escape(shown.reference_name)}</h3>"
        f"<p>{shown.shared:.0%} of its pixels are seen by the reference; disparity up to {shown.largest_disparity:.1f} pixels "
        '(hue: direction, right is red; saturation: length).</p><div class="grid">' + "\n".join(figures) + "</div>"
    )


def _views(data: dict[str, Any]) -> str:
    rows = []
    for view in data["views"]:
        similarity = "-" if view["ms_ssim"] is None else f"{view['ms_ssim']:.4f}"
        bytes_of_parts = f"{view['depth_bytes']:,}", f"{view['image_bytes']:,}"
        quality = f"{view['bits_per_pixel']:.4f}", f"{view['psnr']:.2f}", similarity
        rows.append([view["name"], view["parent"] or "-", f"{view['quality']:g}", *bytes_of_parts, *quality])
    return _table(
        ["view", "refers to", "quality", "depth, bytes", "picture, bytes", "bits a pixel", "PSNR, dB", "MS-SSIM"], rows
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def jpeg_as_good(pixels: UInt8[np.ndarray, "h w 3"], target: float) -> tuple[int, float]:
    """Bytes and PSNR (dB) of the smallest JPEG with at least the PSNR `target`; of quality 95 where none reaches it."""
    low, high = 1, 95
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _jpeg(pixels, middle)[1] >= target else (middle + 1, high)
    return _jpeg(pixels, low)


def _jpeg(pixels: np.ndarray, quality: int) -> tuple[int, float]:
    # a view that is too long for one JPEG is stored as several
    axis = int(pixels.shape[1] > pixels.shape[0])
    pieces = np.array_split(pixels, -(-pixels.shape[axis] // LONGEST_SIDE["jpg"]), axis=axis)
    stored = [_stored(piece, "JPEG", quality=quality) for piece in pieces]
    decoded = [np.asarray(Image.open(io.BytesIO(data))) for data in stored]
    return sum(map(len, stored)), psnr(pixels, np.concatenate(decoded, axis=axis))


def _stored(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
