"""What a data set itself says about its photographs: poses in float64 and points, before nerfstudio moved them.

Each data parser reads its files in its own way, and then turns, centres and scales in float32. The export does not undo
that: it takes poses and points from where the parser took them, matched by picture. Only lengths (depth, and what a
camera optimizer added) are carried over, by the similarity between both sets of poses, which is fitted and checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.blender_dataparser import Blender
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.scene.points import SparsePoints

SPLITS = ("train", "val", "test")
_TOLERANCE = 1e-3  # of the fit, relative to the cameras' extent; float32 is off by 1e-6


@dataclass(frozen=True)
class SourceViews:
    """Photographs as the data set has them.

    Attributes:
        poses: camera to world with OpenGL axes, float64 [4, 4], by picture.
        models: camera models that a picture names for itself.
        points_file: the .ply file of sparse points that it names, there or not.
        cloud: its sparse points, where they are in no .ply file.
    """

    poses: Mapping[Path, Float[np.ndarray, "4 4"]]
    models: Mapping[Path, str]
    points_file: Path | None = None
    cloud: SparsePoints | None = None


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
        result[:3, :3] = nearest_rotation(self.rotation.T @ pose[:, :3])
        result[:3, 3] = self.rotation.T @ (pose[:, 3] / self.scale - self.translation)
        return result

    def undo_inverse_depth(self, median_depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """1 / z in the data set's unit; stays 0 where there is no median depth."""
        known = median_depth > 0
        return torch.where(known, self.scale / torch.where(known, median_depth, 1.0), 0.0)


def nearest_rotation(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to a matrix that is almost one."""
    left, _, right = torch.linalg.svd(matrix.double())
    return left @ right


def source_views(parser: Any) -> SourceViews | None:
    """The data set of a data parser; None for parsers whose files are not known here."""
    if isinstance(parser, Nerfstudio):
        return _nerfstudio_views(parser)
    if isinstance(parser, ColmapDataParser):
        return _colmap_views(parser)
    if isinstance(parser, Blender):
        return _blender_views(parser)
    return None


def fitted_transform(source: Float[Tensor, "v 4 4"], model: Float[Tensor, "v 3 4"], scale_of_one: float) -> WorldTransform:
    """The similarity between the same poses in two worlds.

    Args:
        source: in the data set's world, float64.
        model: in the model's world, as the data parser gave them.
        scale_of_one: model units per source unit, for a scene whose cameras all stand at one place.

    Raises:
        SceneError: there is none: these are not the same poses.
    """
    model = model.double().cpu()
    rotation = nearest_rotation((model[:, :3, :3] @ source[:, :3, :3].transpose(1, 2)).mean(dim=0))
    before, after = source[:, :3, 3], model[:, :3, 3]
    middle_before, middle_after = before.mean(dim=0), after.mean(dim=0)
    spread_before = float((before - middle_before).square().sum().sqrt())
    spread_after = float((after - middle_after).square().sum().sqrt())
    apart = spread_before > 1e-9 * (1.0 + float(middle_before.abs().max()))
    scale = spread_after / spread_before if apart and spread_after > 0 else scale_of_one
    # relative to the cameras' middle, so that no digits are lost far away from the origin
    moved = scale * (before - middle_before) @ rotation.T + middle_after
    extent = spread_after / len(model) ** 0.5 if apart else 1.0
    off = float((moved - after).abs().max()) / max(extent, 1e-12) if apart else 0.0
    turned = float((rotation @ source[:, :3, :3] - model[:, :3, :3]).abs().max())
    if max(off, turned) > _TOLERANCE:
        raise SceneError(
            f"the poses that nerfstudio trained on are not those of the data set (off by {max(off, turned):.1e}): train the "
            "scene again"
        )
    return WorldTransform(rotation, middle_after / scale - rotation @ middle_before, scale)


def _nerfstudio_views(parser: Any) -> SourceViews:
    data = Path(getattr(parser, "folder", parser.config.data))
    file = data if data.suffix == ".json" else data / "transforms.json"
    meta = _load(file)
    poses, models = {}, {}
    for frame in meta["frames"]:
        picture = parser._get_fname(Path(frame["file_path"]), file.parent)
        poses[picture] = _pose(file, frame)
        if "camera_model" in frame:
            models[picture] = str(frame["camera_model"])
    named = meta.get("ply_file_path")
    if named:
        return SourceViews(poses, models, points_file=file.parent / named)
    # what nerfstudio would ask whether it should convert; points of COLMAP's world, moved as the poses were
    reconstruction = data / "colmap" / "sparse" / "0"
    cloud = colmap_points(reconstruction) if reconstruction.is_dir() else None
    if cloud is None:
        return SourceViews(poses, models)
    applied = np.array(meta.get("applied_transform", [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]), dtype=np.float64)[:3]
    return SourceViews(poses, models, cloud=SparsePoints(cloud.positions @ applied[:, :3].T + applied[:, 3], cloud.colours))


def _colmap_views(parser: Any) -> SourceViews:
    """In COLMAP's own world, whether the parser turned it upright or not."""
    config = parser.config
    reconstruction = config.data / config.colmap_path
    # nerfstudio's own method: ours takes a local origin off
    meta = ColmapDataParser._get_all_images_and_cameras(parser, reconstruction)
    applied = np.eye(4)
    applied[:3] = np.array(meta.get("applied_transform", np.eye(4)[:3]), dtype=np.float64)[:3]
    undo, images, factor = np.linalg.inv(applied), config.data / config.images_path, parser._downscale_factor or 1
    poses = {}
    for frame in meta["frames"]:
        picture = Path(frame["file_path"])
        if factor > 1:
            picture = images.parent / f"{images.name}_{factor}" / picture.relative_to(images)
        poses[picture] = undo @ np.asarray(frame["transform_matrix"], dtype=np.float64)
    return SourceViews(poses, {}, cloud=colmap_points(reconstruction))


def _blender_views(parser: Any) -> SourceViews:
    data, poses = Path(parser.config.data), {}
    for split in SPLITS:
        file = data / f"transforms_{split}.json"
        if file.is_file():
            for frame in _load(file)["frames"]:
                poses[data / Path(frame["file_path"].replace("./", "") + ".png")] = _pose(file, frame)
    named = parser.config.ply_path
    return SourceViews(poses, {}, points_file=data / named if named is not None else None)


def colmap_points(reconstruction: Path) -> SparsePoints | None:
    """COLMAP's sparse points, float64, in its world; None where there are none.

    Raises:
        SceneError: the file is damaged.
    """
    for name, read in (("points3D.bin", colmap.read_points3D_binary), ("points3D.txt", colmap.read_points3D_text)):
        file = reconstruction / name
        if not file.is_file():
            continue
        try:
            points = list(read(file).values())
        except Exception as error:
            raise SceneError(f"{file}: cannot be read as COLMAP's points ({type(error).__name__})") from error
        if not points:
            return None
        positions = np.array([point.xyz for point in points], dtype=np.float64)
        return SparsePoints(positions, np.array([point.rgb for point in points]).astype(np.uint8))
    return None


def _load(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SceneError(f"{file}: cannot be read ({error})") from error


def _pose(file: Path, frame: Mapping[str, Any]) -> Float[np.ndarray, "4 4"]:
    pose = np.eye(4)
    try:
        pose[:3] = np.array(frame["transform_matrix"], dtype=np.float64)[:3]
    except (KeyError, TypeError, ValueError) as error:
        raise SceneError(f"{file}: {frame.get('file_path')}: transform_matrix is missing or no 4 x 4 matrix") from error
    return pose
