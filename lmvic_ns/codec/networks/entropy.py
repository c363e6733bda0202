"""Entropy model of the practical codec: hyperprior, quadtree steps, and tables chosen by exact integers.

The latent is coded in the four steps of the quadtree partition of the paper. In every step the table of a symbol
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

from lmvic_ns.codec.networks.entropy_networks import SCALE_GAIN, STEPS, EntropyConfig, step_places
from lmvic_ns.codec.networks.entropy_rates import EntropyOutput, EntropyRates
from lmvic_ns.codec.networks.fixed_point import (
    ONE,
    VALUE_LIMIT,
    FixedPointConv2d,
    from_fixed,
    magnitude_table,
    multiply_fixed,
    to_fixed,
)
from lmvic_ns.codec.networks.layers import in_strips, strip_rows
from lmvic_ns.codec.networks.rates import SCALE_COUNT, SCALE_STEP, rate_distortion_rounding
from lmvic_ns.codec.symbols import SymbolCoder

__all__ = ["EntropyConfig", "EntropyModel", "EntropyOutput"]

_MAGNITUDES = to_fixed(magnitude_table())
_INDEX_OF_LOG = float(round(1 / SCALE_STEP * 64)) / 64
"""Table indexes for each unit of log scale, a multiple of 1/64: products with fixed-point values are exact."""


class EntropyModel(EntropyRates):
    """Codes a latent exactly: the same tables on every machine."""

    def compress(
        self,
        latent: Float[Tensor, "1 m h w"],
        level: int,
        coder: SymbolCoder,
        exact_prior: Float[Tensor, "1 e h w"] | None = None,
        float_prior: Float[Tensor, "1 f h w"] | None = None,
        cross_view_latent: Float[Tensor, "1 m h w"] | None = None,
        hyper: Float[Tensor, "1 n hz wz"] | None = None,
        rate_weight: float = 0.0,
    ) -> Float[Tensor, "1 m h w"]:
        """Codes one latent; the arguments are as in `code`. Without a hyper-latent, the one of this latent."""
        if hyper is None:
            hyper = self._hyper_symbols(latent, level, exact_prior, float_prior, cross_view_latent)
        size = latent.shape[-2], latent.shape[-1]
        return self.code(size, level, coder, exact_prior, float_prior, cross_view_latent, latent, hyper, rate_weight)

    def _hyper_symbols(
        self,
        latent: Tensor,
        level: int,
        exact_prior: Tensor | None,
        float_prior: Tensor | None,
        cross_view_latent: Tensor | None,
    ) -> Tensor:
        quality = torch.full((1,), float(level), device=latent.device)
        prior = float_prior
        if self.exact_means:
            prior = None if exact_prior is None else from_fixed(exact_prior).to(latent.dtype)
        base = self._base(latent, quality, cross_view_latent)
        z = self._hyper_analysis(latent if base is None else latent - base.to(latent.dtype), prior, quality)
        return torch.round(z.double() * (ONE / self.hyper_inverse_table[level].double())[None, :, None, None])

    def _code_hyper(self, hyper: Tensor | None, level: int, coder: SymbolCoder, size: tuple[int, int]) -> Tensor:
        """Writes or reads the hyper-latent, half a row at a time; fixed-point values at unit gain."""
        gain, inverse, scale = (
            table[level].double()[None, :, None, None]
            for table in (self.hyper_gain_table, self.hyper_inverse_table, self.hyper_index_table)
        )
        z = torch.zeros(1, self.config.hyper_latent, *size, dtype=torch.float64, device=gain.device)
        for row in range(size[0]):
            for odd in range(min(2, size[1])):
                mean, change = self.hyper_context.exact(z, row, bool(odd))
                mean = torch.floor(mean * gain / ONE**2 + 0.5)  # a whole number of symbols
                index = torch.floor((change * _INDEX_OF_LOG + scale) / ONE + 0.5).clamp(0, SCALE_COUNT - 1)
                symbols = None if hyper is None else hyper[..., row : row + 1, odd::2] - mean
                symbols = coder.code(symbols, index)
                z[..., row : row + 1, odd::2] = ((symbols + mean) * inverse).clamp(-VALUE_LIMIT, VALUE_LIMIT)
        return z

    def code(
        self,
        size: tuple[int, int],
        level: int,
        coder: SymbolCoder,
        exact_prior: Float[Tensor, "1 e h w"] | None = None,
        float_prior: Float[Tensor, "1 f h w"] | None = None,
        cross_view_latent: Float[Tensor, "1 m h w"] | None = None,
        latent: Float[Tensor, "1 m h w"] | None = None,
        hyper: Float[Tensor, "1 n hz wz"] | None = None,
        rate_weight: float = 0.0,
    ) -> Float[Tensor, "1 m h w"]:
        """The one procedure that encoder and decoder share, so that they cannot differ.

        Args:
            size: height and width of the latent, multiples of 4.
            level: quality level.
            coder: writes (then `latent` and `hyper` are given) or reads.
            exact_prior: fixed-point prior (integers in float64).
            float_prior: prior of the means.
            cross_view_latent: the latent of the warped reference, a share of which is subtracted before coding; with exact
                means a fixed-point prediction that is added to them.
            latent: what to encode.
            hyper: rounded hyper-latent to encode.
            rate_weight: weight of the rate in `rate_distortion_rounding`; 0 rounds to the nearest symbols.

        Returns:
            The decoded latent, unit variance; fixed-point (float64) if the means are exact, else the parameters' type.
        """
        h, w = size
        m = self.config.latent
        device = self.gain_table.device

        def row(table: Tensor) -> Tensor:
            return table[level].double()[None, :, None, None]

        features = self._exact_features(self._code_hyper(hyper, level, coder, (h // 4, w // 4)), level, exact_prior, (h, w))
        quality = torch.full((1,), float(level), device=device)
        mean_features = None
        dtype = self.log_gain.anchors.dtype
        if not self.exact_means:
            mean_features = self._mean_features(from_fixed(features).to(dtype), float_prior, quality)
            if latent is not None and cross_view_latent is not None:
                latent = latent - self.reference_weight(quality) * cross_view_latent

        gain, inverse, index_gain = row(self.gain_table), row(self.inverse_gain_table), row(self.index_gain_table)
        symbols = torch.zeros(1, m, h, w, dtype=torch.float64, device=device)
        decoded = symbols.to(symbols.dtype if self.exact_means else dtype, copy=True)
        for step in range(STEPS):
            trunk = self._exact_trunk(step, features, symbols, decoded)
            mean_trunk = None if mean_features is None else self._mean_trunk(step, mean_features, decoded)
            places, means, indexes, residuals = step_places(step, m), [], [], []
            for channels, (rows, columns) in places:
                at = trunk[..., rows, columns]
                cross_view = None if cross_view_latent is None else cross_view_latent[:, channels, rows, columns]
                scale = self.step_out.exact(at, channels)
                if mean_trunk is None:
                    mean = self.step_out.exact(at, slice(m + channels.start, 2 * m, 4))
                    if cross_view is not None:
                        mean = mean + multiply_fixed(
                            cross_view, to_fixed(self.prior_weight.detach()[channels])[None, :, None, None]
                        )
                    # fixed-point, at the symbols' scale; may exceed the value limit
                    mean = torch.floor(mean * gain[:, channels] / ONE + 0.5)
                else:
                    mean = self._mean(mean_trunk[..., rows, columns], quality, cross_view, channels).to(dtype)
                index = torch.floor((SCALE_GAIN * scale + index_gain[:, channels]) / ONE + 0.5).clamp(0, SCALE_COUNT - 1)
                means.append(mean)
                indexes.append(index.flatten())
                if latent is not None:
                    at_symbols = mean / ONE if self.exact_means else mean.double() * (gain[:, channels] / ONE)
                    wanted = latent[:, channels, rows, columns].double() * (gain[:, channels] / ONE) - at_symbols
                    residuals.append(wanted.flatten())
            tables, residual = torch.cat(indexes), None
            if latent is not None:
                residual = torch.cat(residuals)
                residual = rate_distortion_rounding(residual, tables, rate_weight) if rate_weight else torch.round(residual)
            values = coder.code(residual, tables).chunk(len(places))
            for (channels, (rows, columns)), mean, value in zip(places, means, values, strict=True):
                symbol = value.view(mean.shape)
                symbols[:, channels, rows, columns] = symbol
                if self.exact_means:
                    exact = torch.floor((symbol * ONE + mean) * inverse[:, channels] / ONE + 0.5).clamp(-(2.0**20), 2.0**20)
                    decoded[:, channels, rows, columns] = exact
                else:
                    decoded[:, channels, rows, columns] = (symbol * (ONE / gain[:, channels])).to(dtype) + mean
        if cross_view_latent is not None and not self.exact_means:
            decoded = decoded + self.reference_weight(quality) * cross_view_latent
        return decoded

    def _exact_features(self, z: Tensor, level: int, prior: Tensor | None, size: tuple[int, int]) -> Tensor:
        x = self.up1_spatial.exact(F.relu(F.pixel_shuffle(self.up1.exact(z), 2)))
        x = self.up2_spatial.exact(F.relu(F.pixel_shuffle(self.up2.exact(x), 2)))
        if self.config.exact_prior:
            prior = x.new_zeros(1, self.config.exact_prior, *size) if prior is None else prior
            x = torch.cat([x, prior], 1)
        return self.features.exact(x) + self.level_bias_table[level].double()[None, :, None, None]

    def _exact_trunk(self, step: int, features: Tensor, symbols: Tensor, decoded: Tensor) -> Tensor:
        first = self.step_in[step]
        assert isinstance(first, FixedPointConv2d)
        table = _MAGNITUDES.to(symbols.device)

        def merged(features: Tensor, symbols: Tensor, decoded: Tensor) -> Tensor:
            inputs = [features]
            if step and self.config.symbol_context:
                inputs.append(table[symbols.abs().clamp(max=len(table) - 1).long()])
            if step and self.exact_means:
                inputs.append(decoded)
            return F.relu(first.exact(torch.cat(inputs, 1)))

        # the table's values take eight bytes for each symbol: not of all at once
        x = in_strips(merged, [(features, 1), (symbols, 1), (decoded, 1)], 0, strip_rows(features.shape[-1]))
        return F.relu(self.step_mid.exact(self.step_spatial.exact(x)))
