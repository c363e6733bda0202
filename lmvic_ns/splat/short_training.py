"""`ns-train lmvic-splat` from within a program: no viewer, no table, the whole course in as many steps as asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from lmvic_ns._util.libraries import libraries_are_quiet
from lmvic_ns.splat.console import nerfstudio_quiet
from lmvic_ns.splat.schedule import rescheduled


@nerfstudio_quiet()
def short_training(
    scene: Path, output: Path, steps: int, *, seed: int | None = None, on_step: Callable[[Any, int], None] | None = None
) -> tuple[Any, Path]:
    """Train a splat; nerfstudio's trainer comes back with its pipeline, and the config.yml that it wrote.

    Args:
        scene: a nerfstudio dataset.
        output: nerfstudio's outputs go here.
        steps: training iterations; the method's schedule is laid out over them.
        seed: of initial values and of the order of views; the method's own by default.
        on_step: called with the pipeline and the number of steps done, after each step.
    """
    method: Any = all_methods["lmvic-splat"]
    config: Any = rescheduled(method, steps)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.experiment_name, config.timestamp = output, scene.name, "demo"
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.logging.local_writer.enable = False
    if seed is not None:
        config.machine.seed, config.pipeline.datamanager.train_cameras_sampling_seed = seed, 42 + seed
    config.save_config()
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(config.machine.seed)
    writer.EVENT_WRITERS.clear()  # else the writers of earlier trainings go on writing
    trainer: Any = config.setup()
    trainer.setup()
    trainer.pipeline.model.strategy.verbose = not libraries_are_quiet()
    if on_step is not None:
        call_back, pipeline = on_step, trainer.pipeline
        callback = TrainingCallback(
            [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], lambda step: call_back(pipeline, step + 1)
        )
        trainer.callbacks.append(callback)
    trainer.train()
    return trainer, config.get_base_dir() / "config.yml"


def eval_views(pipeline: Any) -> list[tuple[Any, dict]]:
    """Cameras and pictures that were kept from training; with few photographs nerfstudio keeps none."""
    pipeline.eval()
    manager = pipeline.datamanager
    return manager.fixed_indices_eval_dataloader if manager.eval_dataset else []


@nerfstudio_quiet()
@torch.no_grad()
def eval_metrics(pipeline: Any, *, lpips: bool) -> dict[str, float]:
    """Means over the kept views: `psnr` in dB, `ssim`, and `lpips` where that is asked for (it may fetch weights)."""
    if not lpips:
        pipeline.model.lpips.leave_out()
    found: dict[str, list[float]] = {}
    for camera, batch in eval_views(pipeline):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        for name, value in pipeline.model.get_image_metrics_and_images(outputs, batch)[0].items():
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}
