"""Image codec of the `paper` preset: encoder and decoder with ICT, reference and mask extractors (arXiv 2409.04013)."""

from __future__ import annotations

from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.geometry.warp import warp
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.entropy import LatentEntropyModel
from lmvic_ns.paper.layers import ContextTransfer, FeaturePyramid, MaskExtractor, ViewContext


class ImageEncoder(nn.Module):
    """[c(5,3,N,2) GDN ICT]@2 [c(5,N,N,2) GDN ICT]@4 [c(5,N,N,2) GDN ICT]@8 c(5,N,M,2)@16."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        n = config.n
        self.down = nn.ModuleList([nn.Sequential(conv(c, n, 5), GDN(n)) for c in (3, n, n)])
        self.transfer = nn.ModuleList([ContextTransfer(n) for _ in range(3)])
        self.last = conv(n, config.m, 5)

    def forward(self, image: Float[Tensor, "b 3 h w"], context: ViewContext) -> Float[Tensor, "b m hy wy"]:
        """The latent at 1/16 of an image padded to multiples of 64."""
        x = image
        for down, transfer, scale in zip(self.down, self.transfer, (2, 4, 8), strict=True):
            x = transfer(down(x), *context.at(scale))
        return self.last(x)


class ImageDecoder(nn.Module):
    """[d(5,M,N,2) ICT]@8 [IGDN d(5,N,N,2) ICT]@4 [IGDN d(5,N,N,2) ICT]@2 [IGDN d(5,N,3,2)]@1, unclamped."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        n = config.n
        self.up = nn.ModuleList(
            [
                deconv(config.m, n, 5),
                nn.Sequential(GDN(n, inverse=True), deconv(n, n, 5)),
                nn.Sequential(GDN(n, inverse=True), deconv(n, n, 5)),
            ]
        )
        self.transfer = nn.ModuleList([ContextTransfer(n) for _ in range(3)])
        self.last = nn.Sequential(GDN(n, inverse=True), deconv(n, 3, 5))

    def forward(
        self, latent: Float[Tensor, "b m hy wy"], context: ViewContext
    ) -> tuple[Float[Tensor, "b 3 h w"], tuple[Tensor, Tensor, Tensor]]:
        """The image, and the features after the three ICTs at 1/2, 1/4, 1/8, which the next view's reference uses."""
        x = latent
        kept: list[Tensor] = []
        for up, transfer, scale in zip(self.up, self.transfer, (8, 4, 2), strict=True):
            x = transfer(up(x), *context.at(scale))
            kept.append(x)
        return self.last(x), (kept[2], kept[1], kept[0])


class ImageCodec(nn.Module):
    """All the networks that code images."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.decoder = ImageDecoder(config)
        self.reference_features = FeaturePyramid(3, config.n)
        self.cross_view_prior = conv(config.n, 2 * config.m, 5)
        self.mask_extractor = MaskExtractor(config.n, config.m, 3) if config.masks else None
        self.entropy = LatentEntropyModel(config)

    def context(
        self,
        reference_image: Float[Tensor, "b 3 hr wr"],
        kept: tuple[Tensor, Tensor, Tensor] | None,
        disparity: Float[Tensor, "b h w 2"] | None,
        mask: Float[Tensor, "b 1 h w"],
    ) -> ViewContext:
        """Aligned reference features, the cross-view prior and the feature masks.

        Args:
            reference_image: reconstruction of the reference, padded to multiples of 64; zeros where there is none.
            kept: the decoder's features of the reference at 1/2, 1/4, 1/8; None counts as zeros.
            disparity: in pixels, padded as the view is; None leaves the features where they are (no reference, or the
                "Concatenation" ablation), cut or padded to the view's size.
            mask: (4) as 0 and 1, padded as the view is.
        """
        height, width = mask.shape[-2:]
        features = self.reference_features(reference_image, kept)
        at2, at4, at8 = (
            _fit(f, height // scale, width // scale) if disparity is None else warp(f, disparity, scale=scale)
            for f, scale in zip(features, (2, 4, 8), strict=True)
        )
        masks = None if self.mask_extractor is None else self.mask_extractor(mask)
        return ViewContext((at2, at4, at8), self.cross_view_prior(at8), masks)


def _fit(features: Tensor, height: int, width: int) -> Tensor:
    """Features without alignment on the view's grid: cut, or their border replicated."""
    features = features[..., :height, :width]
    missing = (0, width - features.shape[-1], 0, height - features.shape[-2])
    return nn.functional.pad(features, missing, mode="replicate") if any(missing) else features
