"""Encoder-side refinement of a view's latents: the symbols that cost least for this very picture.

The analysis network was trained to serve all pictures; for one of them, its latents can be improved by gradients of the
real cost, bits plus lambda times error, with everything that a decoder runs left as it is. Rounding has no gradient, so it is
replaced by a random choice between the two nearest integers that hardens from step to step (stochastic Gumbel annealing:
Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020). Decoders notice nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.networks.image import ImageCodec, ImageContext
from lmvic_ns.codec.quality import image_lambda


@dataclass(frozen=True)
class LatentRefinement:
    """How far latents are refined. The values were chosen on training photographs.

    Attributes:
        steps: gradient steps; each costs about as much as encoding and decoding the view three times.
        step_size: of the first step, in symbols (Adam); falls linearly to 0.
        temperatures: of the first and the last step: high ones mix the two integers, low ones choose.
        hold: share of the steps before the temperature falls.
        noise: standard Gumbel noise times this; less than 1 gives steadier steps, which few steps need.
    """

    steps: int = 24
    step_size: float = 0.03
    temperatures: tuple[float, float] = (0.5, 0.05)
    hold: float = 0.2
    noise: float = 0.5


def relaxed_rounding(temperature: float, noise: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A differentiable stand-in for rounding: the lower integer plus the (soft) outcome of a draw.

    The nearer integer is the likelier, by the odds exp((atanh(d) - atanh(1 - d)) / temperature) with d the distance from the
    lower one; at temperature 0 without noise this is rounding.

    Args:
        temperature: above 0.
        noise: factor on the draw's logistic noise (the difference of two Gumbel variables).
        generator: source of the noise.
    """

    def relax(x: Tensor) -> Tensor:
        low = torch.floor(x.detach())
        d = (x - low).clamp(1e-4, 1 - 1e-4)
        log_odds = (torch.atanh(d) - torch.atanh(1 - d)) / temperature
        if noise:
            draw = torch.rand(x.shape, generator=generator, device=x.device).clamp(1e-7, 1 - 1e-7)
            log_odds = log_odds + noise * torch.logit(draw)
        return low + torch.sigmoid(log_odds)

    return relax


def refine_latent(
    codec: ImageCodec,
    image: Float[Tensor, "1 3 h w"],
    latent: Float[Tensor, "1 m h16 w16"],
    level: int,
    context: ImageContext | None,
    config: LatentRefinement,
    finish: Callable[[Tensor], Tensor] = lambda decoded: decoded,
) -> tuple[Float[Tensor, "1 m h16 w16"], Float[Tensor, "1 n h64 w64"]]:
    """Latents to code in place of the analysis network's.

    Args:
        codec: transforms and entropy model.
        image: the view, 0..1, not padded; only its own pixels count.
        latent: unit-variance latent of the padded view, from the analysis network.
        level: quality level.
        context: the prediction from the reference.
        config: how far to go.
        finish: what decoders do to the decoded picture (0..1) after the synthesis.

    Returns:
        Unit-variance latent, and the hyper-latent at its symbols' scale, both before rounding; the same for the same input.
    """
    entropy = codec.entropy
    h, w = image.shape[-2:]
    quality = torch.full((1,), float(level), device=image.device)
    weight = image_lambda(level)
    coverage, prior, cross_view = codec.priors(context)
    generator = torch.Generator(device=image.device).manual_seed(0)
    scaled, hyper = (x.detach().clone().requires_grad_() for x in entropy.start(latent, quality, prior, cross_view))
    optimizer = torch.optim.Adam([scaled, hyper], betas=(0.8, 0.9))
    first, last = config.temperatures
    with torch.enable_grad(), _half_precision(image.device):
        for step in range(config.steps):
            done = step / config.steps
            optimizer.param_groups[0]["lr"] = config.step_size * (1 - done)
            cooled = max(0.0, done - config.hold) / (1 - config.hold)
            relax = relaxed_rounding(first * (last / first) ** cooled, config.noise, generator)
            coded = entropy.relaxed(scaled, hyper, quality, relax, coverage, prior, cross_view)
            decoded = codec.synthesis(coded.latent, quality, context)
            decoded = finish(decoded[..., :h, :w].to(image.dtype).clamp(0, 1))
            error = (decoded - image).square().mean()
            cost = weight * error + (coded.latent_bits + coded.hyper_bits).sum() / (h * w)
            scaled.grad, hyper.grad = torch.autograd.grad(cost, [scaled, hyper])
            optimizer.step()
        fitted = scaled * (-entropy.log_gain(quality)).exp()
        if cross_view is not None:
            fitted = fitted + entropy.reference_weight(quality) * cross_view
    return fitted.detach(), hyper.detach()


def _half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 products where the processor has them, a third faster here; the search is noisy anyway."""
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported()
    else:
        has = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast(device.type, torch.bfloat16, enabled=has)
