"""A few hundred weights with the codec's training interface, so that training itself is tested in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class StandInOutput:
    image: Tensor
    image_bits: Tensor
    inverse_depth: Tensor | None = None
    depth_bits: Tensor | None = None
    depth_target: Tensor | None = None
    state: Tensor | None = None


def lambda_of_level(level: Tensor) -> Tensor:
    return 30.0 * (8000.0 / 30.0) ** (torch.as_tensor(level).float() / 63)


class StandInCodec(nn.Module):
    """8x8 blocks through a linear bottleneck; noise of `noise` steps while training, a Gaussian rate estimate."""

    levels = 64

    def __init__(self, channels: int = 12, noise: float = 1.0):
        super().__init__()
        self.noise = noise
        self.analysis = nn.Conv2d(3, channels, 8, stride=8)
        self.synthesis = nn.ConvTranspose2d(channels, 3, 8, stride=8)
        self.reference = nn.Conv2d(3, channels, 8, stride=8)
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def _code(self, image: Tensor, level: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
        gain = torch.exp(level / 30)[:, None, None, None]
        latent = self.analysis(image) * 4 * gain
        mean = torch.zeros_like(latent) if prior is None else prior
        residual = latent - mean
        noise = (torch.rand_like(residual) - 0.5) * self.noise
        residual = residual + noise if self.training else torch.round(residual)
        scale = self.log_scale.exp() * gain
        bits = torch.log2(1 + (residual / scale).abs()) + torch.nn.functional.softplus(torch.log2(scale))
        return self.synthesis((residual + mean) / gain / 4), bits.flatten(1).sum(1)

    def forward_photo(self, image: Tensor, level: Tensor) -> StandInOutput:
        return StandInOutput(*self._code(image, level, None))

    def forward_view(self, image, inverse_depth, cameras, reference, level, keep=None, depth_trust=None) -> StandInOutput:
        prior = None
        if reference is not None:
            shown = torch.ones(len(image), device=image.device) if keep is None else keep.to(image.dtype)
            prior = self.reference(reference) * shown[:, None, None, None]
        picture, bits = self._code(image, level, prior)
        depth = inverse_depth[:, ::8, ::8]
        return StandInOutput(picture, bits, depth * 0.9, depth.flatten(1).sum(1), depth, picture)
