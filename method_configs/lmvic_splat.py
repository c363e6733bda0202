"""The method specifications `lmvic-splat` and `lmvic-splat-big`; on a GPU splatfacto's defaults, on a CPU our own."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from lmvic_ns.cli import nerfstudio_hook as hook
from lmvic_ns.splat import one_line
from lmvic_ns.splat.checkpoints import allow_numpy_scalars
from lmvic_ns.splat.datamanager import LmvicDataManagerConfig
from lmvic_ns.splat.model import LmvicSplatModelConfig

# every ns-* command loads this module before it loads a checkpoint
allow_numpy_scalars()
# does something in ns-export alone
hook.install()
one_line.install()


@dataclass(frozen=True)
class Schedule:
    """What depends on how many steps a machine can afford."""

    steps: int = 30000
    """Iterations; the learning rates' decay is laid out over them."""
    means_lr: float = 1.6e-4
    means_lr_final: float = 1.6e-6
    colour_lr: float = 0.0025
    opacity_lr: float = 0.05
    scale_lr: float = 0.005
    quat_lr: float = 0.001
    pose_warmup: int = 1000
    bilateral_lr: float = 2e-3
    steps_per_save: int = 2000
    steps_per_eval_image: int = 100
    steps_per_eval_all: int = 1000


def trainer_config(method_name: str, model: LmvicSplatModelConfig, schedule: Schedule, device: str) -> TrainerConfig:
    """splatfacto's trainer with the given model, schedule and device ("cuda" or "cpu")."""

    def adam(lr: float, final: float | None = None, warmup: int = 0) -> dict:
        scheduler = None
        if final is not None:
            scheduler = ExponentialDecaySchedulerConfig(
                lr_final=final, max_steps=schedule.steps, warmup_steps=warmup, lr_pre_warmup=0 if warmup else 1e-8
            )
        return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}

    return TrainerConfig(
        method_name=method_name,
        machine=MachineConfig(device_type=device),  # type: ignore[arg-type]
        steps_per_eval_image=schedule.steps_per_eval_image,
        steps_per_eval_batch=0,
        steps_per_save=schedule.steps_per_save,
        steps_per_eval_all_images=schedule.steps_per_eval_all,
        max_num_iterations=schedule.steps,
        mixed_precision=False,
        pipeline=VanillaPipelineConfig(
            datamanager=LmvicDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=model,
        ),
        optimizers={
            "means": adam(schedule.means_lr, schedule.means_lr_final),
            "features_dc": adam(schedule.colour_lr),
            "features_rest": adam(schedule.colour_lr / 20),
            "opacities": adam(schedule.opacity_lr),
            "scales": adam(schedule.scale_lr),
            "quats": adam(schedule.quat_lr),
            "camera_opt": adam(1e-4, 5e-7, schedule.pose_warmup),
            "bilateral_grid": adam(schedule.bilateral_lr, 1e-4, schedule.pose_warmup),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


CPU_SCHEDULE = Schedule(
    steps=1500,
    means_lr=4.8e-4,
    means_lr_final=1.6e-5,
    colour_lr=0.01,
    scale_lr=0.01,
    quat_lr=0.004,
    pose_warmup=300,
    steps_per_save=500,
    steps_per_eval_image=250,
    steps_per_eval_all=1000,
)
CPU_MODEL = LmvicSplatModelConfig(
    sh_degree=1,
    sh_degree_interval=600,
    num_downscales=2,
    resolution_schedule=300,
    warmup_length=200,
    refine_every=100,
    stop_split_at=1200,
    densify_grad_thresh=0.001,
    cull_alpha_thresh=0.02,
    stop_screen_size_at=1200,
    max_gaussians=40_000,
    max_gaussians_per_view=2_000,
)


def gpu_config(name: str) -> TrainerConfig:
    """splatfacto's or splatfacto-big's settings."""
    if name.endswith("-big"):
        model = LmvicSplatModelConfig(cull_alpha_thresh=0.005, densify_grad_thresh=0.0005)
        return trainer_config(name, model, Schedule(bilateral_lr=5e-3), "cuda")
    return trainer_config(name, LmvicSplatModelConfig(), Schedule(), "cuda")


def cpu_config(name: str) -> TrainerConfig:
    """Minutes on two cores; `-big` has more Gaussians and takes about twice as long."""
    model = copy.deepcopy(CPU_MODEL)
    if name.endswith("-big"):
        model = replace(model, max_gaussians=100_000, max_gaussians_per_view=5_000, densify_grad_thresh=0.0006)
    return trainer_config(name, model, CPU_SCHEDULE, "cpu")


def _specification(name: str, description: str) -> MethodSpecification:
    # nvcc or a driver may be there without a usable GPU: torch alone decides
    return MethodSpecification(gpu_config(name) if torch.cuda.is_available() else cpu_config(name), description)


lmvic_splat = _specification("lmvic-splat", "lmvic-ns: splatfacto with median depth, on GPU and CPU.")
lmvic_splat_big = _specification("lmvic-splat-big", "lmvic-ns: splatfacto-big with median depth; more Gaussians, slower.")
