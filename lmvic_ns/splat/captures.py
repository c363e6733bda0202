"""All photographs of a trained scene with their cameras and median depth, in the data set's own world and units.

nerfstudio turns, moves and scales a scene while it parses it, undistorts the photographs and changes the intrinsics
when its cache is built, and may have optimized the poses; all of this is followed or undone here, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene


@dataclass(frozen=True)
class WorldTransform:
    """From the data set's world to the model's: x_model = scale * (rotation @ x + translation)."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float

    def undo_pose(self, camera_to_world: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
        """A pose of the model's world in the data set's, float64, its rotation made exactly orthonormal."""
        pose = camera_to_world.double().cpu()
        result = torch.eye(4, dtype=torch.float64)
        left, _, right = torch.linalg.svd(self.rotation.T @ pose[:, :3])
        result[:3, :3] = left @ right
        result[:3, 3] = self.rotation.T @ (pose[:, 3] / self.scale - self.translation)
        return result

    def undo_inverse_depth(self, median_depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """1 / z in the data set's unit; stays 0 where there is no median depth."""
        known = median_depth > 0
        return torch.where(known, self.scale / torch.where(known, median_depth, 1.0), 0.0)


@dataclass(frozen=True)
class Capture:
    """One photograph as the data manager holds it."""

    path: Path
    camera: NerfstudioCameras
    """A batch of one, undistorted, with the optimized pose if there is one, in the model's world."""
    photograph: Tensor
    """[h, w, 3 or 4], uint8 or float 0..1, undistorted."""


def captured_scene(pipeline: Pipeline, *, depth: Literal["median_depth", "depth"] = "median_depth") -> MultiViewScene:
    """The captured views of a trained pipeline (train and eval split together), sorted by file name.

    Args:
        pipeline: as `eval_setup` or a trainer makes it, not with test_mode="inference", which loads no photographs.
        depth: which of the model's outputs becomes inverse depth; "depth" is the expected one, for comparisons.

    Returns:
        A scene in the world and the unit of the data set's transforms.json: undistorted photographs, pinhole cameras
        (optimized poses for the training views if the camera optimizer is on) and inverse median depth (0 where a ray
        has no median). Depth is rendered when it is asked for, and again each time.

    Raises:
        SceneError: the pipeline's photographs are not loaded, or its model renders no median depth.
    """
    captures = list_captures(pipeline)
    world = world_transform(pipeline)
    intrinsics = torch.cat([capture.camera.get_intrinsics_matrices() for capture in captures]).double().cpu()
    # [h, w, 3 or 4]: the photograph's own size; a camera may say otherwise only by a bug
    sizes = torch.tensor([capture.photograph.shape[:2] for capture in captures])
    poses = torch.stack([world.undo_pose(capture.camera.camera_to_worlds[0]) for capture in captures])
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

    points = seed_points_path(pipeline)
    names = view_names([capture.path for capture in captures], data_folder(pipeline))
    return MultiViewScene(names, cameras, image, inverse_depth, sparse_points=points)


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
    for split, dataset in (("train", manager.train_dataset), ("eval", manager.eval_dataset)):
        # building the cache undistorts the photographs and rewrites the data set's intrinsics: cameras come after it
        cache = manager.cached_train if split == "train" else manager.cached_eval
        for index, path in enumerate(dataset.image_filenames):
            if path in captures:
                continue
            camera = deepcopy(dataset.cameras[index : index + 1]).to(pipeline.device)
            if split == "train" and optimizer is not None:
                camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
                with torch.no_grad():
                    camera.camera_to_worlds = optimizer.apply_to_camera(camera)
            captures[path] = Capture(path, camera, cache[index]["image"])
    return [captures[path] for path in sorted(captures)]


def world_transform(pipeline: Pipeline) -> WorldTransform:
    """How the data parser moved the world of transforms.json (not COLMAP's: `applied_transform` stays in)."""
    parsed: DataparserOutputs = pipeline.datamanager.train_dataparser_outputs  # type: ignore[attr-defined]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = parsed.dataparser_transform.double()
    scale = float(parsed.dataparser_scale)
    meta = _transforms(pipeline)
    if "applied_transform" in meta:
        applied = torch.eye(4, dtype=torch.float64)
        applied[:3] = torch.tensor(meta["applied_transform"], dtype=torch.float64)[:3]
        matrix = matrix @ torch.linalg.inv(applied)
    scale /= float(meta.get("applied_scale", 1.0))
    left, _, right = torch.linalg.svd(matrix[:3, :3])
    return WorldTransform(left @ right, matrix[:3, 3], scale)


def data_folder(pipeline: Pipeline) -> Path:
    """Where the data set lies (the folder of the JSON file, where that was given)."""
    path = Path(pipeline.datamanager.get_datapath())
    return path.parent if path.suffix == ".json" else path


def seed_points_path(pipeline: Pipeline) -> Path | None:
    """The data set's point file, if it has one."""
    named = _transforms(pipeline).get("ply_file_path")
    path = data_folder(pipeline) / named if named else None
    return path if path is not None and path.is_file() else None


def _transforms(pipeline: Pipeline) -> dict[str, Any]:
    """The data set's transforms.json; empty for data sets of another kind."""
    path = Path(pipeline.datamanager.get_datapath())
    file = path if path.suffix == ".json" else path / "transforms.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def view_names(paths: list[Path], folder: Path) -> list[str]:
    """File stems; where those collide, the path within the data set with '_' between its parts."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["_".join((path.relative_to(folder) if path.is_relative_to(folder) else path).parts) for path in paths]


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
