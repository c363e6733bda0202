"""Float pass of the entropy model: rates and values for training, and for fitting one picture's latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.networks.entropy_networks import SCALE_GAIN, STEPS, EntropyNetworks, step_masks
from lmvic_ns.codec.networks.fixed_point import magnitude_table
from lmvic_ns.codec.networks.rates import (
    SCALE_COUNT,
    SCALE_STEP,
    gaussian_bits,
    index_of_log_scale,
    scale_of_index,
    training_bits,
)

_MAGNITUDES = magnitude_table()


@dataclass
class EntropyOutput:
    """Result of the training pass."""

    latent: Float[Tensor, "b m h w"]
    latent_bits: Float[Tensor, "b"]
    hyper_bits: Float[Tensor, "b"]


@dataclass
class _CodedSteps:
    """Results of the four coding steps: decoded values, and each symbol with the scale of its table."""

    decoded: Tensor
    residual: Tensor
    symbols: Tensor
    scale: Tensor


class EntropyRates(EntropyNetworks):
    """Estimated rate of a latent, with gradients."""

    def forward(
        self,
        latent: Float[Tensor, "b m h w"],
        level: Float[Tensor, "b"],
        exact_prior: Float[Tensor, "b e h w"] | None = None,
        float_prior: Float[Tensor, "b f h w"] | None = None,
        cross_view_latent: Float[Tensor, "b m h w"] | None = None,
    ) -> EntropyOutput:
        """Rates and values of the rounded symbols, with the gradients of noise and of straight-through rounding.

        Args:
            latent: unit-variance latent; height and width multiples of 4.
            level: quality level of each sample.
            exact_prior: cross-view prior that the tables may see (real values here).
            float_prior: cross-view prior that only means see.
            cross_view_latent: the latent of the warped reference. A share of it is subtracted from `latent`, and the
                difference is coded (float means); with exact means it is a prediction that is added to the mean.
        """
        base = self._base(latent, level, cross_view_latent)
        difference = latent.float() if base is None else latent.float() - base
        z = self._hyper_analysis(difference.to(latent.dtype), exact_prior if self.exact_means else float_prior, level)
        with torch.autocast(latent.device.type, enabled=False):
            log_gain = self.hyper_log_gain(level)
            z = z.float() * log_gain.exp()
            rounded_z = z + (torch.round(z) - z).detach()
            mean, log_scale = self._hyper_statistics(rounded_z, level)
            symbols = (torch.round(z) - torch.floor(mean + 0.5)).detach()
            hyper_scale = scale_of_index(_Clamp.apply(index_of_log_scale(log_scale), 0.0, SCALE_COUNT - 1.0))
            hyper_bits = training_bits(z - mean, symbols, hyper_scale).sum((1, 2, 3))
            features = self._features(rounded_z / log_gain.exp(), level, exact_prior)
        mean_features = None if self.exact_means else self._mean_features(features.to(latent.dtype), float_prior, level)

        def rounded(residual: Tensor, mean: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            # straight through: the value is the decoder's, the gradient the encoder's
            symbol = torch.round(residual.detach())
            return symbol, difference + ((symbol + mean) / gain - difference).detach()

        scaled = difference * self.log_gain(level).float().exp()
        steps = self._code_steps(scaled, level, features, mean_features, cross_view_latent, latent.dtype, rounded)
        bits = training_bits(steps.residual, steps.symbols, steps.scale).sum((1, 2, 3))
        return EntropyOutput(steps.decoded if base is None else steps.decoded + base, bits, hyper_bits)

    def _base(self, latent: Tensor, level: Tensor, cross_view_latent: Tensor | None) -> Tensor | None:
        """What is subtracted from the latent before it is coded."""
        if cross_view_latent is None or self.exact_means:
            return None
        return self.reference_weight(level).float() * cross_view_latent.float()

    def _hyper_statistics(self, z: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log scales of the hyper-latent, at its symbols' scale, from its decoded neighbours."""
        gain = self.hyper_log_gain(level).exp()
        mean, change = self.hyper_context(z / gain)
        return mean * gain, self.hyper_log_scale(level) + change

    def relaxed(
        self,
        scaled: Float[Tensor, "b m h w"],
        hyper: Float[Tensor, "b n hz wz"],
        level: Float[Tensor, "b"],
        relax: Callable[[Tensor], Tensor],
        exact_prior: Float[Tensor, "b e h w"] | None = None,
        float_prior: Float[Tensor, "b f h w"] | None = None,
        cross_view_latent: Float[Tensor, "b m h w"] | None = None,
    ) -> EntropyOutput:
        """Rates and values with a differentiable stand-in for rounding, for fitting one picture's latents.

        Args:
            scaled: what is coded (the latent less its share of the cross-view latent) at the symbols' scale, as `start`
                gives it.
            hyper: hyper-latent at its symbols' scale.
            level: quality level of each sample.
            relax: takes the place of rounding.
            exact_prior: as in `forward`.
            float_prior: as in `forward`.
            cross_view_latent: as in `forward`.
        """
        z = relax(hyper)
        with torch.autocast(scaled.device.type, enabled=False):
            mean, log_scale = self._hyper_statistics(z.float(), level)
            whole_mean = mean + (torch.floor(mean + 0.5) - mean).detach()
            scale = scale_of_index(_Clamp.apply(index_of_log_scale(log_scale), 0.0, SCALE_COUNT - 1.0))
            hyper_bits = gaussian_bits(z - whole_mean, scale).sum((1, 2, 3))
            features = self._features(z / self.hyper_log_gain(level).exp(), level, exact_prior)
        mean_features = None if self.exact_means else self._mean_features(features, float_prior, level)

        def quantize(residual: Tensor, mean: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            value = relax(residual)
            return value, (value + mean) / gain

        steps = self._code_steps(scaled, level, features, mean_features, cross_view_latent, scaled.dtype, quantize)
        base = self._base(scaled, level, cross_view_latent)
        decoded = steps.decoded if base is None else steps.decoded + base
        return EntropyOutput(decoded, gaussian_bits(steps.symbols, steps.scale).sum((1, 2, 3)), hyper_bits)

    def start(
        self,
        latent: Float[Tensor, "b m h w"],
        level: Float[Tensor, "b"],
        prior: Float[Tensor, "b f h w"] | None,
        cross_view_latent: Float[Tensor, "b m h w"] | None = None,
    ) -> tuple[Float[Tensor, "b m h w"], Float[Tensor, "b n hz wz"]]:
        """What is coded and its hyper-latent at their symbols' scale, not rounded: where `relaxed` sets out."""
        base = self._base(latent, level, cross_view_latent)
        difference = latent if base is None else latent - base.to(latent.dtype)
        z = self._hyper_analysis(difference, prior, level)
        return difference * self.log_gain(level).exp(), z * self.hyper_log_gain(level).exp()

    def _code_steps(
        self,
        scaled: Tensor,
        level: Tensor,
        features: Tensor,
        mean_features: Tensor | None,
        cross_view_latent: Tensor | None,
        dtype: torch.dtype,
        quantize: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> _CodedSteps:
        """The four steps in float; `quantize(residual, mean, gain)` gives the symbol and the decoded value."""
        gain = self.log_gain(level).float().exp()
        # one layout for all operands: mixed ones take a GPU's slow path
        masks = step_masks(*scaled.shape[1:], device=scaled.device).contiguous(memory_format=torch.channels_last)
        guess: Tensor | float = 0.0
        if self.exact_means and cross_view_latent is not None:
            guess = cross_view_latent.float() * self.prior_weight[None, :, None, None]
        decoded, symbols = torch.zeros_like(scaled), torch.zeros_like(scaled)
        total_residual, total_index = torch.zeros_like(scaled), torch.zeros_like(scaled)
        for step in range(STEPS):
            mask = masks[step]
            with torch.autocast(scaled.device.type, enabled=False):
                out = self._step(step, features, symbols, decoded)
            if mean_features is None:
                out, mean = out.chunk(2, 1)
            else:
                mean = self._mean(self._mean_trunk(step, mean_features, decoded.to(dtype)), level, cross_view_latent)
            mean = (mean + guess) * gain
            residual = scaled - mean
            symbol, value = quantize(residual, mean, gain)
            total_index = torch.where(mask, out, total_index)
            total_residual = torch.where(mask, residual, total_residual)
            symbols = torch.where(mask, symbol, symbols)
            decoded = torch.where(mask, value, decoded)
        index = SCALE_GAIN * total_index + self.log_gain(level).float() / SCALE_STEP
        scale = scale_of_index(_Clamp.apply(index, 0.0, SCALE_COUNT - 1.0))
        return _CodedSteps(decoded, total_residual, symbols, scale)

    def _features(self, z: Tensor, level: Tensor, prior: Tensor | None) -> Tensor:
        x = self.up1_spatial(F.relu(F.pixel_shuffle(self.up1(z), 2)))
        x = self.up2_spatial(F.relu(F.pixel_shuffle(self.up2(x), 2)))
        if self.config.exact_prior:
            shape = x.shape[0], self.config.exact_prior, *x.shape[-2:]
            x = torch.cat([x, x.new_zeros(shape) if prior is None else prior.float()], 1)
        return self.features(x) + self.level_bias(level)

    def _step(self, step: int, features: Tensor, symbols: Tensor, decoded: Tensor) -> Tensor:
        inputs = [features]
        if step and self.config.symbol_context:
            # a latent that is not a number must end in a loss that is not, which training skips, not in an index
            magnitudes = torch.nan_to_num(symbols.detach().abs().round()).clamp(max=len(_MAGNITUDES) - 1)
            inputs.append(_MAGNITUDES.to(symbols)[magnitudes.long()])
        if step and self.exact_means:
            inputs.append(decoded)
        x = self.step_spatial(F.relu(self.step_in[step](torch.cat(inputs, 1))))
        return self.step_out(F.relu(self.step_mid(x)))


class _Clamp(torch.autograd.Function):
    """Clamps the value, but lets gradients through that lead back into the range."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        (gradient,) = gradients
        inside = ((x >= low) | (gradient < 0)) & ((x <= high) | (gradient > 0))
        return gradient * inside, None, None
