"""Second views made of single photographs, so that every photograph teaches the cross-view path.

A pair is a crop and what a decoder would hold of its reference, warped: the crop is resampled on a slightly different
grid (small parallax), its exposure, white balance, noise and sharpness change, something may stand in front of it, it is
coded at a level of its own, and it is warped back with a small error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.training.data import PhotoBatch


@dataclass
class PairBatch(PhotoBatch):
    """Crops of photographs from which pairs are made."""

    def to(self, device: torch.device | str) -> PairBatch:
        """The same on `device`."""
        return PairBatch(self.image.to(device, non_blocking=True), self.level.to(device, non_blocking=True))

    def pin_memory(self) -> PairBatch:
        """Page-locked, as `PhotoBatch.pin_memory`."""
        return PairBatch(self.image.pin_memory(), self.level.pin_memory())


@dataclass(frozen=True)
class PairConfig:
    """How second views are made. Probabilities are shares of the pairs.

    Attributes:
        displacement: standard deviation of the smooth parallax between the views, in pixels.
        error: largest standard deviation of the warp's error, in pixels; each pair draws its own.
        exact: share of pairs whose grid and exposure do not change at all.
        exposure: share with another gain and offset.
        noise: share with noise of their own.
        blur: share whose reference is less sharp.
        occluder: share with something in front of the reference.
        wrong: share whose reference shows another place altogether.
        level_spread: the reference's level lies up to so far below and twice so far above the view's.
    """

    displacement: float = 3.0
    error: float = 0.8
    exact: float = 0.1
    exposure: float = 0.3
    noise: float = 0.3
    blur: float = 0.15
    occluder: float = 0.3
    wrong: float = 0.06
    level_spread: float = 6.0


def make_pairs(
    model: nn.Module, image: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"], last_level: float, config: PairConfig
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """Views, their decoded and warped references, and the masks, by torch's global generator.

    Args:
        model: codes the references (`forward_photo`), without gradients.
        image: crops, 0..1.
        level: quality level of the views.
        last_level: largest level.
        config: what is changed, and how often.
    """
    b, _, h, w = image.shape

    def chance(share: float) -> Tensor:
        return (torch.rand(b, device=image.device) < share).float()[:, None, None, None]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=image.device)

    moved = 1 - chance(config.exact)
    field = _smooth_field(normal(b, 2, 3, 3), h, w) * config.displacement * moved
    error = _smooth_field(normal(b, 2, 8, 8), h, w) * (torch.rand(b, 1, 1, 1, device=image.device) * config.error) * moved
    reference = torch.where(moved > 0, _sample(image, field, "bicubic"), image).clamp(0, 1)
    exposed = chance(config.exposure) * moved
    reference = reference * (1 + 0.05 * exposed * normal(b, 3, 1, 1)) + 0.02 * exposed * normal(b, 3, 1, 1)
    strength = 0.02 * torch.rand(b, 1, 1, 1, device=image.device) * chance(config.noise) * moved
    reference = reference + strength * normal(b, 3, h, w)
    image = (image + strength * normal(b, 3, h, w)).clamp(0, 1)
    soft = F.avg_pool2d(F.pad(reference, (1, 1, 1, 1), mode="replicate"), 3, 1)
    reference = torch.where(chance(config.blur) > 0, soft, reference)
    other = reference.roll(1, 0)
    hidden = _blobs(normal(b, 1, 6, 6), h, w) * chance(config.occluder)
    wrong = chance(config.wrong)
    hidden = torch.maximum(hidden, wrong)
    reference = torch.where(hidden > 0, other, reference).clamp(0, 1)
    draw = torch.rand(b, device=image.device)
    reference_level = (level + config.level_spread * (3 * draw - 1)).clamp(0, last_level)
    with torch.no_grad():
        decoded = model.forward_photo(  # type: ignore[operator]
            reference.contiguous(memory_format=torch.channels_last), reference_level
        ).image.clamp(0, 1)
    aligned = torch.where(moved > 0, _sample(decoded, error - field, "bilinear"), decoded)
    # half of what is hidden is known to be
    known = hidden * (1 - wrong) * chance(0.5)
    mask = 1 - _sample(known, -field, "bilinear").round()
    return image, aligned.contiguous(memory_format=torch.channels_last), mask


def _smooth_field(coarse: Float[Tensor, "b c m n"], h: int, w: int) -> Float[Tensor, "b c h w"]:
    return F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True)


def _blobs(coarse: Float[Tensor, "b 1 m n"], h: int, w: int) -> Float[Tensor, "b 1 h w"]:
    return (_smooth_field(coarse, h, w) > 1.0).float()


def _sample(image: Float[Tensor, "b c h w"], move: Float[Tensor, "b 2 h w"], mode: str) -> Float[Tensor, "b c h w"]:
    """The picture at x + move, in pixels."""
    h, w = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, device=image.device) + 0.5, torch.arange(w, device=image.device) + 0.5, indexing="ij")
    grid = torch.stack([(x + move[:, 0]) * (2 / w) - 1, (y + move[:, 1]) * (2 / h) - 1], -1)
    return F.grid_sample(image.float(), grid.to(image.dtype), mode=mode, padding_mode="border", align_corners=False)
