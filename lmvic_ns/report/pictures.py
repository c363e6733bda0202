"""Pictures of a report: disparity in colours, the tree of references seen from above, data URLs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.resampling import upsample_inverse_depth
from lmvic_ns.geometry.warp import warp

MAX_SIDE = 480


@dataclass(frozen=True)
class ViewPictures:
    """What the decoder sees of one view, each picture [h, w, 3] of 8 bits; `shared` is the share of its mask."""

    name: str
    reference_name: str
    titles: tuple[str, ...]
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]
    shared: float
    largest_disparity: float


def view_pictures(view: DecodedView, reference: DecodedView, original: Float[Tensor, "3 h w"]) -> ViewPictures | None:
    """The pictures of a view and its reference, all of the decoder's own data but the target; None without depth."""
    if view.inverse_depth is None or reference.inverse_depth is None:
        return None
    inverse, inverse_reference = (_full(v) for v in (view, reference))
    seen = disparity_and_mask(inverse[None].float(), view.camera, inverse_reference[None].float(), reference.camera)
    aligned = warp(reference.image.cpu()[None], seen.disparity)[0]
    length = seen.disparity[0].norm(dim=-1)
    inside = length[seen.mask[0]]
    largest = float(torch.quantile(inside[:: max(1, len(inside) // 100_000)], 0.98)) if len(inside) else 1.0
    pictures = (
        to_8_bit(reference.image),
        to_8_bit(original),
        colour_wheel(seen.disparity[0].numpy(), largest),
        np.repeat(seen.mask[0].numpy()[..., None].astype(np.uint8) * 255, 3, axis=2),
        to_8_bit(aligned * (0.25 + 0.75 * seen.mask[0].float())),
        to_8_bit(view.image),
    )
    titles = (
        "reference (decoded)",
        "target (original)",
        "disparity",
        "mask",
        "warped reference, dark where the mask is 0",
        "reconstruction",
    )
    return ViewPictures(view.name, reference.name, titles, pictures, float(seen.mask.float().mean()), largest)


def _full(view: DecodedView) -> Tensor:
    assert view.inverse_depth is not None
    size = int(view.camera.height[0]), int(view.camera.width[0])
    return upsample_inverse_depth(view.inverse_depth.cpu()[None].double(), *size)[0]


def colour_wheel(disparity: Float[np.ndarray, "h w 2"], largest: float) -> UInt8[np.ndarray, "h w 3"]:
    """Direction as hue (right red, down yellow-green, left cyan, up violet), length as saturation up to `largest`."""
    angle = np.arctan2(disparity[..., 1], disparity[..., 0]) % (2 * np.pi) * 3 / np.pi
    strength = np.clip(np.hypot(disparity[..., 0], disparity[..., 1]) / max(largest, 1e-6), 0, 1)
    wheel = [np.clip(np.abs((angle + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    return ((1 - strength[..., None] * (1 - np.stack(wheel, axis=-1))) * 255).round().astype(np.uint8)


def data_url(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture inside a page: PNG where it is flat or small, else JPEG; at most `MAX_SIDE` pixels long."""
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    best = (b"", "")
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 90, "subsampling": 0})):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        if not best[0] or stream.tell() < len(best[0]):
            best = stream.getvalue(), kind.lower()
    return f"data:image/{best[1]};base64,{base64.b64encode(best[0]).decode('ascii')}"


def tree_svg(
    centres: Float[np.ndarray, "v 3"],
    forward: Float[np.ndarray, "v 3"],
    parent: Sequence[int],
    depth: Sequence[int],
    names: Sequence[str],
) -> str:
    """The cameras from above (the two directions in which they spread most), an arrow from each reference to its view.

    Args:
        centres: camera centres in the world.
        forward: directions in which the cameras look.
        parent: reference of each view, -1 for none.
        depth: references on the way to each view.
        names: of the views.
    """
    width, height, margin = 760, 520, 40
    place, heading = seen_from_above(centres, forward)
    low, span = place.min(axis=0), np.ptp(place, axis=0)
    scale = min((width - 2 * margin) / max(span[0], 1e-9), (height - 2 * margin) / max(span[1], 1e-9))
    if not np.isfinite(scale) or span.max() < 1e-9:
        scale = 1.0
    used = span * scale
    xy = (place - low) * scale + (np.array([width, height]) - used) / 2
    deepest = max(depth, default=0)
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="reference tree">']
    for view, origin in enumerate(parent):
        if origin >= 0:
            (x0, y0), (x1, y1) = xy[origin], xy[view]
            colour = depth_colour(depth[view], deepest)
            parts.append(
                f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" stroke-width="1.6"/>'
            )
    crowded = len(names) > 40
    for view, name in enumerate(names):
        x, y = xy[view]
        dx, dy = 14 * heading[view]
        colour = depth_colour(depth[view], deepest)
        title = f"{html.escape(name)}, {depth[view]} references deep"
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + dx:.1f}" y2="{y + dy:.1f}" stroke="#999" stroke-width="1"/>')
        ring = ' stroke="#000" stroke-width="2"' if parent[view] < 0 else ""
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"{ring}><title>{title}</title></circle>')
        if not crowded:
            parts.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}" font-size="10" fill="#555">{html.escape(name[-14:])}</text>')
    return "\n".join([*parts, "</svg>"])


def seen_from_above(
    centres: Float[np.ndarray, "v 3"], forward: Float[np.ndarray, "v 3"]
) -> tuple[Float[np.ndarray, "v 2"], Float[np.ndarray, "v 2"]]:
    """Positions and unit headings in the plane of the centres' two main directions."""
    spread = centres - centres.mean(axis=0)
    _, _, axes = np.linalg.svd(np.concatenate([spread, np.zeros((3, 3))]), full_matrices=False)
    heading = forward @ axes[:2].T
    return spread @ axes[:2].T, heading / np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)


def depth_colour(depth: int, deepest: int) -> str:
    """From dark blue for the root over green to yellow for the deepest view."""
    stops = np.array([[68, 1, 84], [49, 104, 142], [53, 183, 121], [253, 200, 37]], dtype=float)
    at = 3 * depth / max(deepest, 1)
    first = min(int(at), 2)
    red, green, blue = stops[first] + (at - first) * (stops[first + 1] - stops[first])
    return f"#{round(red):02x}{round(green):02x}{round(blue):02x}"
