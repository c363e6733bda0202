"""Dense inverse depth from posed photographs alone: plane sweep stereo with semi-global aggregation.

A stand-in for a trained splat: minutes for a scene on a CPU, no training. Each candidate plane of constant inverse depth
warps the neighbours into the view; the normalised cross-correlation of small windows says how well they agree; the best
half of the neighbours votes, so that an occluded one does not spoil the cost; four-path semi-global aggregation makes
the winner smooth along surfaces (Collins 1996; Hirschmueller 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras, relative_projection


@dataclass(frozen=True)
class PlaneSweepConfig:
    """How finely and how smoothly depth is searched.

    Attributes:
        planes: candidates, uniform in inverse depth.
        window: side of the correlation window, odd.
        small_step: price of a change by one plane between neighbouring pixels, in units of the cost (0..1).
        large_step: price of any larger change.
        unmatched: cost of a pixel that no neighbour sees.
    """

    planes: int = 64
    window: int = 5
    small_step: float = 0.08
    large_step: float = 0.8
    unmatched: float = 0.4


def plane_sweep(
    image: Float[Tensor, "3 h w"],
    camera: Cameras,
    neighbours: Sequence[Float[Tensor, "3 hr wr"]],
    neighbour_cameras: Cameras,
    bounds: tuple[float, float],
    config: PlaneSweepConfig | None = None,
) -> Float[Tensor, "h w"]:
    """Inverse depth of one view.

    Args:
        image: the view, 0..1, at the resolution to search in.
        camera: its camera at that size.
        neighbours: a few other views, each at its camera's size.
        neighbour_cameras: their cameras.
        bounds: smallest and largest inverse depth of the scene, 1 / scene units; 0 as the smallest reaches infinity.
        config: search parameters.

    Returns:
        Inverse depth with sub-plane accuracy, float32.

    Raises:
        ValueError: no neighbours, or bounds that do not rise.
    """
    config = config or PlaneSweepConfig()
    if not neighbours or not 0 <= bounds[0] < bounds[1]:
        raise ValueError("plane sweep needs a neighbour and bounds 0 <= far < near")
    candidates = torch.linspace(bounds[0], bounds[1], config.planes, dtype=torch.float64)
    h, w = image.shape[-2:]
    target = _Statistics(_grey(image)[None, None], config.window)
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1).double()
    costs = []
    for number, neighbour in enumerate(neighbours):
        homography, offset = relative_projection(camera, neighbour_cameras[number])
        base = homography[0] @ pixels
        source = _grey(neighbour)[None, None]
        hr, wr = source.shape[-2:]
        rows = []
        for rho in candidates:
            q = base + rho * offset[0][:, None]
            z = q[2].clamp(min=1e-6)
            x, y = q[0] / z, q[1] / z
            grid = torch.stack([x * (2 / wr) - 1, y * (2 / hr) - 1], -1).float().reshape(1, h, w, 2)
            warped = F.grid_sample(source, grid, align_corners=False, padding_mode="border")
            seen = ((grid.abs() <= 1).all(-1) & (q[2] > 1e-6).reshape(1, h, w))[0]
            cost = (1 - target.correlation(warped)[0, 0]).clamp(0, 2) / 2
            rows.append(torch.where(seen, cost, torch.full_like(cost, config.unmatched)))
        costs.append(torch.stack(rows))
    stacked = torch.stack(costs).sort(0).values
    volume = stacked[: max(1, (len(costs) + 1) // 2)].mean(0)
    return _winner(_aggregate(volume, config), bounds)


def _grey(image: Tensor) -> Tensor:
    return image.float().mean(0)


class _Statistics:
    """Window means and deviations of the view, computed once for all planes."""

    def __init__(self, x: Tensor, window: int):
        self.window = window
        self.x = x
        self.mean = self._box(x)
        self.deviation = (self._box(x * x) - self.mean**2).clamp(min=0).sqrt()

    def _box(self, x: Tensor) -> Tensor:
        pad = self.window // 2
        x = F.pad(x, (pad, pad, pad, pad), mode="replicate")
        x = F.avg_pool2d(x, (1, self.window), stride=1)
        return F.avg_pool2d(x, (self.window, 1), stride=1)

    def correlation(self, y: Tensor) -> Tensor:
        """Normalised cross-correlation of the windows; near zero where there is no texture."""
        mean = self._box(y)
        deviation = (self._box(y * y) - mean**2).clamp(min=0).sqrt()
        covariance = self._box(self.x * y) - self.mean * mean
        return covariance / (self.deviation * deviation + 2e-4)


def _aggregate(volume: Float[Tensor, "p h w"], config: PlaneSweepConfig) -> Float[Tensor, "p h w"]:
    """Sum of the cheapest paths from four sides."""
    total = torch.zeros_like(volume)
    for axis in (1, 2):
        for flip in (False, True):
            lines = volume.movedim(axis, 0)  # steps, planes, positions
            if flip:
                lines = lines.flip(0)
            out = torch.empty_like(lines)
            previous = lines[0]
            out[0] = previous
            for step in range(1, len(lines)):
                best = previous.amin(0, keepdim=True)
                change = torch.minimum(previous, best + config.large_step)
                change[1:] = torch.minimum(change[1:], previous[:-1] + config.small_step)
                change[:-1] = torch.minimum(change[:-1], previous[1:] + config.small_step)
                previous = lines[step] + change - best
                out[step] = previous
            if flip:
                out = out.flip(0)
            total += out.movedim(0, axis)
    return total


def _winner(cost: Float[Tensor, "p h w"], bounds: tuple[float, float]) -> Float[Tensor, "h w"]:
    """Cheapest plane, refined by a parabola through its neighbours."""
    planes = len(cost)
    best = cost.argmin(0)
    inner = best.clamp(1, planes - 2)
    low, mid, high = (cost.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
    curvature = (low - 2 * mid + high).clamp(min=1e-6)
    shift = ((low - high) / (2 * curvature)).clamp(-0.5, 0.5)
    position = torch.where(best == inner, inner + shift, best.float())
    return (bounds[0] + position * ((bounds[1] - bounds[0]) / (planes - 1))).clamp(min=0).float()
