"""The result of ordering: coding order, reference and depth of each view, as one validated object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.errors import LmvicError


class TreeError(LmvicError, ValueError):
    """What claims to be a reference tree is none; the message names the view."""


@dataclass(frozen=True)
class ReferenceTree:
    """Coding order and references of all views. Validated when made, so one read from a hostile file is safe to walk.

    Attributes:
        order: View indexes in coding order, each once.
        parent: By view index, the reference; -1 for a view coded on its own. A parent comes earlier in the order.
        depth: By view index, the number of references above the view.

    Raises:
        TreeError: Any of this does not hold.
    """

    order: tuple[int, ...]
    parent: tuple[int, ...]
    depth: tuple[int, ...]

    def __post_init__(self) -> None:
        views = len(self.order)
        for name in ("order", "parent", "depth"):
            values = _whole_numbers(name, getattr(self, name))
            if len(values) != views:
                raise TreeError(f"reference tree: {len(values)} entries in {name} for {views} views")
            object.__setattr__(self, name, values)
        coded: set[int] = set()
        for view in self.order:
            if not 0 <= view < views:
                raise TreeError(f"reference tree: there is no view {view} among {views}")
            if view in coded:
                raise TreeError(f"reference tree: view {view} comes twice in the order")
            parent = self.parent[view]
            if parent != -1 and parent not in coded:
                raise TreeError(f"reference tree: view {view} refers to view {parent}, which is not coded before it")
            expected = 0 if parent == -1 else self.depth[parent] + 1
            if self.depth[view] != expected:
                raise TreeError(
                    f"reference tree: depth of view {view} is {self.depth[view]}, its references make it {expected}"
                )
            coded.add(view)

    def __len__(self) -> int:
        return len(self.order)

    @classmethod
    def from_parents(cls, order: Iterable[int], parent: Iterable[int]) -> ReferenceTree:
        """From order and parents alone, as a file stores them; TreeError if they do not make a tree."""
        order, parent = _whole_numbers("order", order), _whole_numbers("parent", parent)
        depth = [0] * len(parent)
        for view in order:
            if not 0 <= view < len(parent):
                raise TreeError(f"reference tree: there is no view {view} among {len(parent)}")
            above = parent[view]
            if above != -1 and not 0 <= above < len(parent):
                raise TreeError(f"reference tree: view {view} refers to view {above}, which does not exist")
            depth[view] = 0 if above == -1 else depth[above] + 1
        return cls(order, parent, tuple(depth))

    @property
    def roots(self) -> tuple[int, ...]:
        """Views without a reference, in coding order."""
        return tuple(v for v in self.order if self.parent[v] == -1)

    @property
    def max_depth(self) -> int:
        """References above the deepest view."""
        return max(self.depth, default=0)

    def ancestors(self, view: int) -> tuple[int, ...]:
        """The references that a view needs, nearest first: parent, its parent, ..., root."""
        result = []
        while (view := self.parent[view]) != -1:
            result.append(view)
        return tuple(result)

    def children(self, view: int) -> tuple[int, ...]:
        """Views that refer to this one directly, in coding order."""
        return tuple(v for v in self.order if self.parent[v] == view)

    def needed_for(self, views: Iterable[int]) -> tuple[int, ...]:
        """These views and everything they depend on, in coding order."""
        needed: set[int] = set()
        for view in views:
            while view != -1 and view not in needed:
                needed.add(view)
                view = self.parent[view]
        return tuple(v for v in self.order if v in needed)

    def total_length(self, distances: Float[Tensor, "v v"]) -> float:
        """Sum of the distances between each view and its reference."""
        matrix = torch.as_tensor(distances)
        return float(sum(float(matrix[v, p]) for v, p in enumerate(self.parent) if p != -1))


def _whole_numbers(name: str, values: Iterable[int]) -> tuple[int, ...]:
    values = tuple(values)
    if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise TreeError(f"reference tree: {name} must hold whole numbers")
    return tuple(v.__index__() for v in values)
