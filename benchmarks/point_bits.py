"""Where the bits of compact sparse points are, and what contexts could save: `python benchmarks/point_bits.py SCENE...`.

For each dataset, bits a point by what they are spent on. Then all bits with contexts that already know this very stream (no
coder with these contexts does better), and with contexts that learned from the other scenes given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from lmvic_ns.bitstream import point_cloud
from lmvic_ns.bitstream.adaptive import AdaptiveEncoder, Contexts
from lmvic_ns.bitstream.point_cloud import QuantizedPoints
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points import compact
from lmvic_ns.sparse_points.exact import scene_points
from lmvic_ns.sparse_points.grid import Pinholes
from lmvic_ns.sparse_points.sections import colours_at

KINDS = {
    "cells": point_cloud._PATTERNS,
    "counts": point_cloud._COUNTS,
    "roots": point_cloud._ROOTS,
    "twins": point_cloud._TWINS,
    "depths": point_cloud._DEPTHS,
    "levels": point_cloud._LEVELS,
}
TRUST = 25  # bits that contexts from other scenes count for, at most


class Known(Contexts):
    """Contexts that begin with what others learned."""

    def __init__(self, other: Contexts, most: int) -> None:
        self.probabilities, self.counts = other.probabilities.copy(), np.minimum(other.counts, most)

    def inherit(self, source: slice, target: slice, weight: int) -> None:
        """They know better."""


class Tally(AdaptiveEncoder):
    """Sums up bits by kind; `raw` are those without a context."""

    def __init__(self, contexts: Contexts) -> None:
        super().__init__(contexts)
        self.bits = dict.fromkeys((*KINDS, "raw"), 0.0)

    def code(self, symbols: np.ndarray | None, bases: np.ndarray) -> np.ndarray:
        """As the encoder's."""
        coded = super().code(symbols, bases)
        bits, chances = self._chunks[-1]
        zero = chances / 65536.0
        cost = -np.log2(np.where(bits == 1, 1 - zero, zero))
        kinds = np.searchsorted([*KINDS.values()], np.asarray(bases).ravel(), side="right") - 1
        for number, name in enumerate(KINDS):
            self.bits[name] += float(cost[kinds == number].sum())
        self.bits["raw"] += float(cost[kinds < 0].sum())
        return coded


def spent(points: QuantizedPoints, levels: int, contexts: Contexts) -> dict[str, float]:
    """Bits a point by kind; the contexts learn."""
    tally = Tally(contexts)
    point_cloud._code_points(tally, points, len(points), int(points.layer[-1]) + 1, levels, "points")
    return {name: bits / len(points) for name, bits in tally.bits.items()}


def quantized(folder: Path) -> tuple[QuantizedPoints, int, int]:
    """What the stream of a dataset holds, levels of its tree, bytes of the section."""
    scene = MultiViewScene.from_dataset(folder)
    points = scene_points(scene)
    if points is None:
        raise SystemExit(f"{folder}: no sparse points")
    pictures: dict[int, torch.Tensor] = {}

    def colour_of(view: int, pixels: np.ndarray) -> np.ndarray:
        return colours_at(pictures.setdefault(view, scene.image(view)), pixels)

    with mock.patch.object(compact, "encode_points", wraps=compact.encode_points) as spy:
        data = compact.pack_compact(points.positions, points.colours, Pinholes.to_be_stored(scene.cameras), colour_of)
    return *spy.call_args.args, len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="+", type=Path)
    streams = {folder.resolve().name: quantized(folder) for folder in parser.parse_args().scenes}
    print(f"| scene | points | grids | section | {' | '.join((*KINDS, 'raw'))} | table | sum | known | others |")
    print("|---|" + "---:|" * (len(KINDS) + 8))
    for name, (points, levels, size) in streams.items():
        learned = Contexts(point_cloud._CONTEXTS)
        parts, grids = spent(points, levels, learned), int(points.layer[-1]) + 1
        table = 8 * (6 + 6 * grids) / len(points)
        known = sum(spent(points, levels, Known(learned, 160)).values())
        others = Contexts(point_cloud._CONTEXTS)
        for other, (theirs, their_levels, _) in streams.items():
            if other != name:
                others = Known(others, 60)
                spent(theirs, their_levels, others)
        elsewhere = sum(spent(points, levels, Known(others, TRUST)).values())
        row = [
            f"{value:.2f}" for value in (*parts.values(), table, sum(parts.values()) + table, known + table, elsewhere + table)
        ]
        print(f"| {name} | {len(points)} | {grids} | {size / len(points):.2f} B | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
