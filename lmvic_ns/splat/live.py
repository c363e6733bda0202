"""A splat's renders and captures as pairs of views, in the model's world: for the panel in nerfstudio's viewer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from torch import Tensor

from lmvic_ns.drawing import colours
from lmvic_ns.drawing.pair import Correspondence, PictureWithDepth, as_picture
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.splat.captures import Capture, photograph_rgb
from lmvic_ns.tree.ordering import pose_distance

OUTPUTS = ("disparity_mask", "warp_error", "disparity", "warped_reference")
"""Names in the viewer's menu; the last one is what its split view starts with."""


def pinhole(camera: NerfstudioCameras) -> Cameras:
    """nerfstudio's camera as ours, in the same world."""
    intrinsics = camera.get_intrinsics_matrices().double().cpu()
    size = int(camera.height[0, 0]), int(camera.width[0, 0])
    return Cameras.from_opengl(intrinsics, camera.camera_to_worlds.double().cpu(), *size)


def rendered_view(camera: NerfstudioCameras, outputs: dict[str, Any]) -> PictureWithDepth:
    """What the model renders for a camera."""
    median = outputs["median_depth"][..., 0]
    inverse = torch.where(median > 0, 1.0 / median.clamp_min(1e-9), 0.0)
    return PictureWithDepth(outputs["rgb"].permute(2, 0, 1), inverse, pinhole(camera))


def captured_view(model: Any, capture: Capture, widest: int) -> PictureWithDepth:
    """A photograph with the median depth that the model renders for it, at most `widest` pixels wide.

    The model must be in evaluation mode.
    """
    camera = deepcopy(capture.camera).to(model.device)
    width = int(camera.width[0, 0])
    if width > widest:
        camera.rescale_output_resolution(widest / width)
    view = rendered_view(camera, model.get_outputs(camera))
    behind = 1.0 if getattr(model.config, "background_color", "") == "white" else 0.0
    photograph = photograph_rgb(capture.photograph, behind)[None]
    image = torch.nn.functional.interpolate(photograph, view.image.shape[1:], mode="area")[0]
    return PictureWithDepth(image.to(view.image.device), view.inverse_depth, view.camera)


def distances_to(camera: Cameras, captures: list[Capture], scale: float) -> Float[Tensor, "n"]:
    """Distance (8) of a camera to every capture."""
    poses = [camera.world_to_camera, *(pinhole(capture.camera).world_to_camera for capture in captures)]
    return pose_distance(torch.cat(poses), translation_scale=scale)[0, 1:]


def viewer_outputs(view: PictureWithDepth, pair: Correspondence) -> dict[str, Tensor]:
    """The additional outputs, [h, w, 3] pictures and one [h, w, 1] mask, on the CPU."""
    mask = pair.mask.cpu().numpy()
    warped, image = as_picture(pair.warped), as_picture(view.image)
    pictures = {
        "disparity_mask": pair.mask.cpu().float()[..., None],
        "warp_error": colours.error_colours(abs(warped - image).mean(-1), mask),
        "disparity": colours.disparity_colours(pair.disparity.cpu().numpy(), mask=mask),
        "warped_reference": colours.mask_overlay(warped, mask),
    }
    return {name: torch.as_tensor(pictures[name]) for name in OUTPUTS}
