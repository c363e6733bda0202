"""Names of views: one rule for datasets and exports, nothing refused, nothing of this machine in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_scenes import lmvic, write_room, write_weights
from PIL import Image

from lmvic_ns.bitstream.header import check_view_name
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.names import unique_names, view_names
from lmvic_ns.workflows.layout import file_stems


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["images/a.png", "images/b.jpg"], ["a", "b"]),
        (["./images/a.png"], ["a"]),
        (["images/left/1.png", "images/right/1.png"], ["left/1", "right/1"]),
        (["images/left/1.png", "images/2.png"], ["left/1", "2"]),
        (["images/a.png", "images/a.jpg", "images/a-2.png"], ["a", "a-3", "a-2"]),
        (["images/A.png", "images/a.png"], ["A", "a-2"]),
        (["images/\u00e9.png", "images/e\u0301.png", "images/E\u0301.png"], ["\u00e9", "e\u0301-2", "E\u0301-3"]),
        (["images/CON.png", "images/nul.tar.png", "images/console.png"], ["_CON", "_nul.tar", "console"]),
        (["/photographs/pictures/a.png", "/photographs/pictures/b.png"], ["a", "b"]),
        (["/data/scene/images/a.png", "images/b.png"], ["a", "b"]),
        (["/photographs/a.png", "images/b.png"], ["a", "images/b"]),
        (["../other/one/a.png", "../other/two/a.png"], ["one/a", "two/a"]),
        (["images/12:30.png", "images/12_30.png"], ["12_30", "12_30-2"]),
        (["images/Screenshot 2024-05-01 at 9.41.12\u202fAM.png"], ["Screenshot 2024-05-01 at 9.41.12_AM"]),
        (["images/\U0001f468\u200d\U0001f469.png", "images/\U0001f408.png"], ["\U0001f468_\U0001f469", "\U0001f408"]),
        (["images/a\\b.png", "images/tab\t.png", "images/bad\udcff.png"], ["a_b", "tab_", "bad_"]),
        (["images/ .png", "images/end..png"], ["_", "end_"]),
        (["a.b.png", "v1.2.png"], ["a.b", "v1.2"]),
        (["a.png", "images/a.png"], ["a", "images/a"]),
    ],
)
def test_names(paths, names):
    found = view_names([Path(path) for path in paths], Path("/data/scene"))
    assert found == names
    for name in found:
        check_view_name("view", name)
    assert view_names([Path("/data/scene") / path for path in paths], Path("/data/scene")) == names  # what an export sees


def test_long_names_are_cut_and_stay_different():
    names = view_names([Path("images") / ("\u00e4" * 130 + end) for end in ("1.png", "2.png")], Path("/data"))
    assert names[0].endswith("1") and names[1].endswith("2") and all(len(name.encode()) <= 200 for name in names)
    same = unique_names(["\u00e4" * 200] * 3)
    assert len(set(same)) == 3 and all(len(name.encode()) <= 200 for name in same)


def test_stems_of_foreign_files_are_fit_and_differ():
    assert list(file_stems(["A", "a", "12:30.png"]).values()) == ["A", "a-2", "12_30"]


def test_odd_names_go_there_and_back(tmp_path, monkeypatch):
    """Absolute paths, a colon, a narrow space and equal stems: coded, decoded, and named the same again."""
    room, weights = write_room(tmp_path / "room"), write_weights(tmp_path / "small.safetensors")
    meta = json.loads((room / "transforms.json").read_text())
    places = ["left/1.png", "right/1.png", "left/12:30\u202fAM.png", "left/1.jpg"]
    for frame, place in zip(meta["frames"], places, strict=True):
        target = tmp_path / "pictures" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(room / frame["file_path"]).save(target)
        frame["file_path"] = str(target)
    (room / "transforms.json").write_text(json.dumps(meta))
    options = ("--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, "encode", room, tmp_path / "room.lmvic", *options) == 0
    expected = {"left/1", "left/1-2", "right/1", "left/12_30_AM"}
    with Reader(tmp_path / "room.lmvic") as reader:
        assert {view.name for view in reader.header.views} == expected
    assert str(tmp_path).encode() not in (tmp_path / "room.lmvic").read_bytes()
    assert lmvic(monkeypatch, "decode", tmp_path / "room.lmvic", tmp_path / "out", *options) == 0
    back = MultiViewScene.from_dataset(tmp_path / "out")
    assert set(back.names) == expected
    again = back.write_dataset(tmp_path / "again")
    assert MultiViewScene.from_dataset(again).names == back.names
    poses = dict(zip(back.names, back.cameras.world_to_camera.numpy(), strict=True))
    original = MultiViewScene.from_dataset(room)
    for name, pose in zip(original.names, original.cameras.world_to_camera.numpy(), strict=True):
        assert np.abs(poses[name] - pose).max() < 1e-5
