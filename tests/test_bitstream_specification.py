"""A second reader, written from docs/file-format.md alone (struct and zlib, nothing of lmvic_ns), reads what ours writes."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from lmvic_ns.bitstream import layout, limits, rans
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.tables import gaussian_tables
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.sparse_points.compact import MAX_POINTS, POINTS_A_BYTE, POINTS_A_PIXEL

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "file-format.md"


def take(stream: io.BytesIO, form: str) -> tuple:
    return struct.unpack("<" + form, stream.read(struct.calcsize("<" + form)))


def text(stream: io.BytesIO) -> str:
    return stream.read(take(stream, "B")[0]).decode()


def crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 * (register & 1))
    return register ^ 0xFFFFFFFF


def read_by_the_document(data: bytes) -> tuple[dict, dict[int, tuple[bytes, bytes]], dict[bytes, bytes]]:
    magic, major, _, flags, stored, unpacked, crc = struct.unpack("<8s2BH3I", data[:24])  # section 2
    assert magic == b"\x89LMVIC\r\n" and major == 1 and crc == crc32c(data[:20] + data[24 : 24 + stored])
    front = data[:20] + data[24 : 24 + stored]
    body = zlib.decompress(data[24 : 24 + stored]) if flags & 1 else data[24 : 24 + stored]
    assert len(body) == unpacked
    h: dict = {}
    stream = io.BytesIO(body)  # section 3
    h["preset"], h["weights"], h["hash"] = text(stream), text(stream), stream.read(16)
    h["encode"] = stream.read(8)
    h["quality"], h["scale"], *h["origin"] = take(stream, "f4d")
    h["parameters"] = {text(stream): take(stream, "d")[0] for _ in range(take(stream, "B")[0])}
    v, c, own = take(stream, "HHB")
    cameras = [take(stream, "4d2I") for _ in range(c)]
    h["order"], parent = take(stream, f"{v}H"), take(stream, f"{v}H")
    h["parent"] = [p - 1 for p in parent]
    h["cameras"] = [cameras[i] for i in (take(stream, f"{v}H") if c > 1 else [0] * v)]
    h["qualities"] = take(stream, f"{v}f") if own else (h["quality"],) * v
    h["poses"] = [take(stream, "7f") for _ in range(v)]
    h["names"] = [text(stream) for _ in range(v)]
    assert stream.read() == b""

    index_size, index_crc, end_magic = struct.unpack("<2I8s", data[-16:])  # section 6
    index = data[-16 - index_size : -16]
    assert end_magic == b"\x89LMVEND\n" and index_crc == crc32c(index + data[-16:-12])
    numbers, value, shift = [], 0, 0
    for byte in index:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value, shift = 0, 0
    units, sections, at = {}, {}, 24 + stored
    for kind, size in zip(numbers[::2], numbers[1::2], strict=True):
        block = data[at : at + size]
        at += size
        if kind == 0:  # section 5
            mark, tag, length, crc = struct.unpack("<4s4s2I", block[:16])
            assert mark == b"\xf5SEC" and length == size - 16 and crc == crc32c(front + block[:12] + block[16:])
            sections[tag] = block[16:]
        else:  # section 4
            mark, view, d, i, depth_crc, image_crc = struct.unpack("<4sH4I", block[:22])
            depth, image = block[22 : 22 + d], block[22 + d :]
            assert mark == b"\xf5UNT" and view == kind - 1 and len(image) == i
            assert depth_crc == crc32c(front + block[:14] + depth) and image_crc == crc32c(front + block[:14] + image)
            units[view] = (depth, image)
    assert at == len(data) - 16 - index_size
    return h, units, sections


def decode_by_the_document(data: bytes, tables: list[tuple[list[int], int]], indexes: list[int]) -> list[int]:
    """Section 7, with Python's own integers. A table is its cumulative frequencies and its offset."""
    k = len(data) if len(data) < 7 else 6 - len(data) % 2
    x = int.from_bytes(data[:k], "little") if data else 1
    words = list(struct.unpack(f"<{(len(data) - k) // 2}H", data[k:]))
    symbols = []
    for index in indexes:
        cdf, offset = tables[index]
        n = len(cdf) - 1
        if n == 1:
            symbols.append(offset)
            continue
        slot = x % 65536
        s = next(s for s in range(n) if cdf[s] <= slot < cdf[s + 1])
        x = (cdf[s + 1] - cdf[s]) * (x // 65536) + slot - cdf[s]
        x = 65536 * x + words.pop(0) if x < 2**32 and words else x
        value = s + offset
        if s == n - 1:
            value = x % 65536 - (65536 if x % 65536 >= 32768 else 0)
            x //= 65536
            x = 65536 * x + words.pop(0) if x < 2**32 and words else x
        symbols.append(value)
    assert x == 1 and not words
    return symbols


def pose_by_the_document(pose: tuple[float, ...], origin: list[float]) -> list[list[float]]:
    w, x, y, z, *centre = pose
    n = math.sqrt(((w * w + x * x) + y * y) + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    r = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    a, b, c = (centre[i] + origin[i] for i in range(3))
    return [[*row, -((row[0] * a + row[1] * b) + row[2] * c)] for row in r] + [[0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("views", [1, 5])
def test_a_reader_of_the_document_reads_our_files(tmp_path: Path, views: int) -> None:
    rng = np.random.default_rng(views)
    motions = np.tile(np.eye(4), (views, 1, 1))
    motions[:, :3, :3] = np.linalg.qr(rng.normal(size=(views, 3, 3)))[0]
    motions[:, :3, :3] *= np.linalg.det(motions[:, :3, :3])[:, None, None]
    motions[:, :3, 3] = rng.normal(size=(views, 3)) + 1000
    widths = [320 + 10 * (i % 2) for i in range(views)]
    header = FileHeader.build(
        names=[f"a/b{i}.png" for i in range(views)],
        intrinsics=np.tile([[300.0, 0, 160.3], [0, 301.0, 120.7], [0, 0, 1]], (views, 1, 1)),
        world_to_camera=motions,
        height=[240] * views,
        width=widths,
        parent=[-1, *[i // 2 for i in range(1, views)]],
        order=range(views),
        preset="tiny",
        weights_name="tiny-1",
        weights_hash=bytes(range(16)),
        quality=7.0,
        view_quality=[7.0 + (i == 3) for i in range(views)],
        inverse_depth_scale=0.125,
        parameters={"near": 0.5},
        encode=b"\1\2\3\4\5\6\7\x08",
    )
    tables = gaussian_tables([0.04, 0.5, 5.0, 30.0], certain_below=0.05)
    expected = {}
    with Writer(tmp_path / "a.lmvic", header) as writer:
        for view in range(views):
            indexes = rng.integers(0, 4, 3 + 200 * view, dtype=np.uint8)
            symbols = np.where(indexes == 0, 0, np.rint(rng.normal(0, 4 * indexes.astype(float)))).astype(np.int16)
            symbols[:: 50 + view] = np.where(indexes[:: 50 + view] == 0, 0, -3000)
            expected[view] = (indexes, symbols)
            writer.add_unit(view, b"", rans.encode(symbols, indexes, tables))
            writer.add_section(f"N{view:03d}", bytes([view]) * view)
    h, units, sections = read_by_the_document((tmp_path / "a.lmvic").read_bytes())
    assert (h["preset"], h["weights"], h["hash"], h["scale"]) == ("tiny", "tiny-1", bytes(range(16)), 0.125)
    assert h["encode"] == b"\1\2\3\4\5\6\7\x08"
    assert h["names"] == [view.name for view in header.views] and h["parameters"] == {"near": 0.5}
    assert h["parent"] == [view.parent for view in header.views] and h["order"] == header.order
    assert list(h["qualities"]) == [view.quality for view in header.views]
    assert h["cameras"] == [(300.0, 301.0, 160.3, 120.7, width, 240) for width in widths]
    assert sections == {f"N{i:03d}".encode(): bytes([i]) * i for i in range(views)}
    # the same bits from plain floats, as the document promises
    assert [pose_by_the_document(pose, h["origin"]) for pose in h["poses"]] == header.world_to_camera().tolist()
    plain = [(tables.cdf[t, : tables.sizes[t] + 1].tolist(), int(tables.offsets[t])) for t in range(4)]
    for view, (indexes, symbols) in expected.items():
        assert units[view][0] == b""
        assert decode_by_the_document(units[view][1], plain, indexes.tolist()) == symbols.tolist()


def test_the_documents_example_is_true() -> None:
    assert decode_by_the_document(b"\x01\x00\x01", [([0, 16384, 49152, 65536], 0)], [0, 0]) == [0, 1]


def test_the_document_names_the_limits_that_the_reader_has() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## 8. Limits")[1]
    rows = {}
    for line in section.splitlines():
        if line.startswith("| ") and "most" not in line:
            what, most = (cell.strip() for cell in line.strip("| ").split("|"))
            rows[what] = most
    assert rows == {
        "views": str(limits.MAX_VIEWS),
        "bytes of a name or text": str(limits.MAX_NAME_BYTES),
        "parameters": str(limits.MAX_PARAMETERS),
        "side of a view, pixels": str(limits.MAX_SIDE),
        "pixels of a view": f"2^{limits.MAX_PIXELS.bit_length() - 1}",
        "header, bytes": f"2^{limits.MAX_HEADER_BYTES.bit_length() - 1}, and {limits.MAX_DEFLATE_RATIO} times its stored size",
        "part of a unit, bytes": "16 a pixel and 4096",
        "sections": f"{limits.MAX_SECTIONS} of up to 2^{limits.MAX_SECTION_BYTES.bit_length() - 1} bytes",
        "sparse points": f"{MAX_POINTS:,}; compact: {POINTS_A_PIXEL} a pixel of all views, {POINTS_A_BYTE} a byte",
        "symbols of one stream": f"2^{limits.MAX_SYMBOLS.bit_length() - 1}",
    }
    assert limits.max_part_bytes(10) == 160 + 4096
    assert (layout.PREAMBLE_BYTES, layout.TRAILER.size, layout.UNIT_HEADER_BYTES, layout.SECTION_HEADER_BYTES) == (
        24,
        16,
        22,
        16,
    )
