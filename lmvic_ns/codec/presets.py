"""Presets are data: JSON files in `method_configs/`, read into typed configs."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any, TypeVar

from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.errors import WeightsError

T = TypeVar("T")


def preset_names() -> list[str]:
    """Presets of the practical codec that this installation has."""
    folder = resources.files("lmvic_ns.method_configs") / "presets"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_preset(name: str) -> ModelConfig:
    """The sizes of a preset.

    Raises:
        WeightsError: there is no preset of that name.
    """
    if name not in preset_names():
        raise WeightsError(f"there is no preset {name!r}; this installation has {', '.join(preset_names())}")
    text = (resources.files("lmvic_ns.method_configs") / "presets" / f"{name}.json").read_text(encoding="utf-8")
    return config_from_dict(ModelConfig, json.loads(text))


LARGEST = 4096
"""Channels or blocks of a model, at most."""


def config_from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass config from plain data; unknown keys are an error, missing ones keep their defaults.

    Raises:
        WeightsError: a key that the config does not have, or a value that it cannot have.
    """
    if not isinstance(values, dict):
        raise WeightsError(f"{kind.__name__} is damaged: expected settings by name")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise WeightsError(f"unknown setting {unknown[0]!r} in {kind.__name__}; known: {', '.join(known)}")
    default = kind()
    arguments = {}
    for key, value in values.items():
        nested = getattr(default, key)
        if is_dataclass(nested):
            value = config_from_dict(type(nested), value)
        elif type(value) is not type(nested) or (type(value) is int and not 0 <= value <= LARGEST):
            raise WeightsError(f"{kind.__name__}: {key} cannot be {str(value)[:40]!r}")
        arguments[key] = value
    return kind(**arguments)


def build_model(preset: str, seed: int = 0) -> MultiViewModel:
    """A model with the DCT start, random elsewhere by `seed`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiViewModel(load_preset(preset))
    model.update()
    return model
