"""Sets of quantized points as bytes: whole numbers in, whole numbers out, in an order that the coder is free in.

Points lie in layers. A layer is a grid over the picture of one view: cells of `step` in column and row (u, v), and cells of
depth (w) that are equally wide in the logarithm. A point may be finer than its grid: at `level` l its cell is halved l times
in all three directions.

First a quadtree of the cells (u, v) that hold points, level by level for all layers at once, each pattern of children in the
context of its neighbours. Then depths from coarse to fine: each point is predicted from those that are known around it. The
contexts of each pass depend on earlier passes only. See docs/file-format.md, section 5a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lmvic_ns.bitstream.adaptive import RAW, AdaptiveDecoder, AdaptiveEncoder, Contexts, SymbolCoder
from lmvic_ns.errors import BitstreamError

MAX_TREE_LEVELS = 20
MAX_LEVEL = 15  # of a point
MAX_DEPTH = 1 << 24  # of w, either way
_DIRECT = 4  # numbers below have tokens of their own
_FIRST_BITS = 2
_TOKEN_BITS = 6
_DEPTH_CONTEXTS = 12
_LEVEL_CONTEXTS = 5

# where the contexts of each kind begin
_PATTERNS = 0
_COUNTS = _PATTERNS + (MAX_TREE_LEVELS + 1) * 8 * 16
_ROOTS = _COUNTS + 64
_TWINS = _ROOTS + 64
_DEPTHS = _TWINS + 64
_LEVELS = _DEPTHS + 2 * _DEPTH_CONTEXTS * 64
_CONTEXTS = _LEVELS + _LEVEL_CONTEXTS * 16


@dataclass(frozen=True)
class QuantizedPoints:
    """Points as numbers of cells, sorted as `sort_order` has them.

    Attributes:
        layer: number of the layer.
        u, v, w: cell of each point in its layer's grid, halved `level` times: column, row, depth.
        level: 0..15.
    """

    layer: Int[np.ndarray, "n"]
    u: Int[np.ndarray, "n"]
    v: Int[np.ndarray, "n"]
    w: Int[np.ndarray, "n"]
    level: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.layer)

    def take(self, which: np.ndarray) -> QuantizedPoints:
        """Some of the points, by mask or numbers."""
        return QuantizedPoints(self.layer[which], self.u[which], self.v[which], self.w[which], self.level[which])

    def canonical(self) -> QuantizedPoints:
        """The same points in the order that the coder gives them back in."""
        code = morton(self.u >> self.level, self.v >> self.level)
        columns = (self.v, self.u, self.w, self.level, self.w >> self.level, code, self.layer)
        return self.take(np.lexsort(columns))


def encode_points(points: QuantizedPoints, tree_levels: int) -> bytes:
    """The stream of points in canonical order, whose cells at level 0 lie in 0 .. 2^tree_levels - 1."""
    encoder = AdaptiveEncoder(Contexts(_CONTEXTS))
    _code_points(encoder, points, len(points), int(points.layer[-1]) + 1, tree_levels, "points")
    return encoder.finish()


def decode_points(data: bytes, count: int, layers: int, tree_levels: int, *, name: str) -> QuantizedPoints:
    """The points of a stream.

    Args:
        data: the stream.
        count: of points; no memory for more is taken.
        layers: how many, each with at least a point.
        tree_levels: see `encode_points`.
        name: of the stream in messages.

    Raises:
        BitstreamError: the stream is not what `encode_points` writes for so many points.
    """
    decoder = AdaptiveDecoder(data, Contexts(_CONTEXTS), name=name)
    points = _code_points(decoder, None, count, layers, tree_levels, name)
    decoder.finish()
    return points


def morton(u: Int[np.ndarray, "*n"], v: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """The bits of v and u (0 .. 2^20 - 1) in turn, those of v in front."""
    return (_spread(v) << 1) | _spread(u)


def _spread(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.int64)
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        x = (x | (x << shift)) & mask
    x = (x | (x << 2)) & 0x3333333333333333
    return (x | (x << 1)) & 0x5555555555555555


def _gather(x: np.ndarray) -> np.ndarray:
    """What `_spread` spread."""
    x = x & 0x5555555555555555
    for shift, mask in ((1, 0x3333333333333333), (2, 0x0F0F0F0F0F0F0F0F), (4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF)):
        x = (x | (x >> shift)) & mask
    return (x | (x >> 16)) & 0xFFFFFFFF


def _code_points(
    coder: SymbolCoder, given: QuantizedPoints | None, count: int, layers: int, tree_levels: int, name: str
) -> QuantizedPoints:
    """Codes the given points, or reads them where none are given: the order of all symbols is written once, here."""
    keys = None
    if given is not None:
        keys = (given.layer << 2 * tree_levels) | morton(given.u >> given.level, given.v >> given.level)
    keys = _code_cells(coder, keys, count, layers, tree_levels, name)
    layer, cell = keys >> 2 * tree_levels, keys & ((1 << 2 * tree_levels) - 1)
    u, v = _gather(cell), _gather(cell >> 1)
    w, level = _code_depths(coder, given, keys, u, v, tree_levels, name)
    fine = []
    for coarse, column in ((u, "u"), (v, "v"), (w, "w")):
        full = coarse << level
        for bits in range(1, MAX_LEVEL + 1):
            chosen = np.flatnonzero(level == bits)
            if len(chosen):
                below = None if given is None else getattr(given, column)[chosen] & ((1 << bits) - 1)
                full[chosen] |= coder.code(below, np.full((len(chosen), bits), RAW))
        fine.append(full)
    return QuantizedPoints(layer, fine[0], fine[1], fine[2], level)


# --- cells of the picture ---------------------------------------------------------------------------------------------


def _code_cells(
    coder: SymbolCoder, keys: np.ndarray | None, count: int, layers: int, tree_levels: int, name: str
) -> np.ndarray:
    """Layer and Morton code of each point, sorted; a cell comes as often as it has points."""
    nodes = np.arange(layers, dtype=np.int64)
    for depth in range(tree_levels - 1, -1, -1):
        begin = _PATTERNS + depth * 128
        if depth < tree_levels - 1:
            coder.contexts.inherit(slice(begin + 128, begin + 256), slice(begin, begin + 128), 12)
        neighbours = _child_neighbours(nodes, tree_levels - 1 - depth)
        patterns = None
        if keys is not None:
            children = np.unique(keys >> 2 * depth)
            patterns = np.zeros(len(nodes), dtype=np.int64)
            np.bitwise_or.at(patterns, np.searchsorted(nodes, children >> 2), 8 >> (children & 3))
        patterns = coder.code(patterns, begin + 16 * neighbours)
        if (patterns == 0).any():
            raise BitstreamError(f"{name}: damaged: expected a point in every cell of the quadtree, found an empty one")
        present = (patterns[:, None] >> np.array([3, 2, 1, 0])) & 1
        if int(present.sum()) > count:
            raise BitstreamError(f"{name}: damaged: expected at most {count} cells with points, found {int(present.sum())}")
        nodes = ((nodes[:, None] << 2) | np.arange(4))[present > 0]
    more = None
    if keys is not None:
        more = np.bincount(np.searchsorted(nodes, keys), minlength=len(nodes)) - 1
    more = _code_numbers(coder, more, np.full(len(nodes), _COUNTS), name)
    if int(more.sum()) + len(nodes) != count:
        raise BitstreamError(f"{name}: damaged: expected {count} points, found {int(more.sum()) + len(nodes)}")
    return np.repeat(nodes, more + 1)


def _child_neighbours(nodes: np.ndarray, side_bits: int) -> Int[np.ndarray, "n 4"]:
    """For each child of each node 0..7: how many of the three neighbours that it touches hold points, twice that, plus 1
    if any other of the node's eight neighbours does.

    Args:
        nodes: layer and Morton code, sorted.
        side_bits: a layer is 2^side_bits nodes wide.
    """
    layer, cell = nodes >> 2 * side_bits, nodes & ((1 << 2 * side_bits) - 1)
    u, v = _gather(cell), _gather(cell >> 1)
    around = {}
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            if du or dv:
                found, _ = _find(nodes, layer, u + du, v + dv, side_bits)
                around[du, dv] = found.astype(np.int64)
    total = sum(around.values())
    result = np.empty((len(nodes), 4), dtype=np.int64)
    for child in range(4):
        du, dv = 2 * (child & 1) - 1, 2 * (child >> 1) - 1
        touching = around[du, 0] + around[0, dv] + around[du, dv]
        result[:, child] = 2 * touching + (total > touching)
    return result


def _find(nodes: np.ndarray, layer: np.ndarray, u: np.ndarray, v: np.ndarray, side_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each cell is among the sorted nodes, and where (anywhere if it is not)."""
    side = 1 << side_bits
    inside = (u >= 0) & (u < side) & (v >= 0) & (v < side)
    key = (layer << 2 * side_bits) | morton(u & (side - 1), v & (side - 1))
    place = np.minimum(np.searchsorted(nodes, key), len(nodes) - 1)
    return inside & (nodes[place] == key), place


# --- depths -----------------------------------------------------------------------------------------------------------


def _code_depths(
    coder: SymbolCoder,
    given: QuantizedPoints | None,
    keys: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    tree_levels: int,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Depth at level 0, and level, of each point."""
    true_w = None if given is None else given.w >> given.level
    w, level = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)

    def code(
        which: np.ndarray, predicted: np.ndarray, bases: np.ndarray, level_context: np.ndarray, signed: bool = True
    ) -> None:
        change = None if true_w is None else true_w[which] - predicted
        if change is not None and signed:
            change = np.where(change > 0, 2 * change - 1, -2 * change)
        change = _code_numbers(coder, change, bases, name)
        if signed:
            change = np.where(change & 1, (change + 1) >> 1, -(change >> 1))
        w[which] = predicted + change
        if (np.abs(w[which]) > MAX_DEPTH).any():
            raise BitstreamError(f"{name}: damaged: expected depths of at most {MAX_DEPTH}, found more")
        wanted = None if given is None else given.level[which]
        level[which] = coder.code(wanted, np.repeat(_LEVELS + 16 * level_context[:, None], 4, axis=1))

    # how far up the quadtree a point and the one before it part: the first of a layer above all
    parts = np.full(len(keys), tree_levels + 1)
    parts[1:] = (_bit_length(keys[1:] ^ keys[:-1]) + 1) >> 1
    parts = np.minimum(parts, tree_levels + 1)
    before = np.zeros(1, dtype=np.int64)
    for root in np.flatnonzero(parts > tree_levels):
        code(np.array([root]), before, np.array([_ROOTS]), np.array([4]))
        before = w[root : root + 1]
    for up in range(tree_levels, 0, -1):
        new = np.flatnonzero(parts == up)
        if not len(new):
            continue
        coarse = fine = np.flatnonzero(parts > up)
        quarter = (keys[new] >> 2 * (up - 1)) & 3  # of its node; the first point of a node is known
        for turn in (3, 2, 1):
            now = new[quarter == turn]
            if len(now):
                around = _DepthPredictor(keys, u, v, w, tree_levels)
                predicted, doubt, nearest = around.predict(now, ((coarse, up), (fine, up - 1)))
                code(now, predicted, _DEPTHS + 64 * doubt, np.minimum(level[nearest], 3))
                fine = np.sort(np.concatenate([fine, now]))
    # further points of one cell, deeper and deeper
    twins = np.flatnonzero(parts == 0)
    turn = twins - np.searchsorted(keys, keys[twins])
    for number in range(1, int(turn.max(initial=0)) + 1):
        new = twins[turn == number]
        code(new, w[new - 1], np.full(len(new), _TWINS), np.minimum(level[new - 1], 3), signed=False)
    return w, level


@dataclass(frozen=True)
class _DepthPredictor:
    """Predicts depths from points that are known: layer and Morton code, column, row, depth of all points."""

    keys: np.ndarray
    u: np.ndarray
    v: np.ndarray
    w: np.ndarray
    tree_levels: int

    def predict(self, new: np.ndarray, known: tuple[tuple[np.ndarray, int], ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depths of new points.

        Args:
            new: their numbers.
            known: numbers, sorted, of known points and a level of the quadtree of which no two share a node: each time the
                points in the new point's node and the eight around it count. The first has one in each new point's own node.

        Returns:
            The prediction, how doubtful it is (number of a context), and the known point in the new one's own node.
        """
        layer = self.keys[new] >> 2 * self.tree_levels
        shift = max(0, 2 * known[0][1] - 8)
        places, weights = [], []
        for numbers, up in known:
            nodes = self.keys[numbers] >> 2 * up
            for dv in (-1, 0, 1):
                for du in (-1, 0, 1):
                    u, v = (self.u[new] >> up) + du, (self.v[new] >> up) + dv
                    found, place = _find(nodes, layer, u, v, self.tree_levels - up)
                    at = numbers[place]
                    distance = ((self.u[new] - self.u[at]) ** 2 + (self.v[new] - self.v[at]) ** 2) >> shift
                    places.append(at)
                    weights.append(np.where(found, (1 << 20) // (distance + 16), 0))
        at, weight = np.stack(places), np.stack(weights)
        total = weight.sum(axis=0)
        predicted = (weight * self.w[at]).sum(axis=0) // total
        spread = (weight * np.abs(self.w[at] - predicted)).sum(axis=0) // total
        alone = (weight > 0).sum(axis=0) == 1
        most = _DEPTH_CONTEXTS - 1
        doubt = np.where(alone, _DEPTH_CONTEXTS + min(known[0][1] // 3, most), np.minimum(_bit_length(spread), most))
        return predicted, doubt, at[4]


# --- numbers ----------------------------------------------------------------------------------------------------------


def _code_numbers(coder: SymbolCoder, numbers: np.ndarray | None, bases: np.ndarray, name: str) -> np.ndarray:
    """Numbers from 0 to 2^27 - 1: a token each (the number itself below 16, else its two highest bits), then the other bits."""
    tokens = None
    if numbers is not None:
        length = _bit_length(numbers)
        second = (numbers >> np.maximum(length - 2, 0)) & 1
        tokens = np.where(numbers < _DIRECT, numbers, _DIRECT + 2 * (length - _FIRST_BITS - 1) + second)
    tokens = coder.code(tokens, np.repeat(bases[:, None], _TOKEN_BITS, axis=1))
    above = tokens - _DIRECT
    bits = np.where(above >= 0, (above >> 1) + _FIRST_BITS - 1, 0)  # that follow
    if int(bits.max(initial=0)) > 25:
        raise BitstreamError(f"{name}: damaged: expected numbers below 2^27, found more")
    found = np.where(above >= 0, (2 + (above & 1)) << bits, tokens)
    for size in range(1, 26):
        chosen = np.flatnonzero(bits == size)
        if len(chosen):
            below = None if numbers is None else numbers[chosen] & ((1 << size) - 1)
            found[chosen] |= coder.code(below, np.full((len(chosen), size), RAW))
    return found


def _bit_length(x: np.ndarray) -> np.ndarray:
    """Of each number; 0 has none."""
    length = np.zeros(x.shape, dtype=np.int64)
    rest = x.astype(np.int64)
    for shift in (32, 16, 8, 4, 2, 1):
        high = rest >> shift > 0
        length += np.where(high, shift, 0)
        rest = np.where(high, rest >> shift, rest)
    return length + (rest > 0)
