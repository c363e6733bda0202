"""Options that the training commands share, and the configuration of a run that follows from them."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import tyro

from lmvic_ns.training import TrainingError
from lmvic_ns.training.files import check_run_folder
from lmvic_ns.training.schedule import ScheduleConfig

if TYPE_CHECKING:
    from lmvic_ns.training.module import OptimizationConfig
    from lmvic_ns.training.runner import RunConfig

STARTING_SECONDS = 10.0
"""Seconds of --max-time that pass before the first step (imports, decoding photographs)."""


def default_data() -> Path:
    """The folder of real data: LMVIC_DATA, or where the project keeps it."""
    return Path(os.environ.get("LMVIC_DATA", "../shared/data"))


def parse_duration(text: str) -> float:
    """Seconds of `HH:MM:SS`, `MM:SS` or a number of seconds.

    Raises:
        TrainingError: if it is none of these.
    """
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not values or len(values) > 3 or min(values) < 0:
        raise TrainingError(f"'{text}' is not a duration: write HH:MM:SS, such as 00:08:00")
    seconds = 0.0
    for value in values:
        seconds = seconds * 60 + value
    return seconds


@dataclass(frozen=True)
class BudgetConfig:
    """When a run ends, and how often it reports, validates and saves."""

    max_time: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    """Wall-clock limit of this process, HH:MM:SS. The process then saves a checkpoint and ends."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="STEPS")] = None
    """Total budget in steps."""
    schedule_time: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    """Total budget in training time over all resumed runs, HH:MM:SS; by default --max-time."""
    report_every: float = 10.0
    """Seconds between lines of progress."""
    validate_every: float = 300.0
    """Seconds between validations."""
    checkpoint_every: float = 300.0
    """Seconds between checkpoints."""


@dataclass(frozen=True)
class MachineConfig:
    """Hardware and precision."""

    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    """Arithmetic: bfloat16 autocast, or float32."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""
    devices: int = 1
    """Processes on this machine; more than one trains with DDP."""
    nodes: int = 1
    """Machines, for DDP."""
    workers: int = 0
    """Data loading processes. 0 loads in the training process, which is best on few cores."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of torch; by default OMP_NUM_THREADS or torch's own choice."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is trained, on what, and where the run lies."""

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run: checkpoint, weights, learning curve, TensorBoard."""
    preset: Annotated[str, tyro.conf.arg(metavar="PRESET")] = "tiny"
    """Size of the model: tiny or base."""
    data: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = field(default_factory=default_data)
    """A folder with photos/train, a folder of pictures, or a training pack. The default is LMVIC_DATA."""
    exclude: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[PATTERN [PATTERN ...]]", help_behavior_hint="(default: none)")
    ] = ()
    """Shell patterns of names (of photographs or scenes) to leave out, such as 'urban-*'."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to start from; by default the DCT initialization of the preset."""
    resume: bool = False
    """Continue from last.ckpt in the output folder."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """Distortion that is minimized."""
    seed: int = 0
    """Seed of data, noise and initialization."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass(frozen=True, kw_only=True)
class AdvancedOptimizationOptions:
    """Loss and optimizer."""

    HELP_SECTION: ClassVar[str] = "advanced"

    fixed_lambda: Annotated[float | None, tyro.conf.arg(metavar="LAMBDA")] = None
    """Train for this lambda only, as in the paper, instead of all quality levels."""
    level_skew: float = 1.0
    """Exponent s of the random quality level, 63 * u**s with u uniform in 0..1. Above 1, low levels are more frequent."""
    level_weight_power: float = 0.5
    """Exponent p of the weight lambda^-p of a sample's loss, normalized to 1 at the middle level."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    transform_rate: float = 1.0
    """Learning rate of analysis and synthesis relative to that of the entropy model. Use less than 1 with trained weights."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. `muon`: Muon for the weights of 1x1 convolutions, AdamW for the rest."""
    validation_photos: int = 16
    """Photographs held out of training, by which the best weights are chosen."""


@dataclass(frozen=True, kw_only=True)
class OptionsConfig(AdvancedOptimizationOptions, RunOptions):
    """Options of every stage."""


def optimization_config(options: OptionsConfig, batch: int) -> OptimizationConfig:
    """The optimizer's settings.

    Raises:
        TrainingError: the learning rate decays over a budget that was not given.
    """
    from lmvic_ns.training.module import OptimizationConfig

    budget, schedule = options.budget, options.schedule
    whole = parse_duration(budget.schedule_time) if budget.schedule_time else None
    if whole is None and budget.max_time is not None and schedule.schedule_by == "time":
        whole = parse_duration(budget.max_time) - STARTING_SECONDS
    counted = whole if schedule.schedule_by == "time" else budget.max_steps
    if schedule.decay != "constant" and counted is None:
        needed = "--schedule-time or --max-time" if schedule.schedule_by == "time" else "--max-steps"
        raise TrainingError(f"the learning rate decays over a budget: give {needed}, or --decay constant")
    return OptimizationConfig(
        schedule=schedule,
        batch=batch,
        seed=options.seed,
        clip_norm=options.clip_norm,
        ema_decay=options.ema_decay,
        weight_decay=options.weight_decay,
        transform_rate=options.transform_rate,
        optimizer=options.optimizer,
        max_steps=budget.max_steps,
        max_seconds=whole,
    )


def run_config(options: OptionsConfig, stage: str, started: float) -> RunConfig:
    """Where and how the run happens; `started` is the command's own start (monotonic).

    Raises:
        LmvicError: the run's folder is or holds what it trains on, or holds files of something else.
    """
    from lmvic_ns.training.runner import RunConfig, describe

    photos = options.data / "photos" / "train"
    sources = (photos if photos.is_dir() else options.data, getattr(options, "scenes", None), options.init)
    check_run_folder(options.output, [source for source in sources if source is not None], resume=options.resume)
    budget, machine = options.budget, options.machine
    fields = [(f.name, getattr(options, f.name)) for f in dataclasses.fields(options)]
    facts = [("format", "lmvic-training"), ("stage", stage), ("command", " ".join(sys.argv[1:]))]
    return RunConfig(
        folder=options.output,
        resume=options.resume,
        stop_after=None if budget.max_time is None else parse_duration(budget.max_time),
        started=started,
        report_every=budget.report_every,
        validate_every=budget.validate_every,
        checkpoint_every=budget.checkpoint_every,
        precision=machine.precision,
        accelerator=machine.accelerator,
        devices=machine.devices,
        nodes=machine.nodes,
        workers=machine.workers,
        metadata=describe([*facts, *((name, value) for name, value in fields if name not in ("output", "data"))]),
    )


def start_model(options: OptionsConfig) -> Any:
    """The preset's model, from the initial weights if they are given and no checkpoint is to be resumed."""
    from lmvic_ns.codec.presets import build_model
    from lmvic_ns.training.runner import load_initial_weights

    if options.machine.threads is not None:
        torch.set_num_threads(options.machine.threads)
    model = build_model(options.preset)
    if options.init is not None and not (options.resume and (options.output / "last.ckpt").is_file()):
        missing = load_initial_weights(model, options.init)
        print(f"started from {options.init}" + (f"; {len(missing)} weights are not in it" if missing else ""))
    return model


def now() -> float:
    """The clock that time limits use."""
    return time.monotonic()
