"""`lmvic train publish`: a weights file for the codec, in half precision, with its integer tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from safetensors import safe_open

from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.training.files import check_weights_output
from lmvic_ns.training.runner import load_initial_weights


@dataclass(frozen=True)
class PublishConfig:
    """Make a weights file for the codec from the weights of a training run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """best.safetensors or last.safetensors of a run."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """Weights file to write, NAME.safetensors."""
    depth: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Take the depth codec from this file, written by `lmvic train depth`."""
    preset: Annotated[str, tyro.conf.arg(metavar="PRESET")] = "tiny"
    """Size of the model: tiny or base."""
    data: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """Training data, for the model card in the file."""
    overwrite: bool = False
    """Replace an existing weights file."""


def publish(config: PublishConfig) -> None:
    """Make a weights file for the codec from the weights of a training run."""
    parts = (config.run, *(() if config.depth is None else (config.depth,)))
    check_weights_output(config.output, inputs=parts, overwrite=config.overwrite)
    model = build_model(config.preset)
    load_initial_weights(model, config.run)
    facts = {"name": config.output.stem, "preset": config.preset, "data": config.data, "run": json.dumps(_facts(config.run))}
    if config.depth is not None:
        other: MultiViewModel = build_model(config.preset)
        load_initial_weights(other, config.depth)
        model.depth.load_state_dict(other.depth.state_dict())
        facts["depth_run"] = json.dumps(_facts(config.depth))
    save_weights(model, config.output, facts)
    print(f"{config.output}: {config.output.stat().st_size / 2**20:.1f} MiB")


def _facts(path: Path) -> dict[str, str]:
    """Metadata of the run, without paths of its machine."""
    with safe_open(str(path), framework="pt") as stream:
        metadata = stream.metadata() or {}
    return {key: metadata[key] for key in ("stage", "step", "crops", "seconds", "seed", "batch", "metric") if key in metadata}
