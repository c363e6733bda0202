"""Gaussian scales, their integer tables, and the rate of symbols under them, equation (6)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.bitstream.tables import CdfTables, gaussian_tables

SCALE_COUNT = 64
SCALE_MIN = 0.09
SCALE_STEP = math.log(64.0 / SCALE_MIN) / (SCALE_COUNT - 1)


def scale_tables() -> CdfTables:
    """The integer tables of the 64 Gaussian scales; made once, with the weights."""
    return gaussian_tables(SCALE_MIN * np.exp(SCALE_STEP * np.arange(SCALE_COUNT)))


def scale_of_index(index: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Standard deviation that a (fractional) table index stands for."""
    return SCALE_MIN * torch.exp(SCALE_STEP * index)


def index_of_log_scale(log_scale: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """(Fractional) table index of the natural logarithm of a standard deviation."""
    return (log_scale - math.log(SCALE_MIN)) / SCALE_STEP


def gaussian_bits(residual: Float[Tensor, "*s"], scale: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Bits of a unit bin at `residual` under a zero-mean Gaussian, equation (6)."""
    v = residual.abs()
    inverse = 1.0 / (scale * math.sqrt(2.0))
    # difference of the tails on one side of zero: no cancellation
    p = 0.5 * (torch.erfc((v - 0.5) * inverse) - torch.erfc((v + 0.5) * inverse))
    # beyond one in a million: the tail's slope there, so that far misses keep a bounded gradient
    far = 20.0 + 9.7 * ((v - 0.5).clamp(min=0) * inverse - 3.36)
    return torch.where(p > 1e-6, -torch.log2(p.clamp(min=1e-6)), far.clamp(min=19.9))


def training_bits(
    residual: Float[Tensor, "*s"], symbol: Float[Tensor, "*s"], scale: Float[Tensor, "*s"]
) -> Float[Tensor, "*s"]:
    """Bits of the symbols as they will be written, with gradients that training can use.

    The value, and the gradient towards the scale, are those of the rounded symbol: the tables learn what files hold
    (uniform noise alone overstates symbols that are almost surely zero by about 0.1 bit each). The gradient towards the
    residual is that of the noisy symbol, since the rounded one has none.
    """
    noisy = gaussian_bits(residual + torch.rand_like(residual) - 0.5, scale.detach())
    return gaussian_bits(symbol, scale) + (noisy - noisy.detach())


def rate_distortion_rounding(
    residual: Float[Tensor, "*s"], index: Float[Tensor, "*s"], rate_weight: float
) -> Float[Tensor, "*s"]:
    """Symbols chosen by rate and distortion, as RDOQ in video encoders.

    Of the two integers around a residual, the smaller in magnitude is taken, unless the larger one lowers distortion plus
    weighted rate. At high rate, a uniform quantizer of step 1 trades a squared error of ln(2) / 6 for each bit; `rate_weight`
    multiplies this factor.

    Args:
        residual: what is to be coded, at the symbols' scale.
        index: table index of each symbol.
        rate_weight: 0 rounds to the nearest integer, 1 is the high-rate optimum.
    """
    magnitude, scale = residual.abs(), scale_of_index(index)
    low = torch.floor(magnitude)
    price = rate_weight * math.log(2) / 6
    more = gaussian_bits(low + 1, scale) - gaussian_bits(low, scale)
    # (m - low)^2 against (low + 1 - m)^2 + price * more
    take = 2 * (magnitude - low) - 1 > price * more
    return torch.where(take, low + 1, low) * torch.sign(residual)
