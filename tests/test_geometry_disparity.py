"""Disparity and mask against the closed-form scene, infinity, hostile values, and the same bits however the work is cut."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from analytic_scene import REFERENCES, VIEW, AnalyticScene, look

from lmvic_ns.geometry import kernels, projection
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import Disparity, disparity_and_mask


def _centers(height: int, width: int) -> torch.Tensor:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return torch.from_numpy(np.stack([x, y], -1))


def _near_edges_at(edges: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    column = position[..., 0].nan_to_num().floor().long().clamp(0, edges.shape[1] - 1)
    row = position[..., 1].nan_to_num().floor().long().clamp(0, edges.shape[0] - 1)
    return edges[row, column]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("sky", [False, True])
def test_against_closed_form(name: str, sky: bool) -> None:
    scene, reference = AnalyticScene(sky=sky), REFERENCES[name]
    view, seen = scene.render(VIEW), scene.render(reference)
    truth = scene.truth(view, reference)
    result = disparity_and_mask(view.inverse_depth[None], VIEW, seen.inverse_depth[None], reference)
    mask = result.mask[0]
    inside = truth.inside
    position = _centers(*mask.shape) + result.disparity[0].double()

    where = mask & inside
    assert float(where.double().mean()) > 0.4
    assert float((position - truth.position).abs()[where].max()) < 1 / 64
    assert float((result.inverse_depth[0] - truth.inverse_depth).abs()[where].max()) < 1e-6

    near = view.near_edges(2) | _near_edges_at(seen.near_edges(2), truth.position)
    if sky:  # towards the horizon the floor's depth changes without bound within a pixel: leave out its last rows
        near |= (view.inverse_depth < 0.03) & (view.surface == 0)
    away = inside & ~near
    assert float((mask == truth.visible)[away].double().mean()) > 0.99
    assert float((mask == truth.visible)[inside].double().mean()) > 0.98
    # something is hidden, the mask knows it, and nothing far outside is taken
    if name != "rotation only":
        assert int((~truth.visible & ~mask & inside).sum()) > 50
    outside = (truth.position < -1.1).any(-1) | (truth.position[..., 0] > int(reference.width) + 1.1)
    assert not bool((mask & outside).any())


def test_infinity_is_a_pure_rotation() -> None:
    reference = look((0.4, 0.1, 0.0), yaw=6.0)
    turned = look(yaw=6.0)
    zero = torch.zeros(1, 180, 240)
    result = disparity_and_mask(zero, VIEW, zero, reference)
    same = disparity_and_mask(zero + 0.2, VIEW, zero, turned)
    assert torch.equal(result.disparity, same.disparity)
    assert float(result.inverse_depth.abs().max()) == 0.0
    assert float(result.mask.double().mean()) > 0.8  # infinity does not hide infinity
    hidden = disparity_and_mask(zero, VIEW, zero + 0.1, reference, pixel_margin=0.0)
    assert not bool(hidden.mask.any())  # but every finite surface does
    open_sky = disparity_and_mask(zero + 0.1, VIEW, zero, turned)
    assert float(open_sky.mask.double().mean()) > 0.8  # and it hides nothing


def test_occlusion_margin_is_relative() -> None:
    rho = torch.full((1, 180, 240), 0.2)
    for factor, visible in ((1.04, True), (1.06, False)):
        result = disparity_and_mask(rho, VIEW, rho * factor, VIEW, pixel_margin=0.0)
        assert bool(result.mask.all()) is visible
    assert bool(disparity_and_mask(rho, VIEW, rho * 1.5, VIEW, relative_margin=0.6, pixel_margin=0.0).mask.all())


def test_depth_that_moves_nothing_hides_nothing() -> None:
    rho = torch.full((1, 180, 240), 0.2)
    assert bool(disparity_and_mask(rho, VIEW, rho * 1.5, VIEW).mask.all())  # no baseline
    # a shift to the side by b moves x' by f b (difference of inverse depth)
    focal, surface = float(VIEW.intrinsics[0, 0, 0]), 0.3
    for motion, visible in ((0.45, True), (0.55, False)):
        transform = VIEW.world_to_camera.clone()
        transform[:, 0, 3] += motion / (focal * (surface - 0.2))
        aside = dataclasses.replace(VIEW, world_to_camera=transform)
        mask = disparity_and_mask(rho, VIEW, torch.full_like(rho, surface), aside).mask
        assert bool(mask[:, 5:-5, 5:-5].all()) is visible
        assert bool(mask[:, 5:-5, 5:-5].any()) is visible


def test_frame_margin() -> None:
    rho = torch.full((1, 180, 240), 0.2)
    shifted = VIEW.crop(3, 0, 180, 240)  # x' = x - 3
    columns = disparity_and_mask(rho, VIEW, rho, shifted).mask[0, 0]
    assert columns[:4].tolist() == [False, False, True, True]  # x' = -2.5, -1.5, -0.5, 0.5
    columns = disparity_and_mask(rho, VIEW, rho, shifted, frame_margin=0.0).mask[0, 0]
    assert columns[:4].tolist() == [False, False, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, 3e38, 1e-45])
def test_never_not_finite(value: float) -> None:
    rho = torch.full((1, 180, 240), 0.2)
    rho[:, ::3] = value
    behind = look((0.0, 0.0, 30.0), yaw=100.0)
    for reference in (*REFERENCES.values(), behind):
        other = torch.full((1, int(reference.height), int(reference.width)), 0.2)
        other[:, :, ::2] = value
        result = disparity_and_mask(rho, VIEW, other, reference)
        assert bool(torch.isfinite(result.disparity).all()) and bool(torch.isfinite(result.inverse_depth).all())
        assert torch.equal(result.disparity * 64, (result.disparity * 64).round())


def test_points_behind_the_reference_are_masked() -> None:
    rho = torch.full((1, 180, 240), 0.5)
    backwards = look((0.0, 0.0, 5.0))  # the points at z = 2 lie behind it
    result = disparity_and_mask(rho, VIEW, rho, backwards)
    assert not bool(result.mask.any())
    assert float(result.inverse_depth.max()) <= 0.0


def test_sizes_are_checked() -> None:
    rho = torch.zeros(1, 180, 240)
    with pytest.raises(ValueError, match=r"not of its map's size \(90, 120\)"):
        disparity_and_mask(torch.zeros(1, 90, 120), VIEW, rho, VIEW)
    with pytest.raises(ValueError, match="reference cameras"):
        disparity_and_mask(torch.zeros(3, 180, 240), VIEW, rho, Cameras.cat([VIEW, VIEW]))


def _pairs() -> tuple[torch.Tensor, Cameras, torch.Tensor, Cameras]:
    scene = AnalyticScene(sky=True)
    references = [c for n, c in REFERENCES.items() if n != "other lens and size"]
    views = Cameras.cat([VIEW, VIEW.crop(1, 2, 180, 240), look((0.1, 0.0, 0.0), roll=3.0)])
    depth = torch.stack([scene.render(views, i).inverse_depth for i in range(3)])
    reference_depth = torch.stack([scene.render(c).inverse_depth for c in references])
    return depth, views, reference_depth, Cameras.cat(references)


def _same(a: Disparity, b: Disparity) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("disparity", "mask", "inverse_depth"))


def _picked(result: Disparity, index: list[int]) -> Disparity:
    return Disparity(result.disparity[index], result.mask[index], result.inverse_depth[index])


def test_same_bits_permuted_split_and_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    depth, views, reference_depth, references = _pairs()
    whole = disparity_and_mask(depth, views, reference_depth, references)
    for order in itertools.permutations(range(3)):
        index = list(order)
        again = disparity_and_mask(depth[index], views[index], reference_depth[index], references[index])
        assert _same(again, _picked(whole, index))
    for i in range(3):
        single = disparity_and_mask(depth[i : i + 1], views[i], reference_depth[i : i + 1], references[i])
        assert _same(single, _picked(whole, [i]))
    # any cut into chunks of rows, in the plain code (the compiled loops have no chunks and gave `whole`)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    for pixels in (1, 240 * 7, 1 << 30):
        monkeypatch.setattr(projection, "CHUNK_PIXELS", pixels)
        assert _same(disparity_and_mask(depth, views, reference_depth, references), whole)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert _same(disparity_and_mask(depth, views, reference_depth, references), whole)
    finally:
        torch.set_num_threads(threads)
    # memory layout of the maps does not matter either
    strided = depth.transpose(1, 2).contiguous().transpose(1, 2)
    assert _same(disparity_and_mask(strided, views, reference_depth.double(), references), whole)


def test_same_bits_as_scalar_arithmetic() -> None:
    """The formula in Python floats, one operation after the other: what any device with IEEE arithmetic must give."""
    from lmvic_ns.geometry.cameras import relative_projection

    depth, views, reference_depth, references = _pairs()
    result = disparity_and_mask(depth, views, reference_depth, references)
    homography, offset = relative_projection(views, references)
    generator = np.random.default_rng(3)
    for _ in range(300):
        b, i, j = (int(generator.integers(n)) for n in (3, 180, 240))
        m, t, rho = homography[b].tolist(), offset[b].tolist(), float(depth[b, i, j])
        u, v = j + 0.5, i + 0.5
        q = [(m[k][0] * u + (m[k][1] * v + m[k][2])) + rho * t[k] for k in range(3)]
        inverse = 1.0 / max(q[2], 1e-6)
        x = round(min(max(q[0] * inverse, -240.0), 480.0) * 64) / 64
        y = round(min(max(q[1] * inverse, -180.0), 360.0) * 64) / 64
        assert result.disparity[b, i, j].tolist() == [x - u, y - v]


@pytest.mark.gpu
def test_same_bits_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    depth, views, reference_depth, references = _pairs()
    whole = disparity_and_mask(depth, views, reference_depth, references)
    there = disparity_and_mask(depth.cuda(), views, reference_depth.cuda(), references)
    assert _same(whole, Disparity(there.disparity.cpu(), there.mask.cpu(), there.inverse_depth.cpu()))
