"""The header of an `.lmvic` file: everything about a scene but its pixels (docs/file-format.md, section 3)."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmvic_ns.bitstream import limits, poses
from lmvic_ns.errors import BitstreamError, SceneError

HASH_BYTES = 16
ENCODE_BYTES = 8
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class ViewRecord:
    """One view: its name, pinhole camera, pose, reference and quality.

    Attributes:
        name: a relative path with `/`, unique in the file.
        width, height: pixels.
        intrinsics: fx, fy, cx, cy in pixels (OpenCV axes, pixel centres at +0.5).
        quaternion: w, x, y, z of the world-to-camera rotation, as stored (float32).
        centre: camera centre minus the header's origin, as stored (float32).
        parent: number of the reference view, -1 for none.
        quality: level of this view.
    """

    name: str
    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    quaternion: tuple[float, float, float, float]
    centre: tuple[float, float, float]
    parent: int
    quality: float


@dataclass(frozen=True)
class FileHeader:
    """What a file says about itself. Values are exactly what a reader gets back: encode with these cameras.

    Attributes:
        preset: name of the codec's preset.
        weights_name: name of its weights.
        weights_hash: the first 16 bytes of the SHA-256 of the weights file.
        quality: level 0..63 of views that have none of their own (float32).
        inverse_depth_scale: what one unit of coded inverse depth means, in 1 / scene units.
        views: one record a view; a view's number is its place here.
        order: the views' numbers in coding order: every view after its parent.
        origin: float64 point of the world that centres are relative to.
        parameters: further numbers of the codec by name.
        encode: 8 bytes that stand for what the units depend on besides (pictures, options): files that differ in it share no
            units, even if all else is equal; zeros if that is not known.
    """

    preset: str
    weights_name: str
    weights_hash: bytes
    quality: float
    inverse_depth_scale: float
    views: tuple[ViewRecord, ...]
    order: tuple[int, ...]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    parameters: Mapping[str, float] = field(default_factory=dict)
    encode: bytes = bytes(ENCODE_BYTES)

    @classmethod
    def build(
        cls,
        *,
        names: Sequence[str],
        intrinsics: Any,
        world_to_camera: Any,
        height: Any,
        width: Any,
        parent: Sequence[int],
        order: Sequence[int],
        preset: str,
        weights_name: str,
        weights_hash: bytes,
        quality: float,
        inverse_depth_scale: float,
        view_quality: Sequence[float] | None = None,
        parameters: Mapping[str, float] | None = None,
        encode: bytes = bytes(ENCODE_BYTES),
    ) -> FileHeader:
        """A header of a scene, with poses rounded to what the file holds.

        Args:
            names: one for each view.
            intrinsics: [v, 3, 3] without skew.
            world_to_camera: [v, 4, 4] rigid motions.
            height, width: [v].
            parent: number of each view's reference, -1 for none.
            order: the views in coding order.
            quality: level of the scene.
            view_quality: of each view, where they differ from the scene's.
            preset, weights_name, weights_hash, inverse_depth_scale, parameters, encode: see the class.

        Raises:
            SceneError: cameras that are no pinholes, or a value that the format does not hold.
        """
        count = len(names)
        k, motions = np.asarray(intrinsics, dtype=np.float64), np.asarray(world_to_camera, dtype=np.float64)
        heights, widths = np.asarray(height).reshape(-1).tolist(), np.asarray(width).reshape(-1).tolist()
        stored = np.asarray([quality] * count if view_quality is None else view_quality, dtype=np.float32)
        qualities = stored.astype(np.float64).tolist()
        lengths = {count, len(heights), len(widths), len(parent), len(qualities)}
        if len(lengths) != 1 or k.shape != (count, 3, 3) or motions.shape != (count, 4, 4):
            raise SceneError(f"expected names, cameras, sizes and parents of {count} views each")
        if not np.isfinite(k).all():
            raise SceneError("intrinsics: expected finite numbers")
        if not np.array_equal(k * poses.PINHOLE_ZEROS, np.broadcast_to(poses.PINHOLE_ONES, k.shape)):
            raise SceneError("intrinsics: the format holds pinholes without skew; undistort the images first")
        quaternions, centres, origin = poses.round_to_stored(motions)
        views = tuple(
            ViewRecord(
                name=str(names[i]),
                width=int(widths[i]),
                height=int(heights[i]),
                intrinsics=(k[i, 0, 0].item(), k[i, 1, 1].item(), k[i, 0, 2].item(), k[i, 1, 2].item()),
                quaternion=tuple(quaternions[i].tolist()),
                centre=tuple(centres[i].tolist()),
                parent=int(parent[i]),
                quality=float(qualities[i]),
            )
            for i in range(count)
        )
        header = cls(
            preset=preset,
            weights_name=weights_name,
            weights_hash=bytes(weights_hash),
            quality=float(np.float32(quality)),
            inverse_depth_scale=float(inverse_depth_scale),
            views=views,
            order=tuple(int(i) for i in order),
            origin=origin,
            parameters={str(name): float(value) for name, value in (parameters or {}).items()},
            encode=bytes(encode),
        )
        try:
            header.validate()
        except BitstreamError as error:
            raise SceneError(str(error)) from None
        return header

    def intrinsics(self) -> np.ndarray:
        """float64 [v, 3, 3]."""
        matrices = np.zeros((len(self.views), 3, 3))
        values = np.array([view.intrinsics for view in self.views]).reshape(-1, 4)
        matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2] = values.T
        matrices[:, 2, 2] = 1.0
        return matrices

    def world_to_camera(self) -> np.ndarray:
        """float64 [v, 4, 4]; the same bits on every machine (elementwise operations in a fixed order)."""
        quaternions = np.array([view.quaternion for view in self.views]).reshape(-1, 4)
        centres = np.array([view.centre for view in self.views]).reshape(-1, 3)
        return poses.world_to_camera(quaternions, centres, self.origin)

    def ancestors(self, view: int) -> tuple[int, ...]:
        """Views that must be decoded before `view`, the root first."""
        chain: list[int] = []
        while (view := self.views[view].parent) >= 0:
            chain.append(view)
        return tuple(reversed(chain))

    def pixels(self) -> int:
        """Of all views."""
        return sum(view.width * view.height for view in self.views)

    def validate(self) -> None:
        """Check every value against the format's rules.

        Raises:
            BitstreamError: naming the field and what was expected.
        """
        count = len(self.views)
        if not 1 <= count <= limits.MAX_VIEWS:
            raise BitstreamError(f"header: expected 1..{limits.MAX_VIEWS} views, found {count}")
        if len(self.weights_hash) != HASH_BYTES:
            raise BitstreamError(f"header: weights hash: expected {HASH_BYTES} bytes, found {len(self.weights_hash)}")
        if len(self.encode) != ENCODE_BYTES:
            raise BitstreamError(f"header: encode: expected {ENCODE_BYTES} bytes, found {len(self.encode)}")
        for what, text in (("preset", self.preset), ("weights name", self.weights_name)):
            _check_text(f"header: {what}", text)
        _check_number("header: quality", self.quality, 0, 255)
        _check_number("header: inverse depth scale", self.inverse_depth_scale, 1e-30, 1e30)
        for value in self.origin:
            _check_number("header: origin", value, -limits.MAX_COORDINATE, limits.MAX_COORDINATE)
        if len(self.parameters) > limits.MAX_PARAMETERS:
            raise BitstreamError(f"header: expected at most {limits.MAX_PARAMETERS} parameters")
        for name, value in self.parameters.items():
            _check_text("header: parameter name", name)
            _check_number(f"header: parameter {name}", value, -math.inf, math.inf)
        for number, view in enumerate(self.views):
            _check_view(f"header: view {number}", view)
        self._validate_names_and_tree()

    def _validate_names_and_tree(self) -> None:
        seen: dict[str, int] = {}
        for number, view in enumerate(self.views):
            if view.name in seen:
                raise BitstreamError(f"header: view {number}: the name {view.name!r} is that of view {seen[view.name]}")
            seen[view.name] = number
        count = len(self.views)
        if sorted(self.order) != list(range(count)):
            raise BitstreamError(f"header: tree: expected each of {count} views once in the coding order")
        rank = {view: place for place, view in enumerate(self.order)}
        for number, view in enumerate(self.views):
            if view.parent != -1 and (view.parent not in rank or rank[view.parent] >= rank[number]):
                raise BitstreamError(
                    f"header: tree: view {number}: expected a reference that is coded before it, found {view.parent}"
                )


def _check_view(what: str, view: ViewRecord) -> None:
    check_view_name(what, view.name)
    if not (1 <= view.width <= limits.MAX_SIDE and 1 <= view.height <= limits.MAX_SIDE):
        raise BitstreamError(f"{what}: expected sides of 1..{limits.MAX_SIDE}, found {view.width}x{view.height}")
    if view.width * view.height > limits.MAX_PIXELS:
        raise BitstreamError(f"{what}: expected at most {limits.MAX_PIXELS} pixels, found {view.width}x{view.height}")
    for value in view.intrinsics[:2]:
        _check_number(f"{what}: focal length", value, 1e-9, limits.MAX_COORDINATE)
    for value in (*view.intrinsics[2:], *view.centre):
        _check_number(f"{what}: camera", value, -limits.MAX_COORDINATE, limits.MAX_COORDINATE)
    _check_number(f"{what}: length of the quaternion", math.sqrt(sum(v * v for v in view.quaternion)), 0.999, 1.001)
    _check_number(f"{what}: quality", view.quality, 0, 255)


def check_view_name(what: str, name: str) -> None:
    """Refuse names that a program could not safely write below a folder of its own.

    Raises:
        BitstreamError: an empty, absolute or climbing path, a drive, a backslash, a control character, or too long.
    """
    _check_text(f"{what}: name", name)
    if "\\" in name or _DRIVE.match(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise BitstreamError(f"{what}: name: expected a relative path inside a folder, found {name!r}")


def _check_text(what: str, text: str) -> None:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise BitstreamError(f"{what}: expected UTF-8 text, found {text!r}") from None
    if not 1 <= size <= limits.MAX_NAME_BYTES or not text.isprintable():
        raise BitstreamError(f"{what}: expected 1..{limits.MAX_NAME_BYTES} bytes of printable text, found {text[:80]!r}")


def _check_number(what: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise BitstreamError(f"{what}: expected a number in {low:g}..{high:g}, found {value}")


def pack_header(header: FileHeader) -> bytes:
    """The header's body, as docs/file-format.md lays it out (before compression).

    Raises:
        BitstreamError: a value is against the format's rules.
    """
    header.validate()
    cameras = sorted({(*view.intrinsics, view.width, view.height) for view in header.views})
    place = {camera: i for i, camera in enumerate(cameras)}
    own_quality = any(view.quality != header.quality for view in header.views)
    parts = [_text(header.preset), _text(header.weights_name), header.weights_hash, header.encode]
    parts.append(struct.pack("<fd3d", header.quality, header.inverse_depth_scale, *header.origin))
    parts.append(struct.pack("<B", len(header.parameters)))
    parts += [_text(name) + struct.pack("<d", header.parameters[name]) for name in sorted(header.parameters)]
    parts.append(struct.pack("<HHB", len(header.views), len(cameras), int(own_quality)))
    parts += [struct.pack("<4d2I", *camera) for camera in cameras]
    parts.append(np.array(header.order, dtype="<u2").tobytes())
    parts.append(np.array([view.parent + 1 for view in header.views], dtype="<u2").tobytes())
    if len(cameras) > 1:
        members = [place[(*view.intrinsics, view.width, view.height)] for view in header.views]
        parts.append(np.array(members, dtype="<u2").tobytes())
    if own_quality:
        parts.append(np.array([view.quality for view in header.views], dtype="<f4").tobytes())
    parts.append(np.array([(*view.quaternion, *view.centre) for view in header.views], dtype="<f4").tobytes())
    parts += [_text(view.name) for view in header.views]
    return b"".join(parts)


def unpack_header(body: bytes) -> FileHeader:
    """Read a body back, trusting nothing.

    Raises:
        BitstreamError: naming the field and what was expected.
    """
    cursor = _Cursor(body)
    preset, weights_name = cursor.text("preset"), cursor.text("weights name")
    weights_hash = cursor.take(HASH_BYTES, "weights hash")
    encode = cursor.take(ENCODE_BYTES, "encode")
    quality, scale, *origin = cursor.unpack("<fd3d", "quality and scale")
    (parameter_count,) = cursor.unpack("<B", "parameters")
    parameters: dict[str, float] = {}
    for _ in range(parameter_count):
        name = cursor.text("parameter name")
        parameters[name] = cursor.unpack("<d", f"parameter {name}")[0]
    count, camera_count, own_quality = cursor.unpack("<HHB", "number of views")
    if not 1 <= camera_count <= count or own_quality > 1:
        raise BitstreamError(f"header: expected 1..{count} cameras and a flag, found {camera_count} and {own_quality}")
    cameras = [cursor.unpack("<4d2I", f"camera {i}") for i in range(camera_count)]
    order = cursor.array("<u2", count, "coding order")
    parent = cursor.array("<u2", count, "parents").astype(np.int64) - 1
    members = cursor.array("<u2", count, "cameras of views") if camera_count > 1 else np.zeros(count, np.uint16)
    if int(members.max()) >= camera_count:
        raise BitstreamError(f"header: cameras of views: expected numbers below {camera_count}, found {members.max()}")
    qualities = cursor.array("<f4", count, "qualities") if own_quality else np.full(count, quality)
    stored = cursor.array("<f4", 7 * count, "poses")
    if not np.isfinite(stored).all():
        view = int(np.flatnonzero(~np.isfinite(stored))[0]) // 7
        raise BitstreamError(f"header: view {view}: camera: expected finite numbers in its pose")
    stored = stored.astype(np.float64).reshape(count, 7).tolist()
    names = [cursor.text(f"name of view {i}") for i in range(count)]
    cursor.finish()
    views = []
    for i, pose in enumerate(stored):
        *intrinsics, width, height = cameras[members[i]]
        views.append(
            ViewRecord(
                name=names[i],
                width=width,
                height=height,
                intrinsics=tuple(intrinsics),
                quaternion=tuple(pose[:4]),
                centre=tuple(pose[4:]),
                parent=int(parent[i]),
                quality=float(qualities[i]),
            )
        )
    header = FileHeader(
        preset,
        weights_name,
        weights_hash,
        quality,
        scale,
        tuple(views),
        tuple(order.tolist()),
        tuple(origin),
        parameters,
        encode,
    )
    header.validate()
    return header


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return bytes([len(data)]) + data


class _Cursor:
    """Takes fields from the front of a buffer and names the one that is missing."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int, what: str) -> bytes:
        left = len(self._data) - self._at
        if size > left:
            raise BitstreamError(f"header: {what}: expected {size} bytes, found {left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def array(self, dtype: str, count: int, what: str) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype=dtype)

    def text(self, what: str) -> str:
        data = self.take(self.unpack("<B", what)[0], what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise BitstreamError(f"header: {what}: expected UTF-8 text, found {data[:40]!r}") from None

    def finish(self) -> None:
        if self._at != len(self._data):
            raise BitstreamError(f"header: expected its end at byte {self._at}, found {len(self._data)} bytes")
