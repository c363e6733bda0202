"""One level of the search for the cheapest quadtree as a compiled loop: `merged` of `lmvic_ns.codec.depth.search` in one pass.

Offsets lie in the last axis, so that the loop over them is one of vector instructions.
"""

from __future__ import annotations

import numpy as np

from lmvic_ns._util.compiled import CompiledLoop


@CompiledLoop
def merge_level(
    lowest,  # float32 [2 rows, 2 columns, k], cost of each block with each offset
    above,  # float32 [rows, columns, k], cost of each block above as a leaf
    change_bits,  # float32 [2 reach + 1]
    whole_bits,  # float32, not split
    split_bits,  # float32
    result,  # float32 [rows, columns, k], out: cost of each block above
    move,  # int8 [2 rows, 2 columns, k], out: cheapest change for each offset of the block above
    better,  # bool [rows, columns, k], out: whether the block above is split
):
    """One level of the tree: each block's cheapest change from the block above, and whether that is split."""
    rows, columns, count = above.shape
    reach = (len(change_bits) - 1) // 2
    best = np.empty(count, np.float32)
    chosen = np.empty(count, np.float32)
    total = np.empty(count, np.float32)
    for i in range(rows):
        for j in range(columns):
            total[:] = split_bits
            for part in range(4):
                y, x = 2 * i + part // 2, 2 * j + part % 2
                source = lowest[y, x]
                best[:] = np.float32(np.inf)
                chosen[:] = np.float32(0)
                for number in range(2 * reach + 1):
                    change = number - reach
                    bits = change_bits[number]
                    change_value = np.float32(change)
                    low, length = max(0, -change), count - abs(change)
                    # slices, because a compiler that may have to wrap an index around uses no vectors
                    costs = source[low + change : low + change + length]
                    least, choice = best[low : low + length], chosen[low : low + length]
                    for k in range(length):
                        cost = costs[k] + bits
                        cheaper = cost < least[k]
                        least[k] = cost if cheaper else least[k]
                        choice[k] = change_value if cheaper else choice[k]
                for k in range(count):
                    total[k] += best[k]
                    move[y, x, k] = np.int8(chosen[k])
            for k in range(count):
                whole = above[i, j, k] + whole_bits
                better[i, j, k] = total[k] < whole
                result[i, j, k] = min(total[k], whole)
