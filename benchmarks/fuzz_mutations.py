"""Ways to damage an `.lmvic` file, with and without repaired checksums (see fuzz.py)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmvic_ns.bitstream import layout
from lmvic_ns.bitstream.crc32c import crc32c
from lmvic_ns.bitstream.header import FileHeader, pack_header
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.sparse_points.compact import TAG


@dataclass
class FileParts:
    """A whole file, taken apart."""

    data: bytes
    header: FileHeader
    front: bytes  # preamble and header
    units: dict[int, bytes]
    index: bytes
    max_pixels: int
    sections: dict[str, bytes]  # data of each section, by its tag
    others: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> FileParts:
        data = path.read_bytes()
        size = layout.stored_header_bytes(data[: layout.PREAMBLE_BYTES])
        with Reader(path) as reader:
            if reader.verify():
                raise SystemExit(f"{path}: damaged before it begins: {reader.verify()}")
            units = {}
            for view in reader.header.order:
                unit = reader.unit(view)
                units[view] = (
                    layout.pack_unit_header(view, unit.depth, unit.image, layout.binding_of(data)) + unit.depth + unit.image
                )
            header = reader.header
            sections = {tag: reader.section(tag) or b"" for tag in reader.sections()}
        (index,) = struct.unpack_from("<I", data, len(data) - layout.TRAILER.size)
        tail = len(data) - layout.TRAILER.size
        pixels = max(view.width * view.height for view in header.views)
        return cls(data, header, data[: layout.PREAMBLE_BYTES + size], units, data[tail - index : tail], pixels, sections)

    def parts(self, view: int) -> tuple[bytes, bytes]:
        unit = self.units[view]
        border = layout.UNIT_HEADER_BYTES + struct.unpack_from("<I", unit, 6)[0]
        return unit[layout.UNIT_HEADER_BYTES : border], unit[border:]

    @property
    def binding(self) -> int:
        return layout.binding_of(self.front)

    def untouched_by(self, *views: int) -> set[int]:
        """Views that do not need any of these."""
        return {v for v in self.units if not {v, *self.header.ancestors(v)} & set(views)}


@dataclass(frozen=True)
class Mutated:
    """A damaged file. For hostile ones, `untouched` are the views that must come out as they were (None: unknown)."""

    data: bytes
    hostile: bool = False
    untouched: set[int] | None = None


def _place(data: bytes | bytearray, rng: np.random.Generator) -> int:
    """Half of the time near the ends, where the structure is."""
    if rng.random() < 0.5:
        return int(rng.integers(len(data)))
    near = int(min(rng.geometric(0.02), len(data)))
    return near - 1 if rng.random() < 0.5 else len(data) - near


def _length(rng: np.random.Generator, most: int) -> int:
    return int(min(np.exp(rng.uniform(0, np.log(most + 1))), most))


def broken_payload(part: bytes, rng: np.random.Generator) -> bytes:
    """Another payload: flips, cuts, growth, noise, extremes, nothing."""
    data = bytearray(part or b"\0")
    kind = rng.integers(8)
    if kind <= 1:
        for _ in range(int(rng.integers(1, 9))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data = data[: int(rng.integers(len(data)))]
    elif kind == 3:
        data += rng.bytes(_length(rng, 5000))
    elif kind == 4:
        data = bytearray(rng.bytes(len(data)))
    elif kind == 5:
        data = bytearray([0, 255, 1, 127][rng.integers(4)].to_bytes(1, "little") * len(data)) + b"\x01"
    elif kind == 6:
        data = bytearray(rng.bytes(_length(rng, 8)))
    else:
        at = int(rng.integers(len(data)))
        data[at : at + _length(rng, len(data))] = b""
    return bytes(data)


# --- damage: checksums stay as they are ------------------------------------------------------------------------------


def flip_bits(parts: FileParts, rng: np.random.Generator) -> Mutated:
    data = bytearray(parts.data)
    for _ in range(int(rng.integers(1, 9))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return Mutated(bytes(data))


def overwrite(parts: FileParts, rng: np.random.Generator) -> Mutated:
    data = bytearray(parts.data)
    at, size = _place(data, rng), _length(rng, len(data))
    size = min(size, len(data) - at)
    data[at : at + size] = [rng.bytes(size), bytes(size), b"\xff" * size][rng.integers(3)]
    return Mutated(bytes(data))


def truncate(parts: FileParts, rng: np.random.Generator) -> Mutated:
    return Mutated(parts.data[: _place(parts.data, rng)])


def lengthen(parts: FileParts, rng: np.random.Generator) -> Mutated:
    extra = [rng.bytes(_length(rng, 10_000)), bytes(_length(rng, 10_000)), parts.data][rng.integers(3)]
    at = len(parts.data) if rng.random() < 0.5 else _place(parts.data, rng)
    return Mutated(parts.data[:at] + extra + parts.data[at:])


def cut_out(parts: FileParts, rng: np.random.Generator) -> Mutated:
    at = _place(parts.data, rng)
    return Mutated(parts.data[:at] + parts.data[at + _length(rng, len(parts.data)) :])


def splice_itself(parts: FileParts, rng: np.random.Generator) -> Mutated:
    begin, at = _place(parts.data, rng), _place(parts.data, rng)
    piece = parts.data[begin : begin + _length(rng, len(parts.data))]
    over = len(piece) if rng.random() < 0.5 else 0
    return Mutated(parts.data[:at] + piece + parts.data[at + over :])


def splice_another(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Pieces of another file: its units must count for nothing here, unless its front comes with them."""
    source = parts.others[rng.integers(len(parts.others))] if parts.others else parts.data[::-1]
    begin, at = _place(source, rng), _place(parts.data, rng)
    piece = source[begin : begin + _length(rng, len(source))]
    over = len(piece) if rng.random() < 0.5 else 0
    data = parts.data[:at] + piece + parts.data[at + over :]
    front = layout.PREAMBLE_BYTES + layout.stored_header_bytes(source) if parts.others else 0
    return Mutated(data, hostile=bool(front) and data.startswith(source[:front]))


def shuffle_blocks(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Units in another order, under the old index."""
    begin = len(parts.front)
    end = len(parts.data) - layout.TRAILER.size - len(parts.index)
    between = parts.data[begin:end]
    for unit in parts.units.values():
        between = between.replace(unit, b"")
    units = [parts.units[view] for view in rng.permutation(list(parts.units))]
    return Mutated(parts.front + between + b"".join(units) + parts.data[end:])


# --- hostile: checksums are repaired ---------------------------------------------------------------------------------


def _assemble(front: bytes, blocks: list[tuple[int, bytes]], index: bytes | None = None) -> bytes:
    places = [layout.Block(entry, 0, len(data)) for entry, data in blocks]
    end = layout.pack_index_and_trailer(places) if index is None else _sealed_index(index)
    return front + b"".join(data for _, data in blocks) + end


def _sealed_index(index: bytes) -> bytes:
    size = struct.pack("<I", len(index))
    return index + layout.TRAILER.pack(len(index), crc32c(size, crc32c(index)), layout.END_MAGIC)


def _sealed_front(stored: bytes, flags: int, unpacked: int) -> bytes:
    fields = layout.PREAMBLE.pack(layout.MAGIC, layout.MAJOR, 0, flags, len(stored), unpacked)
    return fields + struct.pack("<I", crc32c(stored, crc32c(fields))) + stored


def _blocks(parts: FileParts, front: bytes | None = None) -> list[tuple[int, bytes]]:
    """The units, with checksums that fit another front."""
    binding = layout.binding_of(parts.front if front is None else front)
    contents = {view: parts.parts(view) for view in parts.units}
    return [(view + 1, layout.pack_unit_header(view, *both, binding) + b"".join(both)) for view, both in contents.items()]


def header_bytes(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Bytes of the header's body change, appear or vanish; every checksum is right."""
    body = bytearray(pack_header(parts.header))
    kind = rng.integers(6)
    at = int(rng.integers(len(body)))
    if kind <= 2:
        for _ in range(int(rng.integers(1, 4))):
            body[rng.integers(len(body))] = [0, 1, 127, 128, 255, int(rng.integers(256))][rng.integers(6)]
    elif kind == 3:
        body[at : at + 8] = [struct.pack("<d", v) for v in (np.nan, np.inf, -1.0, 1e300, 0.0)][rng.integers(5)]
    elif kind == 4:
        body[at:at] = rng.bytes(_length(rng, 100))
    else:
        del body[at : at + _length(rng, 100)]
    data = bytes(body)
    front = _sealed_front(zlib.compress(data), 1, len(data)) if rng.random() < 0.5 else _sealed_front(data, 0, len(data))
    return Mutated(_assemble(front, _blocks(parts, front)), hostile=True)


def header_numbers(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """One 16- or 32-bit number of the header becomes another: sizes, counts, orders, parents, cameras."""
    body = bytearray(pack_header(parts.header))
    width = int(rng.choice([2, 4]))
    at = int(rng.integers(len(body) - width))
    value = [0, 1, 2, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 16)), int(rng.integers(1 << 32))][rng.integers(8)]
    body[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    front = _sealed_front(bytes(body), 0, len(body))
    return Mutated(_assemble(front, _blocks(parts, front)), hostile=True)


def header_claims(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Preambles that promise other sizes, flags, or an expansion without end."""
    body = pack_header(parts.header)
    bomb = zlib.compress(bytes(int(rng.integers(1, 1 << 22))), 9)
    stored = [body, zlib.compress(body), bomb, rng.bytes(50), zlib.compress(body) + b"more", zlib.compress(body)[:-4]]
    unpacked = [len(body), 16 * len(body), 1 << 31, 0, int(rng.integers(1 << 26))][rng.integers(5)]
    front = _sealed_front(stored[rng.integers(len(stored))], int(rng.integers(4)), unpacked)
    return Mutated(_assemble(front, _blocks(parts, front)), hostile=True)


def payloads(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Entropy-coded parts are damaged and their unit is made to fit: only the coder stands between."""
    view = int(rng.choice(list(parts.units)))
    broken = list(parts.parts(view))
    for part in {int(rng.integers(2)), int(rng.integers(2))}:
        broken[part] = broken_payload(broken[part], rng)
    unit = layout.pack_unit_header(view, broken[0], broken[1], parts.binding) + broken[0] + broken[1]
    blocks = [(entry, unit if entry == view + 1 else data) for entry, data in _blocks(parts)]
    return Mutated(_assemble(parts.front, blocks), hostile=True, untouched=parts.untouched_by(view))


def points(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """The section of sparse points is damaged, its counts and layers or its stream, and its checksum made to fit."""
    data = parts.sections.get(TAG) or bytes(16)
    head = min(6 + 6 * struct.unpack_from("<H", data, 4)[0], len(data))
    kind = rng.integers(4)
    if kind == 0:
        data = data[:head] + broken_payload(data[head:], rng)
    elif kind == 1:
        data = broken_payload(data, rng)
    else:  # one number of the head becomes another
        at = 0 if kind == 2 else int(rng.integers(2, head // 2)) * 2
        width = 4 if at == 0 else 2
        value = [0, 1, 2, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 16)), int(rng.integers(1 << 32))][
            rng.integers(8)
        ]
        data = data[:at] + (value & ((1 << 8 * width) - 1)).to_bytes(width, "little") + data[at + width :]
    return with_sections(parts, {TAG: data})


def with_sections(parts: FileParts, changed: dict[str, bytes]) -> Mutated:
    """The file with all its sections, some of them with other contents."""
    sections = {**parts.sections, **changed}
    packed = [
        (layout.SECTION_ENTRY, layout.pack_section_header(tag, data, parts.binding) + data) for tag, data in sections.items()
    ]
    return Mutated(_assemble(parts.front, [*_blocks(parts), *packed]), hostile=True, untouched=set(parts.units))


def unit_fields(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """A unit claims another view or other lengths; its checksums are right for what it claims."""
    view = int(rng.choice(list(parts.units)))
    depth, image = parts.parts(view)
    number, depth_bytes, image_bytes = view, len(depth), len(image)
    kind = rng.integers(4)
    if kind == 0:
        number = int(rng.choice([*parts.units, len(parts.units), 0xFFFF]))
    elif kind == 1:
        moved = int(rng.integers(-depth_bytes, image_bytes + 1))  # the border between the parts moves
        depth_bytes, image_bytes = depth_bytes + moved, image_bytes - moved
    elif kind == 2:
        depth_bytes = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(depth) + 1]))
    else:
        image_bytes = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(image) + 1]))
    payload = depth + image
    fields = layout.UNIT_FIELDS.pack(layout.UNIT_SYNC, number, depth_bytes, image_bytes)
    crc = crc32c(fields, parts.binding)
    crcs = crc32c(payload[:depth_bytes], crc), crc32c(payload[depth_bytes : depth_bytes + image_bytes], crc)
    unit = fields + struct.pack("<2I", *crcs) + payload
    blocks = [(entry, unit if entry == view + 1 else data) for entry, data in _blocks(parts)]
    return Mutated(_assemble(parts.front, blocks), hostile=True, untouched=parts.untouched_by(view, number))


def index_entries(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """The index lies, under a right checksum: what the units say themselves must win."""
    index = bytearray(parts.index)
    kind = rng.integers(4)
    at = int(rng.integers(len(index)))
    if kind == 0:
        index[at] = int(rng.integers(256))
    elif kind == 1:
        index[at:at] = rng.bytes(_length(rng, 20))
    elif kind == 2:
        del index[at : at + _length(rng, 20)]
    else:
        index = bytearray(rng.bytes(_length(rng, 200)))
    end = len(parts.data) - layout.TRAILER.size - len(parts.index)
    return Mutated(parts.data[:end] + _sealed_index(bytes(index)), hostile=True, untouched=set(parts.units))


def swapped_units(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Two views exchange their payloads."""
    views = list(parts.units)
    first, second = (int(v) for v in rng.choice(views, 2, replace=False)) if len(views) > 1 else (views[0], views[0])
    exchanged = {first: parts.parts(second), second: parts.parts(first)}
    blocks = [
        (
            view + 1,
            layout.pack_unit_header(view, *exchanged[view], parts.binding) + b"".join(exchanged[view])
            if view in exchanged
            else unit,
        )
        for view, unit in parts.units.items()
    ]
    return Mutated(_assemble(parts.front, blocks), hostile=True, untouched=parts.untouched_by(first, second))


def forged_marks(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """No index, and many false units that promise large payloads in front of the true ones.

    Every fourth time the first checksum of each false unit holds, so that the second must be computed over and over: then
    a reader may give up searching, but must end in time.
    """
    fields = layout.UNIT_FIELDS.pack(layout.UNIT_SYNC, int(rng.integers(len(parts.units))), 0, int(rng.integers(1, 200_000)))
    costly = rng.random() < 0.25
    depth_crc = crc32c(fields, parts.binding) if costly else int(rng.integers(1 << 32))
    noise = (fields + struct.pack("<2I", depth_crc, int(rng.integers(1 << 32)))) * int(rng.integers(1, 200))
    body = b"".join(parts.units.values())
    return Mutated(parts.front + noise + body, hostile=True, untouched=None if costly else set(parts.units))


FILE_MUTATIONS: dict[str, Callable[[FileParts, np.random.Generator], Mutated]] = {
    "flip bits": flip_bits,
    "overwrite": overwrite,
    "truncate": truncate,
    "lengthen": lengthen,
    "cut out": cut_out,
    "splice with itself": splice_itself,
    "splice with another": splice_another,
    "shuffle blocks": shuffle_blocks,
    "hostile: header bytes": header_bytes,
    "hostile: header numbers": header_numbers,
    "hostile: header claims": header_claims,
    "hostile: payloads": payloads,
    "hostile: points": points,
    "hostile: unit fields": unit_fields,
    "hostile: index": index_entries,
    "hostile: swapped units": swapped_units,
    "hostile: forged marks": forged_marks,
}
