"""Distortion on 8-bit RGB pictures: PSNR and MS-SSIM, over whole pictures or over a mask.

MS-SSIM as Wang et al. 2003 (five scales, 11x11 Gaussian window of sigma 1.5, no padding), the mean of the three channels;
without a mask it equals `pytorch_msssim.ms_ssim`. With a mask, the maps of each scale are averaged over the windows whose
centre lies in the mask, so that pixels outside count neither for nor against a picture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
SIGMA = 1.5
SMALLEST_SIDE = (WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1


def psnr(
    reference: UInt8[np.ndarray, "h w 3"], decoded: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None = None
) -> float:
    """PSNR in dB of 8-bit RGB (peak 255, one MSE over all three channels), over the mask's pixels where one is given.

    Equal pictures give infinity; an empty mask gives NaN.

    Raises:
        ValueError: Shapes or types differ.
    """
    _check(reference, decoded)
    difference = reference.astype(np.float64) - decoded.astype(np.float64)
    if mask is not None:
        difference = difference[mask]
        if not difference.size:
            return math.nan
    mse = float(np.mean(difference**2))
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)


def ms_ssim(
    reference: UInt8[np.ndarray, "h w 3"], decoded: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None = None
) -> float:
    """MS-SSIM of 8-bit RGB; NaN for pictures with a side of 160 pixels or less (five scales do not fit) and for an empty mask.

    Raises:
        ValueError: Shapes or types differ.
    """
    _check(reference, decoded)
    if min(reference.shape[:2]) < SMALLEST_SIDE:
        return math.nan
    x, y = (torch.from_numpy(p.astype(np.float32)).permute(2, 0, 1)[None] for p in (reference, decoded))
    weight = None if mask is None else torch.from_numpy(mask.astype(np.float32))[None, None]
    total = torch.ones(3)
    for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
        luminance, contrast = _ssim_maps(x, y)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        mean = _mean(luminance * contrast if last else contrast, weight)
        total = total * mean.clamp(min=0.0) ** exponent
        if not last:
            # odd sides are padded as the reference implementation does
            padding = [s % 2 for s in x.shape[2:]]
            x, y = (F.avg_pool2d(p, 2, padding=padding) for p in (x, y))
            weight = None if weight is None else F.avg_pool2d(weight, 2, padding=padding)
    return float(total.mean())


def _check(reference: np.ndarray, decoded: np.ndarray) -> None:
    if reference.shape != decoded.shape or reference.ndim != 3 or reference.shape[2] != 3:
        raise ValueError(f"pictures must both be (h, w, 3), not {reference.shape} and {decoded.shape}")
    if reference.dtype != np.uint8 or decoded.dtype != np.uint8:
        raise ValueError(f"pictures must be 8-bit, not {reference.dtype} and {decoded.dtype}")


def _gaussian() -> list[float]:
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    return [w / sum(weights) for w in weights]


def _blur(x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h2 w2"]:
    """Separable, without padding; shifted sums are several times faster on a CPU than a grouped convolution."""
    for axis in (2, 3):
        length = x.shape[axis] - WINDOW + 1
        first, *others = _gaussian()
        total = x.narrow(axis, 0, length) * first
        for shift, weight in enumerate(others, start=1):
            total.add_(x.narrow(axis, shift, length), alpha=weight)
        x = total
    return x


def _ssim_maps(x: Float[Tensor, "1 c h w"], y: Float[Tensor, "1 c h w"]) -> tuple[Tensor, Tensor]:
    """Luminance term and contrast-structure term at each window, (1, c, h - 10, w - 10)."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_x, mu_y = _blur(x), _blur(y)
    var_x, var_y, cov = _blur(x * x) - mu_x**2, _blur(y * y) - mu_y**2, _blur(x * y) - mu_x * mu_y
    return (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1), (2 * cov + c2) / (var_x + var_y + c2)


def _mean(values: Float[Tensor, "1 c h w"], weight: Float[Tensor, "1 1 hw ww"] | None) -> Float[Tensor, "c"]:
    if weight is None:
        return values.mean(dim=(0, 2, 3))
    border = WINDOW // 2
    centres = weight[:, :, border:-border, border:-border]
    return (values * centres).sum(dim=(0, 2, 3)) / centres.sum()
