"""`lmvic view --static`: one page with cameras, thumbnails and some views, that opens without Python and without a network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from lmvic_ns._util.output import check_file, write_whole
from lmvic_ns.drawing import colours
from lmvic_ns.drawing.pair import as_picture
from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.cameras import invert_rigid
from lmvic_ns.report.details import Pixels, jpeg_url, reduced, thumbnail
from lmvic_ns.report.page import page_head, page_style
from lmvic_ns.report.terminal import progress, size_text
from lmvic_ns.viewer.layout import Layout
from lmvic_ns.viewer.sources import PageSource

GENERATOR = "lmvic-ns view"
MOST_VIEWS = 200
_PAGE_BYTES = 13_500_000
"""Of all pictures together, as they stand in the page: with points, cameras and all it stays below 15 MB."""
_SIDES, _QUALITIES = (1200, 900, 640, 480, 320, 200), (92, 86, 78, 68, 55)
_DEPTH_SIDE = 400
_POINTS = 8000
_REACH = 2.0  # of the sphere round all cameras and most points; points farther away are left out


@dataclass
class PageContent:
    """Number of views on a page, and problems.

    Attributes:
        views: how many are shown.
        problems: a line on each view that could not be decoded.
    """

    views: int
    problems: list[str] = field(default_factory=list)


@dataclass
class _View:
    index: int
    decoded: Pixels
    original: Pixels | None
    depth: Pixels | None


def check_page(path: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse early a page that cannot be written.

    Raises:
        LmvicError: what is in the way.
    """
    check_file(path, inputs=inputs, overwrite=overwrite, ours=_is_page, kind="a page that lmvic view wrote")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(400)


def write_page(path: Path, source: PageSource, most: int) -> PageContent:
    """Write the page of a file or a scene.

    Args:
        path: of the page.
        source: what it shows.
        most: number of views that are shown, at least 1.

    Raises:
        LmvicError: there are no pictures, or the disk does not take them.
    """
    if source.trouble is not None:
        raise LmvicError(source.trouble)
    written = PageContent(0)
    shown = []
    chosen = _chosen(source, most, written)
    with progress("decoding", len(chosen)) as step:
        for number in chosen:
            view = _load(source, number, written)
            shown += [] if view is None else [view]
            step(source.names[number])
    if not shown:
        raise LmvicError(f"{source.title}: no view can be decoded: {written.problems[0]}")
    written.views = len(shown)
    write_whole(path, static_page(source, shown))
    return written


def _chosen(source: PageSource, most: int, written: PageContent) -> list[int]:
    """Numbers of views, sorted: evenly spread; with originals, half of them the worst ones (all are decoded for that)."""
    count = len(source.names)
    if most >= count:
        return list(range(count))
    worst: list[int] = []
    if source.originals is not None:
        with progress("comparing", count) as step:
            for view in source.tree.order:
                _load(source, view, written)
                step(source.names[view])
        written.problems.clear()  # only those of the page are reported
        worst = source.originals.worst()[: max(1, most // 2)]
    rest = [view for view in range(count) if view not in worst]
    even = np.linspace(0, len(rest) - 1, most - len(worst)).round().astype(int)
    return sorted({*worst, *(rest[place] for place in even)})


def _load(source: PageSource, view: int, written: PageContent) -> _View | None:
    try:
        picture = source.load(view)[0]
        decoded = (picture.image * 255).round().to(torch.uint8)
        original = None if source.originals is None else source.originals.image(view)
        if source.originals is not None and original is not None:
            source.originals.compare(view, decoded, original)
    except LmvicError as error:
        written.problems.append(str(error))
        return None
    depth = None
    if picture.inverse_depth is not None:
        shades = colours.inverse_depth_colours(as_picture(picture.depth_at_size())[..., 0])
        depth = np.asarray(reduced(colours.to_uint8(shades), _DEPTH_SIDE))
    first, second = (None if p is None else p.permute(1, 2, 0).numpy() for p in (decoded, original))
    assert first is not None
    return _View(view, first, second, depth)


def static_page(source: PageSource, shown: Sequence[_View]) -> str:
    """The page's text.

    Args:
        source: what it shows.
        shown: views with their pictures.
    """
    script, style = _part("static.js"), page_style() + _part("static.css")
    compared = any(view.original is not None for view in shown)
    pictures = _pictures(shown)
    thumbs = {view.index: pictures[str(view.index)].pop("small") for view in shown}
    data = {"views": _views(source), "pictures": pictures, **_space(source)}
    # in a data block nothing runs; the signs that could end it are escaped
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(source.title)
    return "\n".join(
        [
            page_head(GENERATOR, source.title, script, style),
            f'<h1>{title}</h1><p class="lead">{_lead(source, shown)}</p>',
            _viewer(compared, any(view.depth is not None for view in shown)),
            "<h2>Where the cameras stood</h2>",
            '<canvas id="space" role="img" aria-label="cameras and sparse points in 3D"></canvas>',
            f'<p class="soft">{_space_words(source)}</p>',
            '<h2>The views in this page</h2><p><input type="search" id="find" placeholder="find a view" '
            'aria-label="find a view"> <span class="soft" id="count"></span></p>',
            f'<div class="thumbs" id="thumbs">{_thumbnails(source, thumbs)}</div>',
            f'<script type="application/json" id="data">{block}</script>',
            f"<script>{script}</script></html>",
        ]
    )


def _lead(source: PageSource, shown: Sequence[_View]) -> str:
    count = len(source.names)
    words = f"{count} view{'' if count == 1 else 's'}"
    if source.coded:
        words = f"<b>{size_text(source.file_bytes)}</b> for {words}, {source.bits_per_pixel:.3f} bits a pixel"
    if len(shown) < count:
        words += f"; this page shows {len(shown)} of the views"
    known = source.originals.psnr if source.originals is not None else {}
    if known:
        worst = min(known, key=lambda view: known[view])
        words += f"; worst of {len(known)} compared: {html.escape(source.names[worst])}, {known[worst]:.1f} dB"
    return words + "."


def _viewer(compared: bool, depth: bool) -> str:
    buttons = ['<button type="button" id="previous">Previous</button><button type="button" id="next">Next</button>']
    buttons += ['<button type="button" id="worst">Next worst</button>'] if compared else []
    buttons += ['<button type="button" id="swap" aria-pressed="false">Original</button>'] if compared else []
    buttons += ['<button type="button" id="depth" aria-pressed="false">Depth</button>'] if depth else []
    keys = "Keys: arrows left and right" + (", X next worst, O original" if compared else "") + (", D depth" if depth else "")
    return (
        f'<section class="card"><h3 id="name" aria-live="polite"></h3><p class="soft" id="facts"></p>'
        f'<p class="steps">{"".join(buttons)}</p>'
        '<div class="compare" id="compare"><img id="before" alt=""><div class="after"><img id="after" alt=""></div>'
        '<span class="tag l" id="left">original</span><span class="tag r" id="right">decoded</span></div>'
        '<input type="range" id="cut" min="0" max="100" value="50" aria-label="original on the left, decoded on the right">'
        f'<p class="soft">{keys}, / find.</p><noscript><p>Without scripts only the small pictures are shown.</p></noscript>'
        "</section>"
    )


def _space_words(source: PageSource) -> str:
    words = "Drag to turn, wheel or two fingers to come closer, click a camera to see its view."
    if len(source.points(1)[0]) == 0:
        words += f" This {'file' if source.coded else 'scene'} has no sparse points."
    return words


def _thumbnails(source: PageSource, thumbs: Mapping[int, str | None]) -> str:
    parts = []
    for view, url in thumbs.items():
        name = html.escape(source.names[view])
        parts.append(
            f'<button type="button" data-view="{view}" data-name="{name.lower()}"><img src="{url}" alt=""><span>{name}</span>'
            "</button>"
        )
    return "".join(parts)


def _views(source: PageSource) -> list[dict[str, Any]]:
    known = source.originals.psnr if source.originals is not None else {}
    rows = []
    for view, name in enumerate(source.names):
        height, width = source.cameras[view].size
        bits, psnr = source.bits(view), known.get(view)
        rows.append(
            {
                "name": name,
                "width": width,
                "height": height,
                "bits": None if bits is None else round(bits, 4),
                "psnr": None if psnr is None else round(psnr, 2),
            }
        )
    return rows


def _pictures(shown: Sequence[_View]) -> dict[str, dict[str, str | None]]:
    """Data URLs by number of the view; original and decoded are reduced alike, so that they can be compared.

    The large pictures share what depth and small pictures leave of the page.
    """
    small = [thumbnail(view.decoded) for view in shown]
    depths = [None if view.depth is None else jpeg_url(Image.fromarray(view.depth), 75) for view in shown]
    left = _PAGE_BYTES - sum(map(len, small)) - sum(len(url) for url in depths if url is not None)
    count = sum(1 if view.original is None else 2 for view in shown)
    found = {}
    for view, thumb, depth in zip(shown, small, depths, strict=True):
        pair = [view.decoded] if view.original is None else [view.decoded, view.original]
        urls = _within(pair, left * 3 // 4 // count)  # base64 makes 4 of 3 bytes
        original = urls[1] if len(urls) > 1 else None
        found[str(view.index)] = {"decoded": urls[0], "original": original, "depth": depth, "small": thumb}
    return found


def _within(pictures: Sequence[Pixels], budget: int) -> list[str]:
    """JPEG of the largest size, and then of the best quality, in which no picture takes more than `budget` bytes."""
    for side in _SIDES:
        small = [reduced(pixels, side) for pixels in pictures]
        for quality in _QUALITIES:
            if side == _SIDES[-1] or all(_jpeg_bytes(picture, quality) <= budget for picture in small):
                return [jpeg_url(picture, quality) for picture in small]
    raise AssertionError("the last size is always taken")


def _jpeg_bytes(picture: Image.Image, quality: int) -> int:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, subsampling=0 if quality > 85 else 2)
    return stream.tell()


def _space(source: PageSource) -> dict[str, Any]:
    """Cameras (tip and the four corners of the picture) and points, z upwards, in a sphere of radius 1 round the middle."""
    layout = Layout.around(source.cameras)
    axes = _upright(layout)
    positions, shades = source.points(_POINTS)
    points = layout.place(torch.from_numpy(np.ascontiguousarray(positions))) @ axes.T
    tips = layout.place(source.cameras.centers) @ axes.T
    middle = 0.5 * np.median(points, axis=0) if len(points) else np.zeros(3)
    radius = float(np.linalg.norm(tips - middle, axis=1).max()) + layout.frustum
    if len(points):
        radius = max(radius, float(np.quantile(np.linalg.norm(points - middle, axis=1), 0.9)))
    length = max(layout.frustum, 0.06 * radius)  # small cameras in a large scene are still to be seen
    cameras = []
    for view, tip in enumerate(tips):
        camera = source.cameras[view]
        height, width = camera.size
        pose, inverse = invert_rigid(camera.world_to_camera)[0], torch.linalg.inv(camera.intrinsics[0])
        corners = torch.tensor([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=torch.float64)
        rays = ((corners @ inverse.T) @ pose[:3, :3].T).numpy() @ axes.T
        ends = np.concatenate([tip[None], tip + rays * length]) - middle
        cameras.append(np.round(ends / radius, 4).ravel().tolist())
    placed = (points - middle) / radius
    near = np.abs(placed).max(axis=1, initial=0) < _REACH
    whole = (placed[near] / _REACH * 32767).astype("<i2")
    return {
        "cameras": cameras,
        "points": base64.b64encode(whole.tobytes()).decode(),
        "colours": base64.b64encode(np.ascontiguousarray(shades[near]).tobytes()).decode(),
        "reach": _REACH,
    }


def _upright(layout: Layout) -> Float[np.ndarray, "3 3"]:
    """Rows: to the right of where the cameras look, forward on the ground, up."""
    up = layout.up.numpy()
    forward = layout.forward.numpy() - up * float(layout.forward.numpy() @ up)
    length = float(np.linalg.norm(forward))
    if length < 1e-3:  # straight up or down
        forward = np.eye(3)[int(np.abs(up).argmin())]
        forward = forward - up * float(forward @ up)
        length = float(np.linalg.norm(forward))
    forward = forward / length
    return np.stack([np.cross(forward, up), forward, up])


def _part(name: str) -> str:
    return (resources.files("lmvic_ns.viewer") / "page_files" / name).read_text(encoding="utf-8")
