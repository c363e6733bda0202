"""Image transforms of the practical codec: DCT-started trunk at 1/8, latent at 1/16, and the cross-view prediction.

A view with a reference is coded as a difference. The warped reference goes through the same analysis as the view; a share
of its latent is subtracted before coding (`entropy`). The decoder runs the same synthesis on both latents.
What the transforms lose of the warped picture is added back where the decoded view agrees with it, so a view whose decoded
latent is that of the warped picture is the warped picture itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.networks.entropy import EntropyConfig, EntropyModel
from lmvic_ns.codec.networks.fixed_point import ONE
from lmvic_ns.codec.networks.layers import (
    DepthwiseBlock,
    LevelModulation,
    PointwiseConv2d,
    anchor_levels,
    dct_deviations,
    dct_merge_weight,
    dct_weight,
    in_strips,
    significant,
    strip_rows,
)
from lmvic_ns.codec.quality import coding_noise_of_level, lambda_of_level, step_of_lambda

PATCH = 8
_ERROR_WINDOW = 9
_TOLERANCE = 2.0  # a change of so many times the coding noise halves its weight
STRIDE = 64
"""Images are padded to multiples of this: hyper-latents lie at 1/64."""


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of the image codec.

    Attributes:
        features: channels at 1/8; at least 192 keeps every coefficient of the 8x8 DCT.
        latent: channels of the latent at 1/16.
        encoder_blocks: depth-wise blocks of the encoder at 1/8.
        decoder_blocks: the same of the decoder.
        latent_blocks: blocks at 1/16, on either side.
        hyper_latent: channels of the hyper-latent at 1/64.
        scale_features: channels of the exact networks that choose tables.
        mean_features: channels of the mean network.
        symbol_context: whether tables depend on symbols decoded in earlier quadtree steps.
    """

    features: int = 192
    latent: int = 320
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_blocks: int = 1
    hyper_latent: int = 96
    scale_features: int = 96
    mean_features: int = 192
    symbol_context: bool = True


@dataclass
class ImageContext:
    """What the warped reference contributes to the prediction of a view.

    Attributes:
        aligned: the reference's picture, warped, 0..1.
        mask: 1 where the correspondence holds.
        coverage: mean of the mask over each latent's 16x16 pixels.
        latent: unit-variance latent of `aligned`, times the coverage.
    """

    aligned: Float[Tensor, "b 3 h w"]
    mask: Float[Tensor, "b 1 h w"]
    coverage: Float[Tensor, "b 1 h16 w16"]
    latent: Float[Tensor, "b m h16 w16"]


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


class ImageCodec(nn.Module):
    """Analysis, synthesis, context extractor and entropy model of images."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.config = config
        c, m = config.features, config.latent
        # halves, because formats 1 to 4 fused the reference between them: weights keep these names
        half_e, half_d = (
            config.encoder_blocks // 2,
            config.decoder_blocks // 2,
        )
        self.analysis_in = PointwiseConv2d(3 * PATCH**2, c)
        self.analysis_level = LevelModulation(c)
        self.analysis_first = nn.Sequential(*[DepthwiseBlock(c) for _ in range(half_e)])
        self.analysis_second = nn.Sequential(*[DepthwiseBlock(c) for _ in range(config.encoder_blocks - half_e)])
        self.analysis_down = PointwiseConv2d(4 * c, m)
        self.analysis_latent = nn.Sequential(*[DepthwiseBlock(m) for _ in range(config.latent_blocks)])

        self.synthesis_level = LevelModulation(m)
        self.synthesis_latent = nn.Sequential(*[DepthwiseBlock(m) for _ in range(config.latent_blocks)])
        self.synthesis_up = PointwiseConv2d(m, 4 * c)
        self.synthesis_level8 = LevelModulation(c)
        self.synthesis_first = nn.Sequential(*[DepthwiseBlock(c) for _ in range(half_d)])
        self.synthesis_second = nn.Sequential(*[DepthwiseBlock(c) for _ in range(config.decoder_blocks - half_d)])
        self.synthesis_out = PointwiseConv2d(c, 3 * PATCH**2)

        self.trust = PointwiseConv2d(2 * c, PATCH**2)
        nn.init.zeros_(self.trust.weight)
        assert self.trust.bias is not None
        nn.init.zeros_(self.trust.bias)

        with torch.device("cpu"):  # arithmetic on the meta device would import torch's compiler: two seconds and 180 MB
            layout = _DctLayout(c, m)
            weights = lambda_of_level(anchor_levels())
            log_gain = torch.log(layout.deviations[None].float() / step_of_lambda(weights)[:, None])
        _set(self.analysis_in, layout.analysis8)
        _set(self.analysis_down, layout.analysis16)
        _set(self.synthesis_up, layout.synthesis16)
        _set(self.synthesis_out, layout.synthesis8)
        self.entropy = EntropyModel(
            EntropyConfig(
                latent=m,
                hyper_latent=config.hyper_latent,
                scale_features=config.scale_features,
                mean_features=config.mean_features,
                exact_prior=1,
                float_prior=m + 1,
                symbol_context=config.symbol_context,
            ),
            log_gain,
        )

    def context(
        self, aligned: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"], level: Float[Tensor, "b"]
    ) -> ImageContext:
        """The cross-view prediction of a view.

        Args:
            aligned: the reference's reconstruction, warped at full resolution, padded.
            mask: 1 where the correspondence holds, padded with 0; all zero where a sample has no reference.
            level: quality level of the view.
        """
        coverage = F.avg_pool2d(mask, 2 * PATCH)
        latent = self.analysis(aligned, level)
        return ImageContext(aligned, mask, coverage, latent * coverage.to(latent.dtype))

    def analysis(self, image: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"]) -> Float[Tensor, "b m h16 w16"]:
        """Unit-variance latent of a padded image."""

        def latent(part: Tensor) -> Tensor:
            x = self.analysis_level(self.analysis_in(F.pixel_unshuffle(part - 0.5, PATCH)), level)
            x = self.analysis_second(self.analysis_first(x))
            return self.analysis_latent(self.analysis_down(F.pixel_unshuffle(x, 2)))

        halo = len(self.analysis_latent) + -(-(len(self.analysis_first) + len(self.analysis_second)) // 2)
        return in_strips(latent, [(image, 2 * PATCH)], halo, strip_rows(image.shape[-1] // (2 * PATCH)))

    def synthesis(
        self, latent: Float[Tensor, "b m h16 w16"], level: Float[Tensor, "b"], context: ImageContext | None
    ) -> Float[Tensor, "b 3 h w"]:
        """Padded reconstruction, not clamped.

        Args:
            latent: decoded latent.
            level: quality level of each sample.
            context: cross-view prediction; where the decoded view agrees with it, what the transforms lose of the warped
                picture is added back.
        """
        halo = len(self.synthesis_latent) + -(-(len(self.synthesis_first) + len(self.synthesis_second)) // 2)
        strip = strip_rows(latent.shape[-1])
        if context is None:
            return in_strips(lambda part: self._picture(part, level)[0], [(latent, 1)], halo, strip)
        levels = torch.cat([level, level])

        def predicted(latent: Tensor, other: Tensor, aligned: Tensor, mask: Tensor) -> Tensor:
            pictures, features = self._picture(torch.cat([latent, other]), levels)
            decoded, shown = pictures.chunk(2)
            scale = F.pixel_shuffle(self.trust(torch.cat(features.chunk(2), 1)).float().clamp(-8, 8), PATCH)
            weight = self._blend_weight((decoded - shown).float(), scale, level) * mask.float()
            return decoded + weight.to(decoded.dtype) * (aligned - shown)

        inputs = [(latent, 1), (context.latent.to(latent.dtype), 1), (context.aligned, 2 * PATCH), (context.mask, 2 * PATCH)]
        return in_strips(predicted, inputs, halo + 1, strip)  # the window that errors are averaged over fits into one unit

    def _picture(self, latent: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Padded picture of a latent, and its features at 1/8."""
        x = self.synthesis_latent(self.synthesis_level(latent, level))
        x = self.synthesis_level8(F.pixel_shuffle(self.synthesis_up(x), 2), level)
        x = self.synthesis_second(self.synthesis_first(x))
        return F.pixel_shuffle(self.synthesis_out(x), PATCH) + 0.5, x

    @staticmethod
    def _blend_weight(change: Tensor, scale: Tensor, level: Tensor) -> Tensor:
        """Weight of the warped picture at each pixel: 1 where the decoded view does not differ from it.

        Args:
            change: decoded view less what the warped picture's latent looks like.
            scale: logarithm of the weight of a difference there, from the synthesis features of both.
            level: quality level of each sample.
        """
        error = _box(change.square().mean(1, keepdim=True), _ERROR_WINDOW)
        tolerance = _TOLERANCE * coding_noise_of_level(level)[:, None, None, None]
        return 1 / (1 + (error / tolerance * scale.exp()).square())

    @staticmethod
    def priors(context: ImageContext | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Exact prior (coverage), float prior, and the cross-view latent, for the entropy model."""
        if context is None:
            return None, None, None
        return context.coverage, torch.cat([context.latent, context.coverage.to(context.latent.dtype)], 1), context.latent


def _box(x: Float[Tensor, "b 1 h w"], size: int) -> Float[Tensor, "b 1 h w"]:
    """Mean over a square window, cut at the borders."""
    half = size // 2
    x = F.avg_pool2d(x, (size, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, half), count_include_pad=False)


def fixed_coverage(coverage: Float[Tensor, "b 1 h16 w16"] | None) -> Float[Tensor, "b 1 h16 w16"] | None:
    """Coverage as the tables take it: counts are multiples of 1/256, exact in any float type, so exact as integers."""
    return None if coverage is None else coverage.double() * ONE
