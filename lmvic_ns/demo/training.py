"""The demo's training run: nerfstudio's trainer on the demo room, and pictures of the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.pipelines.base_pipeline import Pipeline
from torchvision.utils import save_image

from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.captures import captured_scene
from lmvic_ns.splat.console import nerfstudio_quiet
from lmvic_ns.splat.short_training import eval_metrics, eval_views, short_training


@dataclass(frozen=True)
class TrainedSplat:
    """A trained pipeline and where nerfstudio's commands find it."""

    pipeline: Pipeline
    config_file: Path
    psnr: float
    """Mean over the eval views, dB."""


@nerfstudio_quiet()
def train(scene: Path, output: Path, steps: int, say: Callable[[str], None] = print) -> TrainedSplat:
    """`ns-train lmvic-splat` on a data set, without viewer; the schedule is shortened to `steps`.

    Args:
        scene: a nerfstudio dataset.
        output: nerfstudio's outputs go here.
        steps: training iterations.
        say: gets a line four times on the way, instead of nerfstudio's table.
    """

    def report(pipeline: Any, step: int) -> None:
        if step % max(1, steps // 4) == 0:
            say(f"step {step} of {steps}, {pipeline.model.num_points:,} Gaussians")

    trainer, config_file = short_training(scene, output, steps, on_step=report)
    # LPIPS would fetch weights, which the demo has no use for
    psnr = eval_metrics(trainer.pipeline, lpips=False).get("psnr", math.nan)
    return TrainedSplat(trainer.pipeline, config_file, psnr)


def write_pictures(pipeline: Any, folder: Path) -> list[Path]:
    """For each eval view one PNG: the photograph beside the rendering, expected and median depth below."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (camera, batch) in enumerate(eval_views(pipeline)):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        _, pictures = pipeline.model.get_image_metrics_and_images(outputs, batch)
        depths = torch.cat([pictures["depth"], pictures["median_depth"]], dim=1)
        paths.append(folder / f"eval_{index:03d}.png")
        save_image(torch.cat([pictures["img"], depths], dim=0).permute(2, 0, 1).cpu(), paths[-1])
    return paths


def depth_error(pipeline: Pipeline, scene: Path) -> float:
    """Median over all pixels and views of |median depth - true depth| / true depth."""
    captured, truth = captured_scene(pipeline), MultiViewScene.from_dataset(scene)
    errors = []
    for index in range(len(truth)):
        measured, exact = captured.inverse_depth(index), truth.inverse_depth(index)
        known = measured > 0
        errors.append(((exact / measured.clamp_min(1e-9) - 1).abs())[known])
    return float(torch.cat(errors).median())
