"""Hyperprior and quadtree partition entropy model (QPEM; Li et al. 2023; equation (6) of the paper).

The table indexes come from floating point, as published: encoder and decoder must run on the same kind of device with the
same library. (`base` and `tiny` have no such limit.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.utils import conv, deconv
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lmvic_ns.codec.symbols import SymbolCoder, SymbolReader, SymbolWriter
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.layers import ViewContext
from lmvic_ns.paper.tables import tables_of

STEPS = 4
GROUPS = 4
_SHIFT_OF_STEP = (0, 3, 2, 1)  # step k codes group g at lattice position g XOR s_k


@dataclass(frozen=True)
class LatentOutput:
    """What training needs of one latent.

    Attributes:
        latent: noisy (training) or rounded (evaluation).
        likelihoods: of every symbol: "y" like the latent, "z" of the hyper-latent.
        bits: of each sample.
    """

    latent: Float[Tensor, "b m hy wy"]
    likelihoods: dict[str, Tensor]
    bits: Float[Tensor, "b"]


def quadtree_masks(
    height: int, width: int, device: torch.device | str | None = None
) -> Bool[Tensor, "steps groups 1 height width"]:
    """Which of the four channel groups each step codes at each pixel; over the steps, everything once."""
    row = torch.arange(height, device=device)[:, None] % 2
    column = torch.arange(width, device=device)[None, :] % 2
    position = 2 * row + column
    steps = [torch.stack([position == (group ^ shift) for group in range(GROUPS)])[:, None] for shift in _SHIFT_OF_STEP]
    return torch.stack(steps)


def fold(x: Float[Tensor, "b m h w"], mask: Bool[Tensor, "groups 1 h w"]) -> Float[Tensor, "b m4 h w"]:
    """The one active group of each pixel, as a dense tensor of a quarter of the channels."""
    grouped = x.unflatten(1, (GROUPS, -1))
    return torch.where(mask, grouped, torch.zeros_like(grouped)).sum(1)


def unfold(x: Float[Tensor, "b m4 h w"], mask: Bool[Tensor, "groups 1 h w"]) -> Float[Tensor, "b m h w"]:
    """Inverse of `fold`: the dense tensor at the active groups, zeros elsewhere."""
    grouped = x[:, None].expand(-1, GROUPS, -1, -1, -1)
    return torch.where(mask, grouped, torch.zeros_like(grouped)).flatten(1, 2)


class HyperAnalysis(nn.Sequential):
    """c(3,M,N,1) LReLU c(5,N,N,2) LReLU c(5,N,N,2): latent at 1/16 to hyper-latent at 1/64."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(conv(m, n, 3, stride=1), nn.LeakyReLU(), conv(n, n, 5), nn.LeakyReLU(), conv(n, n, 5))


class HyperSynthesis(nn.Sequential):
    """d(5,N,N,2) LReLU d(5,N,1.5M,2) LReLU c(3,1.5M,2M,1)."""

    def __init__(self, n: int, m: int) -> None:
        wide = 3 * m // 2
        super().__init__(deconv(n, n, 5), nn.LeakyReLU(), deconv(n, wide, 5), nn.LeakyReLU(), conv(wide, 2 * m, 3, stride=1))


class LatentEntropyModel(nn.Module):
    """Entropy model of one latent: hyperprior, cross-view prior and spatial context, in four steps."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        n, m = config.n, config.m
        self.channels = m
        self.hyper_analysis = HyperAnalysis(n, m)
        self.hyper_synthesis = HyperSynthesis(n, m)
        self.spatial_context = conv(m, 2 * m, 5, stride=1)
        self.parameters_net = nn.Sequential(
            conv(6 * m, 14 * m // 3, 1, stride=1),
            nn.LeakyReLU(),
            conv(14 * m // 3, 10 * m // 3, 1, stride=1),
            nn.LeakyReLU(),
            conv(10 * m // 3, 2 * m, 1, stride=1),
        )
        self.bottleneck = EntropyBottleneck(n)
        self.gaussian = GaussianConditional(None)

    def decoder_parts(self) -> list[nn.Module]:
        """All but the hyper analysis, which decoding does without."""
        return [self.hyper_synthesis, self.spatial_context, self.parameters_net, self.bottleneck, self.gaussian]

    def step_parameters(
        self,
        step: int,
        hyper: Float[Tensor, "b m2 h w"],
        context: ViewContext,
        decoded: Float[Tensor, "b m h w"],
        mask: Bool[Tensor, "groups 1 h w"],
    ) -> tuple[Float[Tensor, "b m4 h w"], Float[Tensor, "b m4 h w"]]:
        """Scales and means of the symbols of a step.

        Args:
            step: 0..3.
            hyper: what the hyper synthesis gave.
            context: cross-view prior and gates.
            decoded: the latent as far as it is decoded, zeros elsewhere.
            mask: of this step, from `quadtree_masks`.
        """
        spatial = torch.zeros_like(hyper) if step == 0 else self.spatial_context(decoded)
        inputs = torch.cat([hyper, context.prior, spatial], 1)
        if context.gates is not None:
            inputs = inputs * context.gates
        scales, means = self.parameters_net(inputs).chunk(2, 1)
        return fold(scales, mask), fold(means, mask)

    def forward(self, latent: Float[Tensor, "b m h w"], context: ViewContext) -> LatentOutput:
        """Likelihoods, with uniform noise in training (contexts see it too, as published) and rounding otherwise.

        Args:
            latent: height and width multiples of 4.
            context: of the view.
        """
        z_hat, z_likelihoods = self.bottleneck(self.hyper_analysis(latent))
        hyper = self.hyper_synthesis(z_hat)
        masks = quadtree_masks(*latent.shape[-2:], device=latent.device)
        decoded = torch.zeros_like(latent)
        likelihoods = torch.zeros_like(latent)
        for step in range(STEPS):
            scales, means = self.step_parameters(step, hyper, context, decoded, masks[step])
            values, step_likelihoods = self.gaussian(fold(latent, masks[step]), scales, means)
            decoded = decoded + unfold(values, masks[step])
            likelihoods = likelihoods + unfold(step_likelihoods, masks[step])
        bits = -(likelihoods.log2().sum((1, 2, 3)) + z_likelihoods.log2().sum((1, 2, 3)))
        return LatentOutput(decoded, {"y": likelihoods, "z": z_likelihoods}, bits)

    def compress(self, latent: Float[Tensor, "1 m h w"], context: ViewContext) -> tuple[bytes, Float[Tensor, "1 m h w"]]:
        """One stream, and the latent as the decoder will have it.

        Raises:
            WeightsError: `update()` was not run.
        """
        writer = SymbolWriter(tables_of(self.gaussian, self.bottleneck))
        z = torch.round(self.hyper_analysis(latent) - self._medians())
        decoded = self._code((latent.shape[-2], latent.shape[-1]), context, writer, latent, z)
        return writer.finish(), decoded

    def decompress(
        self, data: bytes, size: tuple[int, int], context: ViewContext, *, name: str = "stream"
    ) -> Float[Tensor, "1 m h w"]:
        """The latent of a stream.

        Args:
            data: what `compress` gave.
            size: height and width of the latent, multiples of 4.
            context: the same as in `compress`.
            name: of the stream in error messages.

        Raises:
            BitstreamError: the stream is damaged or does not belong to this context.
            WeightsError: `update()` was not run.
        """
        reader = SymbolReader(data, tables_of(self.gaussian, self.bottleneck), name)
        decoded = self._code(size, context, reader, None, None)
        reader.finish()
        return decoded

    def _code(
        self, size: tuple[int, int], context: ViewContext, coder: SymbolCoder, latent: Tensor | None, z: Tensor | None
    ) -> Tensor:
        """The one procedure that encoder and decoder share."""
        device = context.prior.device
        first = len(self.gaussian.scale_table)  # the bottleneck's tables follow the Gaussian ones
        n = self.bottleneck.channels
        channel = torch.arange(first, first + n, device=device)[None, :, None, None]
        hyper_size = math.ceil(size[0] / 4), math.ceil(size[1] / 4)
        symbols = coder.code(z, channel.expand(1, n, *hyper_size)).float()
        hyper = self.hyper_synthesis(symbols + self._medians())
        masks = quadtree_masks(*size, device=device)
        decoded = torch.zeros(1, self.channels, *size, dtype=hyper.dtype, device=device)
        for step in range(STEPS):
            scales, means = self.step_parameters(step, hyper, context, decoded, masks[step])
            residual = None if latent is None else torch.round(fold(latent, masks[step]) - means)
            # as GaussianConditional.build_indexes, in one search
            indexes = torch.bucketize(scales, self.gaussian.scale_table[:-1]).clamp(max=first - 1)
            decoded = decoded + unfold(coder.code(residual, indexes).float() + means, masks[step])
        return decoded

    def _medians(self) -> Tensor:
        return self.bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]
