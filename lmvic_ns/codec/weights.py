"""Weights files: safetensors with the preset and a model card in their metadata, identified by their SHA-256."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from lmvic_ns._util.output import whole_file
from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.fixed_point import FixedPointConv2d
from lmvic_ns.codec.networks.layers import LevelVector
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.presets import config_from_dict
from lmvic_ns.errors import WeightsError

FORMAT = "lmvic-weights-2"
OTHER_FORMATS = {"lmvic-paper-weights-1": "lmvic_ns.paper.weights:deserialize"}
"""Formats that other packages read: the function that takes (data, origin) and returns `Weights`."""
_HASH_BYTES = 16


@dataclass(frozen=True)
class Weights:
    """A model with the identity that its files carry.

    Attributes:
        model: ready to code, in evaluation mode.
        name: name of the weights, such as `tiny`.
        hash: first 16 bytes of the SHA-256 of the weights file.
        metadata: what the file says about itself (strings).
    """

    model: MultiViewModel
    name: str
    hash: bytes
    metadata: Mapping[str, str]

    @property
    def metric(self) -> str:
        """What they were trained to preserve: `mse` (also if they do not say) or `ms-ssim`."""
        try:
            return str(json.loads(self.metadata.get("run", "{}")).get("metric", "mse"))
        except (ValueError, AttributeError):
            return "mse"


def serialize(model: MultiViewModel, metadata: Mapping[str, str] | None = None, *, half: bool = True) -> bytes:
    """The bytes of a weights file; the same model gives the same bytes.

    Args:
        model: trained model; it is not changed.
        metadata: more about the weights, such as `name`, `data`, `steps`.
        half: hold the weights of float layers in float16. Level vectors and the exact layers, from which integers are
            made, keep float32. The integer tables are derived after the rounding, so that they fit what is stored.
    """
    model = copy.deepcopy(model).float().cpu()
    rounded: set[str] = set()
    for name, module in model.named_modules():
        if half and not isinstance(module, FixedPointConv2d | LevelVector):
            for key, parameter in module.named_parameters(recurse=False):
                parameter.data = parameter.data.half().float()
                rounded.add(f"{name}.{key}" if name else key)
    model.update()
    tensors = {
        key: (value.half() if key in rounded else value).contiguous() for key, value in sorted(model.state_dict().items())
    }
    fields = {"format": FORMAT, "config": json.dumps(asdict(model.config), sort_keys=True)}
    fields.update({key: str(value) for key, value in (metadata or {}).items()})
    # one metadata entry: safetensors does not promise an order between several
    return save_safetensors(tensors, {"lmvic": json.dumps(fields, sort_keys=True)})


def save_weights(model: MultiViewModel, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = True) -> None:
    """Writes a weights file in one step; see `serialize`.

    Raises:
        LmvicError: it cannot be written.
    """
    data = serialize(model, metadata, half=half)
    with whole_file(Path(path)) as partial:
        partial.write_bytes(data)


def deserialize(data: bytes, origin: str) -> Weights:
    """A model from the bytes of a weights file.

    Args:
        data: the file's bytes.
        origin: what to call it in errors; also the name if the metadata gives none.

    Raises:
        WeightsError: it is not a weights file of this version.
    """
    try:
        tensors = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        fields = json.loads(header.get("__metadata__", {}).get("lmvic", "{}"))
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise WeightsError(f"{origin}: not a safetensors weights file ({error})") from None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise WeightsError(f"{origin}: damaged: what it says about itself is no text")
    if (reader := OTHER_FORMATS.get(fields.get("format", ""))) is not None:
        module, _, function = reader.partition(":")
        return getattr(importlib.import_module(module), function)(data, origin)
    if fields.get("format") != FORMAT:
        raise WeightsError(f"{origin}: expected weights of format {FORMAT}, found {fields.get('format', 'none')}")
    model = _empty_model(fields.get("config", ""), {key: value.shape for key, value in tensors.items()}, origin)
    try:
        model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in tensors.items()})
    except RuntimeError as error:
        raise WeightsError(f"{origin}: the weights do not fit their preset: {str(error).splitlines()[-1].strip()}") from None
    model.eval().requires_grad_(False)
    return Weights(model, fields.get("name", Path(origin).stem), hashlib.sha256(data).digest()[:_HASH_BYTES], fields)


def _empty_model(config: str, shapes: Mapping[str, torch.Size], origin: str) -> MultiViewModel:
    """A model of a file's config, with memory for it only if the file's tensors are of such a model.

    Raises:
        WeightsError: the config is damaged, or the tensors do not fit.
    """
    try:
        settings = config_from_dict(ModelConfig, json.loads(config))
        with torch.device("meta"):
            wanted = {key: value.shape for key, value in MultiViewModel(settings).state_dict().items()}
    except WeightsError as error:
        raise WeightsError(f"{origin}: {error}") from None
    except Exception as error:  # numbers that no layer can have end anywhere in torch
        raise WeightsError(f"{origin}: damaged: its config makes no model ({str(error)[:100]})") from None
    odd = next((key for key, shape in wanted.items() if key in shapes and shapes[key] != shape and shape.numel()), None)
    if odd is not None:
        raise WeightsError(f"{origin}: the weights do not fit their preset: {odd} has another shape")
    return MultiViewModel(settings)


def weights_names() -> list[str]:
    """Weights that this installation brings."""
    folder = resources.files("lmvic_ns.codec") / "weights"
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".safetensors") for entry in folder.iterdir() if entry.name.endswith(".safetensors"))


def find_weights(wanted: bytes) -> Path | None:
    """The file of the weights with this hash: one that the package brings, or of a folder that LMVIC_WEIGHTS names.

    Args:
        wanted: first bytes of the SHA-256 of the file, as a `.lmvic` file holds them.
    """
    folders = [resources.files("lmvic_ns.codec") / "weights"]
    folders += [Path(folder) for folder in os.environ.get("LMVIC_WEIGHTS", "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            try:
                if entry.name.endswith(".safetensors") and hashlib.sha256(entry.read_bytes()).digest().startswith(wanted):
                    return Path(str(entry))
            except OSError:  # not ours to complain about
                continue
    return None


def load_weights(name_or_path: str | Path) -> Weights:
    """Weights that the package brings, by name, or of a file, by path.

    Raises:
        WeightsError: there are none, or the file is damaged.
    """
    path = Path(name_or_path)
    if str(name_or_path) in weights_names():
        data = (resources.files("lmvic_ns.codec") / "weights" / f"{name_or_path}.safetensors").read_bytes()
        return deserialize(data, str(name_or_path))
    if not path.is_file():
        known = ", ".join(weights_names()) or "none"
        raise WeightsError(f"no weights {str(name_or_path)!r}: give one of those installed ({known}) or a .safetensors file")
    try:
        return deserialize(path.read_bytes(), str(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def untrained_weights(model: MultiViewModel, name: str) -> Weights:
    """An identity for a model that comes from no file (tests, comparisons)."""
    return deserialize(serialize(model, {"name": name}, half=False), name)
