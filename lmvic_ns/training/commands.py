"""`lmvic train photos | scenes | pack`."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro

from lmvic_ns.training import TrainingError, require_lightning
from lmvic_ns.training.photos import CropConfig, PhotoSet, centre_crops, load_photos
from lmvic_ns.training.schedule import ScheduleConfig

STARTING_SECONDS = 10.0
"""What a start takes out of --max-time (imports, decoding photographs) before the first step."""


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
    """When a run ends, and how often it looks up."""

    max_time: str | None = None
    """Wall-clock limit of this process, HH:MM:SS: it then ends with a checkpoint, whatever the whole budget is."""
    max_steps: int | None = None
    """The whole budget in steps."""
    schedule_time: str | None = None
    """The whole budget in training time over all resumed runs, HH:MM:SS (else --max-time)."""
    report_every: float = 10.0
    """Seconds between lines of progress."""
    validate_every: float = 300.0
    """Seconds between validations."""
    checkpoint_every: float = 300.0
    """Seconds between checkpoints."""


@dataclass(frozen=True)
class MachineConfig:
    """What a run runs on."""

    precision: Literal["bf16-mixed", "32-true", "16-mixed"] = "bf16-mixed"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    """Processes on this machine; more than one trains with DDP."""
    nodes: int = 1
    workers: int = 0
    """Data loading processes; 0 loads in the training process, which is best on few cores."""
    threads: int | None = None
    """Torch's threads; None leaves them as they are (OMP_NUM_THREADS)."""


@dataclass(frozen=True)
class TrainPhotosConfig:
    """Train the intra path on photographs."""

    output: Path
    """Folder of the run: checkpoint, weights, learning curve, TensorBoard."""
    preset: str = "tiny"
    data: Path = field(default_factory=default_data)
    """A folder with photos/train, a folder of pictures, or a training pack."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of photograph names to leave out, such as 'urban-*'."""
    init: Path | None = None
    """Weights to start from; without it the preset's own start."""
    resume: bool = False
    """Go on from the folder's last.ckpt."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    batch: int = 8
    seed: int = 0
    fixed_lambda: float | None = None
    """Train for this lambda alone (the paper's way) instead of all quality levels."""
    level_weight_power: float = 0.5
    """Losses are weighted with lambda^-power, 1 at the middle level."""
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    weight_decay: float = 0.0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    validation_photos: int = 16
    """Photographs held out of training, to choose the best weights by."""


def find_photos(data: Path) -> PhotoSet:
    """The training photographs of a data folder, of a plain folder of pictures, or of a pack."""
    folder = data / "photos" / "train"
    return load_photos(folder if folder.is_dir() else data)


def train_photos(config: tyro.conf.OmitArgPrefixes[TrainPhotosConfig]) -> None:
    """Train the intra path on photographs (stage `photos`)."""
    started = time.monotonic()
    require_lightning()
    from lmvic_ns.codec.presets import build_model
    from lmvic_ns.codec.quality import lambda_of_level
    from lmvic_ns.training.data import LevelConfig, PhotoDataset, collate_photos
    from lmvic_ns.training.module import OptimizationConfig, PhotoObjective, level_of_lambda
    from lmvic_ns.training.photos import PhotoCrops
    from lmvic_ns.training.runner import RunConfig, describe, load_initial_weights, run_training
    from lmvic_ns.training.validation import VALIDATION_LEVELS, rd_curve

    if config.machine.threads is not None:
        torch.set_num_threads(config.machine.threads)
    stop_after = None if config.budget.max_time is None else parse_duration(config.budget.max_time)
    whole = parse_duration(config.budget.schedule_time) if config.budget.schedule_time else None
    if whole is None and stop_after is not None and config.schedule.schedule_by == "time":
        whole = stop_after - STARTING_SECONDS
    if config.schedule.decay != "constant" and whole is None and config.budget.max_steps is None:
        raise TrainingError("the learning rate's decay needs a budget: give --max-steps or --schedule-time")

    photos = find_photos(config.data).exclude(config.exclude)
    training, validation = photos.split_validation(config.validation_photos)
    print(f"{len(training)} photographs to train on, {len(validation)} held out, {photos.megabytes:.0f} MB")
    torch.manual_seed(config.seed)
    model = build_model(config.preset)
    if config.init is not None and not (config.resume and (config.output / "last.ckpt").is_file()):
        missing = load_initial_weights(model, config.init)
        print(f"started from {config.init}" + (f"; {len(missing)} weights are not in it" if missing else ""))
    levels = int(getattr(model, "levels", 64))
    fixed = None
    if config.fixed_lambda is not None:
        fixed = level_of_lambda(config.fixed_lambda, lambda_of_level, levels)
    optimization = OptimizationConfig(
        schedule=config.schedule,
        metric=config.metric,
        batch=config.batch,
        seed=config.seed,
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        weight_decay=config.weight_decay,
        level_weight_power=config.level_weight_power,
        fixed_lambda=config.fixed_lambda,
        max_steps=config.budget.max_steps,
        max_seconds=whole,
    )
    crops = PhotoCrops(training, config.crops, seed=config.seed)
    dataset = PhotoDataset(crops, LevelConfig(maximum=levels - 1.0, fixed=fixed))
    held_out = list(centre_crops(validation, 256).split(config.batch))
    looked_at = VALIDATION_LEVELS if fixed is None else (fixed,)
    run = RunConfig(
        folder=config.output,
        resume=config.resume,
        stop_after=stop_after,
        started=started,
        report_every=config.budget.report_every,
        validate_every=config.budget.validate_every,
        checkpoint_every=config.budget.checkpoint_every,
        precision=config.machine.precision,
        accelerator=config.machine.accelerator,
        devices=config.machine.devices,
        nodes=config.machine.nodes,
        workers=config.machine.workers,
        metadata=describe(
            [
                ("format", "lmvic-training"),
                ("stage", "photos"),
                ("command", " ".join(sys.argv[1:])),
                *((f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name != "output"),
            ]
        ),
    )
    run_training(
        model,
        PhotoObjective(optimization, lambda_of_level, levels),
        dataset,
        collate_photos,
        lambda m: rd_curve(m, held_out, looked_at, lambda_of_level),
        optimization,
        run,
    )
