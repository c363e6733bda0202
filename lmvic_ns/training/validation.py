"""Fast rate-distortion estimates for validation, without files and entropy coder.

What ships is judged by real files (`lmvic eval rd`); this is for learning curves and for choosing the best weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lmvic_ns.codec.depth.search import DepthSearch
from lmvic_ns.training.losses import ms_ssim, psnr, squared_error
from lmvic_ns.training.scenes import ChainBatch

LambdaOfLevel = Callable[[Tensor], Tensor]

VALIDATION_LEVELS = (0.0, 16.0, 32.0, 48.0, 63.0)
CHAIN_VALIDATION_LEVELS = (8.0, 32.0, 56.0)
"""Fewer, because a chain costs several pictures."""


@dataclass(frozen=True)
class RdRow:
    """Means over pictures at one level."""

    level: float
    bpp: float
    psnr: float
    """Mean of the pictures' PSNR in dB, of reconstructions clamped to 0..1 and rounded to 8 bits."""
    ms_ssim: float
    """NaN where the pictures are too small for five scales, or where it was not asked for."""
    loss: float
    """Mean of lambda * MSE + bits per pixel."""
    kind: str = "photos"
    """`photos`; `scenes` (chains, depth's bits counted); `intra` (the same views and depth without references)."""


def pad_to_multiple(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c H W"]:
    """Repeat the last row and column until both sides are multiples."""
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return functional.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


@torch.no_grad()
def rd_curve(
    model: nn.Module,
    photos: Sequence[Float[Tensor, "b 3 h w"]],
    levels: Sequence[float],
    lambda_of_level: LambdaOfLevel,
    *,
    with_ms_ssim: bool = False,
    multiple: int = 64,
) -> list[RdRow]:
    """Estimated rate and quality of the intra path at each level.

    Args:
        model: with `forward_photo(image, level)`; its mode is set to evaluation and put back.
        photos: batches of pictures in 0..1; every picture counts the same.
        levels: quality levels to try.
        lambda_of_level: for the loss column.
        multiple: pictures are padded to multiples of it; the padding's bits count, its pixels do not.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = []
    try:
        for level in levels:
            sums = torch.zeros(4, dtype=torch.float64)
            count = 0
            lambda_ = float(lambda_of_level(torch.tensor([float(level)]))[0])
            for photo in photos:
                image = photo.to(device)
                b, _, height, width = image.shape
                padded = pad_to_multiple(image, multiple).contiguous(memory_format=torch.channels_last)
                out = model.forward_photo(padded, torch.full((b,), float(level), device=device))  # type: ignore[operator]
                reconstruction = out.image[..., :height, :width].float().clamp(0, 1)
                bpp = out.image_bits.float() / (height * width)
                error = squared_error(reconstruction, image)
                shown = torch.round(reconstruction * 255) / 255
                if with_ms_ssim and min(height, width) > 160:
                    structure = ms_ssim(shown, image)
                else:
                    structure = torch.full_like(bpp, math.nan)
                values = (bpp, psnr(squared_error(shown, image)), structure, lambda_ * error + bpp)
                sums += torch.stack([v.double().sum() for v in values]).cpu()
                count += b
            bpp_, psnr_, ssim_, loss_ = (sums / max(count, 1)).tolist()
            rows.append(RdRow(float(level), bpp_, psnr_, ssim_, loss_))
    finally:
        model.train(was_training)
    return rows


def score(rows: Sequence[RdRow]) -> float:
    """One number to choose weights by, lower is better: the mean over levels of log(lambda * MSE + R).

    The rows of `intra` are there to be read, and do not count. The logarithm makes a percent at one
    level worth a percent at another, as BD-rate does.
    """
    logs = [math.log(max(row.loss, 1e-9)) for row in rows if row.kind != "intra"]
    return sum(logs) / len(logs)


@torch.no_grad()
def rd_chains(
    model: nn.Module,
    chains: Sequence[ChainBatch],
    levels: Sequence[float],
    lambda_of_level: LambdaOfLevel,
    *,
    independent: bool = False,
    depth_search: DepthSearch | None = None,
    given_depth: bool = False,
) -> list[RdRow]:
    """Estimated rate (image and depth) and quality of chains of views at each level, as files would hold them.

    Args:
        model: with `forward_view`; its mode is set to evaluation and put back.
        chains: fixed chains; their own levels and dropped references are not used.
        levels: quality levels to try.
        lambda_of_level: for the loss column.
        independent: code every view without its reference and without its depth: the intra path on the same pictures.
        depth_search: code depth as the quadtree that this finds; None takes the learned depth codec.
        given_depth: take the chains' depth as it is, at no cost.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    options: dict[str, Any] = {"given_depth": True} if given_depth else {}
    if depth_search is not None and not given_depth:
        options["depth_search"] = depth_search
    rows = []
    try:
        for level in levels:
            sums, count = torch.zeros(3, dtype=torch.float64), 0
            lambda_ = float(lambda_of_level(torch.tensor([float(level)]))[0])
            for batch in (chain.to(device) for chain in chains):
                b, views, _, height, width = batch.image.shape
                quality = torch.full((b,), float(level), device=device)
                state = None
                for n in range(views):
                    image = (batch.image[:, n].float() / 255).contiguous(memory_format=torch.channels_last)
                    if independent:
                        out = model.forward_photo(image, quality)  # type: ignore[operator]
                        bits = out.image_bits.float()
                    else:
                        out = model.forward_view(  # type: ignore[operator]
                            image, batch.inverse_depth[:, n], batch.cameras[n], state, quality, **options
                        )
                        state, bits = out.state, out.image_bits.float() + out.depth_bits.float()
                    bpp = bits / (height * width)
                    error = squared_error(out.image.float().clamp(0, 1), image)
                    sums += torch.stack([v.double().sum() for v in (bpp, psnr(error), lambda_ * error + bpp)]).cpu()
                    count += b
            bpp_, psnr_, loss_ = (sums / max(count, 1)).tolist()
            rows.append(RdRow(float(level), bpp_, psnr_, math.nan, loss_, "intra" if independent else "scenes"))
    finally:
        model.train(was_training)
    return rows
