"""Builds a run from its settings and starts Lightning: devices, precision, logging, resuming."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from lmvic_ns._util.output import write_whole
from lmvic_ns.training import TrainingError, require_lightning
from lmvic_ns.training.callbacks import TrainingCallback, Validate, progress_line
from lmvic_ns.training.module import OptimizationConfig, TrainingModule
from lmvic_ns.training.objectives import Objective
from lmvic_ns.training.speed import faster_convolutions

require_lightning()
import lightning  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402


@dataclass(frozen=True)
class RunConfig:
    """Where a run happens and what it leaves."""

    folder: Path
    resume: bool = False
    """Go on from `last.ckpt` in the folder, where there is one."""
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str | None = None
    """A Lightning strategy; None takes DDP where there are several processes."""
    workers: int = 0
    tensorboard: bool = True
    stop_after: float | None = None
    started: float | None = None
    report_every: float = 10.0
    validate_every: float = 300.0
    checkpoint_every: float = 300.0
    metadata: dict[str, str] = field(default_factory=dict)


def load_initial_weights(model: nn.Module, path: Path) -> list[str]:
    """Start a model from a weights file of another run or stage.

    Returns:
        names of the model's weights that the file does not hold (they keep their start).

    Raises:
        TrainingError: if the file is not readable, or holds a weight of another shape.
    """
    try:
        with safe_open(str(path), framework="pt") as stream:
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except Exception as error:
        raise TrainingError(f"cannot read weights from {path} ({error}): give a safetensors file of a run") from error
    own = model.state_dict()
    odd = [n for n, t in state.items() if n in own and own[n].shape != t.shape]
    if odd or not any(n in own for n in state):
        named = f"'{odd[0]}' has another shape" if odd else "no weight has a known name"
        raise TrainingError(f"{path} is of another model ({named}): give weights of the same preset")
    model.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)
    return [n for n in own if n not in state]


def _strategy(config: RunConfig) -> Any:
    if config.strategy is not None and config.strategy != "ddp":
        return config.strategy
    if config.devices * config.nodes == 1:
        return "auto"
    # a step on photographs leaves the cross-view weights without gradients
    return DDPStrategy(find_unused_parameters=True)


def run_training(
    model: nn.Module,
    objective: Objective,
    dataset: Any,
    collate: Callable[..., Any],
    validate: Validate,
    optimization: OptimizationConfig,
    config: RunConfig,
) -> TrainingModule:
    """Train until the budget is spent, the time is over, or a signal arrives; returns the module.

    The folder then holds `last.ckpt` (to resume), `last.safetensors` and `best.safetensors` (averaged weights),
    `curve.csv`, `settings.json` and TensorBoard's events.
    """
    checkpoint = config.folder / "last.ckpt"
    resumed = config.resume and checkpoint.is_file()
    if checkpoint.is_file() and not config.resume:
        raise TrainingError(f"{checkpoint} exists: add --resume to go on with it, or give another --output")
    write_whole(config.folder / "settings.json", json.dumps(config.metadata, indent=1, sort_keys=True) + "\n")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    faster_convolutions(model)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TensorFloat32 is exact enough for gradients
    module = TrainingModule(model, objective, dataset, collate, optimization, workers=config.workers)
    callback = TrainingCallback(
        config.folder,
        validate,
        config.metadata,
        stop_after=config.stop_after,
        started=config.started,
        report_every=config.report_every,
        validate_every=config.validate_every,
        checkpoint_every=config.checkpoint_every,
        say=progress_line(),
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*resuming from a checkpoint that ended.*", ".*lr_scheduler.*"):
        warnings.filterwarnings("ignore", message)
    logger = TensorBoardLogger(str(config.folder), name="", version="tensorboard") if config.tensorboard else False
    trainer = lightning.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config),
        precision=config.precision,
        max_epochs=-1,
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=str(config.folder),
    )
    trainer.fit(module, ckpt_path=str(checkpoint) if resumed else None)
    return module


def describe(items: Sequence[tuple[str, object]]) -> dict[str, str]:
    """Settings as the strings that weights files and `settings.json` carry."""
    return {name: str(value) for name, value in items}
