"""A trained nerfstudio scene as a source of photographs, cameras and median depth."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor

from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.export.terminal import progress, say
from lmvic_ns.output import writing
from lmvic_ns.scene import MultiViewScene

if TYPE_CHECKING:
    from nerfstudio.pipelines.base_pipeline import Pipeline

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
    """

    scene: MultiViewScene
    files: list[Path]
    method: str
    inputs: tuple[Path, ...]
    source: str


@dataclass(frozen=True)
class TrainedScene:
    """A loaded pipeline at the photographs' full size, whatever it was trained at.

    Attributes:
        pipeline: nerfstudio's.
        method: name of the method.
        data: the data set.
        checkpoint: the file that was loaded.
    """

    pipeline: Pipeline
    method: str
    data: Path
    checkpoint: Path

    @property
    def folder(self) -> Path:
        """Of the data set, also where its JSON file was given."""
        return self.data.parent if self.data.suffix == ".json" else self.data


@contextmanager
def _reported(load_config: Path) -> Iterator[None]:
    """What nerfstudio raises about a config, its data or its checkpoint, as one line."""
    try:
        yield
    except LmvicError:
        raise
    except FileNotFoundError as error:
        raise SceneError(f"{load_config}: {error.filename or error}: not found; were the pictures moved or removed?") from error
    except KeyError as error:
        raise SceneError(f"{load_config}: cannot be loaded: there is no {error} (is its method installed?)") from error
    except (yaml.YAMLError, AttributeError, ModuleNotFoundError) as error:
        raise SceneError(f"{load_config}: cannot be read as a nerfstudio config ({first_line(error)})") from error
    except (AssertionError, ValueError, pickle.UnpicklingError, RuntimeError) as error:
        raise SceneError(f"{load_config}: cannot be loaded: {first_line(error)}") from error


def load_trained(load_config: Path, downscale: int = 1) -> TrainedScene:
    """Load a trained scene at full resolution (whatever it was trained at), or `downscale` times smaller.

    Raises:
        SceneError: there is no such config or checkpoint, its data or pictures are gone, or its method renders no median
            depth.
    """
    if not load_config.is_file():
        raise SceneError(f"{load_config}: not found; give the config.yml that `ns-train lmvic-splat` wrote")
    from nerfstudio.utils.eval_utils import eval_setup

    with _reported(load_config):
        config, pipeline, checkpoint, _ = eval_setup(
            load_config, test_mode="test", update_config_callback=_checked_config(load_config, downscale)
        )
        manager: Any = pipeline.datamanager
        return TrainedScene(pipeline, config.method_name or "lmvic-splat", Path(manager.get_datapath()), Path(checkpoint))


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

    with _reported(load_config):
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
    return CapturedScene(scene, files, trained.method, inputs, repr((split, downscale, facts)))


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


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _checked_config(load_config: Path, downscale: int) -> Callable[[Any], Any]:
    """Checks a loaded config before anything is built from it, and asks for the captured files' full size."""

    from lmvic_ns.splat.model import LmvicSplatModelConfig

    def update(config: Any) -> Any:
        if not isinstance(config.pipeline.model, LmvicSplatModelConfig):
            raise SceneError(
                f"this is a config of {config.method_name}, which renders no median depth: train the scene with "
                "`ns-train lmvic-splat`"
            )
        checkpoints, base = config.get_checkpoint_dir(), load_config.resolve().parent
        # nerfstudio notes "outputs" relative to the folder that ns-train ran in; here any folder will do
        if not checkpoints.is_dir() and (base / config.relative_model_dir).is_dir() and len(base.parents) > 2:
            config.output_dir, config.experiment_name, config.method_name, config.timestamp = (
                base.parents[2],
                *base.parts[-3:],
            )
            checkpoints = config.get_checkpoint_dir()
        if not checkpoints.is_dir() or not any(checkpoints.glob("step-*.ckpt")):
            raise SceneError(f"{checkpoints}: no checkpoint; train the scene until it saves one (--steps-per-save)")
        manager = config.pipeline.datamanager
        data = manager.data or getattr(manager.dataparser, "data", None)
        if data is None or not Path(data).exists():
            raise SceneError(f"{data}: the photographs that the scene was trained on are not there; put them back")
        if hasattr(manager.dataparser, "downscale_factor"):
            manager.dataparser.downscale_factor = 1
        manager.camera_res_scale_factor = 1.0 / downscale
        if getattr(manager.dataparser, "load_3D_points", False) and _points_missing(Path(data)):
            manager.dataparser.load_3D_points = False  # seeds: a trained model needs none
        return config

    return update


def _points_missing(data: Path) -> bool:
    """Whether a nerfstudio data set names a point file that is not there (who wants the points will miss it)."""
    file = data if data.suffix == ".json" else data / "transforms.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("ply_file_path")
    except (OSError, ValueError, AttributeError):
        return False
    return bool(named) and not (file.parent / str(named)).is_file()
