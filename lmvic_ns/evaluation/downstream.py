"""What coding costs a splat: trained on pictures that came back from each codec, it is compared with photographs held out.

The held-out views are neither coded nor trained on, and are compared as captured. All trainings of a scene share cameras,
seed points, steps and (but for repeats on the originals) the seed.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns._util.metrics import psnr
from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.evaluation.cache import ResultCache
from lmvic_ns.evaluation.image_set import ImageSet, check_pictures, load_image_set, our_order
from lmvic_ns.evaluation.peers import Codec, Encoded, Picture
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.writer import write_dataset

# changes whenever what is measured changes, so that older results are not taken for new ones
MEASUREMENT_VERSION = 1
ORIGINALS = "originals"
SPANS: dict[str, tuple[int, int]] = {
    "lmvic": (0, 63),
    "jpeg": (1, 95),
    "webp": (0, 100),
    "avif": (0, 100),
    "x265": (51, 0),
    "svtav1": (63, 1),
}
"""Knobs of the codecs, from the smallest file to the largest, by how their names begin."""


@dataclass(frozen=True)
class PreparedScene:
    """A scene for these trainings.

    Attributes:
        name: Of its folder.
        scene: All views, pinhole, at the size that is trained on, without depth.
        held_out: Views that are kept for the comparison.
        training: The other views as a dataset of their own, with depth where there is any.
    """

    name: str
    scene: MultiViewScene
    held_out: tuple[int, ...]
    training: ImageSet

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Views that are coded and trained on, in the order of `training`."""
        return tuple(view for view in range(len(self.scene)) if view not in self.held_out)

    @cached_property
    def content_hash(self) -> str:
        """Stands for all pictures, cameras and seed points."""
        cameras, points = self.scene.cameras, self.scene.points()
        digest = hashlib.sha256(cameras.intrinsics.numpy().tobytes() + cameras.world_to_camera.numpy().tobytes())
        for view in range(len(self.scene)):
            digest.update(to_8_bit(self.scene.image(view)).tobytes())
        if points is not None:
            digest.update(np.ascontiguousarray(points.positions).tobytes())
        return digest.hexdigest()


def prepare_scene(path: Path, folder: Path, *, downscale: int = 1, every: int = 8) -> PreparedScene:
    """Read a scene and write its training views, with depth from its files or by stereo, as a dataset.

    Args:
        path: A nerfstudio dataset.
        folder: New; takes the dataset of the training views.
        downscale: How many times smaller its pictures become.
        every: One view of so many is held out, from the first by file name (nerfstudio's interval mode).

    Raises:
        SceneError: The dataset is not usable, or too few views are left.
    """
    from lmvic_ns.depth_sources.stereo import with_stereo_depth
    from lmvic_ns.workflows.encoding import downscaled

    scene = downscaled(MultiViewScene.from_dataset(path), downscale)
    held_out = tuple(range(0, len(scene), every))
    trained = [view for view in range(len(scene)) if view % every]
    if len(trained) < 2:
        raise SceneError(f"{path}: of {len(scene)} views {len(trained)} are left to train on; two are the least")
    training = scene.select(trained)
    # stereo must not see the held-out views
    if not training.has_depth and training.points() is not None:
        training = with_stereo_depth(training)
    training.write_dataset(folder)
    return PreparedScene(path.resolve().name, scene.with_inverse_depth(None), held_out, load_image_set(folder, pinhole=True))


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        images: Name of the scene.
        codec: Of the training views; "originals" for pictures as captured.
        setting: Its knob.
        bytes: Of all training views: whole files, of ours with cameras and depth; of originals as PNG files.
        pixels: Of all training views.
        coded_psnr: Of the training views as they came back, the mean over views, dB.
        seed: Of the training.
        psnr: Of held-out views against the photographs, the mean over views, dB.
        ssim: The same.
        lpips: The same; None where its weights are not at hand.
        gaussians: At the end.
        seconds: Processor seconds of the training, of all threads.
    """

    images: str
    codec: str
    setting: float
    bytes: int
    pixels: int
    coded_psnr: float
    seed: int
    psnr: float
    ssim: float
    lpips: float | None
    gaussians: int
    seconds: float


def nearest_setting(size_of: Callable[[int], int], span: tuple[int, int], target: int) -> int:
    """The setting whose size is nearest to `target` by ratio, if sizes grow along the span; asks for few of them.

    Args:
        size_of: Bytes at a setting.
        span: The settings of the smallest and of the largest file.
        target: Bytes.
    """
    first, step = span[0], 1 if span[1] > span[0] else -1
    low, high = 0, abs(span[1] - span[0])
    while low < high:
        middle = (low + high) // 2
        if size_of(first + step * middle) < target:
            low = middle + 1
        else:
            high = middle
    candidates = [first + step * position for position in (max(low - 1, 0), low)]
    return min(candidates, key=lambda setting: abs(math.log(size_of(setting) / target)))


class Coder:
    """The training views of a scene in each codec; sizes are kept on disk, files for as long as `folder` lasts."""

    def __init__(self, prepared: PreparedScene, cache: ResultCache, folder: Path) -> None:
        self._prepared, self._cache, self._folder = prepared, cache, folder
        self._encoded: dict[tuple[str, float], Encoded] = {}

    def identity(self, codec: Codec, setting: float) -> dict[str, Any]:
        """What the pictures that come back depend on."""
        images, inputs = self._prepared.training, getattr(codec, "inputs_hash", None)
        return {
            "measurement": MEASUREMENT_VERSION,
            "pictures": images.content_hash,
            "inputs": inputs(images) if inputs else "",
            "codec": codec.name,
            "version": codec.version(),
            "setting": setting,
            "order": self._order(codec),
        }

    def size(self, codec: Codec, setting: float) -> int:
        """Bytes of all files."""

        def compute() -> dict[str, Any]:
            return {"bytes": sum(self._encode(codec, setting).view_bytes)}

        return self._cache.get({"what": "size", **self.identity(codec, setting)}, compute)[0]["bytes"]

    def pictures(self, codec: Codec, setting: float) -> list[Picture]:
        """The training views as they come back from the files."""
        decoded = codec.decode(self._encode(codec, setting), self._order(codec))
        check_pictures(decoded, self._prepared.training, codec.name)
        return decoded

    def _order(self, codec: Codec) -> list[int]:
        images = self._prepared.training
        return our_order(images) if codec.uses_views_together else list(range(len(images)))

    def _encode(self, codec: Codec, setting: float) -> Encoded:
        key = codec.name, setting
        if key not in self._encoded:
            place = self._folder / f"{len(self._encoded):04d}"
            place.mkdir(parents=True)
            self._encoded[key] = codec.encode(self._prepared.training, self._order(codec), setting, place)
        return self._encoded[key]


def span_of(codec: Codec) -> tuple[int, int]:
    """The codec's settings from the smallest file to the largest.

    Raises:
        LmvicError: They are not whole numbers, or not known.
    """
    span = next((span for name, span in SPANS.items() if codec.name.startswith(name)), None)
    if span is None:
        raise LmvicError(f"{codec.name} has no settings to search here; there are codecs that begin with {', '.join(SPANS)}")
    return span


def choose_settings(
    coder: Coder, anchor: Codec, qualities: Sequence[int], peers: Sequence[Codec]
) -> list[tuple[Codec, float, int]]:
    """Codec, setting and bytes: the anchor at its qualities, and each peer where its size is nearest to those."""
    chosen = [(anchor, float(quality), coder.size(anchor, quality)) for quality in qualities]
    targets = [size for _, _, size in chosen]
    for peer in peers:

        def size_of(setting: int, peer: Codec = peer) -> int:
            return coder.size(peer, setting)

        settings = [nearest_setting(size_of, span_of(peer), target) for target in targets]
        chosen += [(peer, float(setting), size_of(setting)) for setting in dict.fromkeys(settings)]
    return chosen


class SplatTrainings:
    """The trainings of one scene; one that was finished before is read from the cache.

    Args:
        prepared: The scene.
        cache: Where results are kept.
        steps: Of a training.
        on_step: Called after each step of a training.
    """

    def __init__(
        self, prepared: PreparedScene, cache: ResultCache, steps: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        self._prepared, self._cache, self._steps, self._on_step = prepared, cache, steps, on_step

    def run(self, coder: Coder, codec: Codec | None, setting: float = 0.0, seed: int = 0) -> tuple[Run, bool]:
        """One training, and whether it was finished before; without a codec on the originals."""
        from importlib.metadata import version

        from lmvic_ns import __version__

        images = self._prepared.training
        identity = {
            **({"measurement": MEASUREMENT_VERSION, "codec": ORIGINALS} if codec is None else coder.identity(codec, setting)),
            "what": "training",
            "scene": self._prepared.content_hash,
            "held out": self._prepared.held_out,
            "steps": self._steps,
            "seed": seed,
            "program": f"lmvic-ns {__version__} nerfstudio {version('nerfstudio')}",
            "lpips": lpips_at_hand(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }

        def compute() -> dict[str, Any]:
            pictures = images.pictures if codec is None else coder.pictures(codec, setting)
            size = sum(file.stat().st_size for file in images.files) if codec is None else coder.size(codec, setting)
            values = [psnr(a, b) for a, b in zip(images.pictures, pictures, strict=True)]
            finite = [value for value in values if math.isfinite(value)]
            with tempfile.TemporaryDirectory(prefix="lmvic-downstream-") as folder:
                trained = train_and_compare(
                    write_training_dataset(self._prepared, pictures, Path(folder) / "scene"),
                    Path(folder) / "outputs",
                    self._steps,
                    seed,
                    self._on_step,
                )
            name = ORIGINALS if codec is None else codec.name
            coded = sum(finite) / len(finite) if len(finite) == len(values) else None
            return {"codec": name, "setting": setting, "bytes": size, "coded_psnr": coded, **trained}

        stored, cached = self._cache.get(identity, compute)
        coded = math.inf if stored["coded_psnr"] is None else stored["coded_psnr"]
        result = {**stored, "coded_psnr": coded, "images": self._prepared.name, "pixels": images.pixels, "seed": seed}
        return Run(**result), cached


def write_training_dataset(prepared: PreparedScene, pictures: Sequence[Picture], folder: Path) -> Path:
    """A dataset of training views with these pictures and of held-out views as captured, with lists that say which is which."""
    replaced = dict(zip(prepared.trained, pictures, strict=True))

    def image(view: int) -> torch.Tensor:
        if view not in replaced:
            return prepared.scene.image(view)
        return torch.from_numpy(np.array(replaced[view])).permute(2, 0, 1).float() / 255.0

    scene = prepared.scene
    copied = MultiViewScene(scene.names, scene.cameras, image, sparse_points=scene.sparse_points, cloud=scene.cloud)
    paths = [f"images/{name}.png" for name in scene.names]
    held_out = [paths[view] for view in prepared.held_out]
    lists = {"train_filenames": [paths[view] for view in prepared.trained], "val_filenames": held_out}
    return write_dataset(copied, folder, depth_format=None, keys={**lists, "test_filenames": held_out})


def train_and_compare(dataset: Path, output: Path, steps: int, seed: int, on_step: Callable[[], None]) -> dict[str, Any]:
    """Train a splat and compare it with the held-out views: psnr, ssim, lpips, gaussians, seconds."""
    from lmvic_ns.splat.short_training import eval_metrics, short_training

    started = time.process_time()
    trainer, _ = short_training(dataset, output, steps, seed=seed, on_step=lambda pipeline, step: on_step())
    seconds = time.process_time() - started
    metrics = eval_metrics(trainer.pipeline, lpips=lpips_at_hand())
    return {
        "psnr": metrics["psnr"],
        "ssim": metrics["ssim"],
        "lpips": metrics.get("lpips"),
        "gaussians": int(trainer.pipeline.model.num_points),
        "seconds": round(seconds, 1),
    }


def lpips_at_hand() -> bool:
    """Whether the weights of LPIPS are on this machine: nothing is fetched for a measurement."""
    return any((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-owt-*.pth"))
