"""One view beside its reference: where each pixel lies there, what the reference does not show, how well it predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmvic_ns.drawing import colours
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, upsample_inverse_depth
from lmvic_ns.geometry.warp import warp

_VERDICT_COLOURS = {"good": "#2f9e44", "fair": "#e08600", "bad": "#f03e3e"}


@dataclass(frozen=True)
class PictureWithDepth:
    """A view as a viewer has it.

    Attributes:
        image: RGB, 0..1.
        inverse_depth: 1 / z at the image's size or at a whole fraction of it, 0 = infinitely far or unknown; None
            where there is none.
        camera: of this view alone, at the image's size.
    """

    image: Float[Tensor, "3 h w"]
    inverse_depth: Float[Tensor, "hd wd"] | None
    camera: Cameras

    def depth_at_size(self) -> Float[Tensor, "1 h w"]:
        """Inverse depth at the image's size."""
        assert self.inverse_depth is not None
        height, width = self.image.shape[1:]
        if self.inverse_depth.shape == (height, width):
            return self.inverse_depth[None]
        return upsample_inverse_depth(self.inverse_depth[None], height, width)


@dataclass(frozen=True)
class Correspondence:
    """The reference as the view would see it.

    Attributes:
        warped: the reference's colours at x + disparity(x).
        disparity: in pixels of the view, equation (3) as if the reference had been taken with the view's lens and size
            (where it was, this is (3) itself).
        mask: equation (4).
        overlap: share of the view that the reference shows.
        psnr: of `warped` against the view inside the mask, in dB; not a number without an overlap.
        unmoved: the same of the reference as it is, where it has the view's size.
    """

    warped: Float[Tensor, "3 h w"]
    disparity: Float[Tensor, "h w 2"]
    mask: Bool[Tensor, "h w"]
    overlap: float
    psnr: float
    unmoved: float

    @property
    def verdict(self) -> Literal["good", "fair", "bad"]:
        """In a word, for people; the limits are what pictures of real scenes look like, not theory."""
        if self.overlap < 0.4 or not self.psnr >= 20:
            return "bad"
        return "good" if self.overlap >= 0.7 and self.psnr >= 25 else "fair"

    def describe(self) -> str:
        """Verdict and figures as a line of markdown."""
        if math.isnan(self.psnr):
            return f"{_coloured('bad')}: the reference shows nothing of it"
        text = f"{_coloured(self.verdict)}: the reference shows **{100 * self.overlap:.0f} %** of it and predicts that part "
        text += f"with **{self.psnr:.1f} dB**"
        return text if math.isnan(self.unmoved) else f"{text} ({self.unmoved:.1f} dB without the warp)"


def _coloured(verdict: str) -> str:
    """The verdict in its colour, readable on white and on black; MDX."""
    return f'<span style={{{{color: "{_VERDICT_COLOURS[verdict]}"}}}}>**{verdict} match**</span>'


@torch.no_grad()
def correspond(view: PictureWithDepth, reference: PictureWithDepth) -> Correspondence | None:
    """The view's correspondence with its reference, None where one of them has no depth."""
    if view.inverse_depth is None or reference.inverse_depth is None:
        return None
    found = disparity_and_mask(view.depth_at_size(), view.camera, reference.depth_at_size(), reference.camera)
    warped = warp(reference.image[None].to(found.disparity.device), found.disparity)[0]
    mask = found.mask[0]
    psnr = masked_psnr(warped, view.image, mask)
    shown = through_the_same_lens(found.disparity[0], view.camera, reference.camera)
    still = reference.image.to(view.image.device)
    unmoved = masked_psnr(still, view.image, mask) if still.shape == view.image.shape else math.nan
    return Correspondence(warped, shown, mask, float(mask.float().mean()), psnr, unmoved)


def through_the_same_lens(disparity: Float[Tensor, "h w 2"], camera: Cameras, reference: Cameras) -> Float[Tensor, "h w 2"]:
    """x' - x with x' moved from the reference's pixels to those of the view's lens; else sizes would look like motion."""
    result = torch.empty_like(disparity)
    for axis, length in ((0, disparity.shape[1]), (1, disparity.shape[0])):
        focal, centre = float(camera.intrinsics[0, axis, axis]), float(camera.intrinsics[0, axis, 2])
        other_focal, other_centre = float(reference.intrinsics[0, axis, axis]), float(reference.intrinsics[0, axis, 2])
        x = torch.arange(length, device=disparity.device, dtype=disparity.dtype) + 0.5
        x = x if axis == 0 else x[:, None]
        result[..., axis] = (disparity[..., axis] + x - other_centre) * (focal / other_focal) + centre - x
    return result


def masked_psnr(first: Float[Tensor, "3 h w"], second: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]) -> float:
    """PSNR in dB over the mask's pixels, not a number if it has none."""
    count = int(mask.sum())
    if count == 0:
        return math.nan
    error = float(((first - second).square() * mask).sum()) / (3 * count)
    return 99.0 if error == 0 else -10 * math.log10(error)


def depth_points(view: PictureWithDepth, most: int = 40_000) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points of the scene's world and their colours, from the pixels with finite depth; every k-th one, at most `most`."""
    if view.inverse_depth is None:
        return torch.zeros(0, 3), torch.zeros(0, 3)
    depth = view.depth_at_size()[0].double().cpu()
    height, width = depth.shape
    step = max(1, math.ceil(math.sqrt(height * width / most)))
    rows, columns = torch.arange(step // 2, height, step), torch.arange(step // 2, width, step)
    rho = depth[rows][:, columns]
    # beyond ten times the median depth a quarter-resolution depth says little, and such points would spoil the view
    known = rho > 0.1 * rho[rho > 0].median() if bool((rho > 0).any()) else rho > 0
    y, x = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()[known]
    camera = view.camera.to("cpu")
    rays = pixels @ torch.linalg.inv(camera.intrinsics[0]).T
    world_to_camera = camera.world_to_camera[0]
    points = (rays / rho[known][:, None] - world_to_camera[:3, 3]) @ world_to_camera[:3, :3]
    return points.float(), view.image.cpu()[:, rows][:, :, columns].permute(1, 2, 0)[known]


def as_picture(image: Float[Tensor, "3 h w"]) -> colours.Picture:
    """A tensor for `colours`."""
    return image.permute(1, 2, 0).float().cpu().numpy()
