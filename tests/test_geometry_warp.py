"""Warping: values, scales, borders, gradients."""

from __future__ import annotations

import pytest
import torch
from analytic_scene import REFERENCES, VIEW, AnalyticScene
from torch.nn.functional import grid_sample
from torch.testing import assert_close

from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.warp import warp


def _by_grid_sample(features: torch.Tensor, disparity: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """The textbook way, in float64; the disparity is already at the features' resolution."""
    h, w = features.shape[2:]
    rows, columns = disparity.shape[1:3]
    x = torch.arange(columns).double() + 0.5 + disparity[..., 0].double() / scale
    y = torch.arange(rows).double()[:, None] + 0.5 + disparity[..., 1].double() / scale
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], -1)
    return grid_sample(features.double(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_equals_bilinear_sampling_with_border_clamp(channels: int) -> None:
    features = _random(2, channels, 23, 31)
    disparity = ((_random(2, 19, 27, 2, seed=1) - 0.5) * 60 * 64).round() / 64  # far beyond every border too
    assert_close(warp(features, disparity).double(), _by_grid_sample(features, disparity), rtol=0, atol=2e-6)


def test_identity_is_exact_and_shift_moves_pixels() -> None:
    features = _random(1, 4, 9, 11)
    zero = torch.zeros(1, 9, 11, 2)
    assert torch.equal(warp(features, zero), features)
    shifted = warp(features, zero + torch.tensor([2.0, -1.0]))
    assert torch.equal(shifted[:, :, 1:, :-2], features[:, :, :-1, 2:])
    assert torch.equal(shifted[:, :, 0, :-2], features[:, :, 0, 2:])  # clamped at the upper border


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_scaled_features(scale: int) -> None:
    """A linear feature map and an affine disparity: the value at a coarse centre is known exactly, at odd sizes too."""
    height, width = 45, 62
    rows, columns = -(-height // scale), -(-width // scale)
    x = (torch.arange(columns) + 0.5) * scale
    y = (torch.arange(rows) + 0.5)[:, None] * scale
    features = torch.stack([x.expand(rows, -1), y.expand(-1, columns)])[None]  # each holds its own full-resolution position
    fine_x, fine_y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    dx, dy = (0.25 * fine_x).expand(height, -1) - 5.0, (-0.25 * fine_y).expand(-1, width) + 4.0
    result = warp(features, torch.stack([dx, dy], -1)[None], scale=scale)
    assert result.shape == (1, 2, rows, columns)
    inner = (slice(1, height // scale - 2), slice(3, width // scale - 3))  # away from borders, where values clamp
    expected = torch.stack([(x * 1.25 - 5.0).expand(rows, -1), (y * 0.75 + 4.0).expand(-1, columns)])
    low, high = scale / 2, torch.tensor([columns - 0.5, rows - 0.5]) * scale
    clamped = torch.minimum(expected.clamp(min=low), high.view(2, 1, 1))
    assert_close(result[0][(slice(None), *inner)], clamped[(slice(None), *inner)], rtol=0, atol=1e-4)


def test_warped_view_reaches_the_interpolation_limit() -> None:
    """Where the mask is 1, the warped reference is as close to the view as bilinear sampling at the true positions is."""
    scene = AnalyticScene()
    for name, reference in REFERENCES.items():
        view, seen = scene.render(VIEW), scene.render(reference)
        truth = scene.truth(view, reference)
        result = disparity_and_mask(view.inverse_depth[None], VIEW, seen.inverse_depth[None], reference)
        where = result.mask[0] & truth.visible & ~view.near_edges(2)
        x = 2 * truth.position[..., 0] / int(reference.width) - 1
        y = 2 * truth.position[..., 1] / int(reference.height) - 1
        grid = torch.stack([x, y], -1)[None]
        limit = grid_sample(seen.image[None].double(), grid, padding_mode="border", align_corners=False)[0]

        def psnr(image: torch.Tensor, target: torch.Tensor = view.image, where: torch.Tensor = where) -> float:
            return float(-10 * (image - target).square().mean(0)[where].mean().log10())

        reached, possible = psnr(warp(seen.image[None], result.disparity)[0]), psnr(limit)
        assert possible > 34, name
        assert reached > possible - 0.3, name  # at 64 dB the 1/64 pixel steps show; below 50 dB nothing does


def test_gradients() -> None:
    features = _random(2, 3, 7, 8).double().requires_grad_()
    # off the lattice, where bilinear interpolation has a kink
    disparity = ((_random(2, 6, 8, 2, seed=2) - 0.5) * 4).double().mul(8).floor().add(0.43).div(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, d: warp(f, d), (features, disparity), atol=1e-6)
    assert torch.autograd.gradcheck(lambda f, d: warp(f, d, scale=2), (features[:, :, :3, :4], disparity), atol=1e-6)


def test_half_precision_features_are_summed_in_float32() -> None:
    features = _random(1, 8, 12, 12)
    disparity = ((_random(1, 12, 12, 2, seed=1) - 0.5) * 6 * 64).round() / 64
    half = warp(features.bfloat16(), disparity)
    assert half.dtype == torch.bfloat16
    assert_close(half, warp(features.bfloat16().float(), disparity).bfloat16(), rtol=0, atol=0)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        warp(torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4, 2))
    with pytest.raises(ValueError, match="does not fit"):
        warp(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 3))


def test_one_pixel_wide_maps() -> None:
    features = _random(1, 2, 1, 5)
    assert torch.equal(warp(features, torch.full((1, 1, 5, 2), 3.5))[..., 0, 4], features[..., 0, 4])
    assert torch.equal(warp(features.transpose(2, 3), torch.zeros(1, 5, 1, 2)), features.transpose(2, 3))
