"""From a batch to a loss: crops of photographs, and chains of views (9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.depth.search import DepthSearch
from lmvic_ns.training.data import PhotoBatch
from lmvic_ns.training.losses import (
    VIEW_WEIGHTS,
    Metric,
    image_distortion,
    level_weight,
    log_limited,
    photo_loss,
    psnr,
    squared_error,
    view_loss,
)
from lmvic_ns.training.pairs import PairBatch, PairConfig, make_pairs
from lmvic_ns.training.scenes import ChainBatch

LambdaOfLevel = Callable[[Tensor], Tensor]


@dataclass
class StepLoss:
    """What a step's loss gives to the optimizer and to the reports (sums over samples, detached)."""

    loss: Tensor
    samples: int
    pixels: int
    bits: Tensor
    squared_error_db: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Means of the step, reported under their names."""


class Objective(Protocol):
    """From a batch to a loss; `photos` and `scenes` have one each."""

    def __call__(self, model: nn.Module, batch: Any) -> StepLoss:
        """Loss of one step, with gradients."""
        ...


@dataclass(frozen=True)
class LossConfig:
    """What is traded for what."""

    metric: Metric = "mse"
    level_weight_power: float = 0.5
    """Losses are weighted with (lambda / middle lambda)^-power; 0 leaves lambda * D + R as it is."""
    fixed_lambda: float | None = None
    """Train for one lambda alone, as the paper does; every sample then has the level whose lambda is nearest."""


class PhotoObjective:
    """Mean of w(level) * (lambda(level) * D + R) over crops of photographs."""

    def __init__(self, config: LossConfig, lambda_of_level: LambdaOfLevel, levels: int):
        self.config, self.lambda_of_level = config, lambda_of_level
        self.middle = float(lambda_of_level(torch.tensor([(levels - 1) / 2]))[0])

    def lambdas(self, level: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """lambda of each sample, or the fixed one."""
        fixed = self.config.fixed_lambda
        return self.lambda_of_level(level) if fixed is None else torch.full_like(level, fixed)

    def weights(self, lambdas: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Balance between levels; 1 where lambda is fixed."""
        if self.config.fixed_lambda is not None:
            return torch.ones_like(lambdas)
        return level_weight(lambdas, self.middle, self.config.level_weight_power)

    def __call__(self, model: nn.Module, batch: PhotoBatch) -> StepLoss:
        """Loss of one step, with gradients."""
        image = (batch.image.float() / 255).contiguous(memory_format=torch.channels_last)
        return self.loss_of(model.forward_photo(image, batch.level), image, batch.level)  # type: ignore[operator]

    def loss_of(self, out: Any, image: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"]) -> StepLoss:
        """Loss of coded views (their `image` and `image_bits`)."""
        pixels = image.shape[-1] * image.shape[-2]
        lambdas = self.lambdas(level)
        distortion = image_distortion(out.image, image, self.config.metric)
        loss = log_limited(self.weights(lambdas) * photo_loss(distortion, out.image_bits, lambdas, pixels)).mean()
        with torch.no_grad():
            error = psnr(squared_error(out.image.detach().clamp(0, 1), image)).sum()
        return StepLoss(loss, image.shape[0], pixels * image.shape[0], out.image_bits.detach().sum(), error)


class ChainObjective:
    """Loss (9) over chains of views, with gradients through the references; photographs as :class:`PhotoObjective`.

    Args:
        config: metric and level weights.
        lambda_of_level: lambda_img of each level.
        depth_lambda_of_level: lambda_dep of each level.
        levels: number of levels.
        view_weights: w_n of the views' distortions; a longer chain repeats the last.
        detach: cut the gradient between views (less memory, but references are then not trained to be good ones).
        depth_trust: each sample's geometry lies between the decoded depth and up to so far towards the true one.
        level_spread: views of a chain have levels of their own, up to so far from the chain's (the first view, which all
            others live on, up to twice as far above it): references are seen better and worse than the view.
        depth_search: code depth as files do, as the quadtree that this finds; None takes the learned depth codec.
        given_depth: take the scenes' depth at no cost, averaged over blocks of a size drawn for each sample, as the leaves
            of a quadtree are: what a GPU, which cannot search, trains with.
        pairs: how second views are made of photographs.
    """

    def __init__(
        self,
        config: LossConfig,
        lambda_of_level: LambdaOfLevel,
        depth_lambda_of_level: LambdaOfLevel,
        levels: int,
        *,
        view_weights: Sequence[float] = VIEW_WEIGHTS,
        detach: bool = False,
        depth_trust: float = 0.0,
        level_spread: float = 0.0,
        depth_search: DepthSearch | None = None,
        given_depth: bool = False,
        pairs: PairConfig | None = None,
    ):
        self.pairs = pairs or PairConfig()
        self.photos = PhotoObjective(config, lambda_of_level, levels)
        self.config, self.depth_lambda_of_level = config, depth_lambda_of_level
        self.view_weights, self.detach, self.depth_trust = tuple(view_weights), detach, depth_trust
        self.level_spread, self.last_level = level_spread, levels - 1.0
        self.depth_search, self.given_depth = depth_search, given_depth

    def _of_pairs(self, model: nn.Module, batch: PairBatch) -> StepLoss:
        image = batch.image.float() / 255
        image, aligned, mask = make_pairs(model, image, batch.level, self.last_level, self.pairs)
        image = image.contiguous(memory_format=torch.channels_last)
        out = model.forward_aligned(image, aligned, mask, batch.level)  # type: ignore[operator]
        result = self.photos.loss_of(out, image, batch.level)
        result.extra["pair_bpp"] = result.bits / result.pixels
        return result

    def __call__(self, model: nn.Module, batch: ChainBatch | PhotoBatch) -> StepLoss:
        """Loss of one step, with gradients."""
        if isinstance(batch, PairBatch):
            return self._of_pairs(model, batch)
        if isinstance(batch, PhotoBatch):
            result = self.photos(model, batch)
            result.extra["photo_bpp"] = result.bits / result.pixels
            return result
        b, views, _, height, width = batch.image.shape
        pixels = height * width
        lambdas = self.photos.lambdas(batch.level)
        state = None
        terms, bits, db = [], [], []
        options: dict[str, Any] = {}
        if self.given_depth:
            options["given_depth"] = True
        elif self.depth_search is not None:
            options["depth_search"] = self.depth_search
        elif self.depth_trust:
            options["depth_trust"] = torch.rand_like(lambdas) * self.depth_trust
        depth_bits, depth_error = lambdas.new_zeros(b), lambdas.new_zeros(b)
        for n in range(views):
            image = (batch.image[:, n].float() / 255).contiguous(memory_format=torch.channels_last)
            keep = batch.keep[:, n] if n else None
            level = self._level_of_view(n, batch.level)
            lambdas, depth_lambdas = self.photos.lambdas(level), self.depth_lambda_of_level(level)
            depth = batch.inverse_depth[:, n]
            if self.given_depth:
                depth = block_means(depth, torch.randint(len(DEPTH_BLOCKS), (b,), device=depth.device))
            out = model.forward_view(  # type: ignore[operator]
                image, depth, batch.cameras[n], state, level, keep, **options
            )
            state = detached(out.state) if self.detach else out.state
            depth_distortion = squared_error(out.inverse_depth[:, None], out.depth_target[:, None])
            terms.append(
                self.photos.weights(lambdas)
                * view_loss(
                    image_distortion(out.image, image, self.config.metric),
                    depth_distortion,
                    out.image_bits.float() + out.depth_bits.float(),
                    lambdas,
                    depth_lambdas,
                    pixels,
                    view_weight=self.view_weights[min(n, len(self.view_weights) - 1)],
                )
            )
            with torch.no_grad():
                bits.append((out.image_bits + out.depth_bits).sum())
                db.append(psnr(squared_error(out.image.clamp(0, 1), image)).sum())
                depth_bits += out.depth_bits.detach().float()
                depth_error += depth_distortion.detach()
        loss = log_limited(torch.stack(terms)).mean()
        extra = {
            "depth_bpp": depth_bits.mean() / (views * pixels),
            "depth_rmse": (depth_error.mean() / views).sqrt(),
            "first_view_bpp": bits[0].detach() / (b * pixels),
            "last_view_bpp": bits[-1].detach() / (b * pixels),
        }
        return StepLoss(loss, b * views, b * views * pixels, torch.stack(bits).sum(), torch.stack(db).sum(), extra)

    def _level_of_view(self, view: int, level: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        if not self.level_spread:
            return level
        draw = torch.rand_like(level)
        offset = 2 * draw if view == 0 else 2 * draw - 1
        return (level + self.level_spread * offset).clamp(0, self.last_level)


DEPTH_BLOCKS = (4, 8, 16)
"""Sides of depth blocks in pixels that training with given depth draws from."""


def block_means(inverse_depth: Float[Tensor, "b h w"], kind: Tensor) -> Float[Tensor, "b h w"]:
    """Each map averaged over blocks of DEPTH_BLOCKS[kind] pixels; `kind` int64 `b`. Sides are multiples of the blocks."""
    result = inverse_depth
    for number, side in enumerate(DEPTH_BLOCKS):
        coarse = F.avg_pool2d(inverse_depth[:, None], side)
        blocks = F.interpolate(coarse, inverse_depth.shape[-2:], mode="nearest")[:, 0]
        result = torch.where((kind == number)[:, None, None], blocks, result)
    return result


def detached(state: Any) -> Any:
    """A reference state without its graph."""
    return state.detach() if state is not None else None


def level_of_lambda(lambda_: float, lambda_of_level: LambdaOfLevel, levels: int) -> float:
    """The level (in hundredths) whose lambda is nearest on a logarithmic scale."""
    grid = torch.arange(0, (levels - 1) * 100 + 1) / 100
    return float(grid[(lambda_of_level(grid).log() - math.log(lambda_)).abs().argmin()])
