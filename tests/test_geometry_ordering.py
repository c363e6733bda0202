"""The distance is a metric, trees are trees: properties over random poses and matrices, and what hostile trees meet."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from analytic_scene import AnalyticScene, look
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.tree.ordering import (
    ReferenceTree,
    covisibility,
    greedy_chain,
    independent_views,
    pose_distance,
    reference_tree,
    scene_translation_scale,
)

NORMS = ["frobenius", "spectral"]
SEEDS = st.integers(0, 2**32 - 1)


def _poses(seed: int, views: int, spread: float = 3.0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (views, 1, 1))
    quaternions = generator.normal(size=(views, 4))  # normalised by scipy: uniform rotations
    poses[:, :3, :3] = Rotation.from_quat(quaternions).as_matrix()
    poses[:, :3, 3] = generator.normal(size=(views, 3)) * spread
    return torch.from_numpy(poses)


@given(SEEDS, st.integers(2, 9), st.sampled_from(NORMS), st.floats(0.01, 100.0))
@settings(max_examples=60, deadline=None)
def test_distance_is_a_metric(seed: int, views: int, norm: Any, scale: float) -> None:
    distances = pose_distance(_poses(seed, views), translation_scale=scale, norm=norm)
    assert torch.equal(distances, distances.T)
    assert bool((distances.diagonal() == 0).all())
    assert bool((distances[~torch.eye(views, dtype=torch.bool)] > 0).all())
    through = (distances[:, :, None] + distances[None, :, :]).amin(1)  # best way over a third view
    assert bool((distances <= through * (1 + 1e-12)).all())


@given(SEEDS, st.sampled_from(NORMS))
@settings(max_examples=30, deadline=None)
def test_distance_does_not_depend_on_the_world(seed: int, norm: Any) -> None:
    poses, world = _poses(seed, 6), _poses(seed + 1, 1)
    here = pose_distance(poses, translation_scale=2.0, norm=norm)
    assert_close(pose_distance(poses @ world, translation_scale=2.0, norm=norm), here, rtol=1e-9, atol=1e-9)
    # the mistaken form ||T_i^-1 T_j - I|| does depend on it
    mistaken = [torch.linalg.inv(p)[0] @ p[1] - torch.eye(4).double() for p in (poses, poses @ world)]
    assert abs(float(mistaken[0].norm() - mistaken[1].norm())) > 1e-6


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_distance_is_equation_8(seed: int) -> None:
    poses = _poses(seed, 4)
    for norm, order in zip(NORMS, ("fro", 2), strict=True):
        distances = pose_distance(poses, translation_scale=2.5, norm=norm)  # type: ignore[arg-type]
        for i in range(4):
            for j in range(4):
                difference = poses[i] @ torch.linalg.inv(poses[j]) - torch.eye(4).double()
                difference[:3, 3] /= 2.5
                expected = torch.linalg.matrix_norm(difference, order)
                assert_close(distances[i, j], expected, rtol=1e-7, atol=1e-7)


def test_distance_of_equal_poses_is_zero_and_small_ones_are_kept() -> None:
    poses = _poses(0, 1).repeat(3, 1, 1)
    poses[2, 0, 3] += 1e-9
    distances = pose_distance(poses, translation_scale=1.0)
    assert float(distances[0, 1]) == 0.0
    assert float(distances[0, 2]) == pytest.approx(1e-9, rel=1e-5)
    with pytest.raises(ValueError, match="translation_scale"):
        pose_distance(poses, translation_scale=0.0)


@st.composite
def _matrices(draw: st.DrawFn) -> torch.Tensor:
    views, seed = draw(st.integers(1, 25)), draw(SEEDS)
    generator = np.random.default_rng(seed)
    values = generator.random((views, views)) if draw(st.booleans()) else generator.integers(0, 4, (views, views)) * 1.0
    upper = np.triu(values, 1)
    return torch.from_numpy(upper + upper.T)


@given(_matrices(), st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=150, deadline=None)
def test_tree_spans_all_views_within_the_bound(distances: torch.Tensor, bound: int | None) -> None:
    views = len(distances)
    tree = reference_tree(distances, max_depth=bound)
    assert sorted(tree.order) == list(range(views)) and len(tree.roots) == 1
    assert tree.order[0] == tree.roots[0] == int(distances.sum(1).argmin())  # the medoid
    place = {v: k for k, v in enumerate(tree.order)}
    for view in range(views):
        if tree.parent[view] >= 0:
            assert place[tree.parent[view]] < place[view]
        assert len(tree.ancestors(view)) == tree.depth[view] <= (bound or views)
    assert tree.needed_for(range(views)) == tree.order
    assert sum(len(tree.children(v)) for v in range(views)) == views - 1
    assert tree.total_length(distances) >= reference_tree(distances, max_depth=None).total_length(distances) - 1e-9


@given(_matrices())
@settings(max_examples=100, deadline=None)
def test_unbounded_tree_is_a_minimum_spanning_tree(distances: torch.Tensor) -> None:
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = reference_tree(distances, max_depth=None)
    length = tree.total_length(distances)
    # scipy reads 0 as "no edge": every spanning tree has v - 1 edges, so a shift of all distances changes nothing else
    shifted = minimum_spanning_tree(np.triu(distances.numpy() + 1.0, 1)).sum() - (len(distances) - 1)
    assert length == pytest.approx(shifted, abs=1e-9)
    for start in range(min(len(distances), 4)):
        chain = greedy_chain(distances, start)
        assert chain.order[0] == start and chain.max_depth == len(distances) - 1
        assert length <= chain.total_length(distances) + 1e-9


def test_greedy_chain_always_takes_the_nearest_view_left() -> None:
    x = torch.tensor([0.0, 10.0, 1.0, 3.0, 2.9]).double()
    chain = greedy_chain((x[:, None] - x[None]).abs())
    assert chain.order == (0, 2, 4, 3, 1)
    assert chain.parent == (-1, 3, 0, 4, 2)
    assert chain.total_length((x[:, None] - x[None]).abs()) == pytest.approx(10.0)


def test_bound_trades_length_for_depth() -> None:
    """Views on a line: the unbounded tree is the line itself."""
    x = torch.arange(40).double()
    distances = (x[:, None] - x[None]).abs()
    assert reference_tree(distances, max_depth=None).max_depth == 20
    assert reference_tree(distances, max_depth=None).total_length(distances) == 39
    bounded = reference_tree(distances, max_depth=8)
    assert bounded.max_depth <= 8 and 39 < bounded.total_length(distances) < 1.8 * 39


def test_bound_on_a_video_costs_little() -> None:
    """A hundred frames along a line: hubs first, where plain Prim would hang 84 frames on the ends of the first few."""
    x = torch.arange(101).double()
    distances = (x[:, None] - x[None]).abs()
    tree = reference_tree(distances, max_depth=8)
    assert tree.max_depth <= 8 and tree.total_length(distances) < 2.5 * 100


def test_independent_views_need_nothing() -> None:
    tree = independent_views(3)
    assert tree.roots == (0, 1, 2) and tree.needed_for([2]) == (2,) and tree.total_length(torch.ones(3, 3)) == 0


@pytest.mark.parametrize(
    ("order", "parent", "depth", "message"),
    [
        ((0, 1), (-1, 1), (0, 1), "view 1 refers to view 1"),
        ((0, 1), (1, -1), (1, 0), "view 0 refers to view 1, which is not coded before it"),
        ((0, 0), (-1, 0), (0, 1), "twice"),
        ((0, 2), (-1, 0), (0, 1), "no view 2"),
        ((0, -1), (-1, 0), (0, 1), "no view -1"),
        ((0, 1), (-1, -2), (0, 0), "view -2"),
        ((0, 1), (-1, 7), (0, 1), "view 7"),
        ((0, 1), (-1, 0), (0, 3), "depth of view 1 is 3"),
        ((0, 1), (-1,), (0, 1), "1 entries in parent"),
        ((0, 1), (-1, 0.0), (0, 1), "whole numbers"),
        ((False, True), (-1, 0), (0, 1), "whole numbers"),
    ],
)
def test_what_is_no_tree_is_refused(order: Any, parent: Any, depth: Any, message: str) -> None:
    with pytest.raises(LmvicError, match=message):
        ReferenceTree(order, parent, depth)
    if "depth" not in message:
        with pytest.raises(LmvicError):
            ReferenceTree.from_parents(order, parent)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(2, 3), "square"),
        (torch.zeros(0, 0), "at least one"),
        (torch.tensor([[0.0, float("nan")], [float("nan"), 0.0]]), "finite"),
        (torch.tensor([[0.0, -1.0], [-1.0, 0.0]]), "not negative"),
        (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "symmetric"),
    ],
)
def test_what_is_no_distance_is_refused(matrix: torch.Tensor, message: str) -> None:
    for function in (reference_tree, greedy_chain):
        with pytest.raises(ValueError, match=message):
            function(matrix)
    with pytest.raises(ValueError, match="max_depth"):
        reference_tree(torch.zeros(1, 1), max_depth=0)


def test_a_thousand_views_in_time() -> None:
    poses = _poses(5, 1000)
    started = time.process_time()
    distances = pose_distance(poses, translation_scale=1.0)
    assert time.process_time() - started < 2.0
    started = time.process_time()
    assert reference_tree(distances).max_depth <= 8
    assert time.process_time() - started < 4.0  # dozens of trees are compared


def test_covisibility_sees_what_poses_cannot() -> None:
    """Two cameras on either side of a wall are close but share nothing; one further back sees the same."""
    scene = AnalyticScene()
    cameras = Cameras.cat([look(), look((0.3, 0, 0)), look(yaw=180.0), look((0.0, 0, -1.0)), look(focal=420.0)])
    maps = [scene.render(cameras, i).inverse_depth for i in range(5)]
    shares = covisibility(maps, cameras)
    assert torch.equal(shares, shares.T) and bool((shares.diagonal() == 1).all())
    assert bool(((shares >= 0) & (shares <= 1)).all())
    assert float(shares[0, 2]) < 0.05
    assert float(shares[0, 1]) > 0.85 and float(shares[0, 3]) > 0.8
    # all of the long lens' picture lies in the wide view, and about a quarter of the wide one in its: the mean of both
    assert 0.55 < float(shares[0, 4]) < 0.75
    tree = reference_tree(1.0 - shares)
    assert tree.order[0] != 2
    with pytest.raises(ValueError, match="4 inverse depth maps for 5 views"):
        covisibility(maps[:4], cameras)


def test_covisibility_agrees_with_full_resolution() -> None:
    from lmvic_ns.geometry.disparity import disparity_and_mask

    scene = AnalyticScene(sky=True)
    cameras = Cameras.cat([look(), look((0.9, -0.2, 0.8), yaw=-9), look((-0.5, 0.1, -0.4), roll=8)])
    maps = [scene.render(cameras, i).inverse_depth for i in range(3)]
    shares = covisibility(maps, cameras)
    for i in range(3):
        for j in range(i):
            exact = [
                float(disparity_and_mask(maps[a][None], cameras[a], maps[b][None], cameras[b]).mask.double().mean())
                for a, b in ((i, j), (j, i))
            ]
            assert float(shares[i, j]) == pytest.approx(sum(exact) / 2, abs=0.04)


def test_translation_scale_is_the_median_depth() -> None:
    cameras = Cameras.cat([look(), look((2.0, 0, 0))])
    maps = [torch.full((180, 240), 0.25), torch.zeros(180, 240)]
    assert scene_translation_scale(maps, cameras) == pytest.approx(4.0)
    assert scene_translation_scale(maps[1:] * 2, cameras) == pytest.approx(1.0)  # no depth: the cameras' spread
    assert scene_translation_scale([], cameras[0]) == 1.0
