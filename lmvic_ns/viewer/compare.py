"""MDX elements of viser's panel that show the chosen view beside its original."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lmvic_ns.drawing.images import data_url
from lmvic_ns.viewer.client import PICTURES

WIDEST = 1600
"""Pixels of the longer side of pictures that are shown large."""
_SMALL = 560  # where pictures travel inside the markdown, which viser reads sign by sign


@dataclass(frozen=True)
class DisplayedView:
    """A view as the page has it.

    Attributes:
        decoded: address of the picture.
        original: of the original, None without.
        psnr: of one against the other, in dB; None without an original.
    """

    decoded: str
    original: str | None = None
    psnr: float | None = None


class PictureFiles:
    """Gives pictures an address in the page: a file below the server's folder, or a data URL where there is no folder.

    Args:
        root: folder that the server hands out, see `client.own_client`; None without.
    """

    def __init__(self, root: Path | None) -> None:
        self._folder = None if root is None else root / PICTURES

    def add(self, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        """The address of a picture, at most WIDEST pixels long.

        Args:
            name: letters and digits; one picture has one name for ever, since browsers keep what they have.
            pixels: of the picture.
        """
        picture = Image.fromarray(pixels)
        side = _SMALL if self._folder is None else WIDEST
        if max(picture.size) > side:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        if self._folder is None:
            return data_url(np.asarray(picture))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=93, subsampling=0)
        (self._folder / f"{name}.jpg").write_bytes(stream.getvalue())
        return f"/{PICTURES}/{name}.jpg"


def picture_mdx(shown: DisplayedView, words: str) -> str:
    """The element; `stage.js` shows the same picture large while the scene is not looked at.

    Args:
        shown: addresses.
        words: name of the view, for people; any text.
    """
    label, wide = json.dumps(words), 'display: "block", width: "100%"'
    original = "" if shown.original is None else f' data-original="{shown.original}"'
    open_tag = f'<div data-lmvic-picture="" data-decoded="{shown.decoded}"{original} data-words={{{label}}}>'
    decoded = f'<img alt={{{label} + ", decoded"}} src="{shown.decoded}" style={{{{{wide}, maxWidth: "100%"}}}} />'
    if shown.original is None:
        return f"{open_tag}{decoded}</div>"
    cut = 'clipPath: "inset(0 calc(100% - var(--cut, 50%)) 0 0)", position: "absolute", top: 0, left: 0'
    before = f'<img alt={{{label} + ", original"}} src="{shown.original}" style={{{{{wide}, maxWidth: "100%", {cut}}}}} />'
    move = 'event.currentTarget.parentElement.style.setProperty("--cut", event.currentTarget.value + "%")'
    slider = (
        '<input type="range" aria-label="original on the left, decoded on the right" style={{width: "100%"}} '
        f"onInput={{(event) => {move}}} />"
    )
    return f'{open_tag}<div style={{{{position: "relative"}}}}>{decoded}{before}{slider}</div></div>'


def no_picture_mdx(words: str) -> str:
    """The element of a view that cannot be decoded; `words` are its name."""
    return f'<div data-lmvic-picture="" data-decoded="" data-words={{{json.dumps(words)}}} />'


def busy_mdx(words: str) -> str:
    """A line with a wheel that turns, while something is decoded; `words` are markdown."""
    return f'<span data-lmvic-busy="" className="lmvic-spin" /> {words}'
