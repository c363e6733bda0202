"""Ways to damage what an `.lmvic` file holds of its capture (META, MASK, PHOT), with repaired checksums (see fuzz.py)."""

from __future__ import annotations

import io
import json
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_mutations import FileParts, Mutated, broken_payload, with_sections
from PIL import Image

_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]


def _other_json(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one place in it changed: another number, text or kind, a key or an entry less or more."""
    odd = [None, True, -1, 0, 1, 65536, 1 << 40, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "a" * 5000, "..", "\0",
           "../../x.png", "/x.png", "CON.jpg", "a\\b.png", "\ud800", "\n\u202e", [], {}, [[]], {"": None}]  # fmt: skip
    if isinstance(value, list | dict) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        at = keys[rng.integers(len(keys))]
        copy: Any = value.copy()
        kind = rng.integers(10)
        if kind == 0:
            del copy[at]
        elif kind == 1 and isinstance(copy, list):
            copy.insert(at, copy[rng.integers(len(copy))])
        elif kind == 1:
            copy[["transform_matrix", "file_path", "frames", "fl_x", "x"][rng.integers(5)]] = odd[rng.integers(len(odd))]
        elif kind == 2:
            copy[at] = copy[keys[rng.integers(len(keys))]]
        else:
            copy[at] = _other_json(copy[at], rng)
        return copy
    return odd[rng.integers(len(odd))]


def records(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """META says something else: as JSON in a whole stream, or as bytes in one."""
    text = zlib.decompress(parts.sections["META"]) if "META" in parts.sections else b"{}"
    kind = rng.integers(8)
    if kind == 0:
        return with_sections(parts, {"META": broken_payload(parts.sections.get("META", b""), rng)})
    if kind == 1:
        text = broken_payload(text, rng)
    elif kind == 2:
        text = [b"[" * 200_000, b'{"a":' * 100_000, bytes(int(rng.integers(1 << 18))), b"\xff"][rng.integers(4)]
    else:
        value = json.loads(text)
        for _ in range(int(rng.integers(1, 4))):
            value = _other_json(value, rng)
        text = json.dumps(value).encode("ascii")
    return with_sections(parts, {"META": zlib.compress(text)})


def masks(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """MASK: other numbers and sizes in its head, other pictures in it."""
    data = bytearray(parts.sections.get("MASK") or bytes(16))
    head = min(2 * len(parts.header.views) + 2 + 4 * len(parts.units), len(data))
    kind = rng.integers(4)
    if kind == 0:
        return with_sections(parts, {"MASK": broken_payload(bytes(data), rng)})
    if kind == 1:
        data[head:] = broken_payload(bytes(data[head:]), rng)
    elif kind == 2:
        data[rng.integers(head)] = int(rng.integers(256))
    else:  # one picture of a kind or size of its own for all views
        size = [(1, 1), (3, 40_000), (5000, 7000), (40, 56)][rng.integers(4)]
        mode, form = ["L", "RGB", "1", "P", "I;16", "RGBA"][rng.integers(6)], ["PNG", "WEBP", "TIFF", "GIF"][rng.integers(4)]
        picture = io.BytesIO()
        try:
            Image.new(mode, size).save(picture, form)
        except (OSError, ValueError):  # a mode that this format does not have
            Image.new("L", size).save(picture, "PNG")
        numbers = np.array([1] * len(parts.header.views) + [1], "<u2").tobytes()
        data = bytearray(numbers + len(picture.getvalue()).to_bytes(4, "little") + picture.getvalue())
    return with_sections(parts, {"MASK": bytes(data)})


def photographs(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """PHOT: other numbers, sizes and blobs in a whole stream, or another stream."""
    whole = parts.sections.get("PHOT") or lzma.compress(b"", filters=_XZ, check=lzma.CHECK_NONE)
    data = bytearray(lzma.decompress(whole) or bytes(16))
    kind = rng.integers(5)
    if kind == 0:
        return with_sections(parts, {"PHOT": broken_payload(whole, rng)})
    if kind == 1:
        data = bytearray(broken_payload(bytes(data), rng))
    elif kind == 2:
        at = int(rng.integers(min(len(data) // 4, 4 + 4 * len(parts.header.views)))) * 4
        value = [0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 32))][rng.integers(6)]
        data[at : at + 4] = value.to_bytes(4, "little")
    elif kind == 3:
        data = bytearray(bytes(int(rng.integers(1, 1 << 18))))
    else:  # blobs of any size and content: they become EXIF, XMP and profiles of pictures
        blobs = [[b"\xff" * 70_000, b"\0", b"II*\0\x08\0\0\0", rng.bytes(300), b"Exif\0\0", b"RGB " * 9, b"a" * 200_000]
                 [rng.integers(7)] for _ in range(3)]  # fmt: skip
        table = rng.integers(0, 4, 3 * len(parts.header.views))
        data = bytearray(np.array([3, *table, *map(len, blobs)], "<u4").tobytes() + b"".join(blobs))
    packed = lzma.compress(bytes(data), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=_XZ)
    return with_sections(parts, {"PHOT": packed})


def swapped_sections(parts: FileParts, rng: np.random.Generator) -> Mutated:
    """Two sections exchange their contents, or one has the other's too, or comes under a tag that nobody knows."""
    tags = [*parts.sections, "ABCD"]
    first, second = (tags[int(n)] for n in rng.choice(len(tags), 2, replace=False))
    contents = {**parts.sections, "ABCD": rng.bytes(20)}
    changed = {first: contents[second]}
    return with_sections(parts, changed if rng.random() < 0.5 else {**changed, second: contents[first]})


CAPTURE_MUTATIONS: dict[str, Callable[[FileParts, np.random.Generator], Mutated]] = {
    "hostile: records": records,
    "hostile: masks": masks,
    "hostile: photographs": photographs,
    "hostile: swapped sections": swapped_sections,
}
