"""report.html: one page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from lmvic_ns.codec.records import EXACT_PSNR
from lmvic_ns.report.details import WHITE_ERROR, ViewDetails
from lmvic_ns.report.files import GENERATOR
from lmvic_ns.report.pictures import ViewPictures, data_url, tree_svg
from lmvic_ns.report.results import EncodedFile
from lmvic_ns.report.still_formats import FORMATS
from lmvic_ns.report.terminal import duration_text, size_text
from lmvic_ns.scene import MultiViewScene

if TYPE_CHECKING:
    from lmvic_ns.report.report import ReportCollector

_FORMAT_NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpeg_90": "JPEG of quality 90", "png": "PNG"}
_PSNR_HELP = (
    "PSNR, in decibels (dB), compares a decoded view with the captured one: the higher, the closer. Around 30 dB fine texture "
    "is lost; from about 40 dB on, a difference is hard to see."
)
_GALLERY_HELP = (
    "A click on a heading sorts. MS-SSIM: likeness of structure, 1 is the same picture. Level: the view's quality level, 0 to "
    "63; a view that others refer to gets a higher one. Refers to: the view from which it is predicted."
)


def report_page(encoded: EncodedFile, collected: ReportCollector, data: dict[str, Any]) -> str:
    """The page.

    Args:
        encoded: the finished file.
        collected: figures and pictures of its decoded views.
        data: of report.json.
    """
    title, script = _text(data["file"]), _part("script.js")
    parts = [
        page_head(GENERATOR, data["file"], script, page_style()),
        f"<h1>{title}</h1>",
        f'<p class="lead">{lead(data)}</p>',
        _facts(data),
    ]
    parts += [f"<p>{_text(line)}.</p>" for line in data["remarks"]]
    if collected.worst:
        heading = "The worst view" if len(collected.worst) == 1 else f"The {len(collected.worst)} worst views"
        parts += [f'<h2>{heading}</h2><div class="worst">', *(_card(view, encoded) for view in collected.worst), "</div>"]
    parts += ["<h2>All views</h2>", _gallery(encoded, collected, data)]
    parts += ["<h2>How good the views are</h2>", histogram([view["psnr"] for view in data["views"]])]
    parts += ["<h2>Where the bytes go</h2>", _bytes(data)]
    parts += ["<h2>Other formats at the same quality</h2>", _other_formats(data)]
    parts += ["<h2>How it was made</h2>", _settings(data)]
    parts += ["<details><summary>Inside the codec: references, disparity, masks</summary>", *_internals(encoded, collected)]
    parts += ["</details>", f"<script>{script}</script></html>"]
    return "\n".join(parts)


def page_head(generator: str, title: str, script: str, style: str) -> str:
    """The beginning of a page that loads nothing and runs no script but one, whatever a name in it says.

    Args:
        generator: names the program that wrote it.
        title: of the page, any text.
        script: exactly what will stand between the page's script tags.
        style: its style sheet.
    """
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="generator" content="{generator}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{_text(title)}</title>\n'
        f"<style>{style}</style>"
    )


def page_style() -> str:
    """The style sheet that pages share: light and dark, narrow and in print."""
    return _part("style.css")


def lead(data: dict[str, Any]) -> str:
    """Summary in one or two sentences: size, mean PSNR, worst view, time."""
    total, before = data["bytes"]["total"], data["captured_files"]["bytes"]
    worst = min(data["views"], key=lambda view: view["psnr"])
    words = f"<b>{size_text(total)}</b> for {len(data['views'])} views"
    if before:
        ratio = f"{before / total:.1f} times smaller" if before >= total else f"{total / before:.2f} times larger"
        words = f"{size_text(before)} to <b>{size_text(total)}</b>, {ratio} than the captured files"
        if data["downscale"] > 1:
            words += f" (at 1/{data['downscale']} of their width and height)"
    if worst["psnr"] >= EXACT_PSNR:
        return f"{words}; every picture is exact; {_duration(data)}."
    words += _against_jpeg(data)
    quality = f"Mean {data['psnr']:.1f} dB; worst view {_text(worst['name'])}, {worst['psnr']:.1f} dB"
    return f"{words}. {quality}. Made in {_duration(data)}."


def _against_jpeg(data: dict[str, Any]) -> str:
    jpeg, total = data["other_formats"].get("jpeg"), data["bytes"]["total"]
    if jpeg is None or not jpeg["reached"]:
        return ""
    ratio = jpeg["bytes"] / total
    words = f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times larger"
    about = "about " if data["other_formats"]["measured_views"] < len(data["views"]) else ""
    return f"; {about}{words} than JPEG of equal quality"


def histogram(values: Sequence[float]) -> str:
    """PSNR of the views, one bar a decibel."""
    known = [value for value in values if value < EXACT_PSNR]
    if not known:
        return "<p>Every picture is exact.</p>"
    low, high = int(np.floor(min(known))), int(np.floor(max(known)))
    step = max(1, -(-(high - low + 1) // 24))
    edges = list(range(low, high + step + 1, step))
    counts = np.histogram(known, edges)[0]
    width, height, bottom = 720, 190, 150
    bar = (width - 20) / len(counts)
    elements = []
    for number, count in enumerate(counts.tolist()):
        x, tall = 10 + number * bar, 115 * count / max(counts.max(), 1)
        name = f"{count} views of {edges[number]} to {edges[number + 1]} dB"
        elements.append(
            f'<rect x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{max(bar - 2, 1):.1f}" height="{tall:.1f}" '
            f'fill="var(--bar1)"><title>{name}</title></rect>'
        )
        if count:
            elements.append(f'<text x="{x + bar / 2:.1f}" y="{bottom - tall - 5:.1f}" text-anchor="middle">{count}</text>')
        elements.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{edges[number]}</text>')
    exact = len(values) - len(known)
    more = f", {exact} exact" if exact else ""
    label = f"histogram of the views' PSNR, {min(known):.1f} to {max(known):.1f} dB{more}"
    axis = f'<text x="{width / 2}" y="{height - 5}" text-anchor="middle">PSNR, dB; number of views{more}</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}">{"".join(elements)}{axis}</svg>'
    )


def _part(name: str) -> str:
    return (resources.files("lmvic_ns.report") / "page_files" / name).read_text(encoding="utf-8")


def _text(text: Any) -> str:
    return html.escape(str(text))


def _duration(data: dict[str, Any]) -> str:
    return duration_text(sum(data["seconds"].values()))


def _facts(data: dict[str, Any]) -> str:
    worst = min(data["views"], key=lambda view: view["psnr"])
    facts = [
        (size_text(data["bytes"]["total"]), "the file"),
        (str(len(data["views"])), "views"),
        (f"{data['bits_per_pixel_with_points']:.3f}", "bits a pixel"),
        (_decibels(data["psnr"]), "mean PSNR"),
        (_decibels(worst["psnr"]), f"worst view, {_text(worst['name'])}"),
        (_duration(data), "to make it"),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in facts)
    return f'<div class="facts">{boxes}</div><p class="soft">{_PSNR_HELP}</p>'


def _decibels(value: float) -> str:
    return "exact" if value >= EXACT_PSNR else f"{value:.2f} dB"


def _card(view: ViewDetails, encoded: EncodedFile) -> str:
    name = _text(encoded.views_by_index[view.index].name)
    left, top = view.place
    crops = "".join(
        f'<figure><img class="pixels" src="{url}" alt="worst place of {name}, {words}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for url, words, caption in (
            (view.crop_before, "captured", f"worst place, captured (left {left}, top {top})"),
            (view.crop_after, "decoded", "the same place, decoded"),
        )
    )
    legend = f"error of the whole view: black is none, pale yellow {WHITE_ERROR} of 255 levels or more"
    return (
        f'<section class="card"><h3>{name}: {_decibels(view.psnr)}</h3>'
        f'<div class="compare"><img src="{view.before}" alt="{name}, captured">'
        f'<div class="after"><img src="{view.after}" alt="{name}, decoded"></div>'
        '<span class="tag l">captured</span><span class="tag r">decoded</span></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="captured or decoded, {name}">'
        f'<div class="row">{crops}</div><figure class="error"><img src="{view.error}" alt="error of {name}">'
        f"<figcaption>{legend}</figcaption></figure></section>"
    )


def _gallery(encoded: EncodedFile, collected: ReportCollector, data: dict[str, Any]) -> str:
    numbers = {record.name: record.index for record in encoded.views}
    titles = [("", ""), ("view", "text"), ("PSNR, dB", "n"), ("MS-SSIM", "n"), ("bits a pixel", "n"), ("bytes", "n")]
    titles += [("level", "n"), ("refers to", "text")]
    heads = "".join(
        f'<th class="{kind}"><button type="button">{title}</button></th>' if title else "<th></th>" for title, kind in titles
    )
    rows = []
    for view in sorted(data["views"], key=lambda view: view["psnr"]):
        name, size = view["name"], view["depth_bytes"] + view["image_bytes"]
        similarity = view["ms_ssim"]
        cells = [
            (name, _text(name), "text name"),
            (view["psnr"], "exact" if view["psnr"] >= EXACT_PSNR else f"{view['psnr']:.2f}", ""),
            (-1 if similarity is None else similarity, "-" if similarity is None else f"{similarity:.4f}", ""),
            (view["bits_per_pixel"], f"{view['bits_per_pixel']:.3f}", ""),
            (size, f"{size:,}", ""),
            (view["quality"], f"{view['quality']:g}", ""),
            (view["parent"] or "", _text(view["parent"] or "-"), "text name"),
        ]
        picture = collected.thumbnails.get(numbers[name])
        shown = f'<img src="{picture}" alt="{_text(name)}">' if picture else ""
        body = "".join(f'<td class="{kind}" data-value="{_text(value)}">{text}</td>' for value, text, kind in cells)
        rows.append(f'<tr data-name="{_text(name.lower())}"><td>{shown}</td>{body}</tr>')
    count = len(rows)
    return (
        '<p><input type="search" id="filter" placeholder="find a view" aria-label="find a view"> '
        f'<span class="soft" id="shown">{count} of {count}</span></p>'
        '<div class="wide tall" tabindex="0" role="region" aria-label="all views">'
        f'<table id="views"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="soft">{_GALLERY_HELP}</p>'
    )


def _bytes(data: dict[str, Any]) -> str:
    split = data["bytes"]
    parts = [
        ("pictures", split["image"]),
        ("depth", split["depth"]),
        ("sparse points", split["points"]),
        ("masks, EXIF, names", split["sections"]),
        ("cameras, tree, container", split["container"]),
    ]
    total, x, bars, legend, rows = split["total"], 0.0, [], [], []
    for number, (name, value) in enumerate(parts, start=1):
        if not value:
            continue
        wide = 720 * value / total
        bars.append(
            f'<rect x="{x:.1f}" y="0" width="{wide:.2f}" height="26" fill="var(--bar{number})">'
            f"<title>{name}: {value:,} bytes</title></rect>"
        )
        x += wide
        legend.append(f'<span><i style="background:var(--bar{number})"></i>{name} {value / total:.1%}</span>')
        rows.append([name, f"{value:,}", f"{value / total:.1%}", f"{value * 8 / data['pixels']:.4f}"])
    rows.append(["file", f"{total:,}", "100.0%", f"{total * 8 / data['pixels']:.4f}"])
    if split["points"]:
        rest = total - split["points"]
        rows.append(["file without the points", f"{rest:,}", f"{rest / total:.1%}", f"{rest * 8 / data['pixels']:.4f}"])
    label = "bytes by part: " + ", ".join(f"{name} {value / total:.0%}" for name, value in parts if value)
    picture = f'<svg viewBox="0 0 720 26" width="720" role="img" aria-label="{label}">{"".join(bars)}</svg>'
    return f'{picture}<p class="legend">{"".join(legend)}</p>' + _table(["part", "bytes", "share", "bits a pixel"], rows)


def _other_formats(data: dict[str, Any]) -> str:
    total, other, count = data["bytes"]["total"], data["other_formats"], len(data["views"])
    rows = [["this file, with cameras, depth and all", size_text(total), "1.00", f"{data['psnr']:.2f} dB"]]
    for name, title in _FORMAT_NAMES.items():
        found = other.get(name)
        if found is None:
            continue
        quality = f"{found['psnr']:.2f} dB" if found["psnr"] < EXACT_PSNR else "exact"
        if name in FORMATS:
            quality = "the same" if found["reached"] else f"at most {quality}"
        rows.append([title, size_text(found["bytes"]), f"{found['bytes'] / total:.2f}", quality])
    captured = data["captured_files"]
    if captured["bytes"]:
        size = captured["bytes"]
        rows.append([f"the {captured['count']} captured files", size_text(size), f"{size / total:.2f}", "as captured"])
    measured = other["measured_views"]
    words = "all" if measured == count else f"{measured} of the"
    rest = "" if measured == count else ", spread over the scene, and scaled up to all by the number of pixels"
    note = f'<p class="soft">The other formats were measured on {words} {count} views{rest}.</p>' if measured else ""
    return _table(["stored as", "size", "times this file", "quality"], rows) + note


def _settings(data: dict[str, Any]) -> str:
    weights = data["weights"]
    rows = [
        ["quality level", f"{data['quality']} of 0..63"],
        ["weights", f"{weights['name']} ({weights['hash'][:16]})"],
        ["lmvic-ns", f"{data['version']}, file format {data['format']}"],
        ["date", data["date"].replace("T", " ").replace("+00:00", " UTC")],
        *([f"time to {name}", duration_text(seconds)] for name, seconds in data["seconds"].items()),
    ]
    tries = "".join(f"<li>{_text(line)}</li>" for line in data["search"])
    search = f"<p>Search for the quality:</p><ul>{tries}</ul>" if tries else ""
    measured = '<p class="soft">All figures are measured on the finished file, decoded afresh.</p>'
    return _table(["", ""], rows) + search + measured


def _internals(encoded: EncodedFile, collected: ReportCollector) -> list[str]:
    return ["<h3>Which view refers to which</h3>", _tree(encoded, collected.scene), *map(_seen, collected.pictures)]


def _tree(encoded: EncodedFile, scene: MultiViewScene) -> str:
    motions = scene.cameras.world_to_camera.numpy()
    rotation, translation = motions[:, :3, :3], motions[:, :3, 3]
    centres = -np.einsum("vji,vj->vi", rotation, translation)
    tree = encoded.tree
    picture = tree_svg(centres, rotation[:, 2], tree.parent, tree.depth, scene.names)
    return (
        f'<div class="wide"><div class="tree">{picture}</div></div>'
        "<p>Cameras seen from above, a grey tick where each one looks. A line joins a view to its reference; the colour "
        f"is the number of references on the way, up to {max(tree.depth)}; the ring marks views without a reference.</p>"
    )


def _seen(shown: ViewPictures) -> str:
    figures = []
    for title, picture in zip(shown.titles, shown.pictures, strict=True):
        caption = _text(title)
        figures.append(f'<figure><img src="{data_url(picture)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return (
        f"<h3>{_text(shown.name)}, predicted from {_text(shown.reference_name)}</h3>"
        f"<p>{shown.shared:.0%} of its pixels are seen by the reference; disparity up to {shown.largest_disparity:.1f} pixels "
        '(hue: direction, right is red; saturation: length).</p><div class="grid">' + "\n".join(figures) + "</div>"
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{"text name" if place == 0 else ""}">{_text(cell)}</{tag}>' for place, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(titles, 'th')}</tr></thead>" if any(titles) else ""
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'
