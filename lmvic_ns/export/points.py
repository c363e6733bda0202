"""The section `PNTS` of an `.lmvic` file: the scene's sparse points as they are (`--points exact`), in order.

Layout, little-endian: uint32 number of points n; uint8 1 if there are colours, else 0; then a zlib stream of n x 12 bytes
of float32 x, y, z and, with colours, n x 3 bytes of red, green, blue. Both tables are stored by columns of bytes (first
byte of every x, second byte of every x, ...), which deflate packs better than whole numbers.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.scene import MultiViewScene

TAG = "PNTS"
MAX_POINTS = 50_000_000
_HEAD = struct.Struct("<IB")


@dataclass(frozen=True)
class SparsePoints:
    """Points in the scene's world, with colours if they are known."""

    positions: Float32[np.ndarray, "n 3"]
    colours: UInt8[np.ndarray, "n 3"] | None


def scene_points(scene: MultiViewScene) -> SparsePoints | None:
    """The points of a scene's .ply file; None without one.

    Raises:
        SceneError: the file is damaged.
    """
    if scene.sparse_points is None or not scene.sparse_points.is_file():
        return None
    from lmvic_ns.splat.ply import read_points

    positions, colours = read_points(scene.sparse_points)
    if len(positions) > MAX_POINTS:
        raise SceneError(f"{scene.sparse_points}: {len(positions)} points are more than {MAX_POINTS}; use --points none")
    return SparsePoints(np.ascontiguousarray(positions, dtype=np.float32), colours) if len(positions) else None


def check_points(scene: MultiViewScene) -> None:
    """Refuse a scene whose point file has a damaged header, before its depth is searched with these points.

    Raises:
        SceneError: it has.
    """
    if scene.sparse_points is not None and scene.sparse_points.is_file():
        from lmvic_ns.splat.ply import read_header

        read_header(scene.sparse_points)


def pack_points(points: SparsePoints) -> bytes:
    """The bytes of the section."""
    count = len(points.positions)
    planes = [points.positions.astype("<f4").view(np.uint8).reshape(count, 12).T]
    if points.colours is not None:
        planes.append(points.colours.reshape(count, 3).T)
    body = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    return _HEAD.pack(count, points.colours is not None) + zlib.compress(body, 9)


def unpack_points(data: bytes) -> SparsePoints:
    """The points of a section.

    Raises:
        BitstreamError: it is not what `pack_points` writes.
    """
    if len(data) < _HEAD.size:
        raise BitstreamError(f"section {TAG}: expected at least {_HEAD.size} bytes, found {len(data)}")
    count, coloured = _HEAD.unpack_from(data)
    if not 0 < count <= MAX_POINTS or coloured > 1:
        raise BitstreamError(f"section {TAG}: expected 1..{MAX_POINTS} points and a flag of 0 or 1, found {count}, {coloured}")
    size = count * (15 if coloured else 12)
    try:
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(data[_HEAD.size :], size + 1)
    except zlib.error as error:
        raise BitstreamError(f"section {TAG}: not a zlib stream ({error})") from None
    if len(body) != size or not unpacker.eof:
        raise BitstreamError(f"section {TAG}: expected {size} bytes of points, found {len(body)} or more")
    table = np.frombuffer(body, dtype=np.uint8)
    positions = np.ascontiguousarray(table[: count * 12].reshape(12, count).T).view("<f4").astype(np.float32)
    if not np.isfinite(positions).all():
        raise BitstreamError(f"section {TAG}: expected finite positions")
    colours = np.ascontiguousarray(table[count * 12 :].reshape(3, count).T) if coloured else None
    return SparsePoints(positions, colours)


def write_ply(path: Path, points: SparsePoints) -> None:
    """A binary PLY that nerfstudio reads as seed points; points without colours become grey, which it needs."""
    count = len(points.positions)
    fields = [(axis, "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    table = np.full(count, 127, dtype=np.uint8).astype(np.dtype(fields))
    for column, axis in enumerate("xyz"):
        table[axis] = points.positions[:, column]
    if points.colours is not None:
        for column, channel in enumerate(("red", "green", "blue")):
            table[channel] = points.colours[:, column]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode("ascii") + table.tobytes())
