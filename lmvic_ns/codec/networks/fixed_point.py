"""Convolutions that give the same bits on every device.

A decoder whose probability tables come from floating-point networks falls out of step as soon as one sum is rounded
differently. Everything that chooses a table, and everything that decodes depth, therefore runs here in integers: values
are multiples of 2^-12, weights of 2^-14, and all are held in float64, where every partial sum stays below 2^53. Sums of
integers below 2^53 are exact in any order, so the thread count, the library and the device cannot change them. Training
uses the ordinary float path of the same modules.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

VALUE_BITS = 12
WEIGHT_BITS = 14
ONE = float(1 << VALUE_BITS)
VALUE_LIMIT = float(1 << 20)
WEIGHT_LIMIT = float(1 << 18)


def to_fixed(x: Float[Tensor, "..."], bits: int = VALUE_BITS) -> Float[Tensor, "..."]:
    """Nearest multiple of 2^-bits, as an integer in float64, clamped to the range that sums stay exact in."""
    return torch.floor(x.double() * float(1 << bits) + 0.5).clamp(-VALUE_LIMIT, VALUE_LIMIT)


def from_fixed(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The real number that a fixed-point value stands for, in float64."""
    return x / ONE


def rescale(x: Float[Tensor, "..."], bits: int) -> Float[Tensor, "..."]:
    """Divides integers by 2^bits, rounding half up, and clamps."""
    return torch.floor((x + float(1 << (bits - 1))) / float(1 << bits)).clamp(-VALUE_LIMIT, VALUE_LIMIT)


class FixedPointConv2d(nn.Conv2d):
    """1x1 or depth-wise 3x3 convolution with an exact integer twin of its float forward."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1):
        if (kernel_size, groups) not in ((1, 1), (3, in_channels)):
            raise ValueError("only 1x1 and depth-wise 3x3 convolutions have an exact twin")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """The convolution in float; on a CPU 1x1 as a product: torch's convolution of small maps takes ten times as long."""
        if self.kernel_size != (1, 1) or input.device.type != "cpu":
            return super().forward(input)
        b, c, h, w = input.shape
        out = self.weight.reshape(1, self.out_channels, c) @ input.reshape(b, c, h * w)
        if self.bias is not None:
            out = out + self.bias[None, :, None]
        return out.reshape(b, self.out_channels, h, w)

    def exact(self, x: Float[Tensor, "b c h w"], channels: slice | None = None) -> Float[Tensor, "b o h w"]:
        """The convolution on fixed-point values (integers in float64, multiples of 2^-12).

        Args:
            x: input.
            channels: the outputs wanted of a 1x1 convolution; None for all.
        """
        chosen = slice(None) if channels is None else channels
        weight = torch.floor(self.weight.detach()[chosen].double() * (1 << WEIGHT_BITS) + 0.5)
        weight = weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        if self.kernel_size == (1, 1):
            b, c, h, w = x.shape
            total = (weight.reshape(1, -1, c) @ x.reshape(b, c, h * w)).reshape(b, -1, h, w)
        else:
            h, w = x.shape[-2:]
            padded = F.pad(x, (1, 1, 1, 1))
            total = torch.zeros_like(x)
            for row in range(3):
                for column in range(3):
                    total = (
                        total + padded[..., row : row + h, column : column + w] * weight[None, :, 0, row, column, None, None]
                    )
        if self.bias is not None:
            bias = torch.floor(self.bias.detach()[chosen].double() * float(1 << (VALUE_BITS + WEIGHT_BITS)) + 0.5)
            total = total + bias[None, :, None, None]
        return rescale(total, WEIGHT_BITS)


def multiply_fixed(x: Float[Tensor, "..."], factor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Product of fixed-point values and fixed-point factors (both multiples of 2^-12)."""
    return rescale(x * factor, VALUE_BITS)


def magnitude_table(size: int = 64) -> Float[Tensor, "n"]:
    """log2(1 + q) for q = 0..size-1, rounded to multiples of 1/16 (far from ties, so the same everywhere)."""
    return torch.tensor([math.floor(16 * math.log2(1 + q) + 0.5) / 16 for q in range(size)], dtype=torch.float64)


def fill_holes(x: Float[Tensor, "b 1 h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Fills unknown fixed-point values with the mean of the known ones around them, coarse to fine, exactly.

    Args:
        x: integers in float64; anything where the mask is 0.
        mask: 1 where x is known, else 0.
    """
    x = x * mask
    if max(x.shape[-2:]) == 1 or not bool((mask == 0).any()):
        return x
    h, w = x.shape[-2:]
    pad = (0, w % 2, 0, h % 2)
    known = F.pad(mask, pad)
    value = F.pad(x, pad)

    def quarter_sum(t: Tensor) -> Tensor:
        return t[..., 0::2, 0::2] + t[..., 0::2, 1::2] + t[..., 1::2, 0::2] + t[..., 1::2, 1::2]

    count, total = quarter_sum(known), quarter_sum(value)
    coarse = torch.floor(total / count.clamp(min=1) + 0.5)
    coarse = fill_holes(coarse, (count > 0).to(x.dtype))
    fine = coarse.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)[..., :h, :w]
    return torch.where(mask > 0, x, fine)
