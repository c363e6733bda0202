"""The one writer of nerfstudio datasets: pictures, depth files and transforms.json, and a whole scene of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns._util.output import FolderOutput, writing
from lmvic_ns._util.picture_files import check_format_holds
from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene.ply import write_ply

if TYPE_CHECKING:
    from lmvic_ns.scene.scene import MultiViewScene

NERFSTUDIO_DEPTH_UNIT = 1e-3
"""nerfstudio's parser multiplies depth files by this by default, so files hold depth / 1e-3."""
PINHOLE_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
LENS_KEYS = ("k1", "k2", "k3", "p1", "p2")
POINTS_FILE = "sparse_pc.ply"
_LARGEST_16_BIT = 65535
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {  # with the format: Pillow sees no suffix in names such as `...png`
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95, "method": 4},
}


def camera_values(camera: Cameras) -> dict[str, Any]:
    """Focal lengths, principal point and size of a pinhole camera (one view) under nerfstudio's keys."""
    k = camera.intrinsics[0]
    values = (*(float(k[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))), int(camera.width[0]), int(camera.height[0]))
    return dict(zip(PINHOLE_KEYS, values, strict=True))


def place(folder: Path, relative: str) -> Path:
    """Where a file of a dataset goes; its name may hold folders, which are made."""
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_picture(
    path: Path, pixels: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"], *, suffix: str | None = None, **options: Any
) -> None:
    """Write a picture or a mask.

    Args:
        path: the file.
        pixels: 8-bit RGB, or grey.
        suffix: says the format: .png, .jpg, .jpeg or .webp; by default that of `path`.
        options: more options for Pillow, such as EXIF.
    """
    Image.fromarray(pixels).save(path, **{**_SAVE_OPTIONS[(suffix or path.suffix).lower()], **options})


def write_depth(path: Path, inverse_depth: Float[Tensor, "h w"], unit: float, name: str) -> None:
    """Write depth along the optical axis; 0 where it is infinite or unknown.

    Args:
        path: the file; 16-bit PNG if it ends in .png, otherwise float32 as numpy writes it.
        inverse_depth: 1 / z in scene units; 0 = infinitely far or unknown.
        unit: scene units of a file's 1.
        name: of the view.

    Raises:
        SceneError: the depth is larger than a 16-bit PNG can hold.
    """
    inverse = inverse_depth.double()
    depth = torch.where(inverse > 0, 1.0 / (inverse.clamp_min(1e-30) * unit), 0.0)
    if path.suffix != ".png":
        with path.open("wb") as stream:  # given a path, numpy would add its suffix
            np.save(stream, depth.float().numpy())
        return
    largest = float(depth.max())
    if largest > _LARGEST_16_BIT:
        raise SceneError(
            f"depth of view {name!r} reaches {largest * unit:.4g} scene units, 16-bit PNG at {unit:g} ends at "
            f"{_LARGEST_16_BIT * unit:.4g}; use npy or a depth_unit_scale_factor above {largest * unit / _LARGEST_16_BIT:.2g}"
        )
    Image.fromarray(depth.round().numpy().astype(np.uint16)).save(path)


def write_transforms(
    folder: Path,
    frames: Sequence[Mapping[str, Any]],
    *,
    points: str | None = None,
    depth_unit: float = NERFSTUDIO_DEPTH_UNIT,
    keys: Mapping[str, Any] | None = None,
) -> None:
    """Write transforms.json.

    Args:
        folder: of the dataset.
        frames: one record a view, in order, each with its camera; values that all share are written once for the scene.
        points: the sparse points' file, relative to `folder`.
        depth_unit: scene units of a depth file's 1; written if there are depth files.
        keys: more keys of the scene.
    """
    meta: dict[str, Any] = {"camera_model": "OPENCV" if any("k1" in frame for frame in frames) else "PINHOLE"}
    shared = (*PINHOLE_KEYS, *LENS_KEYS)
    # nerfstudio prefers one camera for all: per-frame values only where views differ
    if all(frame.get(key) == frames[0].get(key) for frame in frames for key in shared):
        meta.update({key: frames[0][key] for key in shared if key in frames[0]})
        frames = [{key: value for key, value in frame.items() if key not in shared} for frame in frames]
    if points is not None:
        meta["ply_file_path"] = points
    if any("depth_file_path" in frame for frame in frames):
        meta["depth_unit_scale_factor"] = depth_unit
    text = json.dumps({**meta, **(keys or {}), "frames": list(frames)}, indent=1)
    (folder / "transforms.json").write_text(text, encoding="utf-8")


def write_dataset(
    scene: MultiViewScene,
    folder: Path,
    *,
    image_format: str = "png",
    depth_format: str | None = "npy",
    depth_unit_scale_factor: float = NERFSTUDIO_DEPTH_UNIT,
    overwrite: bool = False,
    inputs: Sequence[Path] = (),
    keys: Mapping[str, Any] | None = None,
) -> Path:
    """See `MultiViewScene.write_dataset`; `keys` are more keys of transforms.json."""
    if image_format not in ("png", "jpg"):
        raise SceneError(f"image format {image_format!r} is unknown; use png or jpg")
    if depth_format not in ("npy", "png", None):
        raise SceneError(f"depth format {depth_format!r} is unknown; use npy or png")
    if not (depth_unit_scale_factor > 0 and np.isfinite(depth_unit_scale_factor)):
        raise SceneError(f"depth_unit_scale_factor must be positive and finite, not {depth_unit_scale_factor}")
    if bool((scene.cameras.intrinsics[:, 0, 1] != 0).any()):
        raise SceneError("views with skew cannot be written: nerfstudio's cameras have none")
    for index, name in enumerate(scene.names):
        check_format_holds(image_format, int(scene.cameras.width[index]), int(scene.cameras.height[index]), name)
    depth_format = depth_format if scene.has_depth else None
    if scene.sparse_points is not None and not scene.sparse_points.is_file():
        scene.points()  # says that they are missing
    images = [f"images/{name}.{image_format}" for name in scene.names]
    depths = [f"depths/{name}.{depth_format}" for name in scene.names] if depth_format else []
    with FolderOutput(folder, inputs=inputs, overwrite=overwrite) as output:
        output.check_free([*images, *depths, POINTS_FILE, "transforms.json"])
        with writing(folder):
            frames = _write_views(scene, output.staging, images, depths, depth_unit_scale_factor)
            points = _write_points(scene, output.staging)
            write_transforms(output.staging, frames, points=points, depth_unit=depth_unit_scale_factor, keys=keys)
    return folder


def _write_views(
    scene: MultiViewScene, folder: Path, images: Sequence[str], depths: Sequence[str], unit: float
) -> list[dict[str, Any]]:
    """Pictures and depth files of all views; their frames."""
    poses = scene.cameras.to_opengl_camera_to_world()
    frames = []
    for index, path in enumerate(images):
        write_picture(place(folder, path), to_8_bit(scene.image(index)))
        frame: dict[str, Any] = {"file_path": path, "transform_matrix": poses[index].tolist()}
        if depths:
            frame["depth_file_path"] = depths[index]
            write_depth(place(folder, depths[index]), scene.inverse_depth(index), unit, scene.names[index])
        frames.append(frame | camera_values(scene.cameras[index]))
    return frames


def _write_points(scene: MultiViewScene, folder: Path) -> str | None:
    if scene.sparse_points is not None:
        shutil.copyfile(scene.sparse_points, folder / POINTS_FILE)
    elif scene.cloud is not None:
        write_ply(folder / POINTS_FILE, scene.cloud)
    else:
        return None
    return POINTS_FILE
