"""Depth codec of the `paper` preset: encoder and decoder with DCI, prediction and mask extractors (arXiv 2409.04013)."""

from __future__ import annotations

from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.entropy import LatentEntropyModel
from lmvic_ns.paper.layers import FeaturePyramid, MaskExtractor, ViewContext, integrate_depth_context


class DepthEncoder(nn.Module):
    """[c(5,1,N,2) GDN DCI]@2 [c(5,2N,N,2) GDN DCI]@4 [c(5,2N,N,2) GDN DCI]@8 c(5,2N,M,2)@16."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        n = config.n
        self.down = nn.ModuleList([nn.Sequential(conv(c, n, 5), GDN(n)) for c in (1, 2 * n, 2 * n)])
        self.last = conv(2 * n, config.m, 5)

    def forward(self, depth: Float[Tensor, "b 1 h w"], context: ViewContext) -> Float[Tensor, "b m hy wy"]:
        """The latent at 1/16 of normalised depth, padded to multiples of 64."""
        x = depth
        for down, scale in zip(self.down, (2, 4, 8), strict=True):
            x = integrate_depth_context(down(x), *context.at(scale))
        return self.last(x)


class DepthDecoder(nn.Module):
    """[d(5,M,N,2) IGDN DCI]@8 [d(5,2N,N,2) IGDN DCI]@4 [d(5,2N,N,2) IGDN DCI]@2 d(5,2N,1,2), unclamped."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        n = config.n
        self.up = nn.ModuleList([nn.Sequential(deconv(c, n, 5), GDN(n, inverse=True)) for c in (config.m, 2 * n, 2 * n)])
        self.last = deconv(2 * n, 1, 5)

    def forward(self, latent: Float[Tensor, "b m hy wy"], context: ViewContext) -> Float[Tensor, "b 1 h w"]:
        """Normalised depth of a latent."""
        x = latent
        for up, scale in zip(self.up, (8, 4, 2), strict=True):
            x = integrate_depth_context(up(x), *context.at(scale))
        return self.last(x)


class DepthCodec(nn.Module):
    """All the networks that code depth."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = DepthEncoder(config)
        self.decoder = DepthDecoder(config)
        self.prediction_features = FeaturePyramid(1, config.n)
        self.cross_view_prior = conv(config.n, 2 * config.m, 5)
        self.mask_extractor = MaskExtractor(config.n, config.m, 5) if config.masks else None
        self.entropy = LatentEntropyModel(config)

    def context(self, prediction: Float[Tensor, "b 1 h w"], mask: Float[Tensor, "b 1 h w"]) -> ViewContext:
        """Features of the predicted depth (10), its prior and its feature masks.

        Args:
            prediction: normalised depth, 0 in holes, padded to multiples of 64.
            mask: 1 where something was projected, padded likewise.
        """
        features = self.prediction_features(prediction)
        masks = None if self.mask_extractor is None else self.mask_extractor(mask)
        return ViewContext(features, self.cross_view_prior(features[2]), masks)
