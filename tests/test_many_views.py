"""Scenes of many views: what is held in memory, and plans whose time does not grow with the square of the views."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
import torch
from codec_scenes import plane_scene, small_codec

from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.planning import file_cameras, quality_offsets, scene_cameras
from lmvic_ns.tree.ordering import MOST_VIEWS_OF_A_TREE, pose_distance, scene_tree
from lmvic_ns.tree.reference_tree import ReferenceTree


@pytest.fixture
def states(monkeypatch) -> weakref.WeakSet:
    """The pictures of all decoded views that something still holds."""
    alive: weakref.WeakSet = weakref.WeakSet()
    plain = MultiViewModel.state_of

    def watched(*arguments):
        state = plain(*arguments)
        alive.add(state)
        return state

    monkeypatch.setattr(MultiViewModel, "state_of", staticmethod(watched))
    monkeypatch.setattr("lmvic_ns.codec.state.ReferenceState.__hash__", lambda self: id(self), raising=False)
    return alive


def test_a_chain_holds_two_views(tmp_path, states) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 6)
    chain = ReferenceTree.from_parents(range(6), range(-1, 5))
    counts: list[int] = []

    def count(_) -> None:
        gc.collect()
        counts.append(len(states))

    codec.encode(scene, tmp_path / "a.lmvic", quality=20, effort="fast", tree=chain, on_view=count)
    assert len(counts) == 6 and max(counts) <= 3  # this view, its reference, the one that was tried last
    for workers in (1, 2):
        counts.clear()
        for view in codec.decode(tmp_path / "a.lmvic", workers=workers):
            count(view)
        assert len(counts) == 6 and max(counts) <= 3


def test_parallel_branches_are_finished_before_others_begin(tmp_path, states) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 13)
    # a root with six children that have a child each: all children at once would be held, waiting for theirs
    tree = ReferenceTree.from_parents(range(13), (-1, *[0] * 6, *range(1, 7)))
    codec.encode(scene, tmp_path / "a.lmvic", quality=20, effort="fast", tree=tree)
    most = 0
    for view in codec.decode(tmp_path / "a.lmvic", workers=2):
        del view
        gc.collect()
        most = max(most, len(states))
    assert most <= 2 + 2 * 2  # the root, and for each worker a view and its reference


def poses(views: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    result = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    result[:, :3, 3] = torch.from_numpy(generator.uniform(-50, 50, (views, 3)))
    return result


def test_large_scenes_are_cut_into_neighbourhoods() -> None:
    views = MOST_VIEWS_OF_A_TREE + 100
    world_to_camera = poses(views)
    tree = scene_tree(world_to_camera, translation_scale=1.0)
    assert sorted(tree.order) == list(range(views)) and tree.max_depth <= 8
    assert len(tree.roots) <= views / 100
    apart = pose_distance(world_to_camera, translation_scale=1.0)
    linked = [float(apart[v, p]) for v, p in enumerate(tree.parent) if p >= 0]
    apart.fill_diagonal_(torch.inf)
    assert np.median(linked) < 1.5 * float(apart.min(1).values.median())  # near views, cut or not


def test_plans_of_sixty_five_thousand_views() -> None:
    views = 65_000
    chain = ReferenceTree.from_parents(range(views), range(-1, views - 1))
    began = time.process_time()
    assert len(chain.needed_for(range(views))) == views
    assert len(quality_offsets(chain)) == views
    header = FileHeader.build(
        names=[f"v{n}" for n in range(views)],
        intrinsics=np.tile(np.eye(3) * 50, (views, 1, 1)) + np.array([[0, 0, 20.0], [0, 0, 20], [0, 0, -49]]),
        world_to_camera=poses(views).numpy(),
        height=np.full(views, 40),
        width=np.full(views, 40),
        parent=chain.parent,
        order=chain.order,
        preset="tiny",
        weights_name="tiny",
        weights_hash=b"\0" * 16,
        quality=20.0,
        view_quality=[20] * views,
        inverse_depth_scale=1.0,
        encode=b"\0" * 8,
    )
    assert len(file_cameras(header)) == len(scene_cameras(header)) == views
    assert time.process_time() - began < 30  # walks to the root for each view would take an hour
