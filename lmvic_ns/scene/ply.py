"""Coloured points from a PLY file and into one, with numpy alone.

nerfstudio asks open3d for them, which does not load on machines without libusb (minimal containers, most servers).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from lmvic_ns.errors import SceneError
from lmvic_ns.scene.points import SparsePoints

SCALARS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_END_OF_HEADER = re.compile(rb"^end_header[ \t]*\r?(\n|$)", re.MULTILINE)
BYTE_ORDER = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY file says of its vertices.

    Attributes:
        encoding: "ascii", "binary_little_endian" or "binary_big_endian".
        count: of vertices.
        fields: name and type of each property.
        body: what follows the header.
    """

    encoding: str
    count: int
    fields: list[tuple[str, str]]
    body: bytes


def read_header(path: Path) -> PlyHeader:
    """The header of a PLY file, trusting nothing.

    Raises:
        SceneError: the file is missing, is not a PLY file, or its vertices are not its first element.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SceneError(f"cannot read the seed points {path}: {error.strerror}") from error
    end = _END_OF_HEADER.search(data)  # the word may also stand in a comment
    if not data.startswith(b"ply") or end is None:
        raise SceneError(f"{path} is not a PLY file; write the seed points with ns-process-data, or leave them out")
    try:
        encoding, count, fields = _parse_header(data[: end.start()].decode("ascii", "replace").splitlines(), path)
    except (ValueError, IndexError) as error:  # a line with too few words, or a number that is none
        raise SceneError(f"{path} has a damaged PLY header ({error}); write it again, or leave the points out") from error
    if len({name for name, _ in fields}) < len(fields):
        raise SceneError(f"{path} has a damaged PLY header (a property twice); write it again, or leave the points out")
    body = data[end.end() :]
    # a vertex takes at least a sign and a space for each number of a text, before memory is taken for all of them
    least = 2 * len(fields) - 1 if encoding == "ascii" else sum(np.dtype(SCALARS[kind]).itemsize for _, kind in fields)
    if count * max(least, 1) > len(body) + 1:
        raise SceneError(f"{path} is damaged: its header promises {count} points with x, y, z, more than it can hold")
    return PlyHeader(encoding, count, fields, body)


def read_points(path: Path) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"] | None]:
    """Positions (float64 if `far`, else float32) and colours (0..255; None if the file has none) of the vertices.

    Colours of 16 bits are rounded to 8, and a line on stderr says so.

    Raises:
        SceneError: see `read_header`; or the vertices are not what the header promises, or not finite.
    """
    header = read_header(path)
    encoding, count, fields, body = header.encoding, header.count, header.fields, header.body
    try:
        dtype = np.dtype([(name, BYTE_ORDER[encoding] + SCALARS[kind]) for name, kind in fields])
        if encoding == "ascii":
            rows = [tuple(line.split()[: len(fields)]) for line in body.decode("ascii").splitlines()[:count]]
            table = np.array(rows, dtype=np.float64).reshape(count, len(fields))
            columns = {name: table[:, i] for i, (name, _) in enumerate(fields)}
        else:
            table = np.frombuffer(body, dtype=dtype, count=count)
            columns = {name: table[name] for name, _ in fields}
        points = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    except (ValueError, KeyError, OverflowError) as error:
        raise SceneError(f"{path} is damaged: its header promises {count} points with x, y, z ({error})") from error
    if not np.isfinite(points).all():
        raise SceneError(f"{path} holds points that are not finite; remove them")
    colours = _colours(path, columns, dict(fields))
    return points if SparsePoints(points, colours).far else points.astype(np.float32), colours


def _parse_header(lines: list[str], path: Path) -> tuple[str, int, list[tuple[str, str]]]:
    """Format, number of vertices and their (name, type) fields."""
    encoding, count, fields, element = "", -1, [], ""
    for words in (line.split() for line in lines):
        if words[:1] == ["format"]:
            encoding = words[1]
        elif words[:1] == ["element"]:
            if not element and words[1] != "vertex":
                raise SceneError(f"{path}: vertices must be the first element, found '{words[1]}'")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            if words[1] not in SCALARS:
                raise SceneError(f"{path}: a vertex property of type '{words[1]}' cannot be read")
            fields.append((words[2], words[1]))
    if encoding not in BYTE_ORDER or count < 0:
        raise SceneError(f"{path}: not a PLY format that can be read ('{encoding}', {count} vertices)")
    return encoding, count, fields


def _colours(path: Path, columns: dict[str, np.ndarray], kinds: dict[str, str]) -> UInt8[np.ndarray, "n 3"] | None:
    """Red, green, blue as 0..255: bytes as they are, 16-bit ones as 0..65535, floating-point ones as 0..1.

    Raises:
        SceneError: colours of another type, or beyond these ranges: what they mean is not known.
    """
    names = ("red", "green", "blue")
    if not all(name in columns for name in names):
        return None
    found = {SCALARS[kinds[name]] for name in names}
    kind = found.pop()
    values = np.stack([columns[name] for name in names], axis=1).astype(np.float64)
    top = {"u1": 255.0, "u2": 65535.0, "f4": 1.0, "f8": 1.0}.get(kind)
    if found or top is None:
        raise SceneError(f"{path}: colours of type {kinds['red']} cannot be read; write them as uchar, 0 to 255")
    if values.size and not (values.min() >= 0 and values.max() <= top):
        raise SceneError(f"{path}: colours of type {kinds['red']} must lie in 0..{top:g}; write them as uchar, 0 to 255")
    if kind == "u2":
        print(f"lmvic: {path}: colours of 16 bits are rounded to 8", file=sys.stderr)
    return (values * (255.0 / top)).round().astype(np.uint8)


def write_ply(path: Path, points: SparsePoints) -> None:
    """A binary PLY that nerfstudio reads as seed points; points without colours become grey, which it needs.

    `far` points are written as doubles.
    """
    count, far = len(points.positions), points.far
    fields = [(axis, "<f8" if far else "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    table = np.full(count, 127, dtype=np.uint8).astype(np.dtype(fields))
    for column, axis in enumerate("xyz"):
        table[axis] = points.positions[:, column]
    if points.colours is not None:
        for column, channel in enumerate(("red", "green", "blue")):
            table[channel] = points.colours[:, column]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property {'double' if far else 'float'} {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode("ascii") + table.tobytes())
