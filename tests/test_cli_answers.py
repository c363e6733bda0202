"""Answers for scripts and people: --json, --quiet, named qualities, lossless files, several scenes, estimates, versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import ROOM, lmvic, write_room
from PIL import Image
from test_capture import write_capture

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.pictures.stored import exact_picture
from lmvic_ns.report.terminal import duration_text, finite
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.workflows.options import CodingOptions


def test_json_is_all_that_is_printed(room: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "a.lmvic"
    options = ("--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, "encode", room, path, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == path.stat().st_size and len(found["views"]) == 4 and found["psnr"] > 10
    assert found["captured_bytes"] == sum(p.stat().st_size for p in (room / "images").iterdir())
    assert lmvic(monkeypatch, "info", path, "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["bytes"]["total"] == path.stat().st_size and not info["problems"]
    assert {view["name"]: view["image_bytes"] for view in info["views"]} == {
        view["name"]: view["image_bytes"] for view in found["views"]
    }
    assert lmvic(monkeypatch, "verify", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert lmvic(monkeypatch, "verify", path, "--json") == 1
    broken = json.loads(capsys.readouterr().out)
    assert broken["problems"] and not broken["intact"]
    assert lmvic(monkeypatch, "info", path, "--json") == 1
    capsys.readouterr()
    assert lmvic(monkeypatch, "encode", room, path, "--json") == 2  # exists: one line of error, no JSON
    out = capsys.readouterr()
    assert not out.out and out.err.startswith("lmvic: ")


def test_quiet_says_nothing_and_the_last_line_says_it_all(
    room: Path, weights: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    options = ("--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, "encode", room, tmp_path / "a.lmvic", *options) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "times smaller; worst view" in last and last.endswith(" s")
    assert lmvic(monkeypatch, "encode", room, tmp_path / "b.lmvic", *options, "--quiet") == 0
    assert lmvic(monkeypatch, "decode", tmp_path / "b.lmvic", tmp_path / "out", *options, "--quiet") == 0
    assert lmvic(monkeypatch, "verify", tmp_path / "b.lmvic", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("original", [True, False])
def test_lossless_is_bit_for_bit(original: bool, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = write_capture(tmp_path / "in")
    options = ("--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, "encode", folder, tmp_path / "a.lmvic", *options, "--quality", "lossless") == 0
    assert "every picture bit for bit" in capsys.readouterr().out
    form = ("--format", "original") if original else ()
    assert lmvic(monkeypatch, "decode", tmp_path / "a.lmvic", tmp_path / "out", *options, *form) == 0
    before, after = MultiViewScene.from_dataset(folder), MultiViewScene.from_dataset(tmp_path / "out")
    for view in range(4):
        assert torch.equal(before.image(view), after.image(view))
    if original:  # a JPEG file comes back as it was
        name = "rgb/left/0001.jpg"
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_smallest_exact_picture_is_taken(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=30)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as picture:
        shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    assert exact_picture(shown, jpeg) == jpeg
    other = torch.from_numpy(noise).permute(2, 0, 1)[None].float() / 255
    for original in (jpeg, b"no picture", None):
        data = exact_picture(other, original)  # whose pixels are others
        assert data[:4] in (b"RIFF", b"\x89PNG") and len(data) > len(jpeg)


def test_named_qualities_are_levels(room: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    options = ("--weights", weights, "--device", "cpu", "--effort", "fast")
    for name, level in (("small", 20), ("archive", 63)):
        path = tmp_path / f"{name}.lmvic"
        assert lmvic(monkeypatch, "encode", room, path, *options, "--quality", name) == 0
        with Reader(path) as reader:
            assert reader.header.quality == level
            assert name == "small" or {view.quality for view in reader.header.views} == {63}
    assert lmvic(monkeypatch, "encode", room, tmp_path / "x.lmvic", *options, "--quality", "best") == 2
    assert lmvic(monkeypatch, "encode", room, tmp_path / "x.lmvic", *options, "--quality", "64") == 2
    lossless = ("--quality", "lossless", "--target-bpp", "1")
    assert lmvic(monkeypatch, "encode", room, tmp_path / "x.lmvic", *options, *lossless) == 2
    assert "lossless has no target" in capsys.readouterr().err
    assert CodingOptions(quality="balanced").settings() == CodingOptions(quality=32).settings()
    assert CodingOptions(quality="lossless").settings() != CodingOptions(quality="archive").settings()


def test_several_scenes(room: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    second = write_capture(tmp_path / "second")
    broken = tmp_path / "broken"
    broken.mkdir()
    options = ("--weights", weights, "--device", "cpu", "--json")
    assert lmvic(monkeypatch, "encode", broken, second, room, tmp_path / "files", *options) == 2
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert "transforms.json: not found" in found[0]["error"] and "not found" in out.err
    for one, name in zip(found[1:], ("second", room.name), strict=True):
        assert one["file"] == str(tmp_path / "files" / f"{name}.lmvic") and Path(one["file"]).is_file()
    assert lmvic(monkeypatch, "encode", second, room, tmp_path / "a.lmvic") == 2
    assert "need a folder" in capsys.readouterr().err
    assert lmvic(monkeypatch, "encode", room) == 2
    assert "SCENE FILE" in capsys.readouterr().err
    copies = tmp_path / "other" / "second"
    write_capture(copies)
    assert lmvic(monkeypatch, "encode", second, copies, tmp_path / "more") == 2
    assert "two scenes are called 'second'" in capsys.readouterr().err


def test_estimates(room: Path, weights: Path, monkeypatch, capsys) -> None:
    options = ("--weights", weights, "--device", "cpu", "--search-views", 2, "--effort", "fast")
    assert lmvic(monkeypatch, "estimate", room, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    sizes = [found["qualities"][name]["bytes"] for name in ("small", "balanced", "high", "archive")]
    assert sizes == sorted(sizes) and found["coded_views"] == 2 and found["views"] == 4
    assert found["qualities"]["lossless"]["worst_psnr"] == 99.0
    assert lmvic(monkeypatch, "estimate", room, *options) == 0
    assert "lossless" in capsys.readouterr().out


def test_versions(monkeypatch, capsys) -> None:
    assert lmvic(monkeypatch, "--version") == 0
    out = capsys.readouterr().out
    assert out.startswith("lmvic 0.") and "file format 1.0" in out and "tiny " in out


def test_words() -> None:
    assert [duration_text(s) for s in (0.04, 59.9, 200, 7500)] == ["0.0 s", "59.9 s", "3 min 20 s", "2 h 5 min"]
    assert finite({"a": [float("nan"), 1.0, (float("inf"),)], "b": "x"}) == {"a": [None, 1.0, [None]], "b": "x"}


def test_a_long_encode_says_early_what_it_takes(tmp_path: Path, weights: Path, monkeypatch, capsys) -> None:
    scene = write_room(tmp_path / "long", replace(ROOM, views=12))
    options = ("--weights", weights, "--device", "cpu", "--effort", "fast")
    assert lmvic(monkeypatch, "encode", scene, tmp_path / "a.lmvic", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    (forecast,) = [line for line in lines if line.startswith("after 6 of 12 views: about")]
    assert " dB and " in forecast and forecast.endswith("in all")


def test_effort_is_an_argument(room: Path, weights: Path, tmp_path: Path) -> None:
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    sizes = [sum(v.image_bytes for v in codec.encode(scene, tmp_path / f"{e}.lmvic", effort=e)) for e in ("fast", "medium")]
    assert sizes[1] <= sizes[0] * 1.02
    with pytest.raises(ValueError, match="no effort"):
        codec.encode(scene, tmp_path / "x.lmvic", effort="none")  # type: ignore[arg-type]
