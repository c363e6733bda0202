"""A trained nerfstudio scene as a source of photographs, cameras and median depth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lmvic_ns._util.exit_status import make_folder
from lmvic_ns._util.output import writing
from lmvic_ns.errors import SceneError
from lmvic_ns.report.terminal import progress, say
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.trained import load_trained, loading

Split = Literal["all", "train", "eval"]


@dataclass(frozen=True)
class CapturedScene:
    """A trained scene.

    Attributes:
        scene: its photographs and median depth, rendered at each access (see `cached_depth`).
        files: the captured files, one a view.
        method: name of the method that was trained.
        inputs: files and folders that it comes from.
        source: stands for its contents: checkpoint, photographs, split.
        dataset: folder or transforms.json of the data set.
    """

    scene: MultiViewScene
    files: list[Path]
    method: str
    inputs: tuple[Path, ...]
    source: str
    dataset: Path


def splat_scene(load_config: Path, split: Split = "all", downscale: int = 1) -> CapturedScene:
    """The photographs of a trained scene, of all splits or of some.

    Args:
        load_config: config.yml.
        split: "train": those trained on; "eval": all others.
        downscale: see `load_trained`.

    Raises:
        SceneError: see `load_trained`; or the split holds no picture.
    """
    trained = load_trained(load_config, downscale)
    from lmvic_ns.splat.captures import list_captures, scene_of_captures
    from lmvic_ns.splat.source_views import source_views

    with loading(load_config):
        captures = list_captures(trained.pipeline)
        chosen = [capture for capture in captures if split == "all" or split in capture.splits]
        if not chosen:
            raise SceneError(f"{load_config}: the split {split!r} holds no picture; use --split all")
        scene = scene_of_captures(trained.pipeline, chosen)
        manager: Any = trained.pipeline.datamanager
        found = source_views(manager.dataparser)
    say(f"{load_config}: {len(scene)} photographs ({split}) of {trained.method}")
    unlisted = len(set(found.poses) - {capture.path for capture in captures}) if found is not None else 0
    if unlisted:
        say(f"{trained.data}: {unlisted} photographs that belong to no split are left out")
    files = [capture.path for capture in chosen]
    inputs = (trained.folder, load_config, trained.checkpoint, *files)
    status = [(path.name, path.stat()) for path in (trained.checkpoint, *files) if path.is_file()]
    facts = [(name, found.st_size, found.st_mtime_ns) for name, found in status]
    return CapturedScene(scene, files, trained.method, inputs, repr((split, downscale, facts)), trained.data)


@contextmanager
def cached_depth(scene: MultiViewScene, folder: Path) -> Iterator[MultiViewScene]:
    """The scene with each depth map rendered once, into files in `folder` that are removed at the end.

    Raises:
        LmvicError: the disk does not take them.
    """
    with writing(folder):
        make_folder(folder)
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
