"""Our own codec as one of those compared: files are written here and decoded in a fresh process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.image_set import ImageSet, read_picture
from lmvic_ns.evaluation.peers import Encoded, MissingCodecError, NotApplicableError, Picture

if TYPE_CHECKING:
    from lmvic_ns.codec import MultiViewCodec
    from lmvic_ns.codec.effort import EffortName
    from lmvic_ns.codec.records import EncodeOptions
    from lmvic_ns.scene import MultiViewScene
    from lmvic_ns.tree.ordering import ReferenceTree


class OwnCodec:
    """`lmvic` (views refer to each other through geometry) and `lmvic-intra` (the same weights, every view alone).

    Args:
        weights: A name or a .safetensors file.
        device: Where the networks run, for encoding and decoding.
        references: Whether views may refer to each other; then the scene needs depth.
        name: Another name, for variants.
        tree: The reference tree of a scene; by default the codec's own.
        effort: Of encoding.
        equal_quality: Code all views alike.
        loop_filter: Whether pictures may have one.
    """

    settings: Sequence[float] = (12, 19, 26, 33, 40, 47)
    setting_name = "quality"
    owns_order = True

    def __init__(
        self,
        weights: str = "tiny",
        device: str = "cpu",
        *,
        references: bool,
        name: str | None = None,
        tree: ReferenceTree | None = None,
        effort: EffortName = "medium",
        equal_quality: bool = False,
        loop_filter: bool = True,
    ) -> None:
        self.name = name or ("lmvic" if references else "lmvic-intra")
        self.effort: EffortName = effort
        self._equal_quality, self._loop_filter = equal_quality, loop_filter
        self.weights, self.device, self._references, self._tree = weights, device, references, tree
        self.uses_views_together = references

    @cached_property
    def _codec(self) -> MultiViewCodec:
        from lmvic_ns.codec import load_codec
        from lmvic_ns.errors import WeightsError

        try:
            return load_codec(self.weights, self.device)
        except WeightsError as error:
            raise MissingCodecError(str(error)) from error

    def version(self) -> str:
        """Package version, weights with their hash, device."""
        from lmvic_ns import __version__
        from lmvic_ns.bitstream.layout import MAJOR, MINOR

        weights = self._codec.weights
        return f"lmvic-ns {__version__} files {MAJOR}.{MINOR} weights {weights.name} {weights.hash.hex()[:16]} on {self.device}"

    def _options(self, quality: int) -> EncodeOptions:
        from lmvic_ns.codec.effort import Effort
        from lmvic_ns.codec.records import EncodeOptions

        effort = Effort.named(self.effort)
        effort = replace(effort, loop_filter=effort.loop_filter and self._loop_filter)
        return EncodeOptions(quality=quality, equal_quality=self._equal_quality, with_depth=False, effort=effort)

    def inputs_hash(self, images: ImageSet) -> str:
        """What results depend on besides pictures: cameras, depth, the tree, how the encoder works."""
        digest = hashlib.sha256(repr((self._tree, self._options(0))).encode())
        if images.kind == "scene":
            scene = images.scene
            digest.update(scene.cameras.intrinsics.numpy().tobytes() + scene.cameras.world_to_camera.numpy().tobytes())
            if self._references and scene.has_depth:
                for view in range(len(scene)):
                    digest.update(scene.inverse_depth(view).numpy().tobytes())
        return digest.hexdigest()

    def encode(self, images: ImageSet, order: Sequence[int], setting: float, folder: Path) -> Encoded:
        """One .lmvic file; of photographs, each is a file of its own."""
        from lmvic_ns.tree.ordering import independent_views

        codec, options = self._codec, self._options(int(setting))
        if images.kind == "photos":
            if self._references:
                raise NotApplicableError(f"{self.name} needs a scene, {images.name} is a folder of photographs")
            files = []
            for index, picture in enumerate(images.pictures):
                files.append(folder / f"{index:04d}.lmvic")
                codec.encode(photograph_scene(picture), files[-1], tree=independent_views(1), options=options)
            return Encoded(tuple(files), tuple(path.stat().st_size for path in files))
        if not images.pinhole:
            raise NotApplicableError(f"{self.name} codes pinhole views: use --pictures pinhole")
        scene = images.scene
        if self._references and not scene.has_depth:
            raise NotApplicableError(f"{self.name} needs depth: {images.name} has none (depth_file_path in transforms.json)")
        path = folder / "scene.lmvic"
        tree = self._tree if self._references else independent_views(len(scene))
        codec.encode(scene, path, tree=tree, options=options)
        return Encoded((path,), view_bytes(path))

    def decode(self, encoded: Encoded, order: Sequence[int]) -> list[Picture]:
        """In a fresh process that knows the files and the weights only."""
        return decode_files(encoded.files, self.weights, self.device)


def view_bytes(path: Path) -> tuple[int, ...]:
    """Bytes of each view's unit in an .lmvic file; everything else in the file counts to the view coded first."""
    from lmvic_ns.bitstream.reader import Reader

    with Reader(path) as reader:
        sizes = [0 if size is None else size.total for size in reader.sizes()]
        sizes[reader.header.order[0]] += path.stat().st_size - sum(sizes)
    return tuple(sizes)


def decode_files(files: Sequence[Path], weights: str, device: str) -> list[Picture]:
    """All views of the files, in view order, decoded by another process.

    Raises:
        LmvicError: The other process failed; with its last line.
    """
    out = files[0].parent / "decoded"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "lmvic_ns.evaluation.decode_worker", weights, device, str(out), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LmvicError(f"decoding {files[0].name} in another process failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return [read_picture(path) for path in sorted(out.glob("*.png"))]


def photograph_scene(picture: Picture) -> MultiViewScene:
    """A photograph as a scene of one view, with a camera that nothing depends on."""
    import torch

    from lmvic_ns.geometry.cameras import Cameras
    from lmvic_ns.scene import MultiViewScene

    height, width = picture.shape[:2]
    size = float(max(height, width))
    intrinsics = torch.tensor([[[size, 0.0, width / 2], [0.0, size, height / 2], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    cameras = Cameras(intrinsics, torch.eye(4, dtype=torch.float64)[None], torch.tensor([height]), torch.tensor([width]))
    return MultiViewScene(["photograph"], cameras, [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0])


def ablated_weights(weights: str, folder: Path, **switches: bool) -> Path:
    """A weights file with parts of the method switched off (see `Ablation`); what is learned stays.

    Raises:
        WeightsError: There are no such weights.
    """
    from lmvic_ns.codec.networks.model import MultiViewModel
    from lmvic_ns.codec.weights import load_weights, save_weights

    loaded = load_weights(weights)
    config = loaded.model.config
    model = MultiViewModel(replace(config, ablation=replace(config.ablation, **switches)))
    model.load_state_dict(loaded.model.state_dict())
    model.eval()
    off = "-".join(name for name, on in switches.items() if not on) or "full"
    path = folder / f"{loaded.name}-without-{off}.safetensors"
    metadata: dict[str, Any] = {**loaded.metadata, "name": f"{loaded.name}-without-{off}"}
    for computed in ("format", "config"):
        metadata.pop(computed, None)
    save_weights(model, path, metadata, half=False)
    return path
