"""Block matching by PatchMatch (Barnes et al. 2009): each block of the target looks for a similar one in the reference."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8


def patch_match(
    target: UInt8[np.ndarray, "h w 3"],
    reference: UInt8[np.ndarray, "hr wr 3"],
    *,
    block: int = 16,
    iterations: int = 8,
    seed: int = 0,
) -> UInt8[np.ndarray, "h w 3"]:
    """The target laid out of the reference's blocks.

    Args:
        target: Picture to be approximated.
        reference: Where blocks come from; at least a block large.
        block: Side of the blocks in pixels; those at the right and lower border are moved inwards to fit.
        iterations: Sweeps of propagation and random search, in alternating directions.
        seed: Of the random search: the same seed gives the same result.

    Raises:
        ValueError: A picture is smaller than a block.
    """
    if min(*target.shape[:2], *reference.shape[:2]) < block:
        raise ValueError(f"pictures must be at least {block} pixels high and wide")
    rows, columns = _starts(target.shape[0], block), _starts(target.shape[1], block)
    field = _search()(
        np.ascontiguousarray(target),
        np.ascontiguousarray(reference),
        rows,
        columns,
        block,
        iterations,
        np.random.default_rng(seed),
    )
    out = np.empty_like(target)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            from_y, from_x = field[i, j]
            out[y : y + block, x : x + block] = reference[from_y : from_y + block, from_x : from_x + block]
    return out


def _starts(length: int, block: int) -> Int[np.ndarray, "n"]:
    return np.minimum(np.arange(0, length, block), length - block).astype(np.int64)


@lru_cache(maxsize=1)
def _search() -> Any:
    """The compiled search; numba is imported when it is needed."""
    import numba

    @numba.njit
    def cost(target, reference, y, x, ry, rx, block, limit):
        total = 0
        for dy in range(block):
            for dx in range(block):
                for c in range(3):
                    d = int(target[y + dy, x + dx, c]) - int(reference[ry + dy, rx + dx, c])
                    total += d * d
            if total >= limit:
                return limit
        return total

    @numba.njit
    def search(target, reference, rows, columns, block, iterations, rng):
        last_y, last_x = reference.shape[0] - block, reference.shape[1] - block
        field = np.empty((len(rows), len(columns), 2), np.int64)
        best = np.empty((len(rows), len(columns)), np.int64)
        worst = block * block * 3 * 255 * 255 + 1
        for i in range(len(rows)):
            for j in range(len(columns)):
                field[i, j, 0] = min(rows[i], last_y)  # start without motion
                field[i, j, 1] = min(columns[j], last_x)
                best[i, j] = cost(target, reference, rows[i], columns[j], field[i, j, 0], field[i, j, 1], block, worst)
        for sweep in range(iterations):
            step = 1 if sweep % 2 == 0 else -1
            for ii in range(len(rows)):
                i = ii if step == 1 else len(rows) - 1 - ii
                for jj in range(len(columns)):
                    j = jj if step == 1 else len(columns) - 1 - jj
                    y, x = rows[i], columns[j]
                    for neighbour in range(2):
                        ni, nj = (i - step, j) if neighbour == 0 else (i, j - step)
                        if ni < 0 or nj < 0 or ni >= len(rows) or nj >= len(columns):
                            continue
                        ry = min(max(field[ni, nj, 0] + y - rows[ni], 0), last_y)
                        rx = min(max(field[ni, nj, 1] + x - columns[nj], 0), last_x)
                        value = cost(target, reference, y, x, ry, rx, block, best[i, j])
                        if value < best[i, j]:
                            best[i, j] = value
                            field[i, j, 0] = ry
                            field[i, j, 1] = rx
                    radius = max(last_y, last_x)
                    while radius >= 1:
                        for _ in range(4):
                            ry = min(max(field[i, j, 0] + rng.integers(-radius, radius + 1), 0), last_y)
                            rx = min(max(field[i, j, 1] + rng.integers(-radius, radius + 1), 0), last_x)
                            value = cost(target, reference, y, x, ry, rx, block, best[i, j])
                            if value < best[i, j]:
                                best[i, j] = value
                                field[i, j, 0] = ry
                                field[i, j, 1] = rx
                        radius //= 2
        return field

    return search
