"""Pictures of 0..1 in 8 bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_8_bit(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image of 0..1 in 8 bits, rounded to nearest; values beyond that are clipped."""
    levels = (image.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().numpy()
