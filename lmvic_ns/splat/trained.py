"""Loading what `ns-train` left: one function for every command with `--load-config`, and one line for what is wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.splat.console import nerfstudio_quiet

if TYPE_CHECKING:
    from nerfstudio.pipelines.base_pipeline import Pipeline


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


def load_trained(load_config: Path, downscale: int = 1) -> TrainedScene:
    """A trained scene with its photographs at full size (whatever it was trained at), or `downscale` times smaller.

    Args:
        load_config: the config.yml that ns-train wrote.
        downscale: photographs so many times smaller than the captured files.

    Raises:
        SceneError: there is no such config or checkpoint, it is damaged, its data or pictures are gone, or its method
            renders no median depth.
    """
    if not load_config.is_file():
        raise SceneError(f"{load_config}: not found; give the config.yml that `ns-train lmvic-splat` wrote")
    from nerfstudio.utils.eval_utils import eval_setup

    with loading(load_config), nerfstudio_quiet():
        _check_yaml(load_config)
        config, pipeline, checkpoint, _ = eval_setup(
            load_config, test_mode="test", update_config_callback=_checked_config(load_config, downscale)
        )
        manager: Any = pipeline.datamanager
        return TrainedScene(pipeline, config.method_name or "lmvic-splat", Path(manager.get_datapath()), Path(checkpoint))


@contextmanager
def loading(load_config: Path) -> Iterator[None]:
    """Turns what nerfstudio raises while it loads a trained scene, or its photographs, into one clear line.

    Raises:
        SceneError: names the config.
    """
    try:
        yield
    except LmvicError:
        raise
    except FileNotFoundError as error:
        raise SceneError(f"{load_config}: {error.filename or error}: not found; were the pictures moved or removed?") from error
    except KeyError as error:
        raise SceneError(f"{load_config}: cannot be loaded: there is no {error} (is its method installed?)") from error
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, ImportError) as error:
        raise SceneError(f"{load_config}: cannot be read as a nerfstudio config ({first_line(error)})") from error
    except (AssertionError, ValueError, EOFError, OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise SceneError(f"{load_config}: cannot be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _check_yaml(load_config: Path) -> None:
    """nerfstudio asserts that a config is one, with nothing to read in the assertion."""
    from nerfstudio.engine.trainer import TrainerConfig

    config = yaml.load(load_config.read_text(encoding="utf-8"), Loader=yaml.Loader)
    if not isinstance(config, TrainerConfig):
        raise SceneError(
            f"{load_config}: holds no nerfstudio config; give the config.yml that `ns-train lmvic-splat` wrote, unchanged"
        )


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
