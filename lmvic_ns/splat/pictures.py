"""Depth as a picture: near is yellow, far is dark, what has no depth is grey."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from torch import Tensor

NO_DEPTH = 0.5


def depth_picture(depth: Float[Tensor, "h w 1"], known: Bool[Tensor, "h w 1"]) -> Float[Tensor, "h w 3"]:
    """Colours for the inverse depth of the known pixels, between their 1st and 99th percentile."""
    if not known.any():
        return torch.full((*depth.shape[:2], 3), NO_DEPTH, device=depth.device)
    inverse = torch.where(known, 1.0 / depth.clamp_min(1e-9), torch.zeros_like(depth))
    # every n-th value: torch.quantile takes 16 million at most, and percentiles need far fewer
    sample = inverse[known].flatten()
    sample = sample[:: max(1, len(sample) // 100_000)]
    low, high = torch.quantile(sample, sample.new_tensor([0.01, 0.99]))
    shade = ((inverse - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    return torch.where(known, apply_colormap(shade, ColormapOptions("inferno")), NO_DEPTH)
