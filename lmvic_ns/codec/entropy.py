"""Entropy model of the practical codec: hyperprior, quadtree steps, and tables chosen by exact integers.

The latent is coded in the four steps of the quadtree partition (method.md section 5). In every step the table of a symbol
(its Gaussian's scale) is computed in exact integer arithmetic from integers alone: the decoded hyper-latent, the quality
level, the exact part of the cross-view prior and the *symbols* decoded in earlier steps. Means may come from a float
network that sees everything (hyperprior, cross-view features, decoded neighbours): an error of one ulp there moves the
reconstruction by one ulp and never the decoder's step. For depth the means are exact as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.fixed_point import (
    ONE,
    FixedPointConv2d,
    from_fixed,
    magnitude_table,
    multiply_fixed,
    to_fixed,
)
from lmvic_ns.codec.layers import DepthwiseBlock, LevelModulation, LevelVector
from lmvic_ns.codec.rates import SCALE_COUNT, SCALE_MIN, SCALE_STEP, gaussian_bits, scale_of_index, training_bits
from lmvic_ns.codec.symbols import SymbolCoder

STEPS = 4
_POSITION_OF_STEP = (0, 3, 2, 1)  # step k codes channel group g at lattice position g XOR this
_SCALE_GAIN = 8.0  # the networks' outputs are of order one, table indexes of order ten
_MAGNITUDES = magnitude_table()


def step_masks(channels: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Which symbols each quadtree step codes: bool [4, channels, height, width], a partition."""
    group = (torch.arange(channels, device=device) % 4)[:, None, None]
    row = (torch.arange(height, device=device) % 2)[None, :, None]
    column = (torch.arange(width, device=device) % 2)[None, None, :]
    key = group ^ (2 * row + column)
    return torch.stack([key == _POSITION_OF_STEP[step] for step in range(STEPS)])


@dataclass(frozen=True)
class EntropyConfig:
    """Sizes of an entropy model.

    Attributes:
        latent: channels of the latent.
        hyper_latent: channels of the hyper-latent, at a quarter of the latent's resolution.
        scale_features: channels of the exact integer networks.
        mean_features: channels of the float mean network; 0 makes the means exact (for depth).
        exact_prior: channels of the exact cross-view prior, fixed-point.
        float_prior: channels of the float cross-view prior (0 if the means are exact).
        symbol_context: whether tables depend on the symbols of earlier steps.
        float_scales: let the float network correct the scales too, as published codecs do. It sees everything, but streams
            then decode only where every float comes out the same: for comparing rates, not for files that travel.
    """

    latent: int
    hyper_latent: int
    scale_features: int
    mean_features: int
    exact_prior: int
    float_prior: int
    symbol_context: bool = True
    float_scales: bool = False


@dataclass
class EntropyOutput:
    """Result of the training pass."""

    latent: Float[Tensor, "b m h w"]
    latent_bits: Float[Tensor, "b"]
    hyper_bits: Float[Tensor, "b"]


@dataclass
class _Walk:
    """What the four steps gave: values, and each symbol with the scale of its table."""

    decoded: Tensor
    residual: Tensor
    symbols: Tensor
    scale: Tensor


class EntropyModel(nn.Module):
    """Codes a latent whose channels have about unit variance before the level's gain.

    `latent * gain(level)` is rounded; `symbol / gain` is what the synthesis sees. Everything inside works on the
    unit-variance side, so that one network serves all levels.
    """

    gain_table: Tensor
    inverse_gain_table: Tensor
    index_gain_table: Tensor
    hyper_inverse_table: Tensor
    hyper_index_table: Tensor
    level_bias_table: Tensor

    def __init__(self, config: EntropyConfig, log_gain: Float[Tensor, "a m"]):
        super().__init__()
        self.config = config
        m, n, s, p = config.latent, config.hyper_latent, config.scale_features, config.mean_features
        self.exact_means = p == 0
        self.log_gain = LevelVector(m, log_gain, anchors=log_gain.shape[0])
        # encoder side of the hyper-latent: sees the latent and the prior, so that it can tell how well the prior fits
        width = p or s
        self.hyper_modulation = LevelModulation(width)
        self.hyper_in = nn.Conv2d(m + (config.float_prior or config.exact_prior), width, 1)
        self.hyper_down = nn.Sequential(
            DepthwiseBlock(width),
            nn.Conv2d(width, width, 2, stride=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, n, 2, stride=2),
        )
        self.hyper_log_gain = LevelVector(n, math.log(2.0))
        self.hyper_index = LevelVector(n, (math.log(2.0) - math.log(SCALE_MIN)) / SCALE_STEP)
        # exact hyper synthesis
        self.up1 = FixedPointConv2d(n, 4 * s)
        self.up1_spatial = FixedPointConv2d(s, s, 3, groups=s)
        self.up2 = FixedPointConv2d(s, 4 * s)
        self.up2_spatial = FixedPointConv2d(s, s, 3, groups=s)
        self.features = FixedPointConv2d(s + config.exact_prior, s)
        self.level_bias = LevelVector(s)
        # exact step networks: scales (and means, for depth)
        context = (m if config.symbol_context else 0) + (m if self.exact_means else 0)
        self.step_in = nn.ModuleList([FixedPointConv2d(s + (context if k else 0), s) for k in range(STEPS)])
        self.step_spatial = FixedPointConv2d(s, s, 3, groups=s)
        self.step_mid = FixedPointConv2d(s, s)
        self.step_out = FixedPointConv2d(s, 2 * m if self.exact_means else m)
        with torch.no_grad():
            self.step_out.weight.mul_(0.1)
            start = (math.log(0.5) - math.log(SCALE_MIN)) / SCALE_STEP / _SCALE_GAIN
            assert self.step_out.bias is not None
            self.step_out.bias.zero_()
            self.step_out.bias[:m] = start
        if self.exact_means:
            self.prior_weight = nn.Parameter(torch.ones(m))
        else:
            self.mean_prior = nn.Conv2d(s + config.float_prior, p, 1)
            self.mean_level = LevelModulation(p)
            self.mean_in = nn.ModuleList([nn.Conv2d(p + (m if k else 0), p, 1) for k in range(STEPS)])
            self.mean_block = DepthwiseBlock(p)
            self.mean_out = nn.Conv2d(p, 2 * m if config.float_scales else m, 1)
            self.prior_weight = nn.Parameter(torch.full((m,), 0.5))
            nn.init.normal_(self.mean_out.weight, std=0.1 / math.sqrt(p))
            assert self.mean_out.bias is not None
            nn.init.zeros_(self.mean_out.bias)
        # integers that decoding uses, filled by update(): never recomputed from floats on the decoder
        self.register_buffer("gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("inverse_gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("index_gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("hyper_inverse_table", torch.zeros(64, n, dtype=torch.int32))
        self.register_buffer("hyper_index_table", torch.zeros(64, n, dtype=torch.uint8))
        self.register_buffer("level_bias_table", torch.zeros(64, s, dtype=torch.int32))

    # --- shared by both paths -------------------------------------------------------------------------------------

    def update(self) -> None:
        """Fills the integer tables from the learned parameters; called once, before weights are saved."""
        log_gain, hyper = self.log_gain.table(), self.hyper_log_gain.table()
        for buffer, values in (
            (self.gain_table, log_gain.exp() * ONE),
            (self.inverse_gain_table, (-log_gain).exp() * ONE),
            (self.index_gain_table, log_gain / SCALE_STEP * ONE),
            (self.hyper_inverse_table, (-hyper).exp() * ONE),
            (self.hyper_index_table, self.hyper_index.table().clamp(0, SCALE_COUNT - 1)),
            (self.level_bias_table, self.level_bias.table() * ONE),
        ):
            buffer.copy_(torch.floor(values + 0.5).to(buffer.dtype))

    def _hyper_analysis(self, latent: Tensor, prior: Tensor | None, level: Tensor) -> Tensor:
        channels = self.config.float_prior or self.config.exact_prior
        if prior is None:
            prior = latent.new_zeros(latent.shape[0], channels, *latent.shape[-2:])
        x = self.hyper_modulation(self.hyper_in(torch.cat([latent, prior.to(latent.dtype)], 1)), level)
        return self.hyper_down(x)

    def _mean_features(self, features: Tensor, prior: Tensor | None, level: Tensor) -> Tensor:
        if prior is None:
            prior = features.new_zeros(features.shape[0], self.config.float_prior, *features.shape[-2:])
        return self.mean_level(self.mean_prior(torch.cat([features, prior], 1)), level)

    def _mean(self, step: int, features: Tensor, decoded: Tensor) -> Tensor:
        x = features if step == 0 else torch.cat([features, decoded], 1)
        return self.mean_out(self.mean_block(F.leaky_relu(self.mean_in[step](x), 0.1)))

    # --- training -------------------------------------------------------------------------------------------------

    def forward(
        self,
        latent: Float[Tensor, "b m h w"],
        level: Float[Tensor, "b"],
        exact_prior: Float[Tensor, "b e h w"] | None = None,
        float_prior: Float[Tensor, "b f h w"] | None = None,
        direct: Float[Tensor, "b m h w"] | None = None,
    ) -> EntropyOutput:
        """Rates and values of the rounded symbols, with the gradients of noise and of straight-through rounding.

        Args:
            latent: unit-variance latent; height and width multiples of 4.
            level: quality level of each sample.
            exact_prior: cross-view prior that the tables may see (real values here).
            float_prior: cross-view prior that only means see.
            direct: first guess of the latent from the reference, weighted for each channel and added to the mean.
        """
        z = self._hyper_analysis(latent, exact_prior if self.exact_means else float_prior, level)
        with torch.autocast(latent.device.type, enabled=False):
            z = z.float() * self.hyper_log_gain(level).exp()
            hyper_scale = scale_of_index(self.hyper_index(level).clamp(0, SCALE_COUNT - 1)).expand_as(z)
            hyper_bits = training_bits(z, torch.round(z.detach()), hyper_scale).sum((1, 2, 3))
            z = z + (torch.round(z) - z).detach()
            features = self._features(z / self.hyper_log_gain(level).exp(), level, exact_prior)
        mean_features = None if self.exact_means else self._mean_features(features.to(latent.dtype), float_prior, level)

        def rounded(residual: Tensor, mean: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            # straight through: the value is the decoder's, the gradient the encoder's
            symbol = torch.round(residual.detach())
            return symbol, latent.float() + ((symbol + mean) / gain - latent.float()).detach()

        scaled = latent.float() * self.log_gain(level).float().exp()
        walk = self._walk(scaled, level, features, mean_features, direct, latent.dtype, rounded)
        bits = training_bits(walk.residual, walk.symbols, walk.scale).sum((1, 2, 3))
        return EntropyOutput(walk.decoded, bits, hyper_bits)

    def relaxed(
        self,
        scaled: Float[Tensor, "b m h w"],
        hyper: Float[Tensor, "b n hz wz"],
        level: Float[Tensor, "b"],
        relax: Callable[[Tensor], Tensor],
        exact_prior: Float[Tensor, "b e h w"] | None = None,
        float_prior: Float[Tensor, "b f h w"] | None = None,
        direct: Float[Tensor, "b m h w"] | None = None,
    ) -> EntropyOutput:
        """Rates and values with a differentiable stand-in for rounding, for fitting one picture's latents.

        Args:
            scaled: latent at the symbols' scale, as `start` gives it.
            hyper: hyper-latent at its symbols' scale.
            level: quality level of each sample.
            relax: takes the place of rounding.
            exact_prior: as in `forward`.
            float_prior: as in `forward`.
            direct: as in `forward`.
        """
        scale = scale_of_index(self.hyper_index(level).clamp(0, SCALE_COUNT - 1)).expand_as(hyper)
        z = relax(hyper)
        hyper_bits = gaussian_bits(z, scale).sum((1, 2, 3))
        with torch.autocast(scaled.device.type, enabled=False):
            features = self._features(z / self.hyper_log_gain(level).exp(), level, exact_prior)
        mean_features = None if self.exact_means else self._mean_features(features, float_prior, level)

        def quantize(residual: Tensor, mean: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            value = relax(residual)
            return value, (value + mean) / gain

        walk = self._walk(scaled, level, features, mean_features, direct, scaled.dtype, quantize)
        return EntropyOutput(walk.decoded, gaussian_bits(walk.symbols, walk.scale).sum((1, 2, 3)), hyper_bits)

    def start(
        self, latent: Float[Tensor, "b m h w"], level: Float[Tensor, "b"], prior: Float[Tensor, "b f h w"] | None
    ) -> tuple[Float[Tensor, "b m h w"], Float[Tensor, "b n hz wz"]]:
        """Latent and hyper-latent at their symbols' scale, not rounded: where `relaxed` sets out."""
        z = self._hyper_analysis(latent, prior, level)
        return latent * self.log_gain(level).exp(), z * self.hyper_log_gain(level).exp()

    def _walk(
        self,
        scaled: Tensor,
        level: Tensor,
        features: Tensor,
        mean_features: Tensor | None,
        direct: Tensor | None,
        dtype: torch.dtype,
        quantize: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> _Walk:
        """The four steps in float; `quantize(residual, mean, gain)` gives the symbol and the decoded value."""
        gain = self.log_gain(level).float().exp()
        masks = step_masks(*scaled.shape[1:], device=scaled.device)
        guess = 0.0 if direct is None else direct.float() * self.prior_weight[None, :, None, None]
        decoded, symbols = torch.zeros_like(scaled), torch.zeros_like(scaled)
        total_residual, total_index = torch.zeros_like(scaled), torch.zeros_like(scaled)
        for step in range(STEPS):
            mask = masks[step]
            with torch.autocast(scaled.device.type, enabled=False):
                out = self._step(step, features, symbols, decoded)
            if mean_features is None:
                out, mean = out.chunk(2, 1)
            else:
                mean = self._mean(step, mean_features, decoded.to(dtype)).float()
                if self.config.float_scales:
                    mean, correction = mean.chunk(2, 1)
                    out = out + correction
            mean = (mean + guess) * gain
            residual = scaled - mean
            symbol, value = quantize(residual, mean, gain)
            total_index = torch.where(mask, out, total_index)
            total_residual = torch.where(mask, residual, total_residual)
            symbols = torch.where(mask, symbol, symbols)
            decoded = torch.where(mask, value, decoded)
        index = _SCALE_GAIN * total_index + self.log_gain(level).float() / SCALE_STEP
        scale = scale_of_index(_Clamp.apply(index, 0.0, SCALE_COUNT - 1.0))
        return _Walk(decoded, total_residual, symbols, scale)

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
            inputs.append(_MAGNITUDES.to(symbols)[symbols.abs().round().clamp(max=len(_MAGNITUDES) - 1).long()])
        if step and self.exact_means:
            inputs.append(decoded)
        x = self.step_spatial(F.relu(self.step_in[step](torch.cat(inputs, 1))))
        return self.step_out(F.relu(self.step_mid(x)))

    # --- coding ---------------------------------------------------------------------------------------------------

    def compress(
        self,
        latent: Float[Tensor, "1 m h w"],
        level: int,
        coder: SymbolCoder,
        exact_prior: Float[Tensor, "1 e h w"] | None = None,
        float_prior: Float[Tensor, "1 f h w"] | None = None,
        direct: Float[Tensor, "1 m h w"] | None = None,
        hyper: Float[Tensor, "1 n hz wz"] | None = None,
    ) -> Float[Tensor, "1 m h w"]:
        """Codes one latent; the arguments are as in `code`. Without a hyper-latent, the one of this latent."""
        if hyper is None:
            hyper = self._hyper_symbols(latent, level, exact_prior, float_prior)
        return self.code((latent.shape[-2], latent.shape[-1]), level, coder, exact_prior, float_prior, direct, latent, hyper)

    def _hyper_symbols(self, latent: Tensor, level: int, exact_prior: Tensor | None, float_prior: Tensor | None) -> Tensor:
        quality = torch.full((1,), float(level), device=latent.device)
        prior = float_prior
        if self.exact_means:
            prior = None if exact_prior is None else from_fixed(exact_prior).to(latent.dtype)
        z = self._hyper_analysis(latent, prior, quality)
        return torch.round(z.double() * (ONE / self.hyper_inverse_table[level].double())[None, :, None, None])

    def code(
        self,
        size: tuple[int, int],
        level: int,
        coder: SymbolCoder,
        exact_prior: Float[Tensor, "1 e h w"] | None = None,
        float_prior: Float[Tensor, "1 f h w"] | None = None,
        direct: Float[Tensor, "1 m h w"] | None = None,
        latent: Float[Tensor, "1 m h w"] | None = None,
        hyper: Float[Tensor, "1 n hz wz"] | None = None,
    ) -> Float[Tensor, "1 m h w"]:
        """The one procedure that encoder and decoder share, so that they cannot differ.

        Args:
            size: height and width of the latent, multiples of 4.
            level: quality level.
            coder: writes (then `latent` and `hyper` are given) or reads.
            exact_prior: fixed-point prior (integers in float64).
            float_prior: prior of the means.
            direct: first guess of the latent; fixed-point if the means are exact.
            latent: what to encode.
            hyper: rounded hyper-latent to encode.

        Returns:
            The decoded latent, unit variance; fixed-point (float64) if the means are exact, else the parameters' type.
        """
        h, w = size
        m, n = self.config.latent, self.config.hyper_latent
        device = self.gain_table.device

        def row(table: Tensor) -> Tensor:
            return table[level].double()[None, :, None, None]

        hyper_indexes = row(self.hyper_index_table).expand(1, n, h // 4, w // 4)
        hyper = coder.code(hyper, hyper_indexes)
        features = self._exact_features(hyper * row(self.hyper_inverse_table), level, exact_prior, (h, w))
        quality = torch.full((1,), float(level), device=device)
        mean_features = None
        dtype = self.log_gain.anchors.dtype
        if not self.exact_means:
            mean_features = self._mean_features(from_fixed(features).to(dtype), float_prior, quality)

        gain, inverse = row(self.gain_table), row(self.inverse_gain_table)
        masks = step_masks(m, h, w, device)
        symbols = torch.zeros(1, m, h, w, dtype=torch.float64, device=device)
        decoded = symbols if self.exact_means else symbols.to(dtype)
        for step in range(STEPS):
            mask = masks[step][None]
            out = self._exact_step(step, features, symbols, decoded)
            if mean_features is None:
                out, mean = out.chunk(2, 1)
                if direct is not None:
                    mean = mean + multiply_fixed(direct, to_fixed(self.prior_weight.detach())[None, :, None, None])
                mean = torch.floor(mean * gain / ONE + 0.5)  # fixed-point, at the symbols' scale; may exceed the value limit
            else:
                mean = self._mean(step, mean_features, decoded)
                if self.config.float_scales:
                    mean, correction = mean.chunk(2, 1)
                    out = out + correction.double() * ONE
                if direct is not None:
                    mean = mean + direct * self.prior_weight.detach()[None, :, None, None]
            indexes = torch.floor((_SCALE_GAIN * out + row(self.index_gain_table)) / ONE + 0.5).clamp(0, SCALE_COUNT - 1)
            residual = None
            if latent is not None:
                at_symbols = mean / ONE if self.exact_means else mean.double() * (gain / ONE)
                residual = torch.round(latent.double() * (gain / ONE) - at_symbols)[mask]
            values = coder.code(residual, indexes[mask])
            symbols[mask] = values
            if self.exact_means:
                value = torch.floor((symbols * ONE + mean) * inverse / ONE + 0.5).clamp(-(2.0**20), 2.0**20)
            else:
                value = (symbols * (ONE / gain)).to(dtype) + mean
            decoded = torch.where(mask, value, decoded)
        return decoded

    def _exact_features(self, z: Tensor, level: int, prior: Tensor | None, size: tuple[int, int]) -> Tensor:
        z = z.clamp(-(2.0**20), 2.0**20)
        x = self.up1_spatial.exact(F.relu(F.pixel_shuffle(self.up1.exact(z), 2)))
        x = self.up2_spatial.exact(F.relu(F.pixel_shuffle(self.up2.exact(x), 2)))
        if self.config.exact_prior:
            prior = x.new_zeros(1, self.config.exact_prior, *size) if prior is None else prior
            x = torch.cat([x, prior], 1)
        return self.features.exact(x) + self.level_bias_table[level].double()[None, :, None, None]

    def _exact_step(self, step: int, features: Tensor, symbols: Tensor, decoded: Tensor) -> Tensor:
        inputs = [features]
        if step and self.config.symbol_context:
            table = to_fixed(_MAGNITUDES).to(symbols.device)
            inputs.append(table[symbols.abs().clamp(max=len(table) - 1).long()])
        if step and self.exact_means:
            inputs.append(decoded)
        first = self.step_in[step]
        assert isinstance(first, FixedPointConv2d)
        x = self.step_spatial.exact(F.relu(first.exact(torch.cat(inputs, 1))))
        return self.step_out.exact(F.relu(self.step_mid.exact(x)))


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
