"""Sparse points of a scene, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class SparsePoints:
    """Points in the scene's world, with colours if they are known.

    Attributes:
        positions: float32, or float64 where the world's origin is so far away that float32 would round them visibly.
        colours: red, green, blue in 0..255.
    """

    positions: Float[np.ndarray, "n 3"]
    colours: UInt8[np.ndarray, "n 3"] | None

    @property
    def far(self) -> bool:
        """Whether float32 would move points by more than 1/32768 of their median distance from their middle."""
        if not len(self.positions):
            return False
        positions = self.positions.astype(np.float64)
        spread = float(np.median(np.linalg.norm(positions - np.median(positions, axis=0), axis=1)))
        with np.errstate(over="ignore"):
            moved = np.abs(positions.astype(np.float32).astype(np.float64) - positions)
        # the median: a stray point far away is none that matters
        return float(np.median(moved.max(axis=1))) > spread / 32768
