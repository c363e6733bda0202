"""The section `PNTC`: sparse points as cells of the pictures that show them, exact to a quarter of a pixel, in 2 bytes or so.

Each point lies in the grid of one view: column, row and the logarithm of depth. Cells are as wide as the accuracy allows for
most points, and halved for those that need more. Few views are used, the nearest ones, so that many points share a grid: an
unordered set of n points in N cells costs log2(N / n) + 1.44 bits a point, less for more points in one picture.

Colours are not stored: a decoder takes them from the pictures. So of the views that may hold a point, one is preferred whose
picture has the point's colour there; one that has the point in its frame but behind something else rarely does.

Layout, little-endian: uint32 number of points; uint16 number of layers; for each layer uint16 view, uint16 width of its cells
(1/1024 pixel), uint16 cells of depth in a factor of 2; then the stream of `bitstream.point_cloud`. See docs/file-format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from lmvic_ns.bitstream.point_cloud import MAX_LEVEL, MAX_TREE_LEVELS, QuantizedPoints, decode_points, encode_points
from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.sparse_points.grid import CANDIDATES, STEPS_A_PIXEL, Grid, Pinholes, movements

TAG = "PNTC"
PIXEL_TOLERANCE = 0.25
"""Most that a point may move in a view that has it in its frame, pixels."""
DISTANCE_TOLERANCE = 1 / 2000
"""Most that a point may move, in distances from the nearest camera."""
MAX_POINTS = 50_000_000
POINTS_A_BYTE = 1024
"""No stream holds more: each point takes seven bits at least, of at least 0.0028 bits each."""
POINTS_A_PIXEL = 16
"""Of all views of the file: bounds what a small file can ask for."""
CELL_WIDTHS = (1.6, 1.8, 2.0, 2.2, 2.5)
"""Widths of cells in tolerances that are tried for each layer. With 1.15 every point of a cell would be near enough to its
middle; wider cells are cheaper, although some of the points then have to be halved."""
TIGHT = 0.2
"""Share of a layer's points whose tolerance is less than what its cells are made for."""
SAMPLE = 20_000
"""Points that the views are chosen by."""
NEW_VIEW = 6.0
"""Bits that a view must be better by for a point to count in full."""
_HEAD = struct.Struct("<IH")
_LAYER = np.dtype([("view", "<u2"), ("step", "<u2"), ("octave", "<u2")])

ColourOf = Callable[[int, np.ndarray], np.ndarray]
"""What a view's picture shows at pixel positions [n, 2]: uint8 [n, 3]."""


@dataclass(frozen=True)
class CompactPoints:
    """What the section holds, decoded.

    Attributes:
        positions: in the world, float64.
        view: whose picture has each point's colour.
    """

    positions: Float[np.ndarray, "n 3"]
    view: Int[np.ndarray, "n"]


def pack_compact(
    positions: Float[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n 3"] | None, cameras: Pinholes, colour_of: ColourOf
) -> bytes:
    """The bytes of the section; empty if no view shows a point.

    Args:
        positions: in the world.
        colours: where they are known.
        cameras: the file's.
        colour_of: gives the pictures' colours.

    Raises:
        SceneError: more points than the section may hold for such pictures.
    """
    exact = positions.astype(np.float64)
    tolerance, depth_tolerance, seen = _tolerances(cameras, exact)
    exact, tolerance, depth_tolerance = exact[seen], tolerance[seen], depth_tolerance[seen]
    if not len(exact):
        return b""
    most = min(POINTS_A_PIXEL * int(cameras.size.prod(axis=1).sum()), MAX_POINTS)
    if len(exact) > most:
        raise SceneError(f"{len(exact)} sparse points are more than the {most} that compact points may be: use --points exact")
    view = _choose_views(cameras, exact, tolerance, None if colours is None else colours[seen], colour_of)
    used, layer = np.unique(view, return_inverse=True)
    pixels, depth = np.empty((len(exact), 2)), np.empty(len(exact))
    wide, deep = np.empty(len(used)), np.empty(len(used))
    for number, name in enumerate(used):
        which = np.flatnonzero(layer == number)
        pixels[which], depth[which], _ = cameras.project(name, exact[which])
        wide[number] = np.quantile(tolerance[which] * _scale(cameras, name, depth[which]), TIGHT)
        deep[number] = np.quantile(depth_tolerance[which] / depth[which], TIGHT)
    placed = _LayeredPoints(cameras, used, wide, deep, exact, layer, pixels, depth)
    grid = placed.grid(placed.widths())
    points = _quantize(cameras, grid, exact, layer, pixels, depth).canonical()
    table = np.empty(len(used), dtype=_LAYER)
    table["view"], table["step"], table["octave"] = used, grid.step, grid.octave
    return _HEAD.pack(len(points), len(used)) + table.tobytes() + encode_points(points, grid.tree_levels(cameras))


def stored_points(data: bytes) -> int:
    """How many points a section says that it holds."""
    return int(_HEAD.unpack_from(data)[0])


def unpack_compact(data: bytes, cameras: Pinholes) -> CompactPoints:
    """The points of a section.

    Raises:
        BitstreamError: it is not what `pack_compact` writes for these views.
    """
    what = f"section {TAG}"
    if len(data) < _HEAD.size:
        raise BitstreamError(f"{what}: expected at least {_HEAD.size} bytes, found {len(data)}")
    count, layers = _HEAD.unpack_from(data)
    begin = _HEAD.size + layers * _LAYER.itemsize
    if not 1 <= layers <= count or len(data) < begin:
        raise BitstreamError(f"{what}: expected 1..{count} layers of {_LAYER.itemsize} bytes each, found {layers}")
    most = min(MAX_POINTS, POINTS_A_PIXEL * int(cameras.size.prod(axis=1).sum()), POINTS_A_BYTE * (len(data) - begin))
    if count > most:
        raise BitstreamError(f"{what}: expected at most {most} points in so many bytes and pixels, found {count}")
    table = np.frombuffer(data, dtype=_LAYER, count=layers, offset=_HEAD.size)
    grid = Grid(*(table[name].astype(np.int64) for name in ("view", "step", "octave")))
    if int(grid.view.max()) >= len(cameras) or int(grid.step.min()) < 1 or int(grid.octave.min()) < 1:
        raise BitstreamError(f"{what}: expected layers of one of {len(cameras)} views with cells of some width, found another")
    levels = grid.tree_levels(cameras)
    if levels > MAX_TREE_LEVELS:
        raise BitstreamError(f"{what}: expected cells of which 2^{MAX_TREE_LEVELS} span a picture, found narrower ones")
    points = decode_points(data[begin:], count, layers, levels, name=what)
    with np.errstate(over="ignore", invalid="ignore"):
        positions = grid.positions(points, cameras)
    if not np.isfinite(positions).all():
        raise BitstreamError(f"{what}: expected finite positions")
    return CompactPoints(positions, grid.view[points.layer])


def _scale(cameras: Pinholes, view: int, depth: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Pixels that a unit of the scene takes across the view at these depths."""
    return cameras.focal[view].max() / depth


def _tolerances(
    cameras: Pinholes, points: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], np.ndarray]:
    """How far each point may move across the rays and along them, in scene units, about; and whether a view shows it.

    Along the rays a view nearly does not see it move: there the mean of both bounds is taken, which fits common captures.
    """
    largest, nearest, seen = np.zeros(len(points)), np.full(len(points), np.inf), np.zeros(len(points), dtype=bool)
    for view, position in enumerate(cameras.positions()):
        _, depth, inside = cameras.project(view, points)
        largest[inside] = np.maximum(largest[inside], _scale(cameras, view, depth[inside]))
        nearest = np.minimum(nearest, np.linalg.norm(points - position, axis=1))
        seen |= inside
    distance = nearest * DISTANCE_TOLERANCE
    across = np.minimum(PIXEL_TOLERANCE / np.maximum(largest, 1e-300), distance)
    return across, np.sqrt(across * distance), seen


def _choose_views(
    cameras: Pinholes,
    points: Float[np.ndarray, "n 3"],
    tolerance: Float[np.ndarray, "n"],
    colours: UInt8[np.ndarray, "n 3"] | None,
    colour_of: ColourOf,
) -> Int[np.ndarray, "n"]:
    """The view whose grid each point lies in: few, near ones, where the picture has the point's colour."""
    generator = np.random.default_rng(0)
    chosen: list[int] = []
    cost = np.empty((0, len(points)), dtype=np.float32)
    left = np.arange(len(points))
    while len(left):
        sample = generator.choice(left, SAMPLE, replace=False) if len(left) > SAMPLE else left
        every = np.stack(
            [
                _view_cost(
                    cameras, view, points[sample], tolerance[sample], None if colours is None else colours[sample], colour_of
                )
                for view in range(len(cameras))
            ]
        )
        fresh = [view for view in _cover(every) if view not in chosen]
        chosen += fresh
        rows = [_view_cost(cameras, view, points, tolerance, colours, colour_of) for view in fresh]
        cost = np.concatenate([cost, np.stack(rows)])
        left = np.flatnonzero(~np.isfinite(cost).any(axis=0))
    counts = np.bincount(cost.argmin(axis=0), minlength=len(chosen)) + 1.0
    best = cost.argmin(axis=0)
    for _ in range(6):  # a view with many points is cheaper for each
        best = (cost - np.log2(counts)[:, None]).argmin(axis=0)
        counts = np.bincount(best, minlength=len(chosen)) + 0.5
    return np.array(chosen)[best]


def _view_cost(
    cameras: Pinholes,
    view: int,
    points: Float[np.ndarray, "n 3"],
    tolerance: Float[np.ndarray, "n"],
    colours: UInt8[np.ndarray, "n 3"] | None,
    colour_of: ColourOf,
) -> Float[np.ndarray, "n"]:
    """Bits that a point costs more in a view's grid than in the best one's, and what its colour there is worth."""
    pixels, depth, inside = cameras.project(view, points)
    which = np.flatnonzero(inside)
    widest = min(PIXEL_TOLERANCE, float(cameras.focal[view].min()) * DISTANCE_TOLERANCE)
    finer = widest / np.maximum(tolerance[which] * _scale(cameras, view, depth[which]), 1e-300)
    cost = np.full(len(points), np.inf, dtype=np.float32)
    cost[which] = np.minimum(3 * np.log2(np.maximum(finer, 1.0)), 1000)
    if colours is not None and len(which):
        off = np.abs(colour_of(view, pixels[which]).astype(np.float32) - colours[which]).mean(axis=1)
        cost[which] += np.clip((off - COLOUR_FREE) / COLOUR_BIT, 0, COLOUR_MOST)
    return cost


COLOUR_FREE, COLOUR_BIT, COLOUR_MOST = 6.0, 5.0, 8.0
"""A colour that is off by so many levels costs nothing, each so many more are worth a bit, up to so many bits."""


def _cover(cost: Float[np.ndarray, "v n"]) -> list[int]:
    """Views that together show every point that any shows: greedily, the one that saves the most bits first."""
    best = np.full(cost.shape[1], np.inf)
    chosen: list[int] = []
    while True:
        shown = np.isfinite(cost)
        finite = np.where(shown, cost, 0.0)
        new = np.maximum(NEW_VIEW - finite, 0.5)
        gain = np.where(shown, np.where(np.isfinite(best), np.minimum(best, 1000) - finite, new).clip(0), 0.0).sum(axis=1)
        gain[chosen] = 0
        view = int(gain.argmax())
        if gain[view] <= 40 and np.isfinite(best[shown.any(axis=0)]).all():
            return chosen
        chosen.append(view)
        best = np.minimum(best, cost[view])


@dataclass(frozen=True)
class _LayeredPoints:
    """Points in their layers, and the tolerances of each layer: across in pixels, along in depths."""

    cameras: Pinholes
    views: Int[np.ndarray, "layers"]
    wide: Float[np.ndarray, "layers"]
    deep: Float[np.ndarray, "layers"]
    exact: Float[np.ndarray, "n 3"]
    layer: Int[np.ndarray, "n"]
    pixels: Float[np.ndarray, "n 2"]
    depth: Float[np.ndarray, "n"]

    def grid(self, widths: Float[np.ndarray, "layers"]) -> Grid:
        """The grid with cells of these widths, in tolerances of each layer."""
        least = self.cameras.size[self.views].max(axis=1) * STEPS_A_PIXEL // ((1 << MAX_TREE_LEVELS) - 4) + 1
        step = np.clip(np.round(self.wide * widths * STEPS_A_PIXEL), least, 65535)
        octave = np.clip(np.round(np.log(2) / np.maximum(self.deep * widths / 2, 1e-9)), 1, 65535)
        return Grid(self.views, step.astype(np.int64), octave.astype(np.int64))

    def widths(self) -> Float[np.ndarray, "layers"]:
        """Of those in `CELL_WIDTHS` the one that takes the fewest bits, by layer; a sample of the points decides."""
        count, layers = len(self.exact), len(self.views)
        which = np.arange(count)
        if count > SAMPLE:
            which = np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))
        layer = self.layer[which]
        each = np.bincount(layer, minlength=layers)
        costs = []
        for width in CELL_WIDTHS:
            grid = self.grid(np.full(layers, width))
            found = _quantize(self.cameras, grid, self.exact[which], layer, self.pixels[which], self.depth[which])
            halvings = np.bincount(found.layer, found.level, minlength=layers)
            share = np.bincount(found.layer, found.level > 0, minlength=layers) / np.maximum(each, 1)
            levels = sum(-part * np.log2(np.maximum(part, 1e-9)) for part in (share, 1 - share))
            costs.append(3 * halvings + each * (levels - 3 * np.log2(width)))
        return np.array(CELL_WIDTHS)[np.argmin(costs, axis=0)]


def _quantize(
    cameras: Pinholes,
    grid: Grid,
    exact: Float[np.ndarray, "n 3"],
    layer: Int[np.ndarray, "n"],
    pixels: Float[np.ndarray, "n 2"],
    depth: Float[np.ndarray, "n"],
) -> QuantizedPoints:
    """The widest cell that is near enough to each point, as a decoder will see it."""
    found: list[QuantizedPoints] = []
    left = np.arange(len(exact))
    for level in range(MAX_LEVEL + 1):
        for rank in range(CANDIDATES):
            points = grid.quantize(layer[left], pixels[left], depth[left], level, rank)
            decoded = grid.positions(points, cameras).astype(np.float32).astype(np.float64)
            moved, relative = movements(cameras, exact[left], decoded)
            good = (moved <= PIXEL_TOLERANCE) & (relative <= DISTANCE_TOLERANCE)
            if level == MAX_LEVEL and rank == CANDIDATES - 1:
                good[:] = True  # a camera sits on the point: nothing is near enough
            found.append(points.take(good))
            left = left[~good]
            if not len(left):
                return _joined(found)
    return _joined(found)


def _joined(parts: list[QuantizedPoints]) -> QuantizedPoints:
    return QuantizedPoints(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("layer", "u", "v", "w", "level"))
    )
