"""The training step as a Lightning module: loss, backward pass, clipping, optimizer, moving average.

Optimization is manual, for two reasons: a step whose gradients are not finite must be skipped without moving the
optimizer's state, and the step counter must count steps tried, because data, noise and learning rate depend on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from lmvic_ns.training import TrainingError, require_lightning
from lmvic_ns.training.data import StepSampler, step_loader
from lmvic_ns.training.ema import WeightAverage
from lmvic_ns.training.muon import PointwiseMuon, is_pointwise
from lmvic_ns.training.objectives import Objective, StepLoss
from lmvic_ns.training.schedule import ScheduleConfig, learning_rate

require_lightning()
import lightning  # noqa: E402

CHECKPOINT_KEY = "lmvic"
MOST_SKIPPED_IN_A_ROW = 50


@dataclass(frozen=True)
class OptimizationConfig:
    """How one step moves the weights."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: int = 8
    """Crops (or chains) a step and process."""
    seed: int = 0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    weight_decay: float = 0.0
    transform_rate: float = 1.0
    """Learning rate of the transforms, as a share of the others'."""
    betas: tuple[float, float] = (0.9, 0.99)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the weights of 1x1 convolutions, AdamW for the rest."""
    max_steps: int | None = None
    max_seconds: float | None = None
    """The whole budget in seconds of training, over all resumed runs: the schedule's other clock."""


class TrainingModule(lightning.LightningModule):
    """A codec in training.

    Args:
        model: a MultiViewModel, or anything its objective can use.
        objective: from a batch to a :class:`StepLoss`.
        dataset: samples by number (:mod:`lmvic_ns.training.data`), with its `collate`.
        config: the optimizer's settings.
        workers: data loading processes; 0 loads in this one.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        dataset: Any,
        collate: Callable,
        config: OptimizationConfig,
        *,
        workers: int = 0,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.objective, self.dataset, self.collate, self.config, self.workers = (
            objective,
            dataset,
            collate,
            config,
            workers,
        )
        self.average = WeightAverage(model, config.ema_decay)
        self.step = 0
        self.samples_seen = 0
        self.skipped = 0
        self.best_score = math.inf
        self.last: StepLoss | None = None
        self._skipped_in_a_row = 0
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, on the schedule's clock."""
        c = self.config
        if c.schedule.schedule_by == "time":
            return self.seconds / c.max_seconds if c.max_seconds else 0.0
        return self.step / c.max_steps if c.max_steps else 0.0

    @property
    def finished(self) -> bool:
        """Whether the whole budget is spent, in steps or in seconds."""
        c = self.config
        return (c.max_steps is not None and self.step >= c.max_steps) or (
            c.max_seconds is not None and self.seconds >= c.max_seconds
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers; transforms may learn more slowly, a factorized prior's quantiles have a rate outside the schedule."""
        c = self.config
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        groups: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
        for name, params in _by_kind(named, c.optimizer).items():
            if not params:
                continue
            if name == "quantiles":
                groups["adamw"].append({"params": params, "scheduled": False, "weight_decay": 0.0, "lr": 1e-3})
                continue
            kind, part = name.split()
            groups[kind].append(
                {"params": params, "scheduled": True, "share": c.transform_rate if part == "transforms" else 1.0}
            )
        rate, decay = c.schedule.learning_rate, c.weight_decay
        result: list[torch.optim.Optimizer] = []
        if groups["adamw"]:
            result.append(torch.optim.AdamW(groups["adamw"], lr=rate, betas=c.betas, weight_decay=decay, fused=True))
        if groups["muon"]:
            result.append(PointwiseMuon(groups["muon"], lr=rate, weight_decay=decay))
        return result

    def all_optimizers(self) -> list[Any]:
        """The optimizers, AdamW's first."""
        optimizers: Any = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def train_dataloader(self) -> Any:
        """The stream of this process's batches from the current step on."""
        trainer = self.trainer
        sampler = StepSampler(
            self.config.batch,
            first_step=lambda: self.step,
            rank=trainer.global_rank,
            world=trainer.world_size,
            keys_of_step=getattr(self.dataset, "keys_of_step", None),
        )
        return step_loader(self.dataset, sampler, self.collate, workers=self.workers, pin=self.device.type == "cuda")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches know how to move."""
        return batch.to(device)

    def on_fit_start(self) -> None:
        """Bring the average to the device and start the clock."""
        self.average.to(self.device)
        self._started = time.monotonic()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self._seconds_before, self._started = self.seconds, None

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step; noise, like the data, is a function of (seed, step, process)."""
        optimizers = self.all_optimizers()
        rate = learning_rate(self.config.schedule, self.step, self.progress)
        scheduled = []
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if group["scheduled"]:
                group["lr"] = rate * group["share"]
                scheduled += group["params"]
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 4096 + self.global_rank)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        result = self.objective(self.model, batch)
        total = result.loss
        auxiliary = getattr(self.model, "aux_loss", None)
        if auxiliary is not None:
            total = total + auxiliary()
        self.manual_backward(total)
        norm = torch.nn.utils.clip_grad_norm_(scheduled, self.config.clip_norm)
        if bool(torch.isfinite(norm)) and bool(torch.isfinite(result.loss.detach())):
            for optimizer in optimizers:
                optimizer.step()
            self.average.update(self.model)
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                raise TrainingError(
                    f"the last {MOST_SKIPPED_IN_A_ROW} steps had gradients that are not finite: "
                    "lower --learning-rate, or train with --precision 32-true"
                )
        result.loss = result.loss.detach()
        result.extra["gradient_norm"] = norm.detach()
        self.last = result
        self.step += 1
        self.samples_seen += result.samples * self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the next step depends on."""
        checkpoint[CHECKPOINT_KEY] = {
            "step": self.step,
            "samples_seen": self.samples_seen,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "seed": self.config.seed,
            "average": self.average.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on exactly where the checkpoint was written."""
        state = checkpoint.get(CHECKPOINT_KEY)
        if state is None:
            raise TrainingError("this checkpoint was not written by `lmvic train`: give its last.ckpt")
        if state["seed"] != self.config.seed:
            raise TrainingError(f"the checkpoint was trained with --seed {state['seed']}: resume with the same seed")
        self.step, self.samples_seen, self.skipped = state["step"], state["samples_seen"], state["skipped"]
        self._seconds_before, self.best_score = state["seconds"], state["best_score"]
        self.average.load_state_dict(state["average"])


def _by_kind(named: list[tuple[str, nn.Parameter]], optimizer: str) -> dict[str, list[nn.Parameter]]:
    """Parameters by optimizer and part, in a fixed order."""
    kinds: dict[str, list[nn.Parameter]] = {
        f"{kind} {part}": [] for kind in ("adamw", "muon") for part in ("others", "transforms")
    }
    kinds["quantiles"] = []
    for name, parameter in named:
        if name.endswith("quantiles"):
            kinds["quantiles"].append(parameter)
            continue
        kind = "muon" if optimizer == "muon" and is_pointwise(parameter) else "adamw"
        part = "transforms" if ".analysis_" in name or ".synthesis_" in name else "others"
        kinds[f"{kind} {part}"].append(parameter)
    return kinds
