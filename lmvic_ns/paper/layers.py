"""Layers that the image and the depth codec of the `paper` preset share (arXiv 2409.04013)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from compressai.layers import GDN
from compressai.models.utils import conv
from jaxtyping import Float
from torch import Tensor, nn

PADDING = 64  # sizes are padded to multiples of this: the hyper-latent lies at 1/64


@dataclass(frozen=True)
class ViewContext:
    """What a view's codec gets from the reference, ready for its networks.

    Attributes:
        features: N channels at 1/2, 1/4 and 1/8 (aligned reference features, or those of the predicted depth).
        prior: 2M channels at 1/16: the cross-view prior of the entropy model.
        masks: 2N channels at 1/2, 1/4, 1/8 and 6M channels at 1/16; None where masks are ablated.
    """

    features: tuple[Tensor, Tensor, Tensor]
    prior: Float[Tensor, "b m2 hy wy"]
    masks: tuple[Tensor, Tensor, Tensor, Tensor] | None

    def at(self, scale: int) -> tuple[Tensor, Tensor | None]:
        """Features and mask at 1/2, 1/4 or 1/8."""
        level = (2, 4, 8).index(scale)
        return self.features[level], None if self.masks is None else self.masks[level]

    @property
    def gates(self) -> Tensor | None:
        """6M channels at 1/16: gates of hyperprior parameters, cross-view prior and spatial context, in this order."""
        return None if self.masks is None else self.masks[3]


class MaskExtractor(nn.Module):
    """Feature masks at 1/2, 1/4, 1/8 and 1/16 from the mask (4) or that of the predicted depth (10); no squashing.

    Args:
        n: the masks at 1/2, 1/4 and 1/8 have 2n channels.
        m: the masks at 1/16 have 6m channels.
        kernel_size: 3 for images, 5 for depth.
    """

    def __init__(self, n: int, m: int, kernel_size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                conv(1, 2 * n, kernel_size),
                conv(2 * n, 2 * n, kernel_size),
                conv(2 * n, 2 * n, kernel_size),
                conv(2 * n, 6 * m, kernel_size),
            ]
        )
        self.activation = nn.LeakyReLU()
        for name, bias in self.layers.named_parameters():
            if name.endswith("bias"):
                nn.init.ones_(bias)  # gates start open: at zero they would shut the paths that they should learn to weigh

    def forward(self, mask: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks at 1/2, 1/4, 1/8 (2N channels) and 1/16 (6M channels) of a mask of 0 and 1."""
        at2 = self.activation(self.layers[0](mask))
        at4 = self.activation(self.layers[1](at2))
        at8 = self.activation(self.layers[2](at4))
        return at2, at4, at8, self.layers[3](at8)


class FeaturePyramid(nn.Module):
    """The chain [c(5,.,N,2) GDN] at 1/2, 1/4, 1/8 of the reference extractor and of the prediction extractor.

    Args:
        channels: of the input: 3 for an image, 1 for depth.
        n: channels of the features.
    """

    def __init__(self, channels: int, n: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(conv(inputs, n, 5), GDN(n)) for inputs in (channels, n, n)])

    def forward(
        self, x: Float[Tensor, "b c h w"], kept: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/2, 1/4, 1/8; `kept` features of the same scales are added and go on down the chain."""
        at2 = self.stages[0](x)
        at2 = at2 if kept is None else at2 + kept[0]
        at4 = self.stages[1](at2)
        at4 = at4 if kept is None else at4 + kept[1]
        at8 = self.stages[2](at4)
        return at2, at4, at8 if kept is None else at8 + kept[2]


class ContextTransfer(nn.Module):
    """Image context transfer (ICT): f + ResBlock(concat(a(f), b(warped reference)) * mask)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.of_view = conv(n, n, 3, stride=1)
        self.of_reference = conv(n, n, 3, stride=1)
        self.first = conv(2 * n, n, 3, stride=1)
        self.second = conv(n, n, 3, stride=1)
        self.skip = conv(2 * n, n, 1, stride=1)
        self.activation = nn.LeakyReLU()

    def forward(
        self, f: Float[Tensor, "b n h w"], reference: Float[Tensor, "b n h w"], mask: Float[Tensor, "b n2 h w"] | None
    ) -> Float[Tensor, "b n h w"]:
        """Features f with what the aligned reference features add to them; mask None leaves everything open."""
        u = torch.cat([self.of_view(f), self.of_reference(reference)], 1)
        if mask is not None:
            u = u * mask
        return f + self.skip(u) + self.activation(self.second(self.activation(self.first(u))))


def integrate_depth_context(
    f: Float[Tensor, "b n h w"], prediction: Float[Tensor, "b n h w"], mask: Float[Tensor, "b n2 h w"] | None
) -> Float[Tensor, "b n2 h w"]:
    """Depth context integration (DCI), equation (11): concat(f, predicted-depth feature) * feature mask."""
    u = torch.cat([f, prediction], 1)
    return u if mask is None else u * mask


def pad_to_grid(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hp wp"]:
    """Right and lower border replicated up to multiples of 64."""
    height, width = x.shape[-2:]
    return nn.functional.pad(x, (0, -width % PADDING, 0, -height % PADDING), mode="replicate")


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Size after `pad_to_grid`."""
    return height + -height % PADDING, width + -width % PADDING
