"""Camera conventions: axes, pixel centres, crops, resizing, nerfstudio's poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_scene import look
from torch.testing import assert_close

from lmvic_ns.geometry.cameras import Cameras, invert_intrinsics, invert_rigid, relative_projection


def _pixels(cameras: Cameras, points: np.ndarray) -> np.ndarray:
    p = np.concatenate([points, np.ones((len(points), 1))], 1) @ cameras.world_to_camera[0].numpy().T
    q = p[:, :3] @ cameras.intrinsics[0].numpy().T
    return q[:, :2] / q[:, 2:]


@pytest.fixture
def camera() -> Cameras:
    return look((0.3, -0.2, 0.5), yaw=10, pitch=-5, roll=20, skew=3.0, height=181, width=243)


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform([-2, -2, 3], [2, 2, 9], (50, 3))


def test_opengl_round_trip(camera: Cameras) -> None:
    poses = camera.to_opengl_camera_to_world()
    again = Cameras.from_opengl(camera.intrinsics, poses, camera.height, camera.width)
    assert_close(again.world_to_camera, camera.world_to_camera, rtol=0, atol=1e-14)
    three_rows = Cameras.from_opengl(camera.intrinsics, poses[:, :3], 181, 243)
    assert torch.equal(three_rows.world_to_camera, again.world_to_camera)


def test_opengl_axes() -> None:
    """nerfstudio's identity pose looks along -z with y up: what it sees lies at negative z, and up is a smaller row."""
    k = torch.tensor([[[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]])
    cameras = Cameras.from_opengl(k, torch.eye(4)[None], 80, 100)
    right_up = _pixels(cameras, np.array([[0.1, 0.2, -1.0]]))
    assert np.allclose(right_up, [[60.0, 20.0]])


def test_crop_and_resize_move_pixels_as_they_move_points(camera: Cameras, points: np.ndarray) -> None:
    full = _pixels(camera, points)
    assert np.allclose(_pixels(camera.crop(17, 5, 64, 96), points), full - [17, 5])
    small = camera.resize(60, 83)  # odd ratios
    assert np.allclose(_pixels(small, points), full * [83 / 243, 60 / 181])
    assert (small.height.tolist(), small.width.tolist()) == ([60], [83])
    coarse = camera.coarsen(4)
    assert np.allclose(_pixels(coarse, points), full / 4)
    assert (coarse.height.tolist(), coarse.width.tolist()) == ([46], [61])  # ceil: the grid stays aligned at 4
    with pytest.raises(ValueError, match="at least 1"):
        camera.coarsen(0)


def test_resized_picture_is_what_the_resized_camera_sees() -> None:
    """Area averages of a linear picture land on the new pixel centres (a half-pixel slip would show)."""
    x = torch.arange(12, dtype=torch.float64) + 0.5
    averaged = x.view(4, 3).mean(1)
    camera = look(height=12, width=12).resize(4, 4)
    assert_close(averaged, (torch.arange(4, dtype=torch.float64) + 0.5) * 3)
    assert float(camera.intrinsics[0, 0, 2]) == pytest.approx(12 * 0.52 / 3)


def test_batches_of_mixed_views(camera: Cameras) -> None:
    both = Cameras.cat([camera, look(height=50, width=70)])
    assert len(both) == 2 and both.height.tolist() == [181, 50]
    assert len(both[0]) == 1 and len(both[-1]) == 1 and both[-1].width.tolist() == [70]
    assert torch.equal(both[[1, 0]].intrinsics, both.intrinsics.flip(0))
    assert both[torch.tensor([False, True])].height.tolist() == [50]
    assert both[:1].height.tolist() == [181]
    with pytest.raises(ValueError, match="differ in size"):
        _ = both.size
    with pytest.raises(IndexError):
        _ = both[2]
    moved = both.crop(torch.tensor([1, 2]), 0, torch.tensor([10, 20]), 30)
    assert moved.height.tolist() == [10, 20]
    assert_close(both.intrinsics[:, 0, 2] - moved.intrinsics[:, 0, 2], torch.tensor([1.0, 2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="world_to_camera"):
        Cameras(both.intrinsics, camera.world_to_camera, both.height, both.width)


def test_closed_form_inverses(camera: Cameras) -> None:
    identity = torch.eye(4, dtype=torch.float64)[None]
    assert_close(invert_rigid(camera.world_to_camera) @ camera.world_to_camera, identity, rtol=0, atol=1e-14)
    product = invert_intrinsics(camera.intrinsics) @ camera.intrinsics
    assert_close(product, identity[:, :3, :3], rtol=0, atol=1e-13)
    assert_close(camera.centers, torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64))


def test_relative_projection_is_equation_3(camera: Cameras, points: np.ndarray) -> None:
    other = look((-0.5, 0.1, 0.0), yaw=-8, focal=300.0)
    homography, offset = (v[0].numpy() for v in relative_projection(camera, other))
    depth = (np.concatenate([points, np.ones((50, 1))], 1) @ camera.world_to_camera[0].numpy().T)[:, 2]
    homogeneous = np.concatenate([_pixels(camera, points), np.ones((50, 1))], 1)
    q = homogeneous @ homography.T + offset / depth[:, None]
    assert np.allclose(q[:, :2] / q[:, 2:], _pixels(other, points), atol=1e-9)
