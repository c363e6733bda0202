"""The learned multi-view codec: networks, entropy models, presets, weights, and scenes into files and back."""

from __future__ import annotations

from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.planning import default_tree
from lmvic_ns.codec.presets import build_model, load_preset, preset_names
from lmvic_ns.codec.records import DecodedView, EncodedView, EncodeOptions
from lmvic_ns.codec.weights import load_weights, save_weights, weights_names

__all__ = [
    "DecodedView",
    "EncodeOptions",
    "EncodedView",
    "MultiViewCodec",
    "build_model",
    "default_tree",
    "load_codec",
    "load_preset",
    "load_weights",
    "preset_names",
    "save_weights",
    "weights_names",
]
