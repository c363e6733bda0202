"""PSNR of lmvic-splat on the eval views against steps and seconds of training.

    python benchmarks/splat_training.py --data ../shared/data/scenes/fox --factor 0.5

Seconds are those of the training loop: start-up (imports, compilation at step 0 included) is listed apart, evaluation is
not counted. Processor seconds are those of all threads, a fair measure on a machine that is shared.
`--set pipeline.model.sh_degree=0` changes any field of the method's config.
"""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig


@dataclass
class Options:
    """What to train and when to look."""

    data: Path
    """A nerfstudio dataset."""
    factor: float = 1.0
    """Size of the pictures relative to the files."""
    every: int = 250
    """Steps between evaluations."""
    limit_s: float = 600.0
    """Stop after this many seconds of training."""
    output: Path | None = None
    """Keep the checkpoint and config.yml here."""
    set: list[str] = field(default_factory=list)
    """path.to.field=value, any number."""


def change(config: TrainerConfig, assignment: str) -> None:
    path, _, value = assignment.partition("=")
    *parents, last = path.split(".")
    node: Any = config
    for name in parents:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    if not hasattr(node, last):
        raise SystemExit(f"no option {path}")
    setattr(node, last, yaml.safe_load(value))


def eval_psnr(trainer: Trainer) -> float:
    pipeline: Any = trainer.pipeline
    model: Any = pipeline.model
    pipeline.eval()
    values = []
    with torch.no_grad():
        for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
            outputs = model.get_outputs_for_camera(camera)
            truth = model.composite_with_background(model.get_gt_img(batch["image"]), outputs["background"])
            values.append(-10 * torch.log10((outputs["rgb"] - truth).square().mean()))
    pipeline.train()
    return float(torch.stack(values).mean())


def main(options: Options) -> None:
    config: Any = copy.deepcopy(all_methods["lmvic-splat"])
    config.data = config.pipeline.datamanager.data = options.data
    config.pipeline.datamanager.camera_res_scale_factor = options.factor  # type: ignore[attr-defined]
    config.vis, config.experiment_name, config.timestamp = "tensorboard", options.data.name, "run"
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_save = 0
    for assignment in options.set:
        change(config, assignment)
    with tempfile.TemporaryDirectory() as scratch:
        config.output_dir = options.output or Path(scratch)
        config.set_timestamp()
        config.save_config()
        torch.manual_seed(config.machine.seed)
        trainer = config.setup()
        trainer.setup()
        started, paused, busy = time.perf_counter(), 0.0, 0.0

        def look(step: int) -> None:
            nonlocal paused, busy
            now, processor = time.perf_counter(), time.process_time()
            if step == 0:
                paused, busy = now - started, processor
                print(f"first step with loading and compilation {paused:.1f} s", flush=True)
                print("| steps | seconds | processor seconds | Gaussians | eval PSNR |", flush=True)
            elapsed = now - started - paused
            last = step + 1 == config.max_num_iterations
            if (step + 1) % options.every and not last and elapsed < options.limit_s:
                return
            model: Any = trainer.pipeline.model
            psnr, count = eval_psnr(trainer), model.num_points
            print(f"| {step + 1:6d} | {elapsed:7.1f} s | {processor - busy:7.1f} s | {count:8d} | {psnr:6.2f} dB |", flush=True)
            trainer.stop_training = elapsed >= options.limit_s
            paused += time.perf_counter() - now
            busy += time.process_time() - processor

        trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], look))
        config.viewer.quit_on_train_completion = True
        trainer.train()


if __name__ == "__main__":
    main(tyro.cli(Options))
