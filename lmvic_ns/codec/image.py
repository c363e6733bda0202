"""Image transforms of the practical codec: DCT-started trunk at 1/8, latent at 1/16, context transfer at 1/8."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.entropy import EntropyConfig, EntropyModel
from lmvic_ns.codec.fixed_point import ONE
from lmvic_ns.codec.layers import (
    DepthwiseBlock,
    LevelModulation,
    anchor_levels,
    dct_deviations,
    dct_merge_weight,
    dct_weight,
    significant,
)
from lmvic_ns.codec.quality import lambda_of_level, step_of_lambda

PATCH = 8
STRIDE = 64
"""Images are padded to multiples of this: hyper-latents lie at 1/64."""


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of the image codec.

    Attributes:
        features: channels at 1/8; at least 192 keeps every coefficient of the 8x8 DCT.
        latent: channels of the latent at 1/16.
        encoder_blocks: depth-wise blocks of the encoder at 1/8 (half of them before the context transfer).
        decoder_blocks: the same of the decoder.
        latent_blocks: blocks at 1/16, on either side.
        context_blocks: blocks of the reference's feature extractor at 1/8.
        hyper_latent: channels of the hyper-latent at 1/64.
        scale_features: channels of the exact networks that choose tables.
        mean_features: channels of the mean network.
        symbol_context: whether tables depend on symbols decoded in earlier quadtree steps.
        float_scales: scales from the float network as well; files then decode only on the machine that wrote them.
    """

    features: int = 192
    latent: int = 320
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_blocks: int = 1
    context_blocks: int = 1
    hyper_latent: int = 96
    scale_features: int = 96
    mean_features: int = 192
    symbol_context: bool = True
    float_scales: bool = False


@dataclass
class ImageContext:
    """What the reference tells about the view: aligned features at 1/8 and 1/16, and its warped picture."""

    features: Float[Tensor, "b c h8 w8"]
    latent: Float[Tensor, "b m h16 w16"]
    coverage: Float[Tensor, "b 1 h16 w16"]
    aligned: Float[Tensor, "b 3 h w"]
    mask: Float[Tensor, "b 1 h w"]


def _set(conv: nn.Conv2d, weight: Tensor) -> None:
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias.zero_()
        conv.weight.zero_()
        rows, columns = min(weight.shape[0], conv.weight.shape[0]), min(weight.shape[1], conv.weight.shape[1])
        conv.weight[:rows, :columns, 0, 0] = weight[:rows, :columns].float()


class _DctLayout:
    """The DCT start: matrices between pixels, whitened 1/8 features and the whitened latent."""

    def __init__(self, features: int, latent: int):
        small, large = dct_deviations(PATCH, 3), dct_deviations(2 * PATCH, 3)
        keep8, keep16 = significant(small, min(features, 192)), significant(large, latent)
        std8, std16 = small.flatten()[keep8], large.flatten()[keep16]
        pixels = dct_weight(PATCH, 3)[keep8]
        merge = dct_merge_weight(PATCH, 3)  # columns: (coefficient, sy, sx)
        columns = (keep8[:, None] * 4 + torch.arange(4)).flatten()
        merge = merge[keep16][:, columns]
        self.deviations = std16
        self.analysis8 = pixels / std8[:, None]
        self.synthesis8 = pixels.T * std8[None]
        std8x4 = std8.repeat_interleave(4)
        self.analysis16 = merge * std8x4[None] / std16[:, None]
        self.synthesis16 = merge.T * std16[None] / std8x4[:, None]


class Fuse(nn.Module):
    """Context transfer: adds to the backbone what a 1x1 convolution makes of it and the aligned reference features."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        _set(self.mix, torch.zeros(channels, 2 * channels))

    def forward(self, x: Tensor, context: ImageContext | None, keep: Tensor | None) -> Tensor:
        """`x` unchanged where there is no reference."""
        if context is None:
            return x
        y = self.mix(torch.cat([x, context.features.to(x.dtype)], 1))
        return x + (y if keep is None else y * keep[:, None, None, None].to(y.dtype))


class ImageCodec(nn.Module):
    """Analysis, synthesis, context extractor and entropy model of images."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.config = config
        c, m = config.features, config.latent
        half_e, half_d = config.encoder_blocks // 2, config.decoder_blocks // 2
        self.analysis_in = nn.Conv2d(3 * PATCH**2, c, 1)
        self.analysis_level = LevelModulation(c)
        self.analysis_first = nn.Sequential(*[DepthwiseBlock(c) for _ in range(half_e)])
        self.analysis_fuse = Fuse(c)
        self.analysis_second = nn.Sequential(*[DepthwiseBlock(c) for _ in range(config.encoder_blocks - half_e)])
        self.analysis_down = nn.Conv2d(4 * c, m, 1)
        self.analysis_latent = nn.Sequential(*[DepthwiseBlock(m) for _ in range(config.latent_blocks)])

        self.synthesis_level = LevelModulation(m)
        self.synthesis_latent = nn.Sequential(*[DepthwiseBlock(m) for _ in range(config.latent_blocks)])
        self.synthesis_up = nn.Conv2d(m, 4 * c, 1)
        self.synthesis_level8 = LevelModulation(c)
        self.synthesis_first = nn.Sequential(*[DepthwiseBlock(c) for _ in range(half_d)])
        self.synthesis_fuse = Fuse(c)
        self.synthesis_second = nn.Sequential(*[DepthwiseBlock(c) for _ in range(config.decoder_blocks - half_d)])
        self.synthesis_out = nn.Conv2d(c, 3 * PATCH**2, 1)

        self.context_image = nn.Conv2d(4 * PATCH**2, c, 1)
        self.context_features = nn.Conv2d(c, c, 1, bias=False)
        self.context_blocks = nn.Sequential(*[DepthwiseBlock(c) for _ in range(config.context_blocks)])
        self.context_down = nn.Conv2d(4 * c, m, 1)

        layout = _DctLayout(c, m)
        _set(self.analysis_in, layout.analysis8)
        _set(self.analysis_down, layout.analysis16)
        _set(self.synthesis_up, layout.synthesis16)
        _set(self.synthesis_out, layout.synthesis8)
        _set(self.context_image, layout.analysis8)
        _set(self.context_down, layout.analysis16)
        nn.init.normal_(self.context_features.weight, std=0.02)
        weights = lambda_of_level(anchor_levels())
        log_gain = torch.log(layout.deviations[None].float() / step_of_lambda(weights)[:, None])
        self.entropy = EntropyModel(
            EntropyConfig(
                latent=m,
                hyper_latent=config.hyper_latent,
                scale_features=config.scale_features,
                mean_features=config.mean_features,
                exact_prior=1,
                float_prior=m + 1,
                symbol_context=config.symbol_context,
                float_scales=config.float_scales,
            ),
            log_gain,
        )

    def context(
        self,
        aligned: Float[Tensor, "b 3 h w"],
        aligned_features: Float[Tensor, "b c h8 w8"],
        mask: Float[Tensor, "b 1 h w"],
    ) -> ImageContext:
        """Reference features of this view's grid.

        Args:
            aligned: the reference's reconstruction, warped at full resolution, padded.
            aligned_features: the reference's decoder features, warped at 1/8.
            mask: 1 where the correspondence holds, padded with 0.
        """
        pixels = F.pixel_unshuffle(aligned - 0.5, PATCH)
        x = self.context_image(torch.cat([pixels, F.pixel_unshuffle(mask, PATCH).to(pixels.dtype)], 1))
        x = self.context_blocks(x + self.context_features(aligned_features.to(x.dtype)))
        return ImageContext(x, self.context_down(F.pixel_unshuffle(x, 2)), F.avg_pool2d(mask, 2 * PATCH), aligned, mask)

    def analysis(
        self, image: Float[Tensor, "b 3 h w"], level: Tensor, context: ImageContext | None, keep: Tensor | None = None
    ) -> Float[Tensor, "b m h16 w16"]:
        """Unit-variance latent of a padded image."""
        x = self.analysis_level(self.analysis_in(F.pixel_unshuffle(image - 0.5, PATCH)), level)
        x = self.analysis_second(self.analysis_fuse(self.analysis_first(x), context, keep))
        return self.analysis_latent(self.analysis_down(F.pixel_unshuffle(x, 2)))

    def synthesis(
        self,
        latent: Float[Tensor, "b m h16 w16"],
        level: Tensor,
        context: ImageContext | None,
        keep: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c h8 w8"]]:
        """Padded reconstruction (not clamped) and the features at 1/8 that the next view may use."""
        x = self.synthesis_latent(self.synthesis_level(latent, level))
        x = self.synthesis_level8(F.pixel_shuffle(self.synthesis_up(x), 2), level)
        x = self.synthesis_second(self.synthesis_fuse(self.synthesis_first(x), context, keep))
        return F.pixel_shuffle(self.synthesis_out(x), PATCH) + 0.5, x

    @staticmethod
    def priors(context: ImageContext | None, keep: Tensor | None = None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Exact prior (coverage), float prior, and the latent's first guess, for the entropy model."""
        if context is None:
            return None, None, None
        coverage, latent = context.coverage, context.latent
        if keep is not None:
            k = keep[:, None, None, None]
            coverage, latent = coverage * k.to(coverage.dtype), latent * k.to(latent.dtype)
        return coverage, torch.cat([latent, coverage.to(latent.dtype)], 1), latent * coverage.to(latent.dtype)


def fixed_coverage(coverage: Float[Tensor, "b 1 h16 w16"] | None) -> Float[Tensor, "b 1 h16 w16"] | None:
    """Coverage as the tables take it: counts are multiples of 1/256, exact in any float type, so exact as integers."""
    return None if coverage is None else coverage.double() * ONE
