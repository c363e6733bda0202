"""Pictures in viser's panel: `gui.add_image` where viser has it (0.2.20), a markdown element with a data URL before."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmvic_ns.drawing.colours import Picture, to_uint8

_TALLEST = 320  # pixels of the page, so that a portrait and its prediction are on the screen together


def fit(picture: Picture | np.ndarray, widest: int) -> np.ndarray:
    """8 bits, at most `widest` pixels wide, smaller ones enlarged by a whole factor with sharp pixels."""
    pixels = picture if picture.dtype == np.uint8 else to_uint8(picture)
    height, width = pixels.shape[:2]
    if width > widest:
        size = widest, max(1, round(height * widest / width))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    factor = max(1, widest // (2 * width))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def beside(left: Picture, caption: str, right: Picture, other: str) -> tuple[Picture, str]:
    """Two pictures of one height as one, and their captions."""
    gap = np.ones((left.shape[0], max(1, left.shape[1] // 40), 3), dtype=left.dtype)
    return np.concatenate([left, gap, right], axis=1), f"Left: {caption}. Right: {other}"


def data_url(pixels: np.ndarray, *, quality: int = 88) -> str:
    """An 8-bit RGB picture as a JPEG inside a URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class PanelImage:
    """A captioned picture of a GUI panel that can be replaced.

    Args:
        gui: viser's `server.gui`.
        label: caption above the picture; markdown.
        widest: pixels.
    """

    def __init__(self, gui: Any, label: str, *, widest: int = 640) -> None:
        self._widest = widest
        self._label = label
        self._native = None
        self._gui = gui
        # viser 0.2.7 warns about data URLs unless it knows where relative ones would be
        self._text = gui.add_markdown(label, image_root=Path(), visible=False)
        if hasattr(gui, "add_image"):
            self._native = gui.add_image(np.full((8, 8, 3), 128, dtype=np.uint8), format="jpeg", visible=False)

    def show(self, picture: Picture | np.ndarray | None, label: str | None = None) -> None:
        """Replace the picture (None hides both) and, where given, the caption."""
        self._label = self._label if label is None else label
        if picture is not None:
            pixels = fit(picture, self._widest)
            if self._native is not None:
                self._native.image = pixels
                self._text.content = self._label
            else:
                # plain markdown pictures are at most 240 pixels wide; this one takes the panel's width
                self._text.content = (
                    f'{self._label}\n\n<img alt="{_plain(self._label)}" src="{data_url(pixels)}" style={{{{display: "block", '
                    f'maxWidth: "100%", maxHeight: "{_TALLEST}px", margin: "0 auto", borderRadius: "0.4em"}}}} />'
                )
        self._text.visible = picture is not None
        if self._native is not None:
            self._native.visible = picture is not None

    def remove(self) -> None:
        """Take it out of the panel."""
        self._text.remove()
        if self._native is not None:
            self._native.remove()


def _plain(label: str) -> str:
    """Alternative text: the caption's first words, without markdown's signs."""
    return "".join(c for c in label.split(".")[0] if c.isalnum() or c in " -")
