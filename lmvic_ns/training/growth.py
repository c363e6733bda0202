"""`lmvic train grow`: initialize a larger model from a trained smaller one.

Every channel of the smaller model becomes a channel of the larger one, with the same weights. New channels read the old ones.
The weights from new channels to old ones are zero, so that both models compute the same (Net2Net; Chen, Goodfellow and Shlens
2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.image import ImageConfig
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.presets import build_model
from lmvic_ns.training import TrainingError
from lmvic_ns.training.files import check_weights_output, write_state
from lmvic_ns.training.runner import load_initial_weights

Segments = list[tuple[int, int]]
"""Runs of channels that lie one after the other: how many the smaller model has, and how many the larger."""


@dataclass(frozen=True)
class GrowConfig:
    """Initialize a larger preset from the trained weights of a smaller one."""

    weights: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """best.safetensors or last.safetensors of a run of the smaller preset."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """File to write, for `--init`, such as base-start.safetensors."""
    small: Annotated[str, tyro.conf.arg(metavar="PRESET")] = "tiny"
    """Preset of the weights."""
    preset: Annotated[str, tyro.conf.arg(metavar="PRESET")] = "base"
    """Preset to initialize."""
    seed: int = 0
    """Seed of the new weights."""
    overwrite: bool = False
    """Replace an existing weights file."""


def train_grow(config: GrowConfig) -> None:
    """Initialize a larger preset from the trained weights of a smaller one."""
    check_weights_output(config.output, inputs=(config.weights,), overwrite=config.overwrite)
    small, large = build_model(config.small), build_model(config.preset, config.seed)
    load_initial_weights(small, config.weights)
    grow(small, large, seed=config.seed)
    write_state(config.output, large.state_dict(), {"format": "lmvic-training", "preset": config.preset, "stage": "grow"})
    count = sum(p.numel() for p in large.parameters())
    print(f"{config.output}: {config.preset}, {count / 1e6:.1f} M parameters, codes as {config.weights} does")


@torch.no_grad()
def grow(small: MultiViewModel, large: MultiViewModel, *, seed: int = 0) -> None:
    """Copy the weights of `small` into `large`, so that both compute the same.

    Args:
        small: trained.
        large: untrained, at least as large everywhere; latent, hyper-latent and depth codec of the same size, since every
            one of their channels costs bits.
        seed: of the weights between old channels and new.

    Raises:
        TrainingError: the presets do not fit.
    """
    check_growth(small.config, large.config)
    generator = torch.Generator().manual_seed(seed)
    old, new = small.state_dict(), large.state_dict()
    for name, value in new.items():
        if name in old:
            parameter = name.endswith(("weight", "bias", "anchors"))
            value.copy_(_grown(name, old[name], value, small.config.image, large.config.image, parameter, generator))
    large.load_state_dict(new)
    large.update()


def check_growth(small: ModelConfig, large: ModelConfig) -> None:
    """Whether a preset can grow into another.

    Raises:
        TrainingError: names what does not fit.
    """
    a, b = small.image, large.image
    for what in ("latent", "hyper_latent", "symbol_context"):
        if getattr(a, what) != getattr(b, what):
            raise TrainingError(f"cannot grow: {what} is {getattr(a, what)} in one preset and {getattr(b, what)} in the other")
    if small.depth != large.depth:
        raise TrainingError("cannot grow: the presets have different depth codecs")
    blocks = ("encoder_blocks", "decoder_blocks", "latent_blocks")
    for what in ("features", *blocks, "scale_features", "mean_features"):
        if getattr(a, what) > getattr(b, what):
            raise TrainingError(f"cannot grow: {what} is {getattr(a, what)}, more than {getattr(b, what)}")


def _grown(
    name: str, old: Tensor, new: Tensor, small: ImageConfig, large: ImageConfig, parameter: bool, generator: torch.Generator
) -> Tensor:
    """A weight of the larger model: the old one where both ends are old, its own start on new outputs, 0 from new to old."""
    if old.shape == new.shape:
        return old
    axis = 1 if name.endswith(("anchors", "table")) else 0  # channels come after the level there
    outputs = _places(_output_segments(name, old.shape[axis], new.shape[axis]))
    out = new.clone()
    if name.endswith("anchors") or not parameter or old.ndim == 1:
        out.index_copy_(axis, outputs, old)
        return out
    inputs = _places(_input_segments(name, old.shape[1], new.shape[1], small, large))
    fresh = torch.ones(out.shape[0], dtype=torch.bool)
    fresh[outputs] = False
    if fresh.any() and not out[fresh].any() and not name.endswith(("project.weight", "mix.weight")):
        # new channels must carry something, or nothing would ever learn to read them
        out[fresh] = torch.randn(out[fresh].shape, generator=generator) * old.square().mean().sqrt()
    rows = torch.zeros(old.shape[0], *out.shape[1:], dtype=out.dtype)
    rows.index_copy_(1, inputs, old)
    out.index_copy_(0, outputs, rows)
    return out


def _places(segments: Segments) -> Tensor:
    """Where the smaller model's channels lie in the larger."""
    places, start = [], 0
    for count, width in segments:
        places.append(torch.arange(start, start + count))
        start += width
    return torch.cat(places)


def _output_segments(name: str, small: int, large: int) -> Segments:
    if ".gate." in name:  # its halves are multiplied
        return [(small // 2, large // 2)] * 2
    return [(small, large)]


def _input_segments(name: str, small: int, large: int, a: ImageConfig, b: ImageConfig) -> Segments:
    latent, scale, mean = (a.latent, b.latent), (a.scale_features, b.scale_features), (a.mean_features, b.mean_features)
    if name.endswith("image.trust.weight"):
        return [(a.features, b.features)] * 2
    for part, segments in {
        "entropy.hyper_in.": [latent, latent, (1, 1)],
        "entropy.features.": [scale, (1, 1)],
        "entropy.mean_prior.": [scale, latent, (1, 1)],
        "entropy.step_in.": [scale, latent],
        "entropy.mean_in.": [mean, latent],
    }.items():
        if part in name and not name.endswith("_in.0.weight"):  # the first step has no symbols before it
            return segments
    return [(small, large)]
