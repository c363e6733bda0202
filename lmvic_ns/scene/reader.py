"""Reading nerfstudio datasets into a MultiViewScene."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns._util.picture_files import is_rotated, open_picture
from lmvic_ns._util.pictures import check_eight_bits, opaque_rgb
from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.undistortion import (
    LensDistortion,
    PinholeModel,
    undistort_image,
    undistort_nearest,
    undistorted_pinhole,
    undistortion_map,
)
from lmvic_ns.scene import colmap
from lmvic_ns.scene.names import view_names
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.scene.transforms import check_exists, check_size, load_transforms, model_folder, naming_model, transforms_file

NERFSTUDIO_DEPTH_UNIT = 1e-3
"""nerfstudio's default depth_unit_scale_factor: depth files count thousandths of a scene unit."""

_PERSPECTIVE_MODELS = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
_OTHER_DISTORTION = ("k5", "k6", "p3", "p4", "s1", "s2", "s3", "s4", "sk_x", "sk_y")  # of COLMAP, OpenCV, instant-ngp
_FARTHEST = 1e15  # scene units from the world's origin
_ALMOST_RIGID = 1e-2  # rotations off by more than this are refused
_RIGID = 1e-6  # rotations off by more than this are replaced by the nearest one


@dataclass(frozen=True)
class Frame:
    """One view as transforms.json describes it, checked."""

    name: str
    image_path: Path
    depth_path: Path | None
    camera: PinholeModel
    lens: LensDistortion
    pinhole: PinholeModel
    height: int
    width: int
    camera_to_world: np.ndarray

    @property
    def displacement(self) -> Tensor | None:
        """Where the pinhole view finds its pixels in the photograph; None without distortion."""
        if not self.lens:
            return None
        return undistortion_map(self.camera, self.lens, self.pinhole, self.height, self.width)


@dataclass(frozen=True)
class Dataset:
    """What a dataset says about its scene; see `MultiViewScene`."""

    names: list[str]
    cameras: Cameras
    image: Callable[[int], Tensor]
    inverse_depth: Callable[[int], Tensor] | None
    sparse_points: Path | None
    cloud: SparsePoints | None = None
    original: Callable[[int], bytes | None] | None = None


def read_dataset(path: Path, depth_unit_scale_factor: float | None, depth: bool = True) -> Dataset:
    """See `MultiViewScene.from_dataset`."""
    with naming_model(path):
        return _read_dataset(path, depth_unit_scale_factor, depth)


def _read_dataset(path: Path, depth_unit_scale_factor: float | None, depth: bool) -> Dataset:
    file, meta = transforms_file(path), load_transforms(path)
    records = sorted(meta["frames"], key=lambda r: str(r.get("file_path")))  # nerfstudio's order: sorted by file path
    names = _names(file, records)
    if not depth:
        records = [_without_depth(record) for record in records]
    frames = [_frame(file, meta, record, name) for record, name in zip(records, names, strict=True)]
    with_depth = [f for f in frames if f.depth_path is not None]
    if with_depth and len(with_depth) != len(frames):
        raise SceneError(
            f"{file}: only {len(with_depth)} of {len(frames)} frames have a depth_file_path; give it for all or for none, or "
            "leave these files out of it with --depth stereo or --depth none"
        )
    unit = depth_unit_scale_factor
    if unit is None:
        unit = read_number(file, "scene", meta, "depth_unit_scale_factor", NERFSTUDIO_DEPTH_UNIT)
    if not (unit > 0 and np.isfinite(unit)):
        raise SceneError(f"{file}: depth_unit_scale_factor must be positive and finite, not {unit}")
    # a file that is named and missing is missed where points are used, not here
    points = file.parent / str(meta["ply_file_path"]) if meta.get("ply_file_path") else None
    model = model_folder(path)
    scale = float(unit)
    return Dataset(
        names,
        _cameras(frames),
        lambda i: load_image(frames[i]),
        (lambda i: load_inverse_depth(frames[i], scale)) if with_depth else None,
        points,
        colmap.read_points(model) if model is not None else None,
        lambda i: None if frames[i].lens else frames[i].image_path.read_bytes(),
    )


def _without_depth(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "depth_file_path"}


def load_image(frame: Frame) -> Float[Tensor, "3 h w"]:
    """The photograph as a pinhole view, 0..1 in steps of 1/255 (also after undistortion: it is the original to compare
    with).
    """
    with open_picture(frame.image_path) as picture:
        pixels = np.array(opaque_rgb(frame.image_path, picture))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    if frame.displacement is not None:
        image = undistort_image(image, frame.displacement).round()
    return image / 255.0


def load_inverse_depth(frame: Frame, unit: float) -> Float[Tensor, "h w"]:
    """1 / z from a depth file (.npy, .npz, 16-bit image) along the optical axis; 0 and infinity mean unknown and give
    0.
    """
    assert frame.depth_path is not None
    depth = torch.from_numpy(_read_depth(frame.depth_path).astype(np.float64)) * unit
    if bool(torch.isnan(depth).any()) or bool((depth < 0).any()):
        raise SceneError(f"{frame.depth_path}: holds depths that are negative or not a number; use 0 for unknown")
    if tuple(depth.shape) != (frame.height, frame.width):
        depth = _nearest_at_size(frame.depth_path, depth, frame.height, frame.width)
    if frame.displacement is not None:
        depth = undistort_nearest(depth, frame.displacement)
    inverse = torch.where(depth > 0, 1.0 / depth, 0.0).float()
    return torch.nan_to_num(inverse, nan=0.0, posinf=0.0)


def _names(file: Path, records: list[dict[str, Any]]) -> list[str]:
    """See `lmvic_ns.scene.names`; refuses a picture that is listed twice."""
    paths = []
    for record in records:
        paths.append(Path(record["file_path"]))
    places = sorted(os.path.normpath(file.parent / path) for path in paths)
    for earlier, later in pairwise(places):
        if earlier == later:
            raise SceneError(f"{file}: {later} occurs in two frames; each view may appear once")
    return view_names(paths, file.parent)


def _frame(file: Path, meta: dict[str, Any], record: dict[str, Any], name: str) -> Frame:
    image_path = file.parent / record["file_path"]
    check_exists(file, record["file_path"])
    with open_picture(image_path, pixels=False) as picture:
        width, height = picture.size
        rotated = is_rotated(picture)
        check_eight_bits(image_path, picture)
    depth_path = None
    if record.get("depth_file_path"):
        depth_path = file.parent / str(record["depth_file_path"])
        check_exists(file, str(record["depth_file_path"]), "depth file")

    settings = {**record, **{k: v for k, v in meta.items() if k != "frames"}}  # the scene's keys win, as in nerfstudio
    model = str(settings.get("camera_model", "PINHOLE"))
    if model not in _PERSPECTIVE_MODELS or settings.get("is_fisheye"):
        shown = model if model not in _PERSPECTIVE_MODELS else "fisheye"
        raise SceneError(f"{file}: camera model {shown} of {name!r} is not supported; undistort to PINHOLE or OPENCV first")

    def number(key: str, default: float | None = None) -> float:
        return read_number(file, name, settings, key, default)

    declared = number("h", height), number("w", width)
    check_size(file, image_path, (width, height), (declared[1], declared[0]), rotated)
    camera = PinholeModel(number("fl_x"), number("fl_y", number("fl_x")), number("cx", width / 2), number("cy", height / 2))
    _check_plausible(file, name, camera, height, width)
    lens = lens_of(file, name, settings)
    try:
        pinhole = undistorted_pinhole(camera, lens, height, width)
    except ValueError as error:
        raise SceneError(f"{file}: {name!r} cannot be undistorted: {error}") from error
    pose = read_pose(file, name, record.get("transform_matrix"))
    return Frame(name, image_path, depth_path, camera, lens, pinhole, height, width, pose)


def read_number(file: Path, name: str, settings: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number among a frame's settings.

    Raises:
        SceneError: missing without a default, or something else.
    """
    value = settings.get(key, default)
    if value is None:
        raise SceneError(f"{file}: {key} is missing for {name!r}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise SceneError(f"{file}: {key} of {name!r} must be a finite number, not {repr(value)[:60]}")
    return float(value)


def _check_plausible(file: Path, name: str, camera: PinholeModel, height: int, width: int) -> None:
    """Refuse what no reconstruction means by a camera: a file of it would be made, and its decoder could not use it."""
    side = max(height, width)
    if not (camera.fx > 0 and camera.fy > 0):
        raise SceneError(f"{file}: focal lengths of {name!r} must be positive, not {camera.fx}, {camera.fy}")
    if not all(1e-3 <= f / side <= 1e6 for f in (camera.fx, camera.fy)):
        raise SceneError(
            f"{file}: focal lengths of {name!r}, {camera.fx:g} and {camera.fy:g} pixels, are not those of a picture of "
            f"{width} x {height}; correct fl_x and fl_y, or take the frame out"
        )
    if max(abs(camera.cx), abs(camera.cy)) > 1000 * side:
        raise SceneError(
            f"{file}: the principal point of {name!r}, {camera.cx:g}, {camera.cy:g}, lies far from its picture of "
            f"{width} x {height}; correct cx and cy, or take the frame out"
        )


def lens_of(file: Path, name: str, settings: dict[str, Any]) -> LensDistortion:
    """The distortion among a frame's settings.

    Raises:
        SceneError: coefficients that are not supported, or no numbers.
    """
    keys, given = ("k1", "k2", "k3", "k4", "p1", "p2"), settings
    if "distortion_params" in settings:
        values = settings["distortion_params"]
        if not isinstance(values, list) or len(values) != len(keys):
            raise SceneError(f"{file}: distortion_params of {name!r} must be the six numbers {', '.join(keys)}")
        settings = dict(zip(keys, values, strict=True))
    k1, k2, k3, k4, p1, p2 = (read_number(file, name, settings, key, 0.0) for key in keys)
    if k4 != 0:
        raise SceneError(f"{file}: distortion coefficient k4 of {name!r} is not supported (nor by nerfstudio); undistort first")
    for key in _OTHER_DISTORTION:
        if read_number(file, name, given, key, 0.0) != 0:
            raise SceneError(f"{file}: {key} of {name!r} is not supported (nor by nerfstudio); undistort first")
    return LensDistortion(k1, k2, k3, p1, p2)


def read_pose(file: Path, name: str, matrix: Any) -> np.ndarray:
    """A camera-to-world matrix [4, 4] whose rotation is one.

    Raises:
        SceneError: missing, of another shape, not finite, or no rigid motion.
    """
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.empty(0)
    if pose.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{file}: transform_matrix of {name!r} is missing or not a 4 x 4 matrix")
    if not np.isfinite(pose).all():
        raise SceneError(f"{file}: transform_matrix of {name!r} is not finite; remove the frame or give it a pose")
    if np.abs(pose[:3]).max() > _FARTHEST:
        raise SceneError(f"{file}: transform_matrix of {name!r} is too far from everything; remove the frame or correct it")
    pose = np.concatenate([pose[:3], [[0.0, 0.0, 0.0, 1.0]]])
    rotation = pose[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off <= _ALMOST_RIGID and np.linalg.det(rotation) < 0:
        raise SceneError(f"{file}: transform_matrix of {name!r} is not a rotation: it mirrors (axes are OpenGL's)")
    if off > _ALMOST_RIGID:
        raise SceneError(f"{file}: transform_matrix of {name!r} is not a rotation and a translation (off by {off:.1e})")
    if off > _RIGID:
        u, _, vt = np.linalg.svd(rotation)
        pose[:3, :3] = u @ vt
    return pose


def _cameras(frames: list[Frame]) -> Cameras:
    intrinsics = torch.zeros(len(frames), 3, 3, dtype=torch.float64)
    for k, frame in zip(intrinsics, frames, strict=True):
        p = frame.pinhole
        k[0, 0], k[1, 1], k[0, 2], k[1, 2], k[2, 2] = p.fx, p.fy, p.cx, p.cy, 1.0
    poses = torch.from_numpy(np.stack([f.camera_to_world for f in frames]))
    height, width = torch.tensor([f.height for f in frames]), torch.tensor([f.width for f in frames])
    return Cameras.from_opengl(intrinsics, poses, height, width)


def _read_depth(path: Path) -> np.ndarray:
    if path.suffix in (".npy", ".npz"):
        try:
            depth = _load_arrays(path)
        except LmvicError:
            raise
        except Exception as error:  # numpy and zipfile raise EOFError, BadZipFile, zlib.error, ... for damage
            raise SceneError(f"{path}: cannot be read as depth ({error})") from error
    else:
        with open_picture(path) as picture:
            if picture.mode not in ("I", "I;16", "I;16B", "I;16L", "F", "L"):
                raise SceneError(f"{path}: is a colour picture; depth must be one channel of 16 bits, or a .npy file")
            depth = np.array(picture)
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[2]):
        depth = depth.squeeze(0 if depth.shape[0] == 1 else 2)
    if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.number) or np.iscomplexobj(depth):
        raise SceneError(f"{path}: depth must be one number for each pixel, not {depth.dtype} {depth.shape}")
    return depth


def _load_arrays(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with np.load(path, allow_pickle=False) as archive:
        keys = archive.files
        if "depth" not in keys and len(keys) != 1:
            raise SceneError(f"{path}: holds {len(keys)} arrays; name the depth 'depth'")
        return archive["depth" if "depth" in keys else keys[0]]


def _nearest_at_size(path: Path, depth: Tensor, height: int, width: int) -> Tensor:
    """A depth map of another resolution, sampled at the nearest pixel; another shape is refused."""
    h, w = depth.shape
    if min(h, w) < 1 or abs(h * width - w * height) > max(width, height):
        raise SceneError(f"{path}: is {w} x {h}, which is not the shape of its {width} x {height} image")
    rows = torch.div((torch.arange(height) * 2 + 1) * h, 2 * height, rounding_mode="floor")
    columns = torch.div((torch.arange(width) * 2 + 1) * w, 2 * width, rounding_mode="floor")
    return depth[rows][:, columns]
