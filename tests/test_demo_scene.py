"""The demo room: deterministic, and its poses, depth and colours agree with one another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmvic_ns.demo import textures
from lmvic_ns.demo.scene import DemoSceneConfig, intrinsics, render_demo_scene, seed_points, write_demo_scene

CONFIG = DemoSceneConfig(views=4, width=96, height=72, seed_points=200)


@pytest.fixture(scope="module")
def views():
    return render_demo_scene(CONFIG)


def test_depth_and_colour_agree_between_views(views):
    """A pixel lifted by its depth and projected into the neighbour meets the neighbour's depth and colour there."""
    camera = intrinsics(CONFIG)
    a, b = views[0], views[1]
    row, column = torch.meshgrid(torch.arange(CONFIG.height), torch.arange(CONFIG.width), indexing="ij")
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)], dim=-1).double().reshape(-1, 3)
    local = (pixel @ torch.linalg.inv(camera).T) * a.depth.reshape(-1, 1)
    world = local @ a.camera_to_world[:3, :3].T + a.camera_to_world[:3, 3]
    there = (world - b.camera_to_world[:3, 3]) @ b.camera_to_world[:3, :3]
    x = (there @ camera.T)[:, :2] / there[:, 2:]
    size = torch.tensor([CONFIG.width, CONFIG.height])
    inside = ((x >= 0) & (x < size)).all(dim=1) & (there[:, 2] > 0)
    assert inside.float().mean() > 0.3
    index = x[inside].floor().long()
    depth = b.depth[index[:, 1], index[:, 0]]
    error = (there[inside][:, 2] - depth).abs() / depth
    assert error.median() < 0.01
    visible = error < 0.01
    colour = a.image.reshape(-1, 3)[inside][visible] - b.image[index[visible, 1], index[visible, 0]]
    unrelated = (a.image.reshape(-1, 3)[inside][visible] - b.image.reshape(-1, 3).flip(0)[inside][visible]).abs().mean()
    assert colour.abs().mean() < 0.1
    assert colour.abs().mean() < 0.5 * unrelated


def test_seed_points_lie_on_surfaces(views):
    points, colours = seed_points(views, CONFIG)
    assert points.shape == colours.shape == (CONFIG.seed_points, 3)
    # the room is 4 x 4 x 2.6 m, and triangulation errors are a fraction of a pixel
    assert (np.abs(points[:, :2]) < 2.1).all() and (points[:, 2] > -0.1).all() and (points[:, 2] < 2.7).all()


def test_dataset_on_disk(tmp_path: Path):
    folder = write_demo_scene(tmp_path / "one", CONFIG)
    write_demo_scene(tmp_path / "two", CONFIG)
    for name in ["transforms.json", "sparse_pc.ply", "images/003.png", "depths/003.npy"]:
        assert (folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    meta = json.loads((folder / "transforms.json").read_text())
    assert len(meta["frames"]) == 4
    pose = np.array(meta["frames"][0]["transform_matrix"])
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert Image.open(folder / meta["frames"][3]["file_path"]).size == (96, 72)
    depth = np.load(folder / meta["frames"][3]["depth_file_path"])
    assert depth.dtype == np.float32 and 300 < depth.min() < depth.max() < 6000


def test_without_the_photographs(monkeypatch: pytest.MonkeyPatch):
    """Where scikit-image ships no pictures the room still has texture, and the same one each time."""
    monkeypatch.setitem(textures.PHOTOGRAPHS, "cat", "no such picture.png")
    first, second = textures.load_texture("cat"), textures.load_texture("cat")
    assert torch.equal(first, second)
    assert first.std() > 0.05
