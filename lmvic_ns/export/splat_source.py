"""A trained nerfstudio scene as a source of photographs, cameras and median depth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.export.terminal import progress, say, writing
from lmvic_ns.export.trained import load_trained, loading
from lmvic_ns.scene import MultiViewScene

Split = Literal["all", "train", "eval"]


@dataclass(frozen=True)
class CapturedScene:
    """A trained scene.

    Attributes:
        scene: its photographs and median depth, rendered at each access (see `cached_depth`).
        files: the captured files, one a view.
        method: name of the method that was trained.
    """

    scene: MultiViewScene
    files: list[Path]
    method: str


def splat_scene(load_config: Path, split: Split = "all", downscale: int = 1) -> CapturedScene:
    """Load a trained scene at full resolution (whatever it was trained at), or `downscale` times smaller.

    Raises:
        SceneError: there is no such config or checkpoint, its data or pictures are gone, its method renders no median
            depth, or the split holds no picture.
    """
    from lmvic_ns.splat.captures import captured_scene

    config, pipeline = load_trained(load_config, downscale)
    with loading(load_config):
        scene = captured_scene(pipeline)
    splits = {"train": pipeline.datamanager.train_dataset, "eval": pipeline.datamanager.eval_dataset}  # type: ignore[attr-defined]
    names = {name: set(dataset.image_filenames) for name, dataset in splits.items() if dataset is not None}
    files = sorted(names["train"] | names["eval"])  # the order of captured_scene
    wanted = set(files) if split == "all" else names[split]
    chosen = [index for index, file in enumerate(files) if file in wanted]
    if not chosen:
        raise SceneError(f"{load_config}: the split {split!r} holds no picture; use --split all")
    if len(chosen) < len(files):
        scene, files = scene.select(chosen), [files[index] for index in chosen]
    say(f"{load_config}: {len(scene)} photographs ({split}) of {config.method_name}")
    return CapturedScene(scene, files, config.method_name or "lmvic-splat")


@contextmanager
def cached_depth(scene: MultiViewScene, folder: Path) -> Iterator[MultiViewScene]:
    """The scene with each depth map rendered once, into files in `folder` that are removed at the end.

    Raises:
        LmvicError: the disk does not take them.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".depth-", dir=folder) as place:
        with progress("median depth", len(scene)) as step:
            for index, name in enumerate(scene.names):
                depth = scene.inverse_depth(index).numpy()
                with writing(folder):
                    np.save(Path(place) / f"{index}.npy", depth)
                step(f"{name}: {float((depth > 0).mean()):.0%} known")

        def load(index: int) -> Tensor:
            return torch.from_numpy(np.load(Path(place) / f"{index}.npy"))

        yield scene.with_inverse_depth(load)
