"""Rate-distortion losses, equation (9) of the paper.

Rates are bits per pixel, distortions are MSE on 0..1 images or 1 - MS-SSIM, and a loss is lambda * D + R.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Literal["mse", "ms-ssim"]

MS_SSIM_LAMBDA_RATIO = 1 / 32
"""lambda for 1 - MS-SSIM over lambda for MSE at the same level: the paper starts at 8 where MSE starts at 256."""

VIEW_WEIGHTS = (0.5, 1.2, 0.5, 0.9)
"""Weights of the four views' distortions in loss (9)."""


def squared_error(image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """Mean squared error of each sample in float32."""
    return (image.float() - target.float()).square().flatten(1).mean(1)


def psnr(error: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """dB of a mean squared error on 0..1 images."""
    return -10 * torch.log10(error.clamp_min(1e-10))


def ms_ssim(image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """Multi-scale structural similarity of each sample; needs images of more than 160 pixels a side."""
    from pytorch_msssim import ms_ssim as compute  # a dependency of compressai

    return compute(image.float(), target.float(), data_range=1.0, size_average=False)


def image_distortion(image: Tensor, target: Tensor, metric: Metric) -> Float[Tensor, "b"]:
    """D of each sample on the scale that lambda of the level (for MSE) multiplies."""
    if metric == "mse":
        return squared_error(image, target)
    # MS-SSIM takes powers of similarities, whose gradient is infinite at 0: keep to the range of images
    return (1 - ms_ssim(image, target)) * MS_SSIM_LAMBDA_RATIO


def level_weight(lambdas: Float[Tensor, "b"], middle: float, power: float) -> Float[Tensor, "b"]:
    """(lambda / middle)^-power: evens out the levels' gradients, since lambda * D + R grows with lambda."""
    return (lambdas / middle).pow(-power)


def photo_loss(
    distortion: Float[Tensor, "b"], bits: Float[Tensor, "b"], lambdas: Float[Tensor, "b"], pixels: int
) -> Float[Tensor, "b"]:
    """lambda * D + R of each sample, R in bits per pixel."""
    return lambdas * distortion + bits.float() / pixels


def log_limited(loss: Float[Tensor, "b"], limit: float = 10.0) -> Float[Tensor, "b"]:
    """The loss, logarithmic above the limit, so that one bad sample does not dominate its step."""
    return torch.where(loss > limit, limit * (1 + (loss.clamp(min=limit) / limit).log()), loss)


def view_loss(
    distortion: Float[Tensor, "b"],
    depth_distortion: Float[Tensor, "b"],
    bits: Float[Tensor, "b"],
    lambdas: Float[Tensor, "b"],
    depth_lambdas: Float[Tensor, "b"],
    pixels: int,
    *,
    view_weight: float,
) -> Float[Tensor, "b"]:
    """One view's term of (9): w (lambda_img D_img + lambda_dep D_dep) + R_img + R_dep.

    Args:
        bits: of image and depth together.
        depth_lambdas: lambda_dep; the paper's pairs (lambda_img, lambda_dep) go from (256, 64) to (4096, 128).
    """
    return view_weight * (lambdas * distortion + depth_lambdas * depth_distortion) + bits.float() / pixels
