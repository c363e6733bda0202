"""nerfstudio's own data parser, reading the seed points without open3d, and refusing what training would stumble over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from PIL import Image
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.picture_files import is_rotated, open_picture
from lmvic_ns.scene_reader import read_number
from lmvic_ns.splat.ply import read_points
from lmvic_ns.transforms import check_exists, check_size, load_transforms, transforms_file

_CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_ONE_PLACE = 1e-6  # spread of the cameras against their distance from the origin, about what float32 tells apart


class NerfstudioWithoutOpen3d(Nerfstudio):
    """As nerfstudio's; a PLY file without colours gives grey points, and bad input one clear line."""

    _checked = False

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        if not self._checked:
            check_capture(Path(self.config.data))
            self._checked = True
        try:
            return super()._generate_dataparser_outputs(split, **kwargs)
        except Image.DecompressionBombError as error:
            raise SceneError(f"{self.config.data}: its pictures are larger than nerfstudio opens; make them smaller") from error

    def _load_3D_points(  # noqa: N802
        self, ply_file_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float
    ) -> dict[str, Any] | None:
        points, colours = read_points(ply_file_path)
        if not len(points):
            return None
        xyz = torch.from_numpy(points) @ transform_matrix[:, :3].T + transform_matrix[:, 3]
        rgb = torch.full((len(points), 3), 127, dtype=torch.uint8) if colours is None else torch.from_numpy(colours)
        return {"points3D_xyz": xyz * scale_factor, "points3D_rgb": rgb}


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
