"""A method's schedule laid out over another number of steps."""

from __future__ import annotations

import copy
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

MODEL_STEPS = ("warmup_length", "resolution_schedule", "sh_degree_interval", "stop_split_at", "stop_screen_size_at")


def rescheduled(config: TrainerConfig, steps: int) -> TrainerConfig:
    """A copy that trains for `steps`: learning rates, densification and resolution follow the same course, scaled.

    nerfstudio's own --max-num-iterations cuts the course off instead.
    """
    config = copy.deepcopy(config)
    ratio = steps / config.max_num_iterations
    model: Any = config.pipeline.model
    for name in MODEL_STEPS:
        setattr(model, name, max(1, round(getattr(model, name) * ratio)))
    for group in config.optimizers.values():
        scheduler = group["scheduler"]
        if scheduler is not None:
            scheduler.max_steps = max(1, round(scheduler.max_steps * ratio))
            scheduler.warmup_steps = round(scheduler.warmup_steps * ratio)
    config.max_num_iterations = steps
    return config
