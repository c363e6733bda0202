"""Makes a start of the first published weights (`lmvic-weights-1`) for the networks that code differences of latents.

usage: python convert_first_weights.py OLD.safetensors START.safetensors

What is kept is the one-view path. Levels lie on another range of lambda, the hyper-latent's scales are in natural units, and
what read the context network of before starts at zero. `lmvic train scenes --init START.safetensors` goes on from there.
"""

import math
import sys

import torch
from safetensors.torch import load_file, save_file

from lmvic_ns.codec.networks.rates import SCALE_MIN, SCALE_STEP
from lmvic_ns.codec.quality import LEVELS, lambda_of_level

OLD_LAMBDA = 30.0, 8000.0


def at_new_levels(anchors: torch.Tensor, extrapolate: bool) -> torch.Tensor:
    """Anchors of a level vector for the new range of lambda."""
    last = len(anchors) - 1
    low, high = (math.log(x) for x in OLD_LAMBDA)
    lambdas = lambda_of_level(torch.linspace(0, LEVELS - 1, len(anchors)))
    position = (lambdas.log() - low) / (high - low) * last
    if not extrapolate:
        position = position.clamp(0, last)
    first = position.floor().clamp(0, last - 1).long()
    share = (position - first)[:, None]
    return anchors[first] * (1 - share) + anchors[first + 1] * share


def main() -> None:
    """Reads the old weights, writes the start."""
    state = {}
    for name, value in load_file(sys.argv[1]).items():
        value = value.float() if value.is_floating_point() else value
        if name.endswith("table") or "table_" in name or "fuse" in name or ".context_" in name:
            continue
        if name == "image.entropy.prior_weight":
            continue
        if name.endswith("hyper_index.anchors"):
            name, value = name.replace("hyper_index", "hyper_log_scale"), math.log(SCALE_MIN) + SCALE_STEP * value
        if name.endswith("anchors"):
            value = at_new_levels(value, name.endswith("log_gain.anchors") and "hyper" not in name)
        if name == "image.entropy.hyper_in.weight":
            value[:, (value.shape[1] - 1) // 2 :] = 0
        if name == "image.entropy.mean_prior.weight":
            value[:, value.shape[1] - state_channels(state) :] = 0
        state[name] = value.contiguous()
    save_file(state, sys.argv[2])


def state_channels(state: dict[str, torch.Tensor]) -> int:
    """Channels of the cross-view prior: those of the latent, and the coverage."""
    return state["image.entropy.log_gain.anchors"].shape[1] + 1


if __name__ == "__main__":
    main()
