"""A trained nerfstudio scene as a source of photographs, cameras and median depth."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor

from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.export.terminal import progress, say
from lmvic_ns.output import writing
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
    if not load_config.is_file():
        raise SceneError(f"{load_config}: not found; give the config.yml that `ns-train lmvic-splat` wrote")
    from nerfstudio.utils.eval_utils import eval_setup

    from lmvic_ns.splat.captures import captured_scene

    try:
        config, pipeline, _, _ = eval_setup(
            load_config, test_mode="test", update_config_callback=_checked_config(load_config, downscale)
        )
        scene = captured_scene(pipeline)
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
        return config

    return update
