"""All photographs of a trained scene with their cameras and median depth, in the data set's own world and units.

nerfstudio turns, moves and scales a scene while it parses it, undistorts the photographs and changes the intrinsics
when its cache is built, and may have optimized the poses. Poses and points are taken from the data set itself (see
`source_views`); the rest is followed here, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.names import view_names
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.splat.console import nerfstudio_quiet
from lmvic_ns.splat.source_views import SPLITS, SourceViews, WorldTransform, fitted_transform, nearest_rotation, source_views

PERSPECTIVE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")


@dataclass(frozen=True)
class Capture:
    """One photograph as the data manager holds it."""

    path: Path
    camera: NerfstudioCameras
    """A batch of one, undistorted, with the optimized pose if there is one, in the model's world."""
    photograph: Tensor
    """[h, w, 3 or 4], uint8 or float 0..1, undistorted."""
    parsed_pose: Float[Tensor, "3 4"]
    """As the data parser gave it, before any optimization."""
    splits: set[str] = field(default_factory=set)
    """Of the split names "train" and "eval", those that it belongs to."""


def captured_scene(pipeline: Pipeline, *, depth: Literal["median_depth", "depth"] = "median_depth") -> MultiViewScene:
    """The captured views of a trained pipeline (all splits together), sorted by file name.

    Args:
        pipeline: as `eval_setup` or a trainer makes it, not with test_mode="inference", which loads no photographs.
        depth: which of the model's outputs becomes inverse depth; "depth" is the expected one, for comparisons.

    Returns:
        A scene in the world and the unit of the data set: undistorted photographs, pinhole cameras (optimized poses for
        the training views if the camera optimizer is on) and inverse median depth (0 where a ray has no median). Depth
        is rendered when it is asked for, and again each time.

    Raises:
        SceneError: the pipeline's photographs are not loaded, its cameras are not perspective ones, or its model
            renders no median depth.
    """
    return scene_of_captures(pipeline, list_captures(pipeline), depth=depth)


def scene_of_captures(
    pipeline: Pipeline, captures: list[Capture], *, depth: Literal["median_depth", "depth"] = "median_depth"
) -> MultiViewScene:
    """See `captured_scene`, for some of the captures that `list_captures` gives."""
    manager: Any = pipeline.datamanager
    source = source_views(manager.dataparser)
    for capture in captures:
        check_perspective(capture.camera, capture.path, source)
    world = _world(pipeline, captures, source)
    intrinsics = torch.cat([capture.camera.get_intrinsics_matrices() for capture in captures]).double().cpu()
    # [h, w, 3 or 4]: the photograph's own size; a camera may say otherwise only by a bug
    sizes = torch.tensor([capture.photograph.shape[:2] for capture in captures])
    poses = torch.stack([_source_pose(capture, world, source) for capture in captures])
    cameras = Cameras.from_opengl(intrinsics, poses, sizes[:, 0], sizes[:, 1])
    behind = 1.0 if getattr(pipeline.model.config, "background_color", "") == "white" else 0.0

    def image(index: int) -> Float[Tensor, "3 h w"]:
        return photograph_rgb(captures[index].photograph, behind)

    def inverse_depth(index: int) -> Float[Tensor, "h w"]:
        with evaluating(pipeline):
            outputs = pipeline.model.get_outputs_for_camera(deepcopy(captures[index].camera))
        if outputs.get(depth) is None:
            raise SceneError("the model renders no median depth; train it with `ns-train lmvic-splat`")
        seen = outputs["accumulation"] > 0
        return world.undo_inverse_depth((outputs[depth] * seen)[..., 0]).cpu()

    names = view_names([capture.path for capture in captures], data_folder(pipeline))
    if source is None:
        return MultiViewScene(names, cameras, image, inverse_depth, cloud=_seed_points(pipeline, world))
    return MultiViewScene(names, cameras, image, inverse_depth, sparse_points=source.points_file, cloud=source.cloud)


@nerfstudio_quiet()
def list_captures(pipeline: Pipeline) -> list[Capture]:
    """Every photograph once, in the order of the file names; builds the data manager's caches if need be.

    Raises:
        SceneError: the pipeline was set up for inference, without photographs.
    """
    manager: Any = pipeline.datamanager
    if getattr(manager, "test_mode", "") == "inference" or not hasattr(manager, "cached_train"):
        raise SceneError("this pipeline holds no photographs; load it with eval_setup(config, test_mode='test')")
    optimizer = getattr(pipeline.model, "camera_optimizer", None)
    captures: dict[Path, Capture] = {}
    # building a cache undistorts the photographs and rewrites the data set's intrinsics: cameras come after it
    splits = [("train", manager.train_dataset, manager.cached_train), ("eval", manager.eval_dataset, manager.cached_eval)]
    third = _third_split(manager, {path for _, dataset, _ in splits for path in dataset.image_filenames})
    for split, dataset, cache in [*splits, *third]:
        for index, path in enumerate(dataset.image_filenames):
            if path in captures:
                captures[path].splits.add(split)
                continue
            camera = deepcopy(dataset.cameras[index : index + 1]).to(pipeline.device)
            parsed = camera.camera_to_worlds[0].detach().double().cpu()
            if split == "train" and optimizer is not None:
                camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
                with torch.no_grad():
                    camera.camera_to_worlds = optimizer.apply_to_camera(camera)
            captures[path] = Capture(path, camera, cache[index]["image"], parsed, {split})
    return [captures[path] for path in sorted(captures)]


def parsed_split(parser: Any, split: str) -> DataparserOutputs | None:
    """A split as the data parser gives it; None if the data set lists other splits, but not this one."""
    try:
        return parser.get_dataparser_outputs(split=split)
    except RuntimeError as error:
        if f"split {split} is missing" not in str(error):
            raise
    except FileNotFoundError as error:
        if not str(error.filename).endswith(f"transforms_{split}.json"):
            raise
    return None


def check_perspective(cameras: NerfstudioCameras, path: Path, source: SourceViews | None = None) -> None:
    """Refuse cameras that are not perspective ones: they would be taken for pinholes without a word.

    Args:
        cameras: of one picture or several.
        path: of the first one, for the message.
        source: what pictures say for themselves.

    Raises:
        SceneError: names the camera model.
    """
    kinds = [CameraType(int(kind)).name for kind in cameras.camera_type.flatten().unique()]
    kinds += [source.models[path]] if source is not None and path in source.models else []
    for kind in kinds:
        if kind not in (CameraType.PERSPECTIVE.name, *PERSPECTIVE_MODELS):
            raise SceneError(f"{path}: camera model {kind} is not supported; undistort to PINHOLE or OPENCV first")


def world_transform(pipeline: Pipeline) -> WorldTransform:
    """How the data parser moved the data set's world, as its poses show it."""
    manager: Any = pipeline.datamanager
    paths, cameras = manager.train_dataset.image_filenames, manager.train_dataset.cameras.camera_to_worlds
    nothing = torch.zeros(0)
    captures = [
        Capture(path, manager.train_dataset.cameras[i : i + 1], nothing, cameras[i].double().cpu())
        for i, path in enumerate(paths)
    ]
    return _world(pipeline, captures, source_views(manager.dataparser))


def data_folder(pipeline: Pipeline) -> Path:
    """Where the data set lies (the folder of the JSON file, where that was given)."""
    path = Path(pipeline.datamanager.get_datapath())
    return path.parent if path.suffix == ".json" else path


def _world(pipeline: Pipeline, captures: list[Capture], source: SourceViews | None) -> WorldTransform:
    parsed: DataparserOutputs = pipeline.datamanager.train_dataparser_outputs  # type: ignore[attr-defined]
    scale = float(parsed.dataparser_scale)
    if source is not None:
        missing = [capture.path for capture in captures if capture.path not in source.poses]
        if missing:
            raise SceneError(f"{missing[0]}: the data set names no pose for it any more; train the scene again")
        poses = torch.from_numpy(np.stack([source.poses[capture.path] for capture in captures]))
        return fitted_transform(poses, torch.stack([capture.parsed_pose for capture in captures]), scale)
    # another parser: what it says that it did
    matrix = parsed.dataparser_transform.double()
    return WorldTransform(nearest_rotation(matrix[:, :3]), matrix[:, 3], scale)


def _source_pose(capture: Capture, world: WorldTransform, source: SourceViews | None) -> Float[Tensor, "4 4"]:
    """The data set's own pose, moved on by what a camera optimizer added to it."""
    optimized = capture.camera.camera_to_worlds[0].double().cpu()
    if source is None:
        return world.undo_pose(optimized)
    pose = torch.from_numpy(source.poses[capture.path]).clone()
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    if not torch.equal(optimized, capture.parsed_pose):
        turn = capture.parsed_pose[:, :3].T  # into the camera's own axes
        step = turn @ (optimized[:, 3] - capture.parsed_pose[:, 3]) / world.scale
        pose[:3, 3] += pose[:3, :3] @ step
        pose[:3, :3] = nearest_rotation(pose[:3, :3] @ turn @ optimized[:, :3])
    return pose


def _third_split(manager: Any, known: set[Path]) -> list[tuple[str, Any, Any]]:
    """The pictures of a split that is neither trained nor evaluated on (data sets with three lists), with their cache."""
    other = next(split for split in SPLITS[1:] if split != getattr(manager, "test_split", "test"))
    outputs = parsed_split(manager.dataparser, other)
    if outputs is None or all(path in known for path in outputs.image_filenames):
        return []
    dataset = manager.dataset_type(dataparser_outputs=outputs, scale_factor=manager.config.camera_res_scale_factor)
    kept = manager.eval_dataset
    manager.eval_dataset = dataset  # nerfstudio loads and undistorts by the name of a split
    try:
        return [("eval", dataset, manager._load_images("eval", cache_images_device=manager.config.cache_images))]
    finally:
        manager.eval_dataset = kept


def _seed_points(pipeline: Pipeline, world: WorldTransform) -> SparsePoints | None:
    """The points that another data parser gave the model, back in the data set's world."""
    manager: Any = pipeline.datamanager
    found = manager.train_dataparser_outputs.metadata
    if found.get("points3D_xyz") is None:
        return None
    positions = (found["points3D_xyz"].double().cpu() / world.scale - world.translation) @ world.rotation
    colours = found.get("points3D_rgb")
    return SparsePoints(positions.float().numpy(), None if colours is None else colours.cpu().numpy().astype(np.uint8))


def photograph_rgb(photograph: Tensor, behind: float) -> Float[Tensor, "3 h w"]:
    """RGB in 0..1; what is transparent shows the grey `behind`."""
    picture = photograph.cpu().permute(2, 0, 1)
    picture = picture.float() / 255.0 if picture.dtype == torch.uint8 else picture.float()
    if picture.shape[0] == 4:
        picture = picture[:3] * picture[3:] + behind * (1 - picture[3:])
    return picture


@contextmanager
def evaluating(pipeline: Pipeline) -> Iterator[None]:
    """Rendering mode without gradients; back to what it was afterwards (an export may run during training)."""
    was_training = pipeline.training
    pipeline.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        pipeline.train(was_training)
