"""The section `PNTS` of an `.lmvic` file: the scene's sparse points as they are (`--points exact`), in order.

Layout, little-endian: uint32 number of points n; uint8 flags (1: there are colours; 2: positions are relative to an origin,
three float64 that follow); then a zlib stream of n x 12 bytes of float32 x, y, z and, with colours, n x 3 bytes of red,
green, blue. Both tables are stored by columns of bytes (first
byte of every x, second byte of every x, ...), which deflate packs better than whole numbers.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import write_ply
from lmvic_ns.scene.points import SparsePoints

__all__ = ["SparsePoints", "pack_points", "scene_points", "unpack_points", "write_ply"]

TAG = "PNTS"
MAX_POINTS = 50_000_000
COLOURED, FAR = 1, 2
_HEAD = struct.Struct("<IB")
_ORIGIN = struct.Struct("<3d")


def scene_points(scene: MultiViewScene) -> SparsePoints | None:
    """The points of a scene, from its .ply file or as it holds them; None without any.

    Raises:
        SceneError: the file is named and missing, or damaged.
    """
    points = scene.points()
    if points is None or not len(points.positions):
        return None
    if len(points.positions) > MAX_POINTS:
        raise SceneError(f"{len(points.positions)} sparse points are more than {MAX_POINTS}; use --points none")
    return points


def check_points(scene: MultiViewScene) -> None:
    """Refuse a scene whose point file has a damaged header, before its depth is searched with these points.

    Raises:
        SceneError: it has.
    """
    if scene.sparse_points is not None and scene.sparse_points.is_file():
        from lmvic_ns.scene.ply import read_header

        read_header(scene.sparse_points)


def pack_points(points: SparsePoints) -> bytes:
    """The bytes of the section; `far` points relative to one in their middle."""
    count = len(points.positions)
    positions, head = points.positions, _HEAD.pack(count, COLOURED * (points.colours is not None))
    if points.far:
        origin = positions[np.argsort(positions[:, 0], kind="stable")[count // 2]].astype(np.float64)
        positions = positions.astype(np.float64) - origin
        head = _HEAD.pack(count, COLOURED * (points.colours is not None) | FAR) + _ORIGIN.pack(*origin.tolist())
    planes = [positions.astype("<f4").view(np.uint8).reshape(count, 12).T]
    if points.colours is not None:
        planes.append(points.colours.reshape(count, 3).T)
    body = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    return head + zlib.compress(body, 9)


def unpack_points(data: bytes) -> SparsePoints:
    """The points of a section.

    Raises:
        BitstreamError: it is not what `pack_points` writes.
    """
    if len(data) < _HEAD.size:
        raise BitstreamError(f"section {TAG}: expected at least {_HEAD.size} bytes, found {len(data)}")
    count, flags = _HEAD.unpack_from(data)
    if not 0 < count <= MAX_POINTS or flags & ~(COLOURED | FAR):
        raise BitstreamError(f"section {TAG}: expected 1..{MAX_POINTS} points and flags of 0 to 3, found {count}, {flags}")
    coloured, begin, origin = bool(flags & COLOURED), _HEAD.size, (0.0, 0.0, 0.0)
    if flags & FAR:
        if len(data) < begin + _ORIGIN.size:
            raise BitstreamError(f"section {TAG}: expected an origin of {_ORIGIN.size} bytes")
        origin, begin = _ORIGIN.unpack_from(data, begin), begin + _ORIGIN.size
        if not np.isfinite(origin).all():
            raise BitstreamError(f"section {TAG}: expected a finite origin")
    size = count * (15 if coloured else 12)
    try:
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(data[begin:], size + 1)
    except zlib.error as error:
        raise BitstreamError(f"section {TAG}: not a zlib stream ({error})") from None
    if len(body) != size or not unpacker.eof:
        raise BitstreamError(f"section {TAG}: expected {size} bytes of points, found {len(body)} or more")
    table = np.frombuffer(body, dtype=np.uint8)
    positions = np.ascontiguousarray(table[: count * 12].reshape(12, count).T).view("<f4").astype(np.float32)
    if not np.isfinite(positions).all():
        raise BitstreamError(f"section {TAG}: expected finite positions")
    if flags & FAR:
        positions = positions.astype(np.float64) + np.array(origin)
    colours = np.ascontiguousarray(table[count * 12 :].reshape(3, count).T) if coloured else None
    return SparsePoints(positions, colours)
