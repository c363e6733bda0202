"""Densification with an upper limit, for machines on which every Gaussian costs time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch.nn import Parameter
from torch.optim import Optimizer


@dataclass
class CappedStrategy(DefaultStrategy):
    """gsplat's default strategy, never beyond `max_gaussians`: those with the largest gradients grow first."""

    max_gaussians: int = 100_000

    @classmethod
    def limiting(cls, strategy: DefaultStrategy, max_gaussians: int) -> CappedStrategy:
        """The same strategy with a limit."""
        return cls(**{f.name: getattr(strategy, f.name) for f in fields(strategy)}, max_gaussians=max_gaussians)

    @torch.no_grad()
    def _grow_gs(
        self, params: dict[str, Parameter], optimizers: dict[str, Optimizer], state: dict[str, Any], step: int
    ) -> tuple[int, int]:
        space = self.max_gaussians - len(params["means"])
        if space <= 0:
            return 0, 0
        gradient = state["grad2d"] / state["count"].clamp_min(1)
        grows = gradient > self.grow_grad2d
        score = gradient.clone()
        by_radius = step < self.refine_scale2d_stop_iter
        if by_radius:
            wide = state["radii"] > self.grow_scale2d
            grows |= wide
            score[wide] = torch.inf
        # each one that is split or duplicated adds one
        if int(grows.sum()) > space:
            score[~grows] = -torch.inf
            refused = torch.ones_like(grows)
            refused[score.topk(space).indices] = False
            state["grad2d"][refused] = 0.0
            if by_radius:
                state["radii"][refused] = state["radii"][refused].clamp_max(self.grow_scale2d)
        return super()._grow_gs(params, optimizers, state, step)  # type: ignore[arg-type]
