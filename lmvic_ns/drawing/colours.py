"""Numbers as colours, for people: disparity, inverse depth, masks, errors. numpy only; viewer and report share it.

Every picture is float32 RGB in 0..1, [h, w, 3].
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Picture = Float[np.ndarray, "h w 3"]

UNKNOWN = np.float32(0.5)
"""Grey of what has no depth."""
HIDDEN = np.array([0.85, 0.1, 0.55], dtype=np.float32)
"""Stripes over pixels that the reference does not show (mask 0); a colour that photographs seldom have."""

# steps between red, yellow, green, cyan, blue, magenta, red: the wheel of Baker et al., "A Database and Evaluation
# Methodology for Optical Flow", IJCV 2011, that flow pictures are usually drawn with
_WHEEL_STEPS = ((15, (1, 0, 0)), (6, (1, 1, 0)), (4, (0, 1, 0)), (11, (0, 1, 1)), (13, (0, 0, 1)), (6, (1, 0, 1)))
# "Turbo" of A. Mikhailov (2019), his polynomial of degree 5; columns are red, green, blue
_TURBO = np.array(
    [
        [0.13572138, 0.09140261, 0.10667330],
        [4.61539260, 2.19418839, 12.64194608],
        [-42.66032258, 4.84296658, -60.58204836],
        [132.13108234, -14.18503333, 110.36276771],
        [-152.94239396, 4.27729857, -89.90310912],
        [59.28637943, 2.82956604, 27.34824973],
    ],
    dtype=np.float32,
)
_GLYPHS = {  # 3 x 5 pixels a character, a row an octal digit
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71122",
    "8": "75757",
    "9": "75717",
    ".": "00002",
    "p": "06564",
    "x": "05225",
    "k": "45655",
    " ": "00000",
}


def _wheel() -> Float[np.ndarray, "n 3"]:
    corners = np.array([colour for _, colour in _WHEEL_STEPS], dtype=np.float32)
    parts = []
    for index, (steps, _) in enumerate(_WHEEL_STEPS):
        weight = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[:, None]
        parts.append(corners[index] * (1 - weight) + corners[(index + 1) % len(corners)] * weight)
    return np.concatenate(parts)


def disparity_colours(
    disparity: Float[np.ndarray, "h w 2"],
    largest: float | None = None,
    mask: Bool[np.ndarray, "h w"] | None = None,
    *,
    legend: bool = True,
) -> Picture:
    """Disparity (dx, dy) on the colour wheel: hue is the direction, saturation the length, white is zero.

    Args:
        disparity: in pixels.
        largest: length with full saturation; by default `largest_disparity` of the picture. Longer ones are darkened.
        mask: where given, pixels outside it are grey.
        legend: draw the wheel, with the length of its radius in pixels, into the lower right corner (if it fits).
    """
    largest = largest_disparity(disparity, mask) if largest is None else max(largest, 1e-6)
    picture = _on_wheel(disparity.astype(np.float32) / np.float32(largest))
    if mask is not None:
        picture = np.where(mask[..., None], picture, UNKNOWN)
    return add_wheel(picture, largest) if legend else picture


def largest_disparity(disparity: Float[np.ndarray, "h w 2"], mask: Bool[np.ndarray, "h w"] | None = None) -> float:
    """Length that 98 % of the pixels (of the mask) stay below, at least one pixel."""
    length = np.hypot(disparity[..., 0], disparity[..., 1])
    values = length.ravel() if mask is None or not mask.any() else length[mask]
    return max(1.0, float(np.quantile(values, 0.98))) if values.size else 1.0


def _on_wheel(vector: Float[np.ndarray, "h w 2"]) -> Picture:
    wheel = _wheel()
    length = np.hypot(vector[..., 0], vector[..., 1])
    turn = (np.arctan2(-vector[..., 1], -vector[..., 0]) / np.float32(2 * np.pi) + np.float32(0.5)) * (len(wheel) - 1)
    first = np.clip(turn.astype(np.int32), 0, len(wheel) - 1)
    weight = (turn - first)[..., None].astype(np.float32)
    hue = wheel[first] * (1 - weight) + wheel[(first + 1) % len(wheel)] * weight
    inside = 1 - np.minimum(length, 1)[..., None] * (1 - hue)
    return np.where(length[..., None] <= 1, inside, hue * np.float32(0.75)).astype(np.float32)


def add_wheel(picture: Picture, largest: float) -> Picture:
    """The picture with a colour wheel in its lower right corner: arrows from the middle outwards, radius `largest` px."""
    height, width = picture.shape[:2]
    size = min(96, max(height, width) // 5)
    if size < 16 or size > min(height, width):
        return picture
    steps = np.linspace(-1.05, 1.05, size, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    inside = np.hypot(x, y) <= 1
    result = picture.copy()
    corner = result[height - size :, width - size :]
    corner[:] = np.where(inside[..., None], _on_wheel(np.stack([x, y], -1)), corner * np.float32(0.35))
    text = f"{largest:.0f} px" if largest >= 9.5 else f"{largest:.1f} px"
    return add_text(result, text, height - size - 1, width - size, scale=max(1, round(size / 42)))


def add_text(picture: Picture, text: str, bottom: int, left: int, *, scale: int = 1) -> Picture:
    """Digits and "px" as black on white, its lower left corner at (bottom, left); left out where it does not fit."""
    rows = np.array([[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in _GLYPHS[c]] for c in text if c in _GLYPHS])
    if not len(rows):
        return picture
    ink = np.pad(rows.transpose(1, 0, 2).reshape(5, -1), ((1, 1), (1, 0))).repeat(scale, 0).repeat(scale, 1)
    top, right = bottom - ink.shape[0], left + ink.shape[1]
    left = left - max(0, right - picture.shape[1])
    if top < 0 or left < 0 or bottom > picture.shape[0]:
        return picture
    result = picture.copy()
    result[top:bottom, left : left + ink.shape[1]] = 1.0 - ink[..., None].astype(np.float32)
    return result


def inverse_depth_colours(
    inverse_depth: Float[np.ndarray, "h w"],
    known: Bool[np.ndarray, "h w"] | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Turbo: near is red, far is blue, what has no depth is grey.

    Args:
        inverse_depth: 1 / z.
        known: by default where it is positive.
        limits: inverse depths of the darkest blue and the darkest red; by default the 1st and 99th percentile.
    """
    known = inverse_depth > 0 if known is None else known
    low, high = inverse_depth_limits(inverse_depth, known) if limits is None else limits
    shade = np.clip((inverse_depth.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    # without turbo's dark ends, so that near and far keep a hue
    return np.where(known[..., None], turbo(0.08 + 0.84 * shade), UNKNOWN).astype(np.float32)


def inverse_depth_limits(
    inverse_depth: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"] | None = None
) -> tuple[float, float]:
    """1st and 99th percentile of the known values, (0, 1) without any."""
    values = inverse_depth[inverse_depth > 0 if known is None else known].ravel()
    values = values[:: max(1, len(values) // 50_000)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)


def turbo(shade: Float[np.ndarray, "h w"]) -> Picture:
    """0..1 to blue, green, yellow, red."""
    value = shade.astype(np.float32)[..., None]
    result = np.broadcast_to(_TURBO[-1], (*shade.shape, 3))
    for row in _TURBO[-2::-1]:
        result = result * value + row
    return np.clip(result, 0, 1).astype(np.float32)


def mask_overlay(picture: Picture, mask: Bool[np.ndarray, "h w"], *, stripe: int | None = None) -> Picture:
    """The picture with pink stripes wherever the mask is 0: there the reference does not show the point.

    Args:
        picture: what is seen.
        mask: equation (4).
        stripe: width in pixels; by default wide enough to stay visible when a large picture is shown small.
    """
    height, width = mask.shape
    stripe = max(4, max(height, width) // 60) if stripe is None else stripe
    diagonal = np.arange(height)[:, None] + np.arange(width)[None]
    stripes = (diagonal // max(1, stripe) % 2 == 0)[..., None]
    striped = np.where(stripes, HIDDEN, picture * np.float32(0.45))
    return np.where(mask[..., None], picture, striped).astype(np.float32)


def error_colours(
    error: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"] | None = None, *, largest: float = 0.25
) -> Picture:
    """Absolute error (0..1): black is none, red, then yellow, white is `largest` and more; outside the mask grey."""
    shade = np.clip(error.astype(np.float32) / largest, 0, 1)[..., None] * 3
    picture = np.concatenate([np.clip(shade - offset, 0, 1) for offset in (0, 1, 2)], axis=-1)
    return picture if mask is None else np.where(mask[..., None], picture, UNKNOWN).astype(np.float32)


def to_uint8(picture: Picture) -> np.ndarray:
    """0..1 to 8 bits, rounded."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
