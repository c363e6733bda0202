"""`lmvic prepare`: give a training scene its depth, once, in a folder of its own.

`OUTPUT/SCENE/` is a nerfstudio dataset by itself (transforms.json, images/, depths/): pinhole photographs, the poses that
the depth belongs to, and float depth in scene units. The scene's own folder is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from lmvic_ns._util.output import check_apart, check_folder
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.exact import check_points
from lmvic_ns.workflows.sources import dataset_inputs


@dataclass(frozen=True)
class PrepareConfig:
    """Write scenes with depth, to train the codec on."""

    scenes: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE ...", help_behavior_hint="(default: none)")
    ] = ()
    """Dataset folders with a transforms.json. With --load-config at most one, which gives the name of the result."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("prepared-scenes")
    """Folder in which each scene gets a folder of its own."""
    load_config: Annotated[Path | None, tyro.conf.arg(metavar="CONFIG")] = None
    """config.yml of a trained lmvic-splat, for its median depth. Without it: the dataset's depth files, or --stand-in."""
    stand_in: Literal["stereo", "points"] = "stereo"
    """Depth for a dataset without depth files: plane sweep stereo, or interpolation of SfM points (faster, coarser)."""
    overwrite: bool = False
    """Prepare again what is prepared already. Replaces the files that lmvic wrote there, and no others."""


def prepare(config: PrepareConfig) -> None:
    """Write datasets with depth for `lmvic train scenes`, from a trained splat, stereo or SfM points.

    Raises:
        SceneError: no scene is named, a scene has neither depth nor points, or the config cannot be loaded.
    """
    if config.load_config is not None:
        if len(config.scenes) > 1:
            raise SceneError("--load-config belongs to one scene: prepare the others each with a config of their own")
        name = config.scenes[0].resolve().name if config.scenes else None
        prepare_from_splat(config.load_config, config.output, name, overwrite=config.overwrite)
        return
    if not config.scenes:
        raise SceneError("no scene to prepare: give scene folders, or --load-config of a trained lmvic-splat")
    seen: dict[str, Path] = {}
    for folder in config.scenes:
        name = folder.resolve().name
        if name in seen:
            raise SceneError(
                f"{folder}: would be prepared under the name of {seen[name]}; give the two different --output folders"
            )
        seen[name] = folder
    for folder in config.scenes:
        prepare_without_splat(folder, config.output, config.stand_in, overwrite=config.overwrite)


def prepare_without_splat(
    folder: Path, output: Path, stand_in: Literal["stereo", "points"] = "stereo", *, overwrite: bool = False
) -> Path:
    """Depth from the scene's own depth files if it has them, else from its photographs and SfM points."""
    from lmvic_ns.depth_sources.sfm import with_sfm_depth
    from lmvic_ns.depth_sources.stereo import with_stereo_depth

    target = output / folder.resolve().name
    inputs = dataset_inputs(folder).all
    if already_prepared(target, overwrite, inputs):
        return target
    scene = MultiViewScene.from_dataset(folder)
    if scene.has_depth:
        source = "its depth files"
    elif stand_in == "stereo":
        check_points(scene)
        source, scene = "stereo", with_stereo_depth(scene)
    else:
        check_points(scene)
        source, scene = "SfM points", with_sfm_depth(scene)
    scene.write_dataset(target, overwrite=overwrite, inputs=inputs)
    print(f"{target}: {len(scene)} views with depth from {source}")
    return target


def prepare_from_splat(load_config: Path, output: Path, name: str | None = None, *, overwrite: bool = False) -> Path:
    """Median depth of a trained lmvic-splat for all its photographs, train and eval alike.

    Raises:
        SceneError: the config or its checkpoint is missing, or its model renders no median depth.
    """
    from lmvic_ns.splat.captures import captured_scene
    from lmvic_ns.splat.trained import load_trained, loading

    trained = load_trained(load_config)
    target = output / (name or trained.folder.resolve().name)
    inputs = (load_config, trained.checkpoint, trained.folder)
    if already_prepared(target, overwrite, inputs):
        return target
    with loading(load_config):
        scene = captured_scene(trained.pipeline)
    scene.write_dataset(target, overwrite=overwrite, inputs=inputs)
    known = torch.stack([(scene.inverse_depth(i)[::8, ::8] > 0).double().mean() for i in range(min(4, len(scene)))])
    share = float(known.mean())
    method = trained.method
    print(f"{target}: {len(scene)} views with median depth of {method} ({share:.0%} of the first views' pixels have one)")
    return target


def already_prepared(target: Path, overwrite: bool, inputs: Sequence[Path]) -> bool:
    """Whether there is nothing to do, and says so; refuses early a place that cannot be filled.

    Args:
        target: the folder of the prepared scene.
        overwrite: what is prepared there is made again.
        inputs: files and folders that the scene comes from.

    Raises:
        SceneError: the target is among the inputs, or holds files that this program did not write.
    """
    check_apart(target, inputs)
    if not overwrite and (target / "transforms.json").is_file():
        print(f"{target}: already prepared; --overwrite makes it again")
        return True
    check_folder(target, inputs=inputs, overwrite=overwrite)
    return False
