"""Spanning trees of bounded depth, grown by Prim's algorithm."""

from __future__ import annotations

import numpy as np


class SpanningTree:
    """A tree over some of the views that takes in more, always the nearest one first.

    Args:
        distances: Symmetric [v, v].
        root: The view to start from.
    """

    def __init__(self, distances: np.ndarray, root: int) -> None:
        views = len(distances)
        self.distances = distances
        self.parent = np.full(views, -1)
        self.depth = np.full(views, -1)  # -1: not in the tree yet
        self.depth[root] = 0
        self.order = [root]

    @property
    def length(self) -> float:
        """Sum of the distances between views and parents."""
        children = np.flatnonzero(self.parent >= 0)
        return float(self.distances[children, self.parent[children]].sum())

    def grow(self, views: np.ndarray, max_depth: int | None) -> None:
        """Take in these views (those that are in already stay as they are), none deeper than `max_depth`."""
        waiting = np.zeros(len(self.depth), dtype=bool)
        waiting[views] = True
        waiting &= self.depth < 0
        bound = len(self.depth) if max_depth is None else max_depth
        sources = np.array([v for v in self.order if self.depth[v] < bound])
        closest = self.distances[sources].argmin(axis=0)
        reference = sources[closest]
        nearest = self.distances[reference, np.arange(len(reference))]
        for _ in range(int(waiting.sum())):
            view = int(np.where(waiting, nearest, np.inf).argmin())
            self.parent[view] = reference[view]
            self.depth[view] = self.depth[reference[view]] + 1
            self.order.append(view)
            waiting[view] = False
            if self.depth[view] < bound:
                closer = waiting & (self.distances[view] < nearest)
                nearest[closer], reference[closer] = self.distances[view, closer], view


def farthest_first(distances: np.ndarray, start: int) -> np.ndarray:
    """All views, each as far as possible from those before it."""
    apart = distances[start].copy()
    order = [start]
    apart[start] = -1.0
    for _ in range(len(distances) - 1):
        view = int(apart.argmax())
        order.append(view)
        apart = np.minimum(apart, distances[view])
        apart[view] = -1.0
    return np.array(order)
