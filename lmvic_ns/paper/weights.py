"""Weights files of the `paper` preset, and its place in `MultiViewCodec`: one fixed rate, depth at full resolution."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.weights import Weights
from lmvic_ns.errors import WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.model import PaperCodec
from lmvic_ns.paper.tables import tables_of
from lmvic_ns.paper.views import ReferenceState

FORMAT = "lmvic-paper-weights-1"
DEPTH_SCALE = 4.0  # in units of a scene's near bound: its median depth is then about 1, as in the paper
_HASH_BYTES = 16


class PaperViewCodec(nn.Module):
    """`PaperCodec` in the shape that `MultiViewCodec` drives (its `ViewCodec`).

    Inverse depth and cameras come normalised (`multiview.file_cameras`), so depth is at least 1 there.
    """

    def __init__(self, codec: PaperCodec) -> None:
        super().__init__()
        self.codec = codec

    def compress(
        self,
        image: Tensor,
        inverse_depth: Tensor | None,
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        depth_level: int | None = None,
        effort: Effort | None = None,
    ) -> tuple[bytes, bytes, ReferenceState]:
        """Depth part, image part, and the decoder's state.

        Levels are ignored, since these weights have one rate; so is `effort`: the paper codes views as they are.
        """
        image = image.to(self.codec.device).float()
        depth = None if inverse_depth is None else inverse_depth.to(image)
        return self.codec.compress_view(image, depth, cameras, reference, depth_scale=DEPTH_SCALE)

    @staticmethod
    def is_stored(image: bytes) -> bool:
        """No: this preset has no such mode."""
        return False

    def decompress(
        self,
        depth: bytes,
        image: bytes,
        size: tuple[int, int],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        name: str = "view",
    ) -> ReferenceState:
        """The state that `compress` returned.

        Raises:
            BitstreamError: a part is damaged; the message names the view and the part.
        """
        return self.codec.decompress_view(depth, image, *size, cameras, reference, depth_scale=DEPTH_SCALE, name=name)[2]


def serialize(codec: PaperCodec, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors weights file; the same model gives the same bytes.

    Raises:
        WeightsError: `update()` was not run, so there are no probability tables to store.
    """
    for part in (codec.image, codec.depth):
        tables_of(part.entropy.gaussian, part.entropy.bottleneck)
    tensors = {key: value.detach().cpu().contiguous() for key, value in sorted(codec.state_dict().items())}
    fields = {"format": FORMAT, "preset": "paper", "config": json.dumps(asdict(codec.config), sort_keys=True)}
    fields.update({key: str(value) for key, value in (metadata or {}).items()})
    return save_safetensors(tensors, {"lmvic": json.dumps(fields, sort_keys=True)})


def deserialize(data: bytes, origin: str) -> Weights:
    """A codec for `MultiViewCodec` from the bytes of a weights file.

    Args:
        data: what `serialize` gave.
        origin: what to call it in errors; also the name if the metadata gives none.

    Raises:
        WeightsError: it is not a weights file of the paper preset.
    """
    try:
        tensors = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        fields: dict[str, Any] = json.loads(header.get("__metadata__", {}).get("lmvic", "{}"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{origin}: not a safetensors weights file ({error})") from None
    if fields.get("format") != FORMAT:
        raise WeightsError(f"{origin}: expected weights of format {FORMAT}, found {fields.get('format', 'none')}")
    try:
        codec = PaperCodec(PaperConfig(**json.loads(fields["config"])))
        codec.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{origin}: the weights do not fit their preset: {reason}") from None
    for part in (codec.image, codec.depth):
        tables_of(part.entropy.gaussian, part.entropy.bottleneck)
    codec.eval().requires_grad_(False)
    name = fields.get("name", origin)
    model: Any = PaperViewCodec(codec)  # a `ViewCodec`, as `MultiViewCodec` wants it
    return Weights(model, name, hashlib.sha256(data).digest()[:_HASH_BYTES], fields)
