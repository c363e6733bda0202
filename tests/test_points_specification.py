"""A second reader of compact points, written from docs/file-format.md, section 5a, in plain Python, reads what ours writes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from test_points import facing_views, grey, surface

from lmvic_ns.sparse_points.compact import pack_compact, unpack_compact
from lmvic_ns.sparse_points.grid import Pinholes

Bit = Callable[[int | None], int]  # context, None for a raw bit


def bits_of(data: bytes) -> tuple[Bit, Callable[[], bool]]:
    """A reader of single bits (sections 7 and 5a), and whether the stream was read to its end."""
    k = len(data) if len(data) < 7 else 6 - len(data) % 2
    words = [w for (w,) in struct.iter_unpack("<H", data[k:])][::-1]
    x = int.from_bytes(data[:k], "little") if data else 1
    contexts: dict[int, tuple[int, int]] = {}

    def bit(context: int | None) -> int:
        nonlocal x
        chance, count = contexts.get(context, (1 << 21, 0)) if context is not None else (0, 0)
        p = 32768 if context is None else min(max(chance // 64, 128), 65408)
        slot = x % 65536
        value = int(slot >= p)
        low, high = (p, 65536) if value else (0, p)
        x = (high - low) * (x // 65536) + slot - low
        if x < 2**32 and words:
            x = 65536 * x + words.pop()
        if context is not None:
            target = 0 if value else 1 << 22
            contexts[context] = chance + (target - chance) // (count + 2), min(count + 1, 160)
        return value

    bit.contexts = contexts  # type: ignore[attr-defined]
    return bit, lambda: x == 1 and not words


def symbol(bit: Bit, bases: list[int] | None, width: int) -> int:
    value = 1
    for place in range(width):
        value = 2 * value + bit(None if bases is None else bases[place] + value)
    return value - (1 << width)


def numbers(bit: Bit, bases: list[int]) -> list[int]:
    tokens = [symbol(bit, [base] * 6, 6) for base in bases]
    more = [0 if t < 4 else (t - 4) // 2 + 1 for t in tokens]
    found = [t if t < 4 else (2 + (t - 4) % 2) << m for t, m in zip(tokens, more, strict=True)]
    for size in range(1, 26):
        for i in range(len(tokens)):
            if more[i] == size:
                found[i] += symbol(bit, None, size)
    return found


def read_by_the_document(data: bytes, cameras: Pinholes) -> list[tuple[int, list[float]]]:
    n, g = struct.unpack_from("<IH", data)
    layers = [struct.unpack_from("<3H", data, 6 + 6 * i) for i in range(g)]
    longest = max(max(cameras.size[view]) * 1024 // step for view, step, _ in layers) + 1
    top = int(longest).bit_length()
    bit, ended = bits_of(data[6 + 6 * g :])
    nodes = [(layer, 0, 0) for layer in range(g)]  # layer, u, v
    for k in range(top - 1, -1, -1):
        contexts = bit.contexts  # type: ignore[attr-defined]
        if k < top - 1:
            for c in range(128 * k, 128 * k + 128):
                chance, count = contexts.get(c + 128, (1 << 21, 0))
                contexts[c] = chance, min(count, 12)
        there, children = set(nodes), []
        for layer, u, v in nodes:
            bases = []
            for c in range(4):
                du, dv = (1 if c & 1 else -1), (1 if c & 2 else -1)
                touch = [(du, 0), (0, dv), (du, dv)]
                a = sum((layer, u + i, v + j) in there for i, j in touch)
                others = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0) and (i, j) not in touch]
                bases.append(128 * k + 16 * (2 * a + any((layer, u + i, v + j) in there for i, j in others)))
            pattern = symbol(bit, bases, 4)
            assert pattern
            children += [(layer, 2 * u + (c & 1), 2 * v + (c >> 1)) for c in range(4) if pattern & (8 >> c)]
        nodes = children
    cells = [node for node, more in zip(nodes, numbers(bit, [2688] * len(nodes)), strict=True) for _ in range(more + 1)]
    assert len(cells) == n

    def node(i: int, k: int) -> tuple[int, int, int]:
        return cells[i][0], cells[i][1] >> k, cells[i][2] >> k

    def smallest(i: int) -> int:
        if i == 0 or cells[i][0] != cells[i - 1][0]:
            return top + 1
        return next(k for k in range(top + 1) if node(i, k) == node(i - 1, k))

    share = [smallest(i) for i in range(n)]
    w, level = [0] * n, [0] * n

    def code(which: list[int], predicted: list[int], bases: list[int], q: list[int], signed: bool = True) -> None:
        for i, change, before in zip(which, numbers(bit, bases), predicted, strict=True):
            w[i] = before + (change if not signed else (change + 1) // 2 if change % 2 else -change // 2)
        for i, context in zip(which, q, strict=True):
            level[i] = symbol(bit, [4416 + 16 * context] * 4, 4)

    before = 0
    for i in range(n):
        if share[i] > top:
            code([i], [before], [2752], [4])
            before = w[i]
    for k in range(top, 0, -1):
        known = [i for i in range(n) if share[i] > k]
        coarse = {node(i, k): i for i in known}
        fine = {node(i, k - 1): i for i in known}
        for c in (3, 2, 1):
            new = [i for i in range(n) if share[i] == k and (cells[i][2] >> k - 1 & 1) * 2 + (cells[i][1] >> k - 1 & 1) == c]
            predicted, bases, q = [], [], []
            for i in new:
                around = []
                for size, table in ((k, coarse), (k - 1, fine)):
                    layer, u, v = node(i, size)
                    around += [table.get((layer, u + a, v + b)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
                chosen = [j for j in around if j is not None]
                distance = [(cells[i][1] - cells[j][1]) ** 2 + (cells[i][2] - cells[j][2]) ** 2 for j in chosen]
                weight = [2**20 // (16 + (d >> max(0, 2 * k - 8))) for d in distance]
                mean = sum(a * w[j] for a, j in zip(weight, chosen, strict=True)) // sum(weight)
                spread = sum(a * abs(w[j] - mean) for a, j in zip(weight, chosen, strict=True)) // sum(weight)
                predicted.append(mean)
                context = 12 + min(k // 3, 11) if len(chosen) == 1 else min(spread.bit_length(), 11)
                bases.append(2880 + 64 * context)
                q.append(min(level[coarse[node(i, k)]], 3))
            code(new, predicted, bases, q)
            fine |= {node(i, k - 1): i for i in new}
    first = {cell: i for i, cell in reversed(list(enumerate(cells)))}
    for turn in range(1, n):
        new = [i for i in range(n) if i - first[cells[i]] == turn]
        code(new, [w[i - 1] for i in new], [2816] * len(new), [min(level[i - 1], 3) for i in new], signed=False)
    columns = []
    for coarse_values in ([cell[1] for cell in cells], [cell[2] for cell in cells], w):
        full = [value << bits for value, bits in zip(coarse_values, level, strict=True)]
        for size in range(1, 16):
            for i in range(n):
                if level[i] == size:
                    full[i] += symbol(bit, None, size)
        columns.append(full)
    assert ended()
    points = []
    for i in range(n):
        view, step, octave = layers[cells[i][0]]
        u, v, deep = (column[i] for column in columns)
        f = 2 ** level[i]
        octaves = deep / (octave * f)
        s = octaves - math.floor(octaves)
        z = 2.0 ** math.floor(octaves) * (1 + s * (21 + 11 * s) / 32)
        h = 0.5 if deep % 2 else 0.0
        (fx, fy), (cx, cy), t, r = (x[view] for x in (cameras.focal, cameras.centre, cameras.translation, cameras.rotation))
        width = step / (1024 * f)
        x = ((u + h) * width - cx) / fx * z - t[0]
        y = ((v + h) * width - cy) / fy * z - t[1]
        z = z - t[2]
        points.append((view, [float((r[0, j] * x + r[1, j] * y) + r[2, j] * z) for j in range(3)]))
    return points


@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_the_document_describes_the_section(count: int) -> None:
    cameras = facing_views(spread=1.0)
    points = surface(count, seed=count)
    data = pack_compact(np.concatenate([points, points[: count // 5]]), None, cameras, grey)
    ours = unpack_compact(data, cameras)
    theirs = read_by_the_document(data, cameras)
    assert [view for view, _ in theirs] == ours.view.tolist()
    assert [position for _, position in theirs] == ours.positions.astype(float).tolist()
