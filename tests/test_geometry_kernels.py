"""The compiled loops give the bits of the plain torch code, and everything works without numba."""

from __future__ import annotations

import pytest
import torch
from analytic_scene import REFERENCES, VIEW, AnalyticScene, look

from lmvic_ns.geometry import kernels
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, downsample_inverse_depth, upsample_inverse_depth
from lmvic_ns.geometry.warp import warp

pytest.importorskip("numba")


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch):
    """Runs a function compiled and plainly; checks that the first really was compiled."""
    calls = []
    usable = kernels.usable

    def both(function):
        monkeypatch.setattr(kernels, "usable", lambda *t: calls.append(usable(*t)) or calls[-1])
        compiled = function()
        assert calls and all(calls)
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
        return compiled, function()

    return both


@pytest.mark.parametrize("name", [*REFERENCES, "behind"])
@pytest.mark.parametrize("hostile", [False, True])
def test_disparity(both_ways, name: str, hostile: bool) -> None:
    reference = look((0.2, 0.1, 30.0), yaw=120.0) if name == "behind" else REFERENCES[name]
    scene = AnalyticScene(sky=True)
    views = Cameras.cat([VIEW, VIEW.crop(3, -2, 180, 240)])
    depth = torch.stack([scene.render(views, i).inverse_depth for i in range(2)])
    other = scene.render(reference).inverse_depth[None]
    if hostile:
        values = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, 3e38, 1e-45, 0.0])
        depth.view(-1)[::5] = values[torch.arange(len(depth.view(-1)[::5])) % 7]
        other.view(-1)[::3] = values[torch.arange(len(other.view(-1)[::3])) % 7]
    compiled, plain = both_ways(lambda: disparity_and_mask(depth, views, other, reference))
    for field in ("disparity", "mask", "inverse_depth"):
        assert torch.equal(getattr(compiled, field), getattr(plain, field))


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(2, 3, 23, 31), (1, 17, 9, 14), (1, 1, 1, 6), (1, 2, 6, 1)])
def test_warp(both_ways, shape: tuple[int, ...], scale: int) -> None:
    generator = torch.Generator().manual_seed(scale)
    features = torch.rand(*shape, generator=generator)
    size = shape[2] * scale - scale // 2, shape[3] * scale
    disparity = ((torch.rand(shape[0], *size, 2, generator=generator) - 0.5) * 50 * 64).round() / 64
    compiled, plain = both_ways(lambda: warp(features, disparity, scale=scale))
    assert torch.equal(compiled, plain)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(warp(channels_last, disparity, scale=scale), plain)


@pytest.mark.parametrize("size", [(180, 240), (177, 239), (5, 9), (3, 2)])
def test_upsampling(both_ways, size: tuple[int, int]) -> None:
    depth = AnalyticScene(sky=True).render(VIEW).inverse_depth[None, : size[0], -size[1] :]
    coarse = downsample_inverse_depth(depth, 4).expand(2, -1, -1)
    compiled, plain = both_ways(lambda: upsample_inverse_depth(coarse, *size))
    assert torch.equal(compiled, plain)


def test_what_needs_gradients_or_other_types_runs_plainly() -> None:
    features = torch.zeros(1, 1, 4, 4, requires_grad=True)
    assert not kernels.usable(features) and not kernels.usable(torch.zeros(3, dtype=torch.float64))
    with torch.no_grad():
        assert kernels.usable(features)
