"""Depth as a quadtree of offsets from its prediction: what warping needs of a depth map, in a few bytes a view.

Blocks of a view are moved along their epipolar lines: a leaf adds one offset, a multiple of the view's step of inverse
depth, to what the reference's depth predicts there (10). A view without a prediction is built of such blocks alone, and
their stairs are smoothed. All of it is integers, the same on every device. The encoder's side is
`lmvic_ns.codec.depth.search`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmvic_ns.bitstream.tables import TOTAL, CdfTables
from lmvic_ns.codec.networks.fixed_point import fill_holes
from lmvic_ns.codec.symbols import SymbolCoder, SymbolReader, SymbolWriter
from lmvic_ns.errors import BitstreamError

QUADTREE = 255
"""First byte of a depth part that holds a quadtree; smaller ones are the quality level of the learned depth codec."""
UNIT = 65536
"""Normalised inverse depth 0..1 is 0..65536 in the integers of this module."""
BLOCKS = (64, 32, 16, 8, 4, 2)
"""Sides of the quadtree's blocks, coarse to fine, in pixels of the coded map (four picture pixels each)."""
LARGEST_CHANGE = 10
"""Offsets of a block and its quarter differ by at most so many steps (more is coded as an escape)."""
LARGEST_OFFSET = 64
"""Of the coarsest blocks, from a prediction."""
LARGEST_ROOT_OFFSET = 512
"""Of the coarsest blocks of a view without a prediction, from 0."""
_SMOOTHING = 6
_HEADER = struct.Struct("<BH")

PROFILES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((10, 203, 111), (10, 190, 200), (10, 150, 212), (8, 130, 212), (4, 140, 212), (1, 137, 209)),
    ((91, 191, 198), (64, 168, 212), (20, 150, 212), (8, 140, 212), (4, 140, 212), (1, 137, 209)),
    ((156, 200, 180), (90, 168, 200), (60, 165, 212), (20, 150, 212), (4, 140, 212), (1, 137, 209)),
    ((199, 150, 200), (161, 165, 212), (100, 160, 212), (40, 150, 212), (8, 140, 212), (1, 137, 209)),
    ((228, 150, 200), (193, 170, 212), (150, 160, 212), (46, 146, 212), (4, 135, 209), (1, 137, 209)),
    ((245, 130, 212), (200, 170, 214), (180, 150, 214), (100, 150, 213), (31, 140, 210), (1, 137, 209)),
    ((245, 120, 214), (200, 165, 214), (170, 168, 216), (140, 166, 214), (99, 165, 214), (1, 137, 209)),
    ((250, 131, 209), (218, 166, 214), (225, 148, 216), (200, 140, 215), (140, 146, 215), (1, 137, 209)),
)
"""Statistics of quiet to busy maps: for each block size the probabilities (of 256) that a block is split, that an offset
does not change, and that a change goes one step further. From counts on training scenes, evened out by hand."""


@dataclass(frozen=True)
class Quadtree:
    """A tree over a map that is padded to whole coarsest blocks.

    Attributes:
        changes: of each block size, the offset's difference from the block above (a coarsest one's: the offset).
        splits: of each block size but the last, whether the block has quarters.
    """

    changes: tuple[Int[Tensor, "rows columns"], ...]
    splits: tuple[Bool[Tensor, "rows columns"], ...]


@cache
def quadtree_tables(profile: int, predicted: bool) -> CdfTables:
    """Two tables for each block size, changes and splits, from integers alone.

    Args:
        profile: one of `PROFILES`.
        predicted: whether the map has a prediction; without one the coarsest offsets are all alike.
    """
    rows, offsets = [], []
    for number, (split, zero, further) in enumerate(PROFILES[profile]):
        if number == 0 and not predicted:
            symbols = LARGEST_ROOT_OFFSET + 1
            row = np.full(symbols + 1, TOTAL // (symbols + 1))
            row[-1] += TOTAL - row.sum()
            rows.append(row)
            offsets.append(0)
        else:
            reach = LARGEST_OFFSET if number == 0 else LARGEST_CHANGE
            side, left = [], (TOTAL - zero * 256) // 2 - reach - 1
            for _ in range(reach):
                share = left - left * further // 256
                side.append(1 + share)
                left -= share
            centre = TOTAL - 1 - 2 * sum(side)
            rows.append(np.array([*reversed(side), centre, *side, 1]))
            offsets.append(-reach)
        rows.append(np.array([TOTAL - split * 256 - 1, split * 256, 1]))
        offsets.append(0)
    return CdfTables.from_frequencies(rows, offsets)


def code_offsets(
    coder: SymbolCoder, size: tuple[int, int], tree: Quadtree | None, device: torch.device | str = "cpu"
) -> Int[Tensor, "h4 w4"]:
    """Writes `tree`, or reads one; both return its offsets.

    Args:
        coder: with `quadtree_tables`.
        size: height and width of the map.
        tree: what to write; None reads.
        device: where a tree that is read goes.
    """
    rows, columns = (-(-n // BLOCKS[0]) for n in size)
    active = torch.ones(rows, columns, dtype=torch.bool, device=device)
    offsets = torch.zeros(rows, columns, dtype=torch.int64, device=device)

    def code(values: Tensor | None, table: int) -> Tensor:
        symbols = None if values is None else values[active].double()
        indexes = torch.full((int(active.sum()),), table, dtype=torch.int64, device=device)
        return coder.code(symbols, indexes)

    for number in range(len(BLOCKS)):
        offsets[active] += code(None if tree is None else tree.changes[number], 2 * number).long()
        # far beyond what encoders write, and far below what would overflow
        offsets.clamp_(-(1 << 15), 1 << 15)
        if number + 1 < len(BLOCKS):
            split = torch.zeros_like(active)
            split[active] = code(None if tree is None else tree.splits[number], 2 * number + 1) == 1
            active = _quarters(split)
            offsets = _quarters(offsets)
    leaf = BLOCKS[-1]
    return offsets.repeat_interleave(leaf, 0).repeat_interleave(leaf, 1)[: size[0], : size[1]]


def depth_of_offsets(
    offsets: Int[Tensor, "h4 w4"], step: int, prediction: Int[Tensor, "h4 w4"] | None
) -> Float[Tensor, "1 h4 w4"]:
    """Normalised inverse depth, float64 multiples of 1/65536 in 0..1."""
    moved = offsets * step
    if prediction is None:
        value = moved.clamp(0, UNIT)
        for _ in range(_SMOOTHING):
            value = _smoothed(value, step + step // 2)
    else:
        value = (prediction + moved).clamp(0, UNIT)
    return value[None].double() / UNIT


def _smoothed(value: Int[Tensor, "h w"], limit: int) -> Int[Tensor, "h w"]:
    """Mean with those of the four neighbours that are near, which turns stairs into slopes and keeps edges."""
    h, w = value.shape
    padded = F.pad(value[None, None].double(), (1, 1, 1, 1), mode="replicate")[0, 0].long()
    total, count = 2 * value, torch.full_like(value, 2)
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        other = padded[row : row + h, column : column + w]
        near = (other - value).abs() <= limit
        total, count = total + torch.where(near, other, 0), count + near
    return torch.div(2 * total + count, 2 * count, rounding_mode="floor")


def integer_prediction(prediction: Float[Tensor, "1 h4 w4"], mask: Bool[Tensor, "1 h4 w4"]) -> Int[Tensor, "h4 w4"]:
    """The reference's depth seen from the view (10), its holes filled from around them."""
    units = torch.floor(prediction[:, None].double() * UNIT + 0.5)
    return fill_holes(units, mask[:, None].double())[0, 0].long()


def write_depth(
    tree: Quadtree, size: tuple[int, int], step: int, profile: int, prediction: Int[Tensor, "h4 w4"] | None
) -> tuple[bytes, Float[Tensor, "1 h4 w4"]]:
    """The coded map (profile, step, stream), and the depth that decoders will have."""
    writer = SymbolWriter(quadtree_tables(profile, prediction is not None))
    offsets = code_offsets(writer, size, tree, tree.changes[0].device)
    return _HEADER.pack(profile, step) + writer.finish(), depth_of_offsets(offsets, step, prediction)


def read_depth(
    data: bytes, size: tuple[int, int], prediction: Int[Tensor, "h4 w4"] | None, name: str, device: torch.device | str = "cpu"
) -> Float[Tensor, "1 h4 w4"]:
    """What `write_depth` wrote.

    Raises:
        BitstreamError: the data are damaged.
    """
    if len(data) < _HEADER.size:
        raise BitstreamError(f"{name}: expected a profile and a step, found {len(data)} bytes")
    profile, step = _HEADER.unpack_from(data)
    if profile >= len(PROFILES) or step == 0:
        raise BitstreamError(f"{name}: expected a profile 0..{len(PROFILES) - 1} and a step, found {profile} and {step}")
    reader = SymbolReader(data[_HEADER.size :], quadtree_tables(profile, prediction is not None), name)
    offsets = code_offsets(reader, size, None, device)
    reader.finish()
    return depth_of_offsets(offsets, step, prediction)


def _quarters(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 0).repeat_interleave(2, 1)
