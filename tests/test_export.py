"""A dataset into a file and back by the commands, and every mistake that a person can make on the way."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import ROOM, entries, lmvic, write_weights
from PIL import Image

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.report.still_formats import as_good
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points
from lmvic_ns.sparse_points.exact import SparsePoints, pack_points, unpack_points, write_ply
from lmvic_ns.workflows.dataset import DatasetWriter
from lmvic_ns.workflows.encoding import build_tree, downscaled, encode_scene, verify_file
from lmvic_ns.workflows.layout import file_stems
from lmvic_ns.workflows.options import CodingOptions
from lmvic_ns.workflows.search import bisect_levels

# --- there and back ---------------------------------------------------------------------------------------------------


def test_encode_then_decode_gives_the_pictures_that_the_codec_decodes(room, weights, tmp_path, monkeypatch, capsys):
    out, path = tmp_path / "out", tmp_path / "new" / "room.lmvic"
    assert lmvic(monkeypatch, "encode", room, path, "--weights", weights, "--device", "cpu") == 0
    assert "every view decodes as the encoder saw it" in capsys.readouterr().out
    assert lmvic(monkeypatch, "decode", path, out, "--weights", weights, "--device", "cpu", "--workers", 2) == 0
    back, original = MultiViewScene.from_dataset(out), MultiViewScene.from_dataset(room)
    assert back.names == original.names
    assert torch.allclose(back.cameras.intrinsics, original.cameras.intrinsics)
    assert torch.allclose(back.cameras.world_to_camera, original.cameras.world_to_camera, atol=1e-5)
    for view in load_codec(weights).decode(path):
        written = back.image(view.index)
        assert (written - view.image).abs().max() <= 0.5 / 255 + 1e-6
        assert view.inverse_depth is not None
        small = back.inverse_depth(view.index).reshape(12, 4, 16, 4).mean((1, 3))
        assert (small - view.inverse_depth).abs().median() < 0.02 * view.inverse_depth.median()
    assert entries(tmp_path) == {"out", "new"} and entries(path.parent) == {"room.lmvic"}


def test_some_views_cost_only_their_ancestors(file, weights, tmp_path, monkeypatch):
    with Reader(file) as reader:
        wanted = reader.header.order[-1]
        name, needed = reader.header.views[wanted].name, {wanted, *reader.ancestors(wanted)}
    assert len(needed) < ROOM.views
    read: set[int] = set()
    unit = Reader.unit
    monkeypatch.setattr(Reader, "unit", lambda self, view: (read.add(view), unit(self, view))[1])
    for word in (name, str(wanted)):
        out = tmp_path / f"out-{word}"
        read.clear()
        command = (
            "decode",
            file,
            out,
            "--weights",
            weights,
            "--device",
            "cpu",
            "--views",
            word,
            "--format",
            "webp",
            "--no-depth",
        )
        assert lmvic(monkeypatch, *command) == 0
        assert entries(out / "images") == {f"{name}.webp"} and not (out / "depths").exists()
        assert read == needed


def test_points_are_left_out_on_request(room, weights, tmp_path, monkeypatch):
    path = tmp_path / "room.lmvic"
    options = ("--weights", weights, "--points", "none", "--no-verify", "--reference-structure", "chain")
    assert lmvic(monkeypatch, "encode", room, path, *options) == 0
    with Reader(path) as reader:
        assert reader.sections() == ("META",)
        assert max(len(reader.ancestors(view)) for view in range(ROOM.views)) == ROOM.views - 1


def test_downscaled_scene_keeps_its_geometry(room):
    scene = MultiViewScene.from_dataset(room)
    small = downscaled(scene, 2)
    assert small.image(0).shape == (3, 24, 32) and small.inverse_depth(0).shape == (24, 32)
    assert torch.allclose(small.cameras.intrinsics[:, 0, 0] * 2, scene.cameras.intrinsics[:, 0, 0])
    assert torch.equal(small.image(0) * 255, (small.image(0) * 255).round())
    with pytest.raises(LmvicError, match="--downscale 16"):
        downscaled(scene, 16)


def test_depth_is_found_where_there_are_points_and_left_out_where_not(room, tmp_path, capsys):
    from lmvic_ns.workflows.sources import dataset_scene

    bare = tmp_path / "bare"
    MultiViewScene.from_dataset(room).write_dataset(bare, depth_format=None)
    assert dataset_scene(bare, "auto").has_depth
    assert "plane sweep" in capsys.readouterr().out
    assert not dataset_scene(bare, "none").has_depth
    with pytest.raises(LmvicError, match="no depth files"):
        dataset_scene(bare, "files")
    meta = json.loads((bare / "transforms.json").read_text())
    del meta["ply_file_path"]
    (bare / "transforms.json").write_text(json.dumps(meta))
    scene = dataset_scene(bare, "auto")
    assert not scene.has_depth and build_tree(scene, CodingOptions()).max_depth == 0
    assert "each stands alone" in capsys.readouterr().out


# --- info, verify, report ---------------------------------------------------------------------------------------------


def test_info_and_verify_need_no_weights(file, monkeypatch, capsys):
    assert lmvic(monkeypatch, "info", file) == 0
    text = capsys.readouterr().out
    assert "small" in text and "64 x 48" in text and f"{file.stat().st_size:,}" in text
    assert lmvic(monkeypatch, "verify", file) == 0
    assert "intact, 4 views" in capsys.readouterr().out


def test_damage_is_named_and_the_rest_decodes(file, weights, tmp_path, monkeypatch, capsys):
    with Reader(file) as reader:
        broken = reader.header.order[-1]
        name, tail = reader.header.views[broken].name, reader.unit(broken).image[-40:]
    data = bytearray(file.read_bytes())
    data[data.index(tail) + 5] ^= 0xFF
    damaged = tmp_path / "damaged.lmvic"
    damaged.write_bytes(data)
    assert lmvic(monkeypatch, "verify", damaged) == 1
    streams = capsys.readouterr()
    assert f"1 of 4 views are lost\n  {name}" in streams.out and "CRC-32C" in streams.err
    assert lmvic(monkeypatch, "decode", damaged, tmp_path / "out", "--weights", weights, "--device", "cpu") == 1
    assert f"lost: {name}" in capsys.readouterr().err
    assert len(MultiViewScene.from_dataset(tmp_path / "out")) == 3


def test_report_adds_up_and_loads_nothing(room, weights, tmp_path, monkeypatch):
    path, folder = tmp_path / "room.lmvic", tmp_path / "report"
    assert lmvic(monkeypatch, "encode", room, path, "--weights", weights, "--report", folder) == 0
    data, page = json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()
    split = data["bytes"]
    assert sum(value for part, value in split.items() if part != "total") == split["total"] == path.stat().st_size
    assert data["captured_files"]["bytes"] == sum(p.stat().st_size for p in (room / "images").iterdir())
    assert data["psnr"] == pytest.approx(np.mean([view["psnr"] for view in data["views"]]))
    other = data["other_formats"]
    assert other["measured_views"] == 4 and other["jpeg"]["psnr"] >= data["psnr"]
    assert 0 < other["jpeg"]["bytes"] < other["png"]["bytes"]
    assert "://" not in page and page.count("<img") == page.count('src="data:image/') == 4 * 5 + 4 + 3 * 6
    assert page.count("<circle") == 4 and 'stroke-width="1.6"' in page


def test_jpeg_as_good_is_the_smallest_that_is():
    grey = (np.random.default_rng(0).random((40, 48)) * 255).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(grey).resize((96, 80), Image.Resampling.BICUBIC).convert("RGB"))
    size, quality = as_good("jpeg", pixels, 25.0)
    smaller, worse = as_good("jpeg", pixels, 22.0)
    assert quality >= 25.0 and 22.0 <= worse < quality and smaller < size
    # nothing reaches 90 dB: the best that there is
    assert 25.0 < as_good("jpeg", pixels, 90.0)[1] < 90.0


def test_verification_notices_a_difference(room, weights, tmp_path):
    codec, scene = load_codec(weights), MultiViewScene.from_dataset(room)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", CodingOptions(), codec)
    assert verify_file(encoded, scene, codec) < 0.001
    brighter = MultiViewScene(scene.names, scene.cameras, lambda i: (scene.image(i) + 0.02).clamp(0, 1))
    with pytest.raises(LmvicError, match="do not rely on this file"):
        verify_file(encoded, brighter, codec)


# --- search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [0, 1, 17, 62, 63])
def test_bisection_finds_the_edge(edge):
    assert bisect_levels(lambda level: level >= edge, rising=True) == edge
    assert bisect_levels(lambda level: level <= edge, rising=False) == edge


def test_targets_are_met_by_the_file(room, weights, tmp_path, monkeypatch, capsys):
    path = tmp_path / "room.lmvic"
    common = ("--weights", weights, "--device", "cpu", "--overwrite", "--no-verify", "--search-views", 0, "--effort", "fast")
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    rates = {}
    for level in (10, 40):
        options = CodingOptions(quality=level, effort="fast")
        rates[level] = encode_scene(scene, tmp_path / f"{level}.lmvic", options, codec).bits_per_pixel
    target = sum(rates.values()) / 2
    assert lmvic(monkeypatch, "encode", room, path, *common, "--target-bpp", target) == 0
    text = capsys.readouterr().out
    assert "meets the target" in text and "misses it" in text
    with Reader(path) as reader:
        rate = (reader.file_size - reader.section_bytes("PNTC")) * 8 / reader.header.pixels()
    assert 0.8 * target < rate <= target
    assert entries(tmp_path) == {"10.lmvic", "40.lmvic", "room.lmvic"}
    assert lmvic(monkeypatch, "encode", room, path, "--target-bpp", 1, "--target-psnr", 30) == 2


# --- points -----------------------------------------------------------------------------------------------------------


def test_far_points_keep_their_digits(tmp_path):
    """In UTM coordinates float32 steps are half a metre; near points are stored as ever."""
    near = np.random.default_rng(0).normal(size=(500, 3)) * 20
    points = SparsePoints(near + np.array([512_345.678, 5_403_210.123, 213.5]), None)
    back = unpack_points(pack_points(points))
    distances = np.linalg.norm(back.positions[:, None] - points.positions[None], axis=2)
    assert distances.min(axis=1).max() < 20 / 2000 and sorted(distances.argmin(axis=1)) == list(range(500))
    write_ply(tmp_path / "p.ply", back)
    assert np.array_equal(read_points(tmp_path / "p.ply")[0], back.positions)
    data = pack_points(points)
    assert data[4] == 2 and pack_points(SparsePoints(near.astype(np.float32), None))[4] == 0
    for wrong in (data[:20], data[:5] + b"\xff" * 24 + data[29:]):
        with pytest.raises(BitstreamError, match="PNTS"):
            unpack_points(wrong)


@pytest.mark.parametrize("coloured", [True, False])
def test_points_come_back(coloured, tmp_path):
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (37, 3)).astype(np.uint8) if coloured else None
    points = SparsePoints(generator.normal(size=(37, 3)).astype(np.float32), colours)
    data = pack_points(points)
    back = unpack_points(data)
    assert np.array_equal(back.positions, points.positions)
    if colours is None:
        assert back.colours is None
    else:
        assert back.colours is not None and np.array_equal(back.colours, colours)
    write_ply(tmp_path / "p.ply", back)
    assert np.array_equal(read_points(tmp_path / "p.ply")[0], points.positions)
    # more or fewer points than the stream holds, a cut stream, another flag
    for wrong in (
        b"\x24" + data[1:],
        b"\x26" + data[1:],
        data[:-3],
        data[:3],
        data[:4] + b"\x07" + data[5:],
        b"\xff" * 4 + data[4:],
    ):
        with pytest.raises(BitstreamError, match="PNTS"):
            unpack_points(wrong)


def test_file_names_lose_a_suffix_unless_they_collide():
    assert file_stems(["a.png", "b.JPG", "v1.2"]) == {"a.png": "a", "b.JPG": "b", "v1.2": "v1.2"}
    assert file_stems(["a.png", "a.jpg"]) == {"a.png": "a.png", "a.jpg": "a.jpg"}


# --- mistakes and interruptions ---------------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_status_2(room, file, weights, tmp_path, monkeypatch, capsys):
    other = write_weights(tmp_path / "other.safetensors", seed=1, name="other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").touch()
    (tmp_path / "plain").touch()
    gone = tmp_path / "gone"
    shutil.copytree(room, gone)
    (gone / "images" / "001.png").unlink()
    new = tmp_path / "new.lmvic"
    for command, words in {
        ("encode", tmp_path / "nowhere", new, "--weights", weights): "transforms.json: not found",
        ("encode", gone, new, "--weights", weights): "001.png: image not found",
        ("encode", room, new, "--weights", "no-such"): "no weights 'no-such'",
        ("encode", room, new, "--quality", 64): "0..63",
        ("encode", room, tmp_path / "plain" / "new.lmvic", "--weights", weights): "cannot write",
        ("encode", room, tmp_path / "full", "--weights", weights): "is a folder",
        ("encode", room, file, "--weights", weights): "--overwrite",
        ("encode", room, new, "--weights", weights, "--device", "quantum"): "no device",
        ("decode", tmp_path / "nothing.lmvic", tmp_path / "out"): "cannot read",
        ("decode", room / "transforms.json", tmp_path / "out"): "transforms.json",
        ("decode", file, tmp_path / "out"): "needs the weights 'small'",
        ("decode", file, tmp_path / "out", "--weights", other): "made with weights 'small'",
        ("decode", file, tmp_path / "out", "--weights", weights, "--views", "nobody"): "no view 'nobody'",
        ("decode", file, tmp_path / "full", "--weights", weights): "is not empty",
        ("decode", file, tmp_path / "full", "--weights", weights, "--overwrite"): "is not a dataset",
        ("decode", file, tmp_path / "plain", "--weights", weights): "is a file",
        ("info", tmp_path / "nothing.lmvic"): "cannot read",
        ("verify", weights): "small.safetensors",
    }.items():
        assert lmvic(monkeypatch, *command) == 2, command
        error = capsys.readouterr().err.strip()
        assert words in error and error.startswith("lmvic: ") and "\n" not in error, command
    assert not new.exists() and not (tmp_path / "out").exists()


def test_pictures_that_are_not_rgb(room, weights, tmp_path, monkeypatch, capsys):
    def variant(name: str, change) -> Path:
        folder = tmp_path / name
        shutil.copytree(room, folder)
        change(folder)
        return folder

    def convert(mode: str, transparent: int | None = None):
        def change(folder: Path) -> None:
            picture = Image.open(folder / "images" / "002.png").convert(mode)
            if transparent is not None:
                picture.putalpha(transparent)
            picture.save(folder / "images" / "002.png")

        return change

    def fisheye(folder: Path) -> None:
        meta = json.loads((folder / "transforms.json").read_text())
        (folder / "transforms.json").write_text(json.dumps({**meta, "camera_model": "OPENCV_FISHEYE"}))

    for name, change, status in (
        ("grey", convert("L"), 0),
        ("opaque", convert("RGB", 255), 0),
        ("transparent", convert("RGB", 100), 2),
        ("fisheye", fisheye, 2),
    ):
        folder = variant(name, change)
        assert lmvic(monkeypatch, "encode", folder, tmp_path / f"{name}.lmvic", "--weights", weights) == status, name
    error = capsys.readouterr().err
    assert "transparent pixels" in error and "OPENCV_FISHEYE" in error


def test_one_picture_is_a_scene(room, weights, tmp_path, monkeypatch):
    single = tmp_path / "single"
    MultiViewScene.from_dataset(room).select([2]).write_dataset(single)
    path = tmp_path / "single.lmvic"
    assert lmvic(monkeypatch, "encode", single, path, "--weights", weights, "--report", tmp_path / "report") == 0
    assert lmvic(monkeypatch, "decode", path, tmp_path / "out", "--weights", weights) == 0
    assert MultiViewScene.from_dataset(tmp_path / "out").names == ["002"]


def test_overwriting_replaces_what_lmvic_wrote_and_nothing_else(room, file, weights, tmp_path, monkeypatch, capsys):
    out, decode = tmp_path / "out", ("decode", file, tmp_path / "out", "--weights", weights)
    assert lmvic(monkeypatch, *decode) == 0
    (out / "notes.txt").write_text("mine")
    (out / "images" / "mine.png").touch()
    assert lmvic(monkeypatch, *decode) == 2
    assert lmvic(monkeypatch, *decode, "--overwrite", "--format", "jpg", "--no-depth") == 0
    assert entries(out) == {"notes.txt", "images", "transforms.json", "sparse_pc.ply", ".lmvic-files.json"}
    assert entries(out / "images") == {"000.jpg", "001.jpg", "002.jpg", "003.jpg", "mine.png"}
    assert (out / "notes.txt").read_text() == "mine" and entries(tmp_path) == {"out"}
    capsys.readouterr()
    (out / "images" / "001.jpg").write_text("another picture under the same name")
    assert lmvic(monkeypatch, *decode, "--overwrite") == 2
    assert "images/001.jpg was changed since" in capsys.readouterr().err


def test_interrupted_encode_resumes_to_the_same_file(room, weights, tmp_path, monkeypatch, capsys):
    whole = tmp_path / "whole" / "room.lmvic"
    assert lmvic(monkeypatch, "encode", room, whole, "--weights", weights, "--device", "cpu") == 0
    expected = whole.read_bytes()
    shutil.rmtree(whole.parent)
    path = tmp_path / "room.lmvic"
    add = Writer.add_unit

    def stop_at_the_third(self, *args):
        if len(self.done) == 2:
            raise KeyboardInterrupt
        add(self, *args)

    command = ("encode", room, path, "--weights", weights, "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add_unit", stop_at_the_third)
        assert lmvic(monkeypatch, *command) == 130
    assert "the same command goes on" in capsys.readouterr().err and entries(tmp_path) == {"room.lmvic.partial"}
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add_unit", lambda self, view, *parts: (done.append(view), add(self, view, *parts)))
        assert lmvic(monkeypatch, *command) == 0
    assert "going on after 2 of 4 views" in capsys.readouterr().out
    assert len(done) == 2 and path.read_bytes() == expected and entries(tmp_path) == {"room.lmvic"}


def test_interrupted_decode_leaves_nothing(file, weights, tmp_path, monkeypatch, capsys):
    add = DatasetWriter.add_view

    def stop_at_the_second(self, view, picture=None):
        if self._frames:
            raise KeyboardInterrupt
        add(self, view)

    monkeypatch.setattr(DatasetWriter, "add_view", stop_at_the_second)
    assert lmvic(monkeypatch, "decode", file, tmp_path / "out", "--weights", weights) == 130
    assert "removed" in capsys.readouterr().err and entries(tmp_path) == set()


def test_full_disk_is_said_and_leaves_nothing_that_looks_whole(room, file, weights, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        assert lmvic(monkeypatch, "decode", file, tmp_path / "out", "--weights", weights) == 2
    assert "the disk is full" in capsys.readouterr().err and entries(tmp_path) == set()
    append = Writer._append

    def full_after_the_header(self, *parts):
        return full() if self._blocks else append(self, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_append", full_after_the_header)
        assert lmvic(monkeypatch, "encode", room, tmp_path / "room.lmvic", "--weights", weights) == 2
    assert "No space left" in capsys.readouterr().err and entries(tmp_path) <= {"room.lmvic.partial"}
