"""Entropy model of the practical codec: hyperprior, quadtree steps, and tables chosen by exact integers.

The latent is coded in the four steps of the quadtree partition (method.md section 5). In every step the table of a symbol
(its Gaussian's scale) is computed in exact integer arithmetic from integers alone: the decoded hyper-latent, the quality
level, the exact part of the cross-view prior and the *symbols* decoded in earlier steps. Means may come from a float
network that sees everything (hyperprior, cross-view features, decoded neighbours): an error of one ulp there moves the
reconstruction by one ulp and never the decoder's step. For depth the means are exact as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.entropy_networks import SCALE_GAIN, STEPS, EntropyConfig, step_masks
from lmvic_ns.codec.entropy_rates import EntropyOutput, EntropyRates
from lmvic_ns.codec.fixed_point import ONE, FixedPointConv2d, from_fixed, magnitude_table, multiply_fixed, to_fixed
from lmvic_ns.codec.rates import SCALE_COUNT
from lmvic_ns.codec.symbols import SymbolCoder

__all__ = ["EntropyConfig", "EntropyModel", "EntropyOutput"]

_MAGNITUDES = to_fixed(magnitude_table())


class EntropyModel(EntropyRates):
    """Codes a latent exactly: the same tables on every machine."""

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
            indexes = torch.floor((SCALE_GAIN * out + row(self.index_gain_table)) / ONE + 0.5).clamp(0, SCALE_COUNT - 1)
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
            table = _MAGNITUDES.to(symbols.device)
            inputs.append(table[symbols.abs().clamp(max=len(table) - 1).long()])
        if step and self.exact_means:
            inputs.append(decoded)
        first = self.step_in[step]
        assert isinstance(first, FixedPointConv2d)
        x = self.step_spatial.exact(F.relu(first.exact(torch.cat(inputs, 1))))
        return self.step_out.exact(F.relu(self.step_mid.exact(x)))
