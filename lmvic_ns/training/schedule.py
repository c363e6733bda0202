"""Learning rate as a function of the share of the budget that is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    """Warm-up, then decay over the budget."""

    learning_rate: float = 1e-3
    """Highest learning rate."""
    final_ratio: float = 0.02
    """Learning rate at the end, divided by the highest one."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay: Literal["cosine", "halve", "constant"] = "cosine"
    """Shape of the decay. `halve`: halved after each fifth of the budget, as in the paper."""
    schedule_by: Literal["steps", "time"] = "steps"
    """Unit of the budget: training steps, or seconds of training over all resumed runs."""


def learning_rate(config: ScheduleConfig, step: int, progress: float) -> float:
    """Learning rate of step `step` (from 0), with `progress` in 0..1 of the budget spent."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    progress = min(max(progress, 0.0), 1.0)
    if config.decay == "cosine":
        factor = config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.decay == "halve":
        factor = 0.5 ** min(int(progress * 5), 4)
    else:
        factor = 1.0
    return config.learning_rate * warm * factor
