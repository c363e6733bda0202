"""The learned multi-view codec: networks, entropy models, presets and weights."""

from __future__ import annotations

from lmvic_ns.codec.presets import build_model, load_preset, preset_names

__all__ = ["build_model", "load_preset", "preset_names"]
