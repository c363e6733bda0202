"""Encoder-side refinement of depth: it must find what a wrong depth hides, cost less, and leave decoders alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lmvic_ns.codec.depth_refinement import DepthRefinement, WarpError
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.model import MultiViewModel
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.view_encoder import CodedView, ViewEncoder
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.cameras import Cameras

SIZE = (96, 128)
SHIFT = 9.0  # pixels between the views, at the true inverse depth 0.5


def camera(baseline: float) -> Cameras:
    intrinsics = torch.tensor([[[120.0, 0, SIZE[1] / 2], [0, 120.0, SIZE[0] / 2], [0, 0, 1]]], dtype=torch.float64)
    transform = torch.eye(4, dtype=torch.float64)[None].clone()
    transform[:, 0, 3] = baseline
    return Cameras(intrinsics, transform, torch.tensor([SIZE[0]]), torch.tensor([SIZE[1]]))


def picture(shift: float) -> Tensor:
    """A smooth random texture on a plane, seen from a camera that is moved aside."""
    x = torch.arange(SIZE[1], dtype=torch.float64)[None] + shift
    y = torch.arange(SIZE[0], dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(3)
    planes = torch.zeros(3, *SIZE, dtype=torch.float64)
    for _ in range(24):
        fx, fy, phase = torch.rand(3, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 0.5, 6.3])
        weight = torch.rand(3, 1, 1, generator=generator, dtype=torch.float64) - 0.5
        planes += weight * torch.sin(x * fx + y * fy + phase)
    return (0.5 + 0.08 * planes)[None].float().clamp(0, 1)


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def test_warp_error_is_least_at_the_true_depth() -> None:
    reference = camera(SHIFT / (120.0 * 0.5))
    visible = torch.ones(1, *SIZE, dtype=torch.bool)
    visible[..., -int(2 * SHIFT) :] = False  # beyond the reference's frame
    for pixels in (10**9, 2000):
        error = WarpError(picture(0.0), camera(0.0), visible, picture(-SHIFT), reference, pixels)
        costs = [float(error(torch.full((1, 24, 32), rho))) for rho in (0.3, 0.4, 0.5, 0.6, 0.7)]
        assert min(costs) == costs[2] < 0.1 * min(costs[:2] + costs[3:])


def test_refinement_pays_and_decodes(model: MultiViewModel) -> None:
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    right = torch.full((1, *SIZE), 0.5)
    wrong = right + 0.02 * torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) + 0.01
    _, _, reference = model.compress(picture(-SHIFT), right, first, None, 40)
    plain = model.compress(picture(0.0), wrong, second, reference, 40)
    refined = model.compress(picture(0.0), wrong, second, reference, 40, None, Effort(depth=DepthRefinement()))
    again = model.compress(picture(0.0), wrong, second, reference, 40, None, Effort(depth=DepthRefinement()))
    assert refined[:2] == again[:2]  # same input, same bytes
    assert len(refined[0]) < len(plain[0])

    def off(state) -> float:
        return float((state.inverse_depth - 0.5)[:, 2:-2, 4:-4].abs().mean())

    assert off(refined[2]) < off(plain[2])
    decoded = model.decompress(refined[0], refined[1], SIZE, second, reference, 40)
    assert torch.equal(decoded.inverse_depth, refined[2].inverse_depth)
    assert float((decoded.image - refined[2].image).abs().max()) < 1e-5


def test_no_steps_and_no_reference_leave_depth_alone(model: MultiViewModel) -> None:
    first, second = camera(0.1), camera(0.0)
    depth = torch.full((1, *SIZE), 0.5)
    _, _, reference = model.compress(picture(-SHIFT), depth, first, None, 20)
    none = Effort(depth=dataclasses.replace(DepthRefinement(), steps=0))
    assert (
        model.compress(picture(0.0), depth, second, reference, 20, None, none)[:2]
        == model.compress(picture(0.0), depth, second, reference, 20)[:2]
    )
    assert (
        model.compress(picture(0.0), depth, second, None, 20, None, Effort(depth=DepthRefinement()))[:2]
        == model.compress(picture(0.0), depth, second, None, 20)[:2]
    )


@pytest.mark.parametrize(("start", "cheapest", "found"), [(40, 20, 16), (40, 40, 40), (10, 63, 63), (5, 0, 0), (30, 44, 42)])
def test_the_level_is_walked_to_while_the_view_gets_cheaper(start: int, cheapest: int, found: int) -> None:
    tried = []

    def code(level: int) -> CodedView:
        tried.append(level)
        return CodedView(bytes([level]), b"", None, abs(level - cheapest))  # type: ignore[arg-type]

    best, level = ViewEncoder._at_best_level(code, start, 12)
    assert level == found == best.depth[0]
    assert len(set(tried)) == len(tried)


def test_each_view_finds_the_level_of_its_depth(model: MultiViewModel) -> None:
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    depth = torch.full((1, *SIZE), 0.5)
    noisy = depth + 0.02 * torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    search = Effort(depth_level_stride=12)
    root, _, reference = model.compress(picture(-SHIFT), depth, first, None, 40, effort=search)
    assert root[0] == reference.depth_level == 40  # nothing to judge it by
    found = model.compress(picture(0.0), noisy, second, reference, 40, effort=search)
    assert found[2].depth_level == found[0][0]
    encoder = ViewEncoder(model, picture(0.0), second, reference, 40)
    costs = {level: encoder.encode(noisy, level, Effort()).cost for level in (28, 40, 52, found[0][0])}
    assert costs[found[0][0]] == min(costs.values())
    assert model.compress(picture(0.0), depth, second, reference, 40, 7, search)[0][0] == 7  # given, it is not looked for
    decoded = model.decompress(found[0], found[1], SIZE, second, reference, 40)
    assert decoded.depth_level == found[2].depth_level
    with pytest.raises(BitstreamError, match="depth part: expected a quality"):
        model.decompress(b"\x40" + found[0][1:], found[1], SIZE, second, reference, 40)
