"""`lmvic-splat`: nerfstudio's splatfacto with median depth, on a GPU and on a CPU.

A subclass (the viewer and the exporters test for splatfacto), with one private seam to the rasterizers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from lmvic_ns.splat.lpips import LazyLpips, lazy_lpips
from lmvic_ns.splat.pictures import depth_picture
from lmvic_ns.splat.rasterization import RasterOutput, rasterize
from lmvic_ns.splat.strategy import CappedStrategy

SH_DC = 0.28209479177387814
"""The constant spherical harmonic."""


@dataclass
class LmvicSplatModelConfig(SplatfactoModelConfig):
    """splatfacto's options and two more."""

    _target: type = field(default_factory=lambda: LmvicSplatModel)
    max_gaussians: int | None = None
    """densification stops at this many gaussians; None for no limit"""
    max_gaussians_per_view: int | None = None
    """densification stops at this many gaussians for each training view: few views bear few before they overfit"""

    def limit_for(self, views: int) -> int | None:
        """The number of Gaussians at which densification stops with so many training views; None for no limit."""
        limits = [] if self.max_gaussians is None else [self.max_gaussians]
        if self.max_gaussians_per_view is not None:
            limits.append(self.max_gaussians_per_view * views)
        return min(limits, default=None)


def world_to_camera(camera_to_world: Float[Tensor, "c 3 4"]) -> Float[Tensor, "c 4 4"]:
    """nerfstudio's poses (OpenGL axes: y up, z backward) to OpenCV world-to-camera matrices."""
    rotation = camera_to_world[:, :3, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
    inverse = rotation.transpose(1, 2)
    translation = -inverse @ camera_to_world[:, :3, 3:4]
    last = camera_to_world.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(camera_to_world), 1, 4)
    return torch.cat([torch.cat([inverse, translation], dim=2), last], dim=1)


class LmvicSplatModel(SplatfactoModel):
    """splatfacto that also renders `median_depth` (0 where a ray has none) and needs no GPU."""

    config: LmvicSplatModelConfig

    def populate_modules(self) -> None:
        """splatfacto's modules; its colours would be put on a GPU, so they are set here, and LPIPS waits until used."""
        seeds = self.seed_points
        if seeds is not None:
            self.seed_points = (seeds[0], seeds[1][:0])
        with lazy_lpips():
            super().populate_modules()
        self.seed_points = seeds
        if seeds is not None and len(seeds[1]) and not self.config.random_init:
            self._set_colours(seeds[1].float() / 255.0)
        limit = self.config.limit_for(self.num_train_data)
        if limit is not None and isinstance(self.strategy, DefaultStrategy):
            self.strategy = CappedStrategy.limiting(self.strategy, limit)
        from lmvic_ns.splat.panel import CorrespondencePanel  # a public attribute, so that nerfstudio's viewer finds it

        self.correspondence = CorrespondencePanel()

    def get_training_callbacks(self, training_callback_attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """splatfacto's, and one that renews the viewer's panel while somebody looks."""
        after = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        renew = TrainingCallback(after, self.correspondence.after_step, update_every_num_iters=5)
        return [*super().get_training_callbacks(training_callback_attributes), renew]

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """splatfacto's; in nerfstudio's viewer also disparity and mask against the capture chosen in its panel."""
        outputs = super().get_outputs_for_camera(camera, obb_box)
        return self.correspondence.add_outputs(self, camera, outputs)

    def _set_colours(self, rgb: Float[Tensor, "n 3"]) -> None:
        """Start from the seed points' colours."""
        base = (rgb - 0.5) / SH_DC if self.config.sh_degree > 0 else torch.logit(rgb, eps=1e-10)
        self.gauss_params["features_dc"] = torch.nn.Parameter(base)

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:
        """splatfacto's, also for checkpoints of splatfacto itself, which hold LPIPS's weights."""
        own = {name: value for name, value in dict.items() if not name.startswith("lpips.")}
        return super().load_state_dict(own, **kwargs)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:
        """Render one camera.

        Returns:
            `rgb` [h, w, 3]; `depth` (expected; where nothing is hit the greatest depth, as in splatfacto) and
            `median_depth` (0 where the ray has none) [h, w, 1] in the model's units, None during training unless
            `output_depth_during_training`; `accumulation` [h, w, 1]; `background`.
        """
        if not isinstance(camera, Cameras):
            print("Called get_outputs with not a camera")
            return {}
        if self.training:
            assert camera.shape[0] == 1, "Only one camera at a time"
            poses = self.camera_optimizer.apply_to_camera(camera)
        else:
            poses = camera.camera_to_worlds

        gaussians = dict(self.gauss_params.items())
        if self.crop_box is not None and not self.training:
            inside = self.crop_box.within(self.means).squeeze()
            if inside.sum() == 0:
                background = self.background_color.to(self.device)
                return self.get_empty_outputs(int(camera.width.item()), int(camera.height.item()), background)
            gaussians = {name: value[inside] for name, value in gaussians.items()}

        factor = self._get_downscale_factor()
        camera.rescale_output_resolution(1 / factor)
        intrinsics = camera.get_intrinsics_matrices().to(self.device)
        width, height = int(camera.width.item()), int(camera.height.item())
        camera.rescale_output_resolution(factor)
        rendered = self._rasterize(gaussians, world_to_camera(poses), intrinsics, width, height)
        if self.training:
            self.last_size = (height, width)
            self.info = rendered.info
            self.strategy.step_pre_backward(self.gauss_params, self.optimizers, self.strategy_state, self.step, rendered.info)

        alpha = rendered.alpha
        background = self._get_background_color()
        rgb = torch.clamp(rendered.rgb + (1 - alpha) * background, 0.0, 1.0)
        if self.config.use_bilateral_grid and self.training:
            metadata = camera.metadata
            if metadata is not None and "cam_idx" in metadata:
                rgb = self._apply_bilateral_grid(rgb, metadata["cam_idx"], height, width)

        depth = median_depth = None
        if self.config.output_depth_during_training or not self.training:
            expected = rendered.expected_depth
            depth = torch.where(alpha > 0, expected, expected.detach().max()).squeeze(0)
            median_depth = rendered.median_depth.squeeze(0)
        if not self.training:
            background = background.expand(height, width, 3)
        return {
            "rgb": rgb.squeeze(0),
            "depth": depth,
            "median_depth": median_depth,
            "accumulation": alpha.squeeze(0),
            "background": background,
        }  # type: ignore

    def _rasterize(
        self,
        gaussians: dict[str, Tensor],
        poses: Float[Tensor, "c 4 4"],
        intrinsics: Float[Tensor, "c 3 3"],
        width: int,
        height: int,
    ) -> RasterOutput:
        """The seam: splatfacto's parameters (log scales, logits of opacity) to a rendered picture on black."""
        colors = torch.cat([gaussians["features_dc"][:, None, :], gaussians["features_rest"]], dim=1)
        if self.config.sh_degree > 0:
            degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        else:
            colors, degree = torch.sigmoid(colors).squeeze(1), None
        return rasterize(
            gaussians["means"],
            gaussians["quats"],
            torch.exp(gaussians["scales"]),
            torch.sigmoid(gaussians["opacities"]).squeeze(-1),
            colors,
            poses,
            intrinsics,
            width,
            height,
            sh_degree=degree,
            near=0.01,
            far=1e10,
            absgrad=getattr(self.strategy, "absgrad", False),
            rasterize_mode=self.config.rasterize_mode,
        )

    @staticmethod
    def get_empty_outputs(width: int, height: int, background: Tensor) -> dict[str, Tensor | list]:
        """What a crop box that holds no Gaussian shows: splatfacto's, and no median anywhere."""
        outputs = SplatfactoModel.get_empty_outputs(width, height, background)
        none = torch.zeros_like(outputs["accumulation"])  # type: ignore[arg-type]
        return {
            "rgb": outputs["rgb"],
            "depth": outputs["depth"],
            "median_depth": none,
            "accumulation": outputs["accumulation"],
            "background": outputs["rgb"],
        }

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """splatfacto's metrics (without LPIPS where it cannot be had) and pictures, and both depths as pictures."""
        metrics, pictures = super().get_image_metrics_and_images(outputs, batch)
        if isinstance(self.lpips, LazyLpips) and not self.lpips.available:
            metrics = {name: value for name, value in metrics.items() if not name.endswith("lpips")}
        pictures["depth"] = depth_picture(outputs["depth"], outputs["accumulation"] > 0)
        pictures["median_depth"] = depth_picture(outputs["median_depth"], outputs["median_depth"] > 0)
        return metrics, pictures
