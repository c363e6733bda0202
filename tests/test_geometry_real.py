"""Conventions against data that we did not make: surveyed poses, SfM points and feature tracks of real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.prediction import predict_inverse_depth
from lmvic_ns.scene import MultiViewScene

pytestmark = pytest.mark.data


def read_points(path: Path) -> np.ndarray:
    """Positions of an ASCII .ply."""
    lines = path.read_text().splitlines()
    return np.loadtxt(lines[lines.index("end_header") + 1 :], usecols=(0, 1, 2))


def sparse_inverse_depth(scene: MultiViewScene, view: int, points: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Inverse depth at the pixels that hold a projected point (the nearest wins), and the points' exact positions.

    Plain numpy on the numbers of transforms.json: independent of lmvic_ns.geometry apart from the stored matrices.
    """
    camera = scene.cameras[view]
    height, width = camera.size
    p = np.concatenate([points, np.ones((len(points), 1))], 1) @ camera.world_to_camera[0].numpy().T
    p = p[p[:, 2] > 0.1]
    q = p[:, :3] @ camera.intrinsics[0].numpy().T
    xy = q[:, :2] / q[:, 2:]
    inside = (xy >= 0).all(1) & (xy < [width, height]).all(1)
    xy, z = xy[inside], p[inside, 2]
    order = np.argsort(-z)  # far to near, so that the nearest is written last
    depth, position = torch.zeros(height, width), np.full((height, width, 2), np.nan)
    cells = np.floor(xy[order]).astype(int)
    depth[cells[:, 1], cells[:, 0]] = torch.from_numpy(1.0 / z[order]).float()
    position[cells[:, 1], cells[:, 0]] = xy[order]
    return depth, position


class Tracks:
    """SIFT features of the views and their mutual matches."""

    def __init__(self, scene: MultiViewScene) -> None:
        cv2 = pytest.importorskip("cv2")
        sift = cv2.SIFT_create(2500)
        self.found = []
        for i in range(len(scene)):
            gray = (scene.image(i).mean(0) * 255).byte().numpy()
            keypoints, descriptors = sift.detectAndCompute(gray, None)
            self.found.append((np.array([k.pt for k in keypoints]) + 0.5, descriptors))  # OpenCV's centres are whole numbers
        self.matcher = cv2.BFMatcher(crossCheck=False)

    def matches(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in view a and view b of unambiguous, mutual matches."""
        there = self.matcher.knnMatch(self.found[a][1], self.found[b][1], k=2)
        back = self.matcher.match(self.found[b][1], self.found[a][1])
        nearest = {m.queryIdx: m.trainIdx for m in back}
        pairs = [
            (m.queryIdx, m.trainIdx) for m, n in there if m.distance < 0.75 * n.distance and nearest[m.trainIdx] == m.queryIdx
        ]
        first, second = np.array(pairs).T
        return self.found[a][0][first], self.found[b][0][second]


def reprojection_errors(scene: MultiViewScene, points: np.ndarray, tracks: Tracks, a: int, b: int) -> np.ndarray:
    """Vectors from the tracked position in view b to where sparse depth and disparity put the feature of view a."""
    depth, exact = sparse_inverse_depth(scene, a, points)
    height, width = scene.cameras[b].size
    result = disparity_and_mask(depth[None], scene.cameras[a], torch.zeros(1, height, width), scene.cameras[b])
    feature, tracked = tracks.matches(a, b)
    errors = []
    for (x, y), there in zip(feature, tracked, strict=True):
        column, row = int(x), int(y)
        if depth[row, column] > 0 and np.hypot(*(exact[row, column] - (x, y))) < 1.0 and bool(result.mask[0, row, column]):
            errors.append(np.array([x, y]) + result.disparity[0, row, column].numpy() - there)
    return np.array(errors).reshape(-1, 2)


@pytest.mark.parametrize("name", ["fountain", "herz-jesus"])
def test_projected_points_land_on_their_tracks(data_root: Path, name: str) -> None:
    """Surveyed poses: the median distance is below a pixel, and so is the median shift along either axis (by far)."""
    scene = MultiViewScene.from_dataset(data_root / "scenes" / name).select([3, 4, 5])
    assert scene.sparse_points is not None
    points, tracks = read_points(scene.sparse_points), Tracks(scene)
    pairs = [(0, 1), (1, 2), (2, 1)]
    errors = np.concatenate([reprojection_errors(scene, points, tracks, a, b) for a, b in pairs])
    print(name, len(errors), "points; median", np.median(np.hypot(*errors.T)), "shift", np.median(errors, 0))
    assert len(errors) > 300
    assert np.median(np.hypot(*errors.T)) < 1.0
    assert np.abs(np.median(errors, 0)).max() < 0.3


def test_a_wrong_convention_would_show(data_root: Path) -> None:
    """The test above can fail: with the principal point off by two pixels in one view it does."""
    scene = MultiViewScene.from_dataset(data_root / "scenes" / "fountain").select([4, 5])
    assert scene.sparse_points is not None
    points, tracks = read_points(scene.sparse_points), Tracks(scene)
    scene.cameras.intrinsics[1, 0, 2] += 2.0
    errors = reprojection_errors(scene, points, tracks, 0, 1)
    assert np.median(np.hypot(*errors.T)) > 1.5


def test_prediction_of_sparse_depth(data_root: Path) -> None:
    """Splatting view 4's sparse points into view 5 gives the depths that projecting the points there gives."""
    scene = MultiViewScene.from_dataset(data_root / "scenes" / "fountain")
    assert scene.sparse_points is not None
    points = read_points(scene.sparse_points)
    here, _ = sparse_inverse_depth(scene, 4, points)
    there, _ = sparse_inverse_depth(scene, 5, points)
    predicted, _ = predict_inverse_depth(here[None], scene.cameras[4], scene.cameras[5])
    both = (predicted[0] > 0) & (there > 0)
    assert int(both.sum()) > 1000
    assert float((predicted[0][both] / there[both] - 1).abs().median()) < 1e-3
