"""A run's weights become a weights file that codes: named, in half precision, with its integer tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from safetensors import safe_open

from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.weights import save_weights
from lmvic_ns.training.files import check_weights_output
from lmvic_ns.training.runner import load_initial_weights


@dataclass(frozen=True)
class PublishConfig:
    """Make a weights file for `--weights` of what a run left."""

    run: tyro.conf.Positional[Path]
    """best.safetensors or last.safetensors of a run."""
    output: tyro.conf.Positional[Path]
    """The weights file, NAME.safetensors."""
    depth: Path | None = None
    """Take the depth codec from this file (of `lmvic train depth`)."""
    preset: str = "tiny"
    data: str = ""
    """What the weights were trained on, for the model card in the file."""
    overwrite: bool = False
    """Replace a weights file that is there."""


def publish(config: tyro.conf.OmitArgPrefixes[PublishConfig]) -> None:
    """Make a weights file of a run's weights."""
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
    """What the run says about itself, without paths of the machine it ran on."""
    with safe_open(str(path), framework="pt") as stream:
        metadata = stream.metadata() or {}
    return {key: metadata[key] for key in ("stage", "step", "crops", "seconds", "seed", "batch", "metric") if key in metadata}
