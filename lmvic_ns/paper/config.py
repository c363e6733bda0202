"""Sizes and ablations of the `paper` preset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the networks and the switches of the paper's Figure 7 (ablations, appendix D).

    Attributes:
        n: channels of the transforms (N), at most 192.
        m: channels of the latents (M), a multiple of 12.
        cross_view: False ("Separate"): every view is coded as if it had no reference.
        alignment: False ("Concatenation"): the reference's features are used where they lie, without a warp.
        masks: False ("W/O Mask"): no multiplication by a mask anywhere; the mask extractors are not even built.
        depth_prediction: False ("W/O Dep.Pred"): prediction and its mask are zero, depth is coded on its own.
        max_depth: normalised depths (depth / scene scale) are clamped to this; infinity and unknown depth code as this.
        min_depth: reconstructed normalised depths are at least this.

    Raises:
        ValueError: sizes that the networks cannot have.
    """

    n: int = 128
    m: int = 192
    cross_view: bool = True
    alignment: bool = True
    masks: bool = True
    depth_prediction: bool = True
    max_depth: float = 8.0
    min_depth: float = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 192:
            raise ValueError(f"n is {self.n}: expected 1..192 (64 + n probability tables, and an index is one byte)")
        if self.m < 12 or self.m % 12:
            raise ValueError(f"m is {self.m}: expected a multiple of 12 (four groups, and widths of 14M/3 and 10M/3)")
        if not 0.0 < self.min_depth < self.max_depth:
            raise ValueError(f"depth bounds {self.min_depth}, {self.max_depth}: expected 0 < min_depth < max_depth")
