"""Cross-view depth prediction against the closed-form scene and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_scene import REFERENCES, VIEW, AnalyticScene, look
from torch.testing import assert_close

from lmvic_ns.geometry import projection
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.prediction import predict_inverse_depth


def _plainly(inverse_depth: np.ndarray, reference: Cameras, camera: Cameras, order: np.ndarray) -> np.ndarray:
    """Equation (10) point by point: project, round to the grid, the smallest z wins; infinity is z = inf, a hole stays nan."""
    height, width = int(camera.height), int(camera.width)
    target = np.full((height, width), np.nan)
    pose = np.linalg.inv(reference.world_to_camera[0].numpy())
    k_inverse = np.linalg.inv(reference.intrinsics[0].numpy())
    to_camera, k = camera.world_to_camera[0].numpy(), camera.intrinsics[0].numpy()
    rows, columns = np.unravel_index(order, inverse_depth.shape)
    for i, j in zip(rows, columns, strict=True):
        rho = float(inverse_depth[i, j])
        world = pose[:3, :3] @ (k_inverse @ [j + 0.5, i + 0.5, 1.0]) + rho * pose[:3, 3]  # homogeneous, w = rho
        p = k @ (to_camera[:3, :3] @ world + rho * to_camera[:3, 3])
        if p[2] <= 1e-6:
            continue
        x, y = np.round(p[0] / p[2] * 64) / 64, np.round(p[1] / p[2] * 64) / 64
        if 0 <= x < width and 0 <= y < height:
            cell = target[int(y), int(x)]
            target[int(y), int(x)] = np.fmax(cell, rho / p[2])
    return target


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_a_plain_loop(name: str) -> None:
    reference = REFERENCES[name].resize(31, 43)
    camera = VIEW.resize(37, 41)
    depth = AnalyticScene(sky=True).render(reference).inverse_depth
    order = np.random.default_rng(0).permutation(depth.numel())
    expected = torch.from_numpy(_plainly(depth.numpy(), reference, camera, order))
    predicted, mask = predict_inverse_depth(depth[None], reference, camera)
    assert torch.equal(mask[0], ~expected.isnan())
    assert_close(predicted[0].double(), expected.nan_to_num(0.0), rtol=1e-6, atol=1e-7)
    assert 0.2 < float(mask.double().mean()) < 0.99  # both points and holes are there


def test_against_closed_form() -> None:
    """Splatted depth is the view's own depth up to the half pixel of rounding, away from silhouettes and hidden parts."""
    scene = AnalyticScene()
    view = scene.render(VIEW)
    for name, reference in REFERENCES.items():
        predicted, mask = predict_inverse_depth(scene.render(reference).inverse_depth[None], reference, VIEW)
        truth = scene.truth(view, reference)
        where = mask[0] & truth.visible & ~view.near_edges(3)
        ratio = predicted[0] / view.inverse_depth
        assert float(where.double().mean()) > 0.3, name
        assert float(((ratio - 1).abs() < 0.03)[where].double().mean()) > 0.99, name
        assert float((ratio - 1).abs()[where].median()) < 0.003, name
        assert float(predicted[0][~mask[0]].abs().max()) == 0.0


def test_same_bits_whatever_the_cut_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = AnalyticScene(sky=True)
    references = Cameras.cat([c for n, c in REFERENCES.items() if n != "other lens and size"])
    depth = torch.stack([scene.render(references, i).inverse_depth for i in range(3)])
    views = Cameras.cat([VIEW, look(roll=3), look(yaw=2)])
    predicted, mask = predict_inverse_depth(depth, references, views)
    threads = torch.get_num_threads()
    for pixels, count in ((1, 1), (240 * 11, 2), (1 << 30, 2)):
        monkeypatch.setattr(projection, "CHUNK_PIXELS", pixels)
        torch.set_num_threads(count)
        try:
            again = predict_inverse_depth(depth.flip(0), references[[2, 1, 0]], views[[2, 1, 0]])
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(again[0].flip(0), predicted) and torch.equal(again[1].flip(0), mask)


def test_the_nearest_point_wins_and_infinity_loses() -> None:
    """A reference twice as fine puts several points into one cell."""
    camera = look(height=8, width=8)
    fine = camera.resize(16, 16)
    depth = torch.zeros(1, 16, 16)
    depth[0, ::2, ::2] = 0.25
    depth[0, 1::2, 1::2] = 0.5
    predicted, mask = predict_inverse_depth(depth, fine, camera)
    assert bool(mask.all()) and bool((predicted == 0.5).all())
    sky, seen = predict_inverse_depth(torch.zeros(1, 16, 16), fine, camera)
    assert bool(seen.all()) and float(sky.max()) == 0.0  # infinity is a prediction, not a hole


def test_not_finite_depth_and_points_behind() -> None:
    depth = torch.full((1, 180, 240), 0.5)
    depth[0, 0, 0], depth[0, 1, 1], depth[0, 2, 2] = float("nan"), float("inf"), 3e38
    predicted, _ = predict_inverse_depth(depth, VIEW, look((0.1, 0, 0)))
    assert bool(torch.isfinite(predicted).all())
    _, mask = predict_inverse_depth(torch.full((1, 180, 240), 0.5), VIEW, look((0, 0, 5.0)))
    assert not bool(mask.any())


def test_views_of_one_batch_have_one_size() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        predict_inverse_depth(torch.zeros(1, 180, 240), VIEW, Cameras.cat([VIEW, VIEW.resize(9, 9)]))
