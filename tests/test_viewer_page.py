from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from viewer_files import write_room

from lmvic_ns.cli.view import free_port, not_of_closed_connections
from lmvic_ns.drawing.markdown import literal
from lmvic_ns.drawing.pair import PictureWithDepth, correspond, depth_points, masked_psnr
from lmvic_ns.errors import LmvicError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.viewer.layout import Layout, frustum_scale, tree_colours
from lmvic_ns.viewer.sources import FileSource, SceneSource, open_source

VIEWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("view"), VIEWS)


def test_a_file_shows_what_it_holds(folder: Path):
    source = FileSource(folder / "room.lmvic", str(folder / "w.safetensors"))
    assert source.trouble is None and source.names == ["000", "001", "002", "003"]
    assert sum(parent < 0 for parent in source.tree.parent) == 1
    child = next(view for view in source.tree.order if source.tree.parent[view] >= 0)
    view, reference = source.load(child, source.tree.parent[child])
    scene = MultiViewScene.from_dataset(folder / "scene")
    assert masked_psnr(view.image, scene.image(child), torch.ones(72, 96, dtype=torch.bool)) > 20
    pair = correspond(view, reference)
    assert pair is not None and 0.3 < pair.overlap <= 1 and pair.psnr > 15
    assert pair.unmoved < pair.psnr and f"{pair.verdict} match" in pair.describe()
    # the same view and a reference of half the size: the picture shrinks, the motion stays
    half = PictureWithDepth(reference.image[:, ::2, ::2], reference.inverse_depth, reference.camera.resize(36, 48))
    small = correspond(view, half)
    assert small is not None
    assert math.isnan(small.unmoved)
    both = pair.mask & small.mask
    assert float((small.disparity - pair.disparity)[both].abs().median()) < 0.1
    assert not source.kept(source.tree.order[0]) or source.tree.parent[child] == source.tree.order[0]
    assert [source.prepare(view).image.shape for view in range(VIEWS)] == [(3, 72, 96)] * VIEWS
    assert all(map(source.kept, range(VIEWS)))
    assert len({tuple(colour) for colour in source.points()[1]}) > 5, "points have the pictures' colours"
    source.close()


def test_depth_becomes_points_where_the_room_is(folder: Path):
    """Every view's points lie on the same surfaces: each is near the point that another view's depth gives there."""
    source = SceneSource(folder / "scene")
    first, second = source.load(0, 1)
    points, rgb = depth_points(first, most=500)
    assert 200 < len(points) <= 500 and rgb.shape == points.shape
    seen = points.double() @ second.camera.world_to_camera[0, :3, :3].T + second.camera.world_to_camera[0, :3, 3]
    pixels = seen @ second.camera.intrinsics[0].T
    x, y = (pixels[:, 0] / pixels[:, 2]).long(), (pixels[:, 1] / pixels[:, 2]).long()
    inside = (x >= 0) & (x < 96) & (y >= 0) & (y < 72) & (seen[:, 2] > 0)
    assert second.inverse_depth is not None and inside.sum() > 100
    ratio = second.inverse_depth[y[inside], x[inside]] * seen[inside, 2]
    assert float((ratio - 1).abs().median()) < 0.02
    assert np.linalg.norm(Layout.around(source.cameras).place(points).mean(0)) < 20


def test_without_the_weights_cameras_and_sizes_remain(folder: Path):
    source = FileSource(folder / "room.lmvic")
    assert source.trouble is not None and "untrained" in source.trouble
    assert all(size is not None and size.total > 0 for size in source.sizes)
    with pytest.raises(LmvicError, match="weights"):
        source.load(0)


def test_names_are_shown_and_not_run():
    """viser's markdown runs what stands in braces: a name from a stranger's file must not."""
    assert literal("a_b {fetch('x')}\n<img>") == r"a\_b \{fetch\('x'\)\} \<img\>"


def test_paths_and_ports_that_cannot_be(folder: Path):
    with pytest.raises(LmvicError, match="does not exist"):
        open_source(folder / "nothing.lmvic", None, "cpu")
    with pytest.raises(LmvicError, match="cannot listen"):
        free_port("192.0.2.1", 8080)
    with pytest.raises(LmvicError, match="--port"):
        free_port("127.0.0.1", 70000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port("127.0.0.1", taken.getsockname()[1]) > taken.getsockname()[1]


def test_tree_colours_go_from_blue_to_red():
    colours = tree_colours((0, 1, 2, 3)).astype(int)
    assert colours[0, 2] > colours[0, 0] and colours[3, 0] > colours[3, 2]
    assert len({tuple(colour) for colour in colours}) == 4


@pytest.mark.parametrize("slope", [0.15, 0.5, 1.2])
def test_frustums_are_as_long_under_every_lens(slope: float):
    """viser 0.2.7 divides a frustum's sides, its length of 1 among them, by the cube root of its volume."""
    aspect = 1.5
    volume = slope * (slope * aspect) * 1.0 / 3
    assert math.isclose(frustum_scale(0.4, slope, aspect) / volume ** (1 / 3), 0.4)


def test_originals_must_be_of_the_file(folder: Path, tmp_path: Path):
    file, weights = folder / "room.lmvic", str(folder / "w.safetensors")
    with pytest.raises(LmvicError, match="does not exist"):
        open_source(file, weights, "cpu", scene=tmp_path / "nothing")
    with pytest.raises(LmvicError, match="--scene goes with"):
        open_source(folder / "scene", weights, "cpu", scene=folder / "scene")
    copy = shutil.copytree(folder / "scene", tmp_path / "other")
    meta = json.loads((copy / "transforms.json").read_text())
    for frame in meta["frames"]:
        picture = Path(frame["file_path"])
        (copy / picture).rename(copy / picture.with_name(f"x{picture.name}"))
        frame["file_path"] = str(picture.with_name(f"x{picture.name}"))
    (copy / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(LmvicError, match="no view of the names"):
        open_source(file, weights, "cpu", scene=copy)


@pytest.mark.parametrize(("file", "kept"), [("/lib/websockets/legacy/protocol.py", False), ("/lib/viser/server.py", True)])
def test_stopping_beside_a_connection_logs_nothing(file: str, kept: bool):
    try:
        exec(compile("raise AttributeError('transfer_data_task')", file, "exec"))
    except AttributeError:
        error = sys.exc_info()
    record = logging.LogRecord("asyncio", logging.ERROR, file, 1, "Task exception was never retrieved", None, error)
    assert not_of_closed_connections(record) is kept
    assert not_of_closed_connections(logging.LogRecord("asyncio", logging.ERROR, file, 1, "no exception", None, None))


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_and_ends_on_a_signal(folder: Path, sign: signal.Signals):
    what = "room.lmvic" if sign == signal.SIGINT else "scene"
    command = [sys.executable, "-m", "lmvic_ns.cli.main", "view", str(folder / what), "--no-thumbnails"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", lines[-1])[1])  # type: ignore[index]
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    process.send_signal(sign)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest and rest.rstrip().endswith("closed")
    if what == "room.lmvic":
        assert any("Pictures need the weights" in line for line in lines)


def test_a_scene_shows_the_tree_that_encode_takes_or_says_that_it_does_not(folder: Path, tmp_path: Path):
    from lmvic_ns.workflows.encoding import build_tree
    from lmvic_ns.workflows.options import CodingOptions
    from lmvic_ns.workflows.sources import dataset_scene

    source = SceneSource(folder / "scene")
    taken = build_tree(dataset_scene(folder / "scene", "auto"), CodingOptions())
    assert source.tree.parent == taken.parent and source.note == ""
    copy = shutil.copytree(folder / "scene", tmp_path / "scene")
    meta = json.loads((copy / "transforms.json").read_text())
    for frame in meta["frames"]:
        del frame["depth_file_path"]
    (copy / "transforms.json").write_text(json.dumps(meta))
    source = SceneSource(copy)
    assert "--stereo" in source.note and set(source.tree.parent) == {-1}
    source = SceneSource(copy, stereo=True)
    taken = build_tree(dataset_scene(copy, "auto"), CodingOptions())
    assert source.note == "" and source.tree.parent == taken.parent and set(taken.parent) != {-1}


def test_the_page_tells_the_size_that_lies_on_the_disk(folder: Path):
    source = FileSource(folder / "room.lmvic")
    assert source.file_bytes == (folder / "room.lmvic").stat().st_size > source.points_bytes > 0
    positions, colours = source.points()
    assert 10 < len(positions) <= 50 and set(colours.ravel()) == {150}, "grey before any view is decoded"
    source.close()
