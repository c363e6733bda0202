"""nerfstudio's own data parsers, reading seed points without open3d and keeping the digits of scenes far from the origin.

nerfstudio rounds poses to float32 before it moves them to the middle of the scene: in geographic coordinates (UTM) that
costs up to half a unit. So poses and points of such scenes are moved by a local origin in float64 first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from PIL import Image
from torch import Tensor

from lmvic_ns._util.picture_files import is_rotated, open_picture
from lmvic_ns.errors import SceneError
from lmvic_ns.scene.ply import read_points
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.scene.reader import read_number
from lmvic_ns.scene.transforms import check_exists, check_size, load_transforms, transforms_file
from lmvic_ns.splat.source_views import colmap_points

_CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_ONE_PLACE = 1e-6  # spread of the cameras against their distance from the origin, about what float32 tells apart
_FAR = 1000.0  # extents from the origin: float32 keeps four digits of the extent then


def local_origin(centres: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "3"]:
    """What to subtract from positions before they are rounded to float32; 0 for scenes around the origin."""
    middle = centres.mean(axis=0)
    extent = float(np.abs(centres - middle).max())
    return np.round(middle) if np.isfinite(middle).all() and np.abs(middle).max() > _FAR * max(extent, 1.0) else np.zeros(3)


class NerfstudioWithoutOpen3d(Nerfstudio):
    """As nerfstudio's; a PLY file without colours gives grey points, and COLMAP's points are taken without a question."""

    origin: Float[np.ndarray, "3"] = np.zeros(3)
    _checked = False

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        if not self._checked:
            check_capture(Path(self.config.data))
            self._checked = True
        found: dict[str, Any] = {}
        read, reconstruction = nerfstudio_dataparser.load_from_json, self.config.data / "colmap" / "sparse" / "0"

        def local(path: Path) -> dict[str, Any]:
            found.update(read(path))
            frames = found.get("frames", [])
            try:
                matrices = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)
                self.origin = local_origin(matrices[:, :3, 3])
            except (KeyError, IndexError, TypeError, ValueError):
                raise SceneError(f"{path}: a frame has no transform_matrix of 4 x 4 numbers, or there is no frame") from None
            if self.origin.any():
                for frame, matrix in zip(frames, matrices, strict=True):
                    matrix[:3, 3] -= self.origin
                    frame["transform_matrix"] = matrix.tolist()
            return found

        convert = not (self.config.load_3D_points and not _named_points(self.config.data) and reconstruction.exists())
        if not convert:  # nerfstudio would ask whether it may rewrite transforms.json
            self.prompted_user, self.create_pc = True, False
        with _replaced(nerfstudio_dataparser, "load_from_json", local):
            try:
                outputs = super()._generate_dataparser_outputs(split)
            except Image.DecompressionBombError as error:
                line = f"{self.config.data}: its pictures are larger than nerfstudio opens; make them smaller"
                raise SceneError(line) from error
        # `found` now holds the transform that the parser really took, written down or not
        applied = np.array(found.get("applied_transform", np.eye(4)[:3]), dtype=np.float64)[:3, :3]
        cloud = colmap_points(reconstruction) if not convert else None
        if cloud is not None:
            origin = np.linalg.inv(applied) @ self.origin  # in COLMAP's axes, as the points are
            outputs.metadata.update(_seed_points(cloud, outputs.dataparser_transform, origin, outputs.dataparser_scale))
        outputs.dataparser_transform = moved_transform(outputs.dataparser_transform, applied, self.origin)
        return outputs

    def _load_3D_points(  # noqa: N802
        self, ply_file_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float
    ) -> dict[str, Any] | None:
        points, colours = read_points(ply_file_path)
        if not len(points):
            return None
        return _seed_points(SparsePoints(points, colours), transform_matrix, self.origin, scale_factor)


class ColmapWithLocalOrigin(ColmapDataParser):
    """As nerfstudio's, for reconstructions far from the origin too."""

    origin: Float[np.ndarray, "3"] = np.zeros(3)
    _applied: Float[np.ndarray, "3 3"] = np.eye(3)

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict[str, Any]:
        meta = super()._get_all_images_and_cameras(recon_dir)
        self.origin = local_origin(np.array([frame["transform_matrix"][:3, 3] for frame in meta["frames"]]))
        self._applied = np.array(meta.get("applied_transform", np.eye(3)), dtype=np.float64)[:3, :3]
        for frame in meta["frames"]:
            frame["transform_matrix"][:3, 3] -= self.origin
        return meta

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        outputs = super()._generate_dataparser_outputs(split, **kwargs)
        outputs.dataparser_transform = moved_transform(outputs.dataparser_transform, self._applied, self.origin)
        return outputs

    def _load_3D_points(  # noqa: N802
        self, colmap_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float
    ) -> dict[str, Any]:
        cloud = colmap_points(colmap_path) if self.origin.any() else None
        if cloud is None:
            return super()._load_3D_points(colmap_path, transform_matrix, scale_factor)
        origin = np.linalg.inv(self._applied) @ self.origin  # in COLMAP's axes, as the points are
        return _seed_points(cloud, transform_matrix, origin, scale_factor)


class BlenderWithoutOpen3d(Blender):
    """As nerfstudio's, reading its seed points without open3d."""

    def _load_3D_points(self, ply_file_path: Path) -> dict[str, Any]:  # noqa: N802
        points, colours = read_points(ply_file_path)
        return _seed_points(SparsePoints(points, colours), torch.eye(4)[:3], np.zeros(3), self.config.scale_factor)


OURS: dict[type, type] = {
    Nerfstudio: NerfstudioWithoutOpen3d,
    ColmapDataParser: ColmapWithLocalOrigin,
    Blender: BlenderWithoutOpen3d,
}
"""What takes the place of nerfstudio's parsers."""


def moved_transform(
    transform: Float[Tensor, "3 4"], applied: Float[np.ndarray, "3 3"], origin: Float[np.ndarray, "3"]
) -> Float[Tensor, "3 4"]:
    """A data parser's transform of positions relative to a local origin, as one of the original positions.

    Args:
        transform: the parser's, from the original data; it holds `applied`.
        applied: how the saved poses were turned from the original data.
        origin: what was subtracted from saved positions.
    """
    if not np.any(origin):
        return transform
    result = transform.double().clone()
    turn = result[:, :3].numpy() @ np.linalg.inv(applied)
    result[:, 3] -= torch.from_numpy(turn @ origin)
    return result.to(transform.dtype)


def _seed_points(
    points: SparsePoints, transform: Float[Tensor, "3 4"], origin: Float[np.ndarray, "3"], scale: float
) -> dict[str, Any]:
    """Points in the model's world, as the model wants them; grey without colours."""
    xyz = torch.from_numpy(points.positions.astype(np.float64) - origin) @ transform[:, :3].double().T + transform[:, 3]
    colours = points.colours
    rgb = torch.full((len(xyz), 3), 127, dtype=torch.uint8) if colours is None else torch.from_numpy(colours)
    return {"points3D_xyz": (xyz * scale).float(), "points3D_rgb": rgb}


def _named_points(data: Path) -> bool:
    file = data if data.suffix == ".json" else data / "transforms.json"
    return bool(nerfstudio_dataparser.load_from_json(file).get("ply_file_path")) if file.is_file() else False


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A module's function replaced for the time of a call."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def check_capture(path: Path) -> None:
    """Refuse a dataset that nerfstudio would read and then fail on, or train nothing from.

    Args:
        path: its folder or transforms.json.

    Raises:
        SceneError: there is no dataset, a camera or pose is no set of finite numbers, a picture is missing or has
            another size than its camera, or all cameras are in one place.
    """
    file, meta = transforms_file(path), load_transforms(path)
    places = []
    for frame in meta["frames"]:
        name = frame["file_path"]
        settings = {**frame, **{key: value for key, value in meta.items() if key != "frames"}}  # nerfstudio's precedence
        values = {key: read_number(file, name, settings, key) for key in _CAMERA_KEYS}
        places.append(_pose(file, name, frame.get("transform_matrix"))[:3, 3])
        image = file.parent / name
        if not image.is_file() and any(file.parent.glob(f"images_*/{Path(name).name}")):
            continue  # nerfstudio takes the smaller ones
        check_exists(file, name)
        with open_picture(image, pixels=False) as picture:
            check_size(file, image, picture.size, (values["w"], values["h"]), is_rotated(picture))
    centres = np.array(places)
    centres = centres - local_origin(centres)  # as the parser does before it rounds to float32
    spread = np.abs(centres - centres.mean(axis=0)).max()
    if spread <= _ONE_PLACE * max(np.abs(centres).max(), 1e-30):
        how_many = "there is one camera" if len(centres) == 1 else f"all {len(centres)} cameras are in one place"
        raise SceneError(f"{file}: {how_many}, so nothing shows how far away things are; capture the scene from several places")


def _pose(file: Path, name: str, matrix: Any) -> np.ndarray:
    """Camera to world [4, 4], finite; nerfstudio makes a rotation of what is none."""
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.empty(0)
    if pose.shape != (4, 4):
        raise SceneError(f"{file}: transform_matrix of {name!r} is missing or not a 4 x 4 matrix")
    if not np.isfinite(pose).all():
        raise SceneError(f"{file}: transform_matrix of {name!r} is not finite; remove the frame or give it a pose")
    return pose
