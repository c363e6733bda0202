"""Bjontegaard's delta rate: how many per cent more (or fewer) bits a codec needs for the same quality as an anchor.

The integral is the `bjontegaard` package's (Herglotz et al. 2022, Akima or PCHIP over log rate); here are only the
preparations that real measurements need: sort, keep the Pareto front, refuse curves that do not overlap.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lmvic_ns.errors import LmvicError

Method = Literal["akima", "pchip", "cubic"]
# below this share of the anchor's range a mean over the overlap says little
MINIMUM_OVERLAP = 0.25


class CurveError(LmvicError, ValueError):
    """Two rate-distortion curves cannot be compared; the message says why."""


@dataclass(frozen=True)
class BDRate:
    """Per cent of rate against the anchor (negative: fewer bits), and the share of the joint quality range that both cover."""

    percent: float
    overlap: float


def ms_ssim_to_db(value: float) -> float:
    """-10 log10(1 - MS-SSIM), the scale on which curves of MS-SSIM are integrated and drawn; infinity for 1."""
    return math.inf if value >= 1.0 else -10.0 * math.log10(1.0 - value)


def bd_rate(
    anchor_rate: Sequence[float],
    anchor_quality: Sequence[float],
    rate: Sequence[float],
    quality: Sequence[float],
    *,
    method: Method = "akima",
) -> BDRate:
    """BD-rate of a curve against an anchor, over the quality range that both cover.

    Args:
        anchor_rate: Rates of the anchor, any unit, any order, at least four.
        anchor_quality: Their qualities in dB (PSNR, or `ms_ssim_to_db`).
        rate: Rates of the codec compared; the number of points may differ.
        quality: Their qualities.
        method: Interpolation: "akima" (default), "pchip" (the JCT-VC and JVET sheets), "cubic" (VCEG-M33).

    Raises:
        CurveError: Fewer than four usable points in a curve, or the curves overlap too little in quality.
    """
    import bjontegaard

    r0, q0 = _front(anchor_rate, anchor_quality, "anchor")
    r1, q1 = _front(rate, quality, "codec")
    low, high = max(q0[0], q1[0]), min(q0[-1], q1[-1])
    overlap = max(0.0, high - low) / (max(q0[-1], q1[-1]) - min(q0[0], q1[0]))
    if high <= low or (high - low) / min(q0[-1] - q0[0], q1[-1] - q1[0]) < MINIMUM_OVERLAP:
        raise CurveError(
            f"the curves share too little quality range: {q0[0]:.2f} to {q0[-1]:.2f} and {q1[0]:.2f} to {q1[-1]:.2f} dB; "
            "measure at other rates"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns below 75 % overlap; the overlap is returned instead
        percent = bjontegaard.bd_rate(r0, q0, r1, q1, method=method, require_matching_points=False, min_overlap=0)
    return BDRate(float(percent), overlap)  # type: ignore[arg-type]


def _front(rate: Sequence[float], quality: Sequence[float], what: str) -> tuple[list[float], list[float]]:
    """Points sorted by rate; one that costs more and gives no more quality than another is left out."""
    points = sorted((r, q) for r, q in zip(rate, quality, strict=True) if math.isfinite(r) and math.isfinite(q) and r > 0)
    front: list[tuple[float, float]] = []
    for r, q in points:
        if front and r == front[-1][0]:
            front.pop()
        if not front or q > front[-1][1]:
            front.append((r, q))
    if len(front) < 4:
        raise CurveError(f"the {what}'s curve has {len(front)} usable points, four are needed; measure at more rates")
    return [r for r, _ in front], [q for _, q in front]
