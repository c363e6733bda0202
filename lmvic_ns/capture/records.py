"""What transforms.json says beside cameras and depth, as the file's section `META`: names, lists, lenses, unknown keys."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.geometry.undistortion import LensDistortion, PinholeModel
from lmvic_ns.scene.reader import lens_of, read_number
from lmvic_ns.scene.transforms import check_exists, load_transforms, naming_model, transforms_file

TAG = "META"
MAX_BYTES = 1 << 24
"""Of the section's JSON: what a reader unpacks of a file that nobody vouches for."""
SPLIT_LISTS = ("train_filenames", "val_filenames", "test_filenames")
"""Keys of the scene that list pictures by their file_path."""
CAMERA_KEYS = frozenset(
    ("camera_model", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "p3", "p4",
     "s1", "s2", "s3", "s4", "sk_x", "sk_y", "distortion_params", "is_fisheye")
)  # fmt: skip
"""Keys that say what the coded cameras and the lenses say."""
_SCENE_KEYS = CAMERA_KEYS | {"frames", "ply_file_path", "depth_unit_scale_factor"}
_FRAME_KEYS = CAMERA_KEYS | {"file_path", "transform_matrix", "depth_file_path", "mask_path"}


@dataclass(frozen=True)
class LensCamera:
    """Camera of a photograph with lens distortion, at the size of the coded views.

    Attributes:
        camera: focal lengths and principal point in pixels, pixel centres at +0.5.
        lens: OpenCV's coefficients.
        height: pixels of the photograph.
        width: pixels of the photograph.
    """

    camera: PinholeModel
    lens: LensDistortion
    height: int
    width: int

    def resized(self, factor: int) -> LensCamera:
        """The same for a photograph that is `factor` times smaller in each direction."""
        height, width = self.height // factor, self.width // factor
        x, y = width / self.width, height / self.height
        c = self.camera
        return LensCamera(PinholeModel(c.fx * x, c.fy * y, c.cx * x, c.cy * y), self.lens, height, width)


@dataclass(frozen=True)
class CaptureRecords:
    """What a dataset says beside cameras, pictures, depth and points.

    Attributes:
        paths: file_path of each view, as transforms.json has it; the views are in the file's order.
        scene: keys of the scene that the codec does not use, as they are.
        frames: such keys of each view.
        order: views in the order in which transforms.json lists them.
        masks: mask_path of each view, None without.
        lenses: camera with distortion of each view, None where the photograph is a pinhole view.
        points: ply_file_path.
        depth_unit: depth_unit_scale_factor, scene units of a depth file's 1.
    """

    paths: tuple[str, ...]
    scene: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[Mapping[str, Any], ...] = ()
    order: tuple[int, ...] = ()
    masks: tuple[str | None, ...] = ()
    lenses: tuple[LensCamera | None, ...] = ()
    points: str | None = None
    depth_unit: float | None = None


def read_records(dataset: Path, pictures: Sequence[Path] | None = None, downscale: int = 1) -> CaptureRecords | None:
    """The records of a nerfstudio dataset.

    Args:
        dataset: its folder, or transforms.json.
        pictures: the views' files, in the views' order; by default all of the dataset, sorted as `MultiViewScene` has them.
        downscale: how much smaller the pictures are coded.

    Returns:
        None if the dataset does not list one of `pictures`.

    Raises:
        SceneError: transforms.json is missing or damaged.
    """
    with naming_model(dataset):
        return _read_records(dataset, pictures, downscale)


def _read_records(dataset: Path, pictures: Sequence[Path] | None, downscale: int) -> CaptureRecords | None:
    file, meta = transforms_file(dataset), load_transforms(dataset)
    listed: list[dict[str, Any]] = meta["frames"]
    by_path = {_place(file, record["file_path"]): number for number, record in enumerate(listed)}
    if pictures is None:
        chosen = sorted(range(len(listed)), key=lambda number: str(listed[number].get("file_path")))
    else:
        found = [by_path.get(os.path.normpath(os.path.abspath(picture))) for picture in pictures]
        chosen = [number for number in found if number is not None]
        if len(chosen) != len(found):
            return None
    views = [listed[number] for number in chosen]
    unit = meta.get("depth_unit_scale_factor")
    points = meta.get("ply_file_path")
    return CaptureRecords(
        paths=tuple(str(view["file_path"]) for view in views),
        scene={key: value for key, value in meta.items() if key not in _SCENE_KEYS},
        frames=tuple({key: value for key, value in view.items() if key not in _FRAME_KEYS} for view in views),
        order=tuple(sorted(range(len(chosen)), key=lambda view: chosen[view])),
        masks=tuple(_mask_path(file, view) for view in views),
        lenses=tuple(_lens_camera(file, meta, view, downscale) for view in views),
        points=points if isinstance(points, str) and points else None,
        depth_unit=float(unit) if isinstance(unit, int | float) and not isinstance(unit, bool) else None,
    )


def pack_records(records: CaptureRecords) -> bytes:
    """The section's bytes: JSON in a zlib stream.

    Raises:
        SceneError: they are larger than a reader takes.
    """
    views = len(records.paths)
    data: dict[str, Any] = {"paths": records.paths}
    if records.scene:
        data["scene"] = dict(records.scene)
    keys = sorted({key for frame in records.frames for key in frame})
    if keys:
        data["frames"] = {key: _column(records.frames, key) for key in keys}
    if records.order and records.order != tuple(range(views)):
        data["order"] = records.order
    if any(mask is not None for mask in records.masks):
        data["masks"] = records.masks
    if records.points is not None:
        data["points"] = records.points
    if records.depth_unit is not None:
        data["depth_unit"] = records.depth_unit
    distinct = list(dict.fromkeys(lens for lens in records.lenses if lens is not None))
    if distinct:
        data["lenses"] = [_lens_numbers(lens) for lens in distinct]
        data["lens"] = [-1 if lens is None else distinct.index(lens) for lens in records.lenses]
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    if len(text) > MAX_BYTES:
        raise SceneError(
            f"transforms.json holds {len(text) / 1e6:.0f} MB of keys that the codec does not know, more than "
            f"{MAX_BYTES / 1e6:.0f}: take them out of it, or leave all such keys out of the file with --no-metadata"
        )
    return zlib.compress(text, 9)


def unpack_records(data: bytes, views: int) -> CaptureRecords:
    """The records of a section.

    Args:
        data: the section.
        views: of the file.

    Raises:
        BitstreamError: it breaks the format's rules.
    """
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(data, MAX_BYTES + 1)
        if len(text) > MAX_BYTES or not stream.eof or stream.unused_data:
            raise ValueError(f"expected one zlib stream of at most {MAX_BYTES} bytes")
        return _records_of(json.loads(text.decode("ascii")), views)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError, zlib.error) as error:
        raise BitstreamError(f"section {TAG}: not what an encoder writes: {str(error) or type(error).__name__}") from None


def _records_of(data: Any, views: int) -> CaptureRecords:
    def strings(values: Any, none: bool = False) -> tuple[Any, ...]:
        if len(values) != views or not all(isinstance(v, str) or (none and v is None) for v in values):
            raise ValueError(f"expected a text for each of {views} views")
        return tuple(values)

    frames: list[dict[str, Any]] = [{} for _ in range(views)]
    for key, column in dict(data.get("frames", {})).items():
        numbers = column.get("views", range(views))
        if len(numbers) != len(column["values"]):
            raise ValueError(f"expected a value of {key!r} for each view that has one")
        for number, value in zip(numbers, column["values"], strict=True):
            if not (isinstance(number, int) and 0 <= number < views):
                raise ValueError(f"expected views below {views} for {key!r}")
            frames[number][key] = value
    order = tuple(data.get("order", range(views)))
    if sorted(order) != list(range(views)):
        raise ValueError("expected an order that lists each view once")
    lenses: tuple[LensCamera | None, ...] = (None,) * views
    if "lenses" in data:
        cameras = [_lens_of_numbers(numbers) for numbers in data["lenses"]]
        if len(data["lens"]) != views or not all(isinstance(n, int) and -1 <= n < len(cameras) for n in data["lens"]):
            raise ValueError(f"expected a lens or none for each of {views} views")
        lenses = tuple(cameras[number] if number >= 0 else None for number in data["lens"])
    unit = data.get("depth_unit")
    if unit is not None and not (isinstance(unit, int | float) and math.isfinite(unit) and unit > 0):
        raise ValueError(f"expected a positive depth unit, found {unit!r:.40}")
    points = data.get("points")
    if points is not None and not isinstance(points, str):
        raise ValueError("expected the name of the points to be a text")
    return CaptureRecords(
        strings(data["paths"]),
        {key: value for key, value in dict(data.get("scene", {})).items() if key not in _SCENE_KEYS},
        tuple({key: value for key, value in frame.items() if key not in _FRAME_KEYS} for frame in frames),
        order,
        strings(data["masks"], none=True) if "masks" in data else (None,) * views,
        lenses,
        points,
        None if unit is None else float(unit),
    )


def _mask_path(file: Path, record: Mapping[str, Any]) -> str | None:
    path = record.get("mask_path")
    if path is None:
        return None
    if not isinstance(path, str) or not path:
        raise SceneError(
            f"{file}: mask_path of {record['file_path']!r} must name a file, not {repr(path)[:60]}; correct it or take it out"
        )
    check_exists(file, path, "mask")
    return path


def _place(file: Path, relative: str) -> str:
    return os.path.normpath(os.path.abspath(file.parent / relative))


def _lens_camera(file: Path, meta: Mapping[str, Any], record: Mapping[str, Any], downscale: int) -> LensCamera | None:
    settings = {**record, **{key: value for key, value in meta.items() if key != "frames"}}
    name = str(record["file_path"])
    lens = lens_of(file, name, settings)
    if not lens or settings.get("fl_x") is None:
        return None
    if settings.get("w") is None or settings.get("h") is None:
        with open_picture(file.parent / name, pixels=False) as picture:
            settings = {**settings, "w": picture.width, "h": picture.height}
    width, height = (round(read_number(file, name, settings, key)) for key in ("w", "h"))
    if min(width, height) < downscale:
        return None
    fx = read_number(file, name, settings, "fl_x")
    numbers = (
        fx,
        read_number(file, name, settings, "fl_y", fx),
        read_number(file, name, settings, "cx", width / 2),
        read_number(file, name, settings, "cy", height / 2),
    )
    return LensCamera(PinholeModel(*numbers), lens, height, width).resized(downscale)


def _lens_numbers(lens: LensCamera) -> list[float]:
    c, d = lens.camera, lens.lens
    return [c.fx, c.fy, c.cx, c.cy, lens.width, lens.height, d.k1, d.k2, d.k3, d.p1, d.p2]


def _lens_of_numbers(numbers: Sequence[Any]) -> LensCamera:
    if len(numbers) != 11 or not all(isinstance(n, int | float) and abs(n) < 1e15 for n in numbers):
        raise ValueError("expected eleven finite numbers for a lens")
    fx, fy, cx, cy, width, height, *distortion = numbers
    if not (fx > 1e-9 and fy > 1e-9 and all(isinstance(n, int) and 1 <= n <= 65535 for n in (width, height))):
        raise ValueError("expected positive focal lengths and a size of 1..65535 for a lens")
    return LensCamera(
        PinholeModel(float(fx), float(fy), float(cx), float(cy)), LensDistortion(*map(float, distortion)), height, width
    )


def _column(frames: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    views = [view for view, frame in enumerate(frames) if key in frame]
    column: dict[str, Any] = {} if len(views) == len(frames) else {"views": views}
    return {**column, "values": [frames[view][key] for view in views]}
