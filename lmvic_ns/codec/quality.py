"""Quality levels: what `--quality 0..63` means in training and in a file."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LEVELS = 64
"""Number of quality levels that one set of weights serves; level 0 is the smallest file."""

LAMBDA_RANGE = (6.0, 40000.0)
"""Lagrangian of the image's mean squared error (0..1 images, rate in bits per pixel) at the first and the last level."""


def lambda_of_level(level: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Weight of the image distortion in `lambda * MSE + bits_per_pixel`, log-spaced over the levels."""
    low, high = (math.log(value) for value in LAMBDA_RANGE)
    return torch.exp(low + (high - low) * torch.as_tensor(level).float() / (LEVELS - 1))


def image_lambda(level: float) -> float:
    """`lambda_of_level` of one level, as a number."""
    return float(lambda_of_level(torch.tensor(float(level))))


def coding_noise_of_level(level: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Mean squared error that pictures of this level have, roughly: what is below it costs nothing."""
    return 0.01 / lambda_of_level(level).sqrt()


def coding_noise(level: float) -> float:
    """`coding_noise_of_level` of one level, as a number."""
    return 0.01 / image_lambda(level) ** 0.5


def depth_lambda_of_level(level: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Weight of the depth's squared error (inverse depth normalised to 0..1, at the coded resolution).

    Grows with the square root of the image's lambda: a wrong disparity costs the image less at low quality. The factor is
    small because coarse depth serves: on `desk`, halving the quantizer step below it left the image's rate as it was.
    """
    return 12.0 * torch.sqrt(lambda_of_level(level))


def step_of_lambda(weight: Float[Tensor, "*b"], channels: int = 3, pixels_per_sample: float = 1.0) -> Float[Tensor, "*b"]:
    """Uniform quantizer step that is optimal at high rate for an orthonormal transform, D = step^2 / 12.

    Args:
        weight: lambda, for a distortion that is the mean over `channels` and samples.
        channels: channels over which the distortion is averaged.
        pixels_per_sample: image pixels for each coded sample (the rate is counted in bits per image pixel).
    """
    return torch.sqrt(12.0 * channels / (2.0 * math.log(2.0) * torch.as_tensor(weight).float() * pixels_per_sample))
