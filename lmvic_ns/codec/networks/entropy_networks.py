"""Networks of the entropy model, shared by its float pass (`entropy_rates`) and the exact one (`entropy`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.networks.fixed_point import ONE, FixedPointConv2d
from lmvic_ns.codec.networks.hyper_context import HyperContext
from lmvic_ns.codec.networks.layers import DepthwiseBlock, LevelModulation, LevelVector, PointwiseConv2d, start_normal
from lmvic_ns.codec.networks.rates import SCALE_MIN, SCALE_STEP, index_of_log_scale

STEPS = 4
_POSITION_OF_STEP = (0, 3, 2, 1)  # step k codes channel group g at lattice position g XOR this
SCALE_GAIN = 8.0
"""Tables are chosen by this times the networks' outputs, which are of order one where table indexes are of order ten."""


def step_masks(channels: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Which symbols each quadtree step codes: bool [4, channels, height, width], a partition."""
    group = (torch.arange(channels, device=device) % 4)[:, None, None]
    row = (torch.arange(height, device=device) % 2)[None, :, None]
    column = (torch.arange(width, device=device) % 2)[None, None, :]
    key = group ^ (2 * row + column)
    return torch.stack([key == _POSITION_OF_STEP[step] for step in range(STEPS)])


def step_places(step: int, channels: int) -> list[tuple[slice, tuple[slice, slice]]]:
    """The same partition as slices: for each of the four lattice positions, the channels that a step codes there, and where
    it lies.

    Returns:
        (channels, (rows, columns)) in the order in which a file holds them.
    """
    return [
        (slice(position ^ _POSITION_OF_STEP[step], channels, 4), (slice(position // 2, None, 2), slice(position % 2, None, 2)))
        for position in range(4)
    ]


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
    """

    latent: int
    hyper_latent: int
    scale_features: int
    mean_features: int
    exact_prior: int
    float_prior: int
    symbol_context: bool = True


class EntropyNetworks(nn.Module):
    """Networks and tables for a latent whose channels have about unit variance before the level's gain.

    `latent * gain(level)` is rounded; `symbol / gain` is what the synthesis sees. Everything inside works on the
    unit-variance side, so that one network serves all levels.
    """

    gain_table: Tensor
    inverse_gain_table: Tensor
    index_gain_table: Tensor
    hyper_gain_table: Tensor
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
        self.hyper_in = PointwiseConv2d(m + (config.float_prior or config.exact_prior), width)
        self.hyper_down = nn.Sequential(
            DepthwiseBlock(width),
            nn.Conv2d(width, width, 2, stride=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, n, 2, stride=2),
        )
        self.hyper_log_gain = LevelVector(n, math.log(2.0))
        self.hyper_log_scale = LevelVector(n, math.log(2.0))
        self.hyper_context = HyperContext(n, s)
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
            start = (math.log(0.5) - math.log(SCALE_MIN)) / SCALE_STEP / SCALE_GAIN
            assert self.step_out.bias is not None
            self.step_out.bias.zero_()
            self.step_out.bias[:m] = start
        if self.exact_means:
            self.prior_weight = nn.Parameter(torch.ones(m))
        else:
            self.mean_prior = PointwiseConv2d(s + config.float_prior, p)
            self.mean_level = LevelModulation(p)
            self.mean_in = nn.ModuleList([PointwiseConv2d(p + (m if k else 0), p) for k in range(STEPS)])
            self.mean_block = DepthwiseBlock(p)
            self.mean_out = PointwiseConv2d(p, m)
            start_normal(self.mean_out.weight, 0.1 / math.sqrt(p))
            self.reference_logit = LevelVector(m, 1.0)
            self.reference_gate = PointwiseConv2d(p, m)
            nn.init.zeros_(self.reference_gate.weight)
            for layer in (self.mean_out, self.reference_gate):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        # integers that decoding uses, filled by update(): never recomputed from floats on the decoder
        self.register_buffer("gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("inverse_gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("index_gain_table", torch.zeros(64, m, dtype=torch.int32))
        self.register_buffer("hyper_gain_table", torch.zeros(64, n, dtype=torch.int32))
        self.register_buffer("hyper_inverse_table", torch.zeros(64, n, dtype=torch.int32))
        self.register_buffer("hyper_index_table", torch.zeros(64, n, dtype=torch.int32))
        self.register_buffer("level_bias_table", torch.zeros(64, s, dtype=torch.int32))

    def update(self) -> None:
        """Fills the integer tables from the learned parameters; called once, before weights are saved."""
        log_gain, hyper = self.log_gain.table(), self.hyper_log_gain.table()
        for buffer, values in (
            (self.gain_table, log_gain.exp() * ONE),
            (self.inverse_gain_table, (-log_gain).exp() * ONE),
            (self.index_gain_table, log_gain / SCALE_STEP * ONE),
            (self.hyper_gain_table, hyper.exp() * ONE),
            (self.hyper_inverse_table, (-hyper).exp() * ONE),
            (self.hyper_index_table, index_of_log_scale(self.hyper_log_scale.table()) * ONE),
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

    def reference_weight(self, level: Float[Tensor, "b"]) -> Float[Tensor, "b m 1 1"]:
        """Share of the cross-view latent that is subtracted before coding, for each channel, 0..1."""
        return torch.sigmoid(self.reference_logit(level))

    def _mean_trunk(self, step: int, features: Tensor, decoded: Tensor) -> Tensor:
        """Features that a step's means come from."""
        x = features if step == 0 else torch.cat([features, decoded], 1)
        return self.mean_block(F.leaky_relu(self.mean_in[step](x), 0.1))

    def _mean(self, trunk: Tensor, level: Tensor, cross_view_latent: Tensor | None, channels: slice | None = None) -> Tensor:
        """Mean of what is left of the latent once `reference_weight * cross_view_latent` is subtracted.

        The gate moves the weight up or down for each position and channel: a mean of `(gate - weight) * cross_view_latent`.

        Args:
            trunk: of `_mean_trunk`.
            level: quality level of each sample.
            cross_view_latent: of these channels; None without a reference.
            channels: the channels wanted; None for all.
        """
        chosen = slice(None) if channels is None else channels
        mean = self.mean_out(trunk, channels).float()
        if cross_view_latent is None:
            return mean
        logit = self.reference_logit(level)[:, chosen]
        change = torch.sigmoid(logit + self.reference_gate(trunk, channels).float()) - torch.sigmoid(logit)
        return mean + change * cross_view_latent.float()
