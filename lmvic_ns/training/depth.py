"""Stage `depth`: the depth codec alone, on the depth maps of training scenes.

Its networks are small, and a depth map has few samples: a step takes milliseconds, where a step of stage `scenes` takes a
second. It shares no weights with the image codec: the result is a weights file whose
image part is that of `--init`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro
from rich.progress import Progress
from torch import Tensor

from lmvic_ns.codec.depth.learned import DEPTH_FACTOR, DEPTH_RANGE, DEPTH_STRIDE, DepthCodec
from lmvic_ns.codec.networks.fixed_point import ONE
from lmvic_ns.codec.planning import inverse_depth_scale, translation_scale
from lmvic_ns.codec.presets import build_model
from lmvic_ns.codec.quality import LEVELS, depth_lambda_of_level
from lmvic_ns.depth_sources.sfm import find_scenes
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import downsample_inverse_depth
from lmvic_ns.geometry.prediction import predict_inverse_depth
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.training.files import check_weights_output, write_state
from lmvic_ns.training.runner import load_initial_weights
from lmvic_ns.tree.ordering import pose_distance


@dataclass(frozen=True)
class TrainDepthConfig:
    """Train the depth codec on prepared scenes (what `lmvic prepare` wrote)."""

    scenes: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder with the output of `lmvic prepare`."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Weights file to write (.safetensors)."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to start from. Their image codec is copied into the output unchanged."""
    preset: Annotated[str, tyro.conf.arg(metavar="PRESET")] = "tiny"
    """Size of the model: tiny or base."""
    minutes: float = 8.0
    """Wall-clock budget, over which the learning rate decays."""
    learning_rate: float = 2e-3
    """Highest learning rate."""
    neighbours: int = 4
    """The reference is drawn from this many nearest views."""
    seed: int = 0
    """Seed of data and noise."""
    exclude: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME [NAME ...]]", help_behavior_hint="(default: none)")] = (
        field(default_factory=tuple)
    )
    """Names of scenes to leave out."""
    overwrite: bool = False
    """Replace an existing weights file."""


@dataclass(frozen=True)
class DepthScene:
    """All depth maps of a scene, normalised, at the coded resolution."""

    maps: list[Tensor]
    cameras: Cameras
    near: list[list[int]]


def load_depth_scene(folder: Path, neighbours: int) -> DepthScene:
    """Reads a prepared scene's depth as the codec sees it."""
    scene = MultiViewScene.from_dataset(folder)
    scale = inverse_depth_scale(scene)
    order = pose_distance(scene.cameras.world_to_camera, translation_scale=translation_scale(scene)).argsort(1)
    motion = scene.cameras.world_to_camera.clone()
    motion[:, :3, 3] *= scale
    cameras = Cameras(scene.cameras.intrinsics, motion, scene.cameras.height, scene.cameras.width).coarsen(DEPTH_FACTOR)
    maps = []
    for view in range(len(scene)):
        depth = (scene.inverse_depth(view)[None].double() / scale).clamp(0, 1)
        maps.append(downsample_inverse_depth(depth, DEPTH_FACTOR).float())
    near = [[j for j in order[i].tolist() if j != i][:neighbours] for i in range(len(scene))]
    return DepthScene(maps, cameras, near)


def pair_loss(codec: DepthCodec, scene: DepthScene, view: int, reference: int, level: Tensor) -> Tensor:
    """Rate and distortion of a view and of its reference, in bits per image pixel."""
    first = _pad(scene.maps[reference])
    alone = codec(first, level)
    h, w = scene.maps[reference].shape[-2:]
    decoded = alone.inverse_depth[:, :h, :w].detach().double().clamp(0, 1)
    exact = torch.round(decoded * (DEPTH_RANGE * ONE)) / (DEPTH_RANGE * ONE)
    prediction, mask = predict_inverse_depth(exact, scene.cameras[reference], scene.cameras[view])
    second = _pad(scene.maps[view])
    predicted = codec(second, level, _pad(prediction.float()), _pad(mask.float()))
    weight = depth_lambda_of_level(level).mean()
    loss = torch.zeros(())
    for target, size, output, share in ((first, (h, w), alone, 0.3), (second, scene.maps[view].shape[-2:], predicted, 0.7)):
        error = (output.inverse_depth - target)[:, : size[0], : size[1]].square().mean()
        rate = output.bits.mean() / (size[0] * size[1] * DEPTH_FACTOR**2)
        loss = loss + share * (weight * error + rate)
    return loss / depth_lambda_of_level(level).mean().sqrt() * 10.0


def _pad(x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    return F.pad(x[:, None], (0, -w % DEPTH_STRIDE, 0, -h % DEPTH_STRIDE), mode="replicate")[:, 0]


def train_depth(config: TrainDepthConfig) -> None:
    """Train the depth codec on the depth maps of prepared scenes, in minutes."""
    read = (config.scenes, *(() if config.init is None else (config.init,)))
    check_weights_output(config.output, inputs=read, overwrite=config.overwrite)
    torch.manual_seed(config.seed)
    model = build_model(config.preset, config.seed)
    if config.init is not None:
        load_initial_weights(model, config.init)
        fresh = build_model(config.preset, config.seed)
        model.depth.load_state_dict(fresh.depth.state_dict())
    folders = [folder for folder in find_scenes(config.scenes) if folder.name not in config.exclude]
    scenes = [load_depth_scene(folder, config.neighbours) for folder in folders]
    optimizer = torch.optim.Adam(model.depth.parameters(), config.learning_rate)
    average = {name: value.detach().clone() for name, value in model.depth.named_parameters()}
    started, step, mean = time.monotonic(), 0, 0.0
    budget = 60.0 * config.minutes
    with Progress() as progress:
        bar = progress.add_task("depth", total=budget)
        while (elapsed := time.monotonic() - started) < budget:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)

            def draw(count: int, generator: torch.Generator = generator) -> int:
                return int(torch.randint(count, (), generator=generator))

            scene = scenes[draw(len(scenes))]
            view = draw(len(scene.maps))
            reference = scene.near[view][draw(len(scene.near[view]))]
            level = torch.rand(1, generator=generator) * (LEVELS - 1)
            rate = config.learning_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * elapsed / budget)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = pair_loss(model.depth, scene, view, reference, level)
            optimizer.zero_grad()
            loss.backward()
            if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(model.depth.parameters(), 1.0))):
                optimizer.step()
            keep = min(0.995, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, value in model.depth.named_parameters():
                    average[name].mul_(keep).add_(value, alpha=1 - keep)
            mean = float(loss.detach()) if step == 0 else 0.99 * mean + 0.01 * float(loss.detach())
            step += 1
            if step % 100 == 0:
                progress.console.print(f"step {step}  loss {mean:.4f}  lr {rate:.1e}")
            progress.update(bar, completed=elapsed)
    model.depth.load_state_dict({**model.depth.state_dict(), **average})
    model.update()
    facts = {"format": "lmvic-training", "stage": "depth", "preset": config.preset, "step": str(step)}
    write_state(config.output, model.state_dict(), facts)
    print(f"{step} steps; {config.output}")
