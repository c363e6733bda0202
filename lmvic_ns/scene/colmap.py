"""COLMAP's sparse models (cameras, images, points3D; .bin and .txt) without pycolmap: read as a dataset, written from one.

Formats: https://colmap.github.io/format.html. Poses are world-to-camera with OpenCV's axes; pixel centres lie at +0.5.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lmvic_ns.errors import SceneError
from lmvic_ns.scene.points import SparsePoints

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
"""Where below a dataset's folder a model may lie."""
_FIRST = ("fl_x", "cx", "cy")
_BOTH = ("fl_x", "fl_y", "cx", "cy")
_FISHEYE = ("k1", "k2", "k3", "k4")
_MODELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", _FIRST),
    1: ("PINHOLE", _BOTH),
    2: ("SIMPLE_RADIAL", (*_FIRST, "k1")),
    3: ("RADIAL", (*_FIRST, "k1", "k2")),
    4: ("OPENCV", (*_BOTH, "k1", "k2", "p1", "p2")),
    5: ("OPENCV_FISHEYE", (*_BOTH, *_FISHEYE)),
    6: ("FULL_OPENCV", (*_BOTH, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    7: ("FOV", (*_BOTH, "omega")),
    8: ("SIMPLE_RADIAL_FISHEYE", (*_FIRST, "k1")),
    9: ("RADIAL_FISHEYE", (*_FIRST, "k1", "k2")),
    10: ("THIN_PRISM_FISHEYE", (*_BOTH, "k1", "k2", "p1", "p2", "k3", "k4", "s1", "s2")),
}
_NUMBERS = {name: number for number, (name, _) in _MODELS.items()}
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])


@dataclass(frozen=True)
class ColmapImage:
    """A picture of a model: its name below images/, its camera, and the world-to-camera pose [4, 4]."""

    name: str
    camera: int
    world_to_camera: Float[np.ndarray, "4 4"]


def model_folder(dataset: Path) -> Path | None:
    """Where a dataset's COLMAP model lies; None if it has none."""
    for name in MODEL_FOLDERS:
        folder = dataset / name
        if any(
            (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")
        ):
            return folder
    return None


def incomplete_model(dataset: Path) -> str:
    """A line on the first folder that holds a part of a model only; empty if there is none."""
    for name in MODEL_FOLDERS:
        folder = dataset / name
        there = [f"{part}{suffix}" for suffix in (".bin", ".txt") for part in ("cameras", "images", "points3D")]
        there = [file for file in there if (folder / file).is_file()]
        if there:
            return f"{folder}: is no whole COLMAP model: it has {', '.join(there)}, but no cameras and images of one kind"
    return ""


def model_files(folder: Path) -> tuple[Path, ...]:
    """The files of a model that are read: binary ones where both kinds are there."""
    suffix = ".bin" if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file() else ".txt"
    names = (folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D"))
    return tuple(path for path in names if path.is_file())


def read_transforms(dataset: Path, model: Path) -> dict[str, Any]:
    """A COLMAP dataset as transforms.json would say it: frames with cameras of their own, in COLMAP's world.

    Args:
        dataset: folder with images/.
        model: see `model_folder`.

    Raises:
        SceneError: the model is damaged or holds no picture.
    """
    cameras_file, images_file, *_ = model_files(model)
    cameras = read_cameras(cameras_file)
    folder = "images/" if (dataset / "images").is_dir() else ""
    frames = []
    for image in read_images(images_file):
        if image.camera not in cameras:
            raise SceneError(f"{images_file}: {image.name!r} has camera {image.camera}, which {cameras_file.name} lacks")
        pose = np.linalg.inv(image.world_to_camera) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": folder + image.name, **cameras[image.camera], "transform_matrix": pose.tolist()})
        mask = f"masks/{image.name}.png"
        if os.path.lexists(dataset / mask):  # a link to nowhere is missed later
            frames[-1]["mask_path"] = mask
    if not frames:
        raise SceneError(f"{images_file}: the model holds no picture; let COLMAP map the scene first")
    return {"frames": frames}


def read_points(model: Path) -> SparsePoints | None:
    """The points of a model with their colours; None if it has none.

    Raises:
        SceneError: the file is damaged.
    """
    file = next((path for path in model_files(model) if path.stem == "points3D"), None)
    if file is None:
        return None
    with _reading(file):
        positions, colours = _text_points(file) if file.suffix == ".txt" else _binary_points(file.read_bytes())
        if not np.isfinite(positions).all():
            raise ValueError("positions that are not finite")
    return SparsePoints(positions, colours) if len(positions) else None


def read_cameras(file: Path) -> dict[int, dict[str, Any]]:
    """The cameras of a model by number, with nerfstudio's keys."""
    found: dict[int, dict[str, Any]] = {}
    with _reading(file):
        if file.suffix == ".txt":
            for _, words in _lines(file):
                found[int(words[0])] = _camera(words[1], int(words[2]), int(words[3]), list(map(float, words[4:])))
            return found
        data, at = file.read_bytes(), 8
        for _ in range(_count(data, 24)):
            number, model, width, height = struct.unpack_from("<iiQQ", data, at)
            if model not in _MODELS:
                raise ValueError(
                    f"camera {number} is of model {model}, which is not supported: undistort to PINHOLE or OPENCV first"
                )
            name, keys = _MODELS[model]
            found[number] = _camera(name, width, height, list(struct.unpack_from(f"<{len(keys)}d", data, at + 24)))
            at += 24 + 8 * len(keys)
        _check_end(data, at)
    return found


def read_images(file: Path) -> list[ColmapImage]:
    """The pictures of a model, in its order."""
    found = []
    with _reading(file):
        if file.suffix == ".txt":
            lines = iter(_text(file).split("\n"))
            for line in lines:
                if not line.strip() or line.startswith("#"):
                    continue
                words = line.split(maxsplit=9)
                if len(words) < 10:
                    raise ValueError(f"expected a picture's ten values, found {line[:60]!r}")
                found.append(ColmapImage(words[9].strip(), int(words[8]), _pose(list(map(float, words[1:8])))))
                seen = next(lines, "").split()  # its points, of which there may be none
                if len(seen) % 3 or (seen and not seen[-1].lstrip("-").isdecimal()):
                    raise ValueError(f"expected the points of {found[-1].name!r} in the line below it, which may be empty")
            return found
        data, at = file.read_bytes(), 8
        for _ in range(_count(data, 73)):
            numbers, camera = struct.unpack_from("<7d", data, at + 4), struct.unpack_from("<i", data, at + 60)[0]
            end = data.index(b"\0", at + 64)
            name = data[at + 64 : end].decode("utf-8")
            points = struct.unpack_from("<Q", data, end + 1)[0]
            at = end + 9 + 24 * points
            if at > len(data):
                raise ValueError("it ends too early")
            found.append(ColmapImage(name, camera, _pose(numbers)))
        _check_end(data, at)
    return found


def write_model(
    folder: Path,
    frames: Sequence[Mapping[str, Any]],
    points: SparsePoints | None,
) -> None:
    """A binary model: cameras, pictures without observations, points without tracks.

    Args:
        folder: which is there.
        frames: each with name (below images/), world_to_camera [4, 4], and nerfstudio's camera keys.
        points: of the scene, or None.
    """
    keys: tuple[str, ...] = ("w", "h", *_BOTH, "k1", "k2", "k3", "p1", "p2")
    cameras = {tuple(frame.get(key, 0) for key in keys): 0 for frame in frames}
    with (folder / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(cameras)))
        for number, camera in enumerate(cameras, start=1):
            cameras[camera] = number
            values: dict[str, Any] = dict(zip(keys, camera, strict=True))
            lens = any(values[key] for key in ("k1", "k2", "k3", "p1", "p2"))
            name = "FULL_OPENCV" if values["k3"] else "OPENCV" if lens else "PINHOLE"
            parameters = [float(values.get(key, 0.0)) for key in _MODELS[_NUMBERS[name]][1]]
            file.write(struct.pack("<iiQQ", number, _NUMBERS[name], values["w"], values["h"]))
            file.write(struct.pack(f"<{len(parameters)}d", *parameters))
    with (folder / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(frames)))
        for number, frame in enumerate(frames, start=1):
            pose = np.asarray(frame["world_to_camera"], dtype=np.float64)
            camera = cameras[tuple(frame.get(key, 0) for key in keys)]
            file.write(struct.pack("<I4d3di", number, *quaternion(pose[:3, :3]), *pose[:3, 3], camera))
            file.write(frame["name"].encode("utf-8") + b"\0" + struct.pack("<Q", 0))
    count = len(points.positions) if points is not None else 0
    records = np.zeros(count, dtype=_POINT)
    if points is not None:
        records["id"], records["xyz"] = np.arange(1, count + 1), points.positions
        records["rgb"] = 128 if points.colours is None else points.colours
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", count) + records.tobytes())


def quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4"]:
    """w, x, y, z of a rotation, w not negative."""
    r = rotation
    # the symmetric matrix whose largest eigenvector is the quaternion (Bar-Itzhack 2000): no case is special
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k / 3.0)[1][:, -1]
    return np.array([w, x, y, z]) * (-1.0 if w < 0 else 1.0)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns what goes wrong in a damaged file into one line."""
    try:
        yield
    except OSError as error:
        raise SceneError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise SceneError(f"{file}: cannot be read as part of a COLMAP model ({reason})") from error


def _count(data: bytes, least: int) -> int:
    """How many records a binary file says that it has."""
    count = struct.unpack_from("<Q", data)[0]
    if count * least > len(data):
        raise ValueError(f"it says {count} records and ends after {len(data)} bytes")
    return count


def _check_end(data: bytes, at: int) -> None:
    """What follows the last record that a file counts would be left out without a word."""
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes follow the records that it counts")


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8-sig")  # some editors put a byte order mark in front


def _camera(model: str, width: int, height: int, parameters: list[float]) -> dict[str, Any]:
    if model not in _NUMBERS:
        return {"camera_model": model, "w": width, "h": height, "fl_x": 1.0}
    keys = _MODELS[_NUMBERS[model]][1]
    if len(parameters) != len(keys):
        raise ValueError(f"{model} has {len(keys)} parameters, not {len(parameters)}")
    camera: dict[str, Any] = {"camera_model": model, "w": width, "h": height, **dict(zip(keys, parameters, strict=True))}
    if model == "FULL_OPENCV" and not any(camera[key] for key in ("k4", "k5", "k6")):
        camera["camera_model"] = "OPENCV"
    return camera


def _pose(numbers: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    length = float(np.linalg.norm(numbers[:4]))
    if not 1e-3 < length < 1e3:  # COLMAP's are 1
        raise ValueError(f"a rotation whose quaternion has the length {length:g}")
    w, x, y, z = np.array(numbers[:4]) / length
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[4:7]
    return pose


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.split()


def _text_points(file: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for number, words in _lines(file):
        if len(words) < 7:
            raise ValueError(f"line {number}: expected a point's number, position and colour")
        rows.append(words[1:7])
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    colours = values[:, 3:]
    if not ((colours >= 0) & (colours <= 255) & (colours == np.floor(colours))).all():
        raise ValueError("colours that are no whole numbers of 0..255")
    return values[:, :3], colours.astype(np.uint8)


def _binary_points(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    count, at = _count(data, _POINT.itemsize), 8
    points = np.zeros(count, dtype=_POINT)
    for number in range(count):
        points[number] = np.frombuffer(data, _POINT, 1, at)[0]
        at += _POINT.itemsize + 8 * int(points[number]["track"])
        if at > len(data):
            raise ValueError("it ends too early")
    _check_end(data, at)
    return points["xyz"].astype(np.float64), points["rgb"].copy()
