"""Encoder-side refinement of a view's depth: the map that is cheapest to code for how well it warps.

A file's depth has one job, to warp references. The depth that comes with a scene (a splat's median, stereo) is noisy where
that does not matter and a pixel off where it does, and each view's noise costs bits that its reference's depth would have
predicted. So the encoder moves the map, by gradients through the depth codec itself, until bits and warp error balance.
Decoders notice nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lmvic_ns.codec.depth import DEPTH_FACTOR, DepthCodec
from lmvic_ns.codec.quality import depth_lambda_of_level, lambda_of_level
from lmvic_ns.geometry.cameras import Cameras, relative_projection

_SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class DepthRefinement:
    """How far depth is refined.

    Attributes:
        steps: gradient steps; 0 leaves depth as it is.
        step_size: of a step, in normalised inverse depth (Adam).
        rate_per_decibel: bits per pixel that one decibel less warp error is worth, at lambda = 1; grows with sqrt(lambda),
            as the image's rate does.
        fidelity: weight of the depth's own squared error, as a share of its lambda: keeps depth near what the scene says
            where no texture tells.
        pixels: the warp is judged at about so many pixels of a regular grid, however large the view, which bounds the time.
    """

    steps: int = 16
    step_size: float = 0.002
    rate_per_decibel: float = 0.0003
    fidelity: float = 0.1
    pixels: int = 80_000


class WarpError:
    """Squared error between a view and its reference warped to it, as a function of the view's inverse depth (3).

    Args:
        image: the view.
        camera: its camera.
        visible: pixels that count.
        reference: the reference's image.
        reference_camera: its camera.
        pixels: about how many pixels, on a regular grid, are looked at.
    """

    def __init__(
        self,
        image: Float[Tensor, "1 3 h w"],
        camera: Cameras,
        visible: Bool[Tensor, "1 h w"],
        reference: Float[Tensor, "1 3 hr wr"],
        reference_camera: Cameras,
        pixels: int,
    ):
        height, width = image.shape[-2:]
        stride = max(1, int((height * width / pixels) ** 0.5))
        rows, columns = (torch.arange(stride // 2, n, stride, device=image.device) for n in (height, width))
        self.image = image.float()[:, :, rows][..., columns]
        weight = visible[:, rows][..., columns].float()[:, None]
        self.weight = weight / (3 * weight.sum().clamp(min=1))
        self.reference = reference.float()
        u, v = columns.double() + 0.5, rows.double() + 0.5
        homography, offset = relative_projection(camera, reference_camera)
        m, self.offset = homography[0].to(image.device), offset[0].to(image.device).float()
        self.rotated = (
            m[:, 0, None, None] * u[None, None] + m[:, 1, None, None] * v[None, :, None] + m[:, 2, None, None]
        ).float()
        x, y = (u * (2 / width) - 1).float(), (v * (2 / height) - 1).float()
        self.grid = torch.stack([x[None].expand(len(v), -1), y[:, None].expand(-1, len(u))], -1)[None]

    def __call__(self, inverse_depth: Float[Tensor, "1 h4 w4"]) -> Float[Tensor, ""]:
        """Mean over the visible pixels; the map is read by bilinear interpolation."""
        rho = F.grid_sample(inverse_depth[:, None], self.grid, padding_mode="border", align_corners=False)[0, 0]
        x, y, z = (self.rotated[k] + rho * self.offset[k] for k in range(3))
        scale = 1 / z.clamp(min=1e-6)
        height, width = self.reference.shape[-2:]
        grid = torch.stack([x * scale * (2 / width) - 1, y * scale * (2 / height) - 1], -1)[None]
        warped = F.grid_sample(self.reference, grid, padding_mode="border", align_corners=False)
        return ((warped - self.image).square() * self.weight).sum()


def refine_inverse_depth(
    codec: DepthCodec,
    inverse_depth: Float[Tensor, "1 h4 w4"],
    level: int,
    depth_level: int,
    prediction: Float[Tensor, "1 h4 w4"] | None,
    prediction_mask: Float[Tensor, "1 h4 w4"] | None,
    size: tuple[int, int],
    warp_error: WarpError,
    config: DepthRefinement,
) -> Float[Tensor, "1 h4 w4"]:
    """What to give the depth codec in place of `inverse_depth`.

    Args:
        codec: the depth codec.
        inverse_depth: normalised, at the coded resolution, padded to the codec's stride.
        level: quality level of the image.
        depth_level: quality level of the depth.
        prediction: from the reference (10), padded; None without one.
        prediction_mask: where there is one.
        size: height and width of the view.
        warp_error: what the depth is for.
        config: how far to go.

    Returns:
        The map with the lowest cost that was met, float64, the same for the same input.
    """
    target = inverse_depth.float()
    pixels = size[0] * size[1]
    height4, width4 = -(-size[0] // DEPTH_FACTOR), -(-size[1] // DEPTH_FACTOR)
    quality = torch.full((1,), float(depth_level), device=target.device)
    lambdas = lambda_of_level(torch.tensor(float(level))), depth_lambda_of_level(torch.tensor(float(depth_level)))
    per_decibel = config.rate_per_decibel * float(lambdas[0]) ** 0.5
    fidelity = config.fidelity * float(lambdas[1])
    best, lowest = target, float("inf")
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(0)  # the rate's gradient is that of noise
        # coarse to fine together: a surface moves as a whole
        changes = [
            torch.zeros(1, 1, target.shape[-2] // k, target.shape[-1] // k, device=target.device, requires_grad=True)
            for k in _SCALES
        ]
        optimizer = torch.optim.Adam(changes, lr=config.step_size, betas=(0.8, 0.95))
        for step in range(config.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = config.step_size * (1 - step / (config.steps + 1))
            moved = target
            for c in changes:
                moved = moved + F.interpolate(c, target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            coded = codec(moved, quality, prediction, prediction_mask)
            decoded = coded.inverse_depth[:, :height4, :width4]
            off = (decoded - target[:, :height4, :width4]).square().mean()
            decibels = 10 * torch.log10(warp_error(decoded) + 1e-6)
            cost = coded.bits.sum() / pixels + per_decibel * decibels + fidelity * off
            if float(cost.detach()) < lowest:
                best, lowest = moved.detach(), float(cost.detach())
            if step == config.steps:
                break
            for c, gradient in zip(changes, torch.autograd.grad(cost, changes), strict=True):
                c.grad = gradient
            optimizer.step()
    return best.double().clamp(0, 1)
