"""Nothing is lost, and nothing that is known is kept silent: interrupted encodes, damaged files, inputs that are not used."""

from __future__ import annotations

import json
import shutil

import pytest
from export_scenes import lmvic, write_weights
from PIL import Image

from lmvic_ns.bitstream.partial import read_partial
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.errors import LmvicError
from lmvic_ns.scene import MultiViewScene


def test_what_is_not_used_is_not_missed_and_what_is_named_is(room, weights, tmp_path, monkeypatch, capsys):
    scene = tmp_path / "room"
    shutil.copytree(room, scene)
    meta = json.loads((scene / "transforms.json").read_text())
    del meta["frames"][1]["depth_file_path"]
    (scene / "depths" / "002.npy").unlink()
    (scene / "transforms.json").write_text(json.dumps(meta))
    options = ("--weights", weights, "--no-verify", "--overwrite")
    command = ("encode", scene, tmp_path / "room.lmvic", *options)
    assert lmvic(monkeypatch, *command) == 2 and "002.npy" in capsys.readouterr().err
    assert lmvic(monkeypatch, *command, "--depth", "none") == 0
    assert lmvic(monkeypatch, *command, "--depth", "stereo") == 0
    (scene / "sparse_pc.ply").unlink()
    capsys.readouterr()
    for depth in ("none", "stereo"):
        assert lmvic(monkeypatch, *command, "--depth", depth) == 2
        error = capsys.readouterr().err.strip()
        assert "sparse_pc.ply: not found" in error and "--points none" in error and "\n" not in error
    assert lmvic(monkeypatch, *command, "--depth", "none", "--points", "none") == 0
    with pytest.raises(LmvicError, match=r"sparse_pc\.ply"):
        MultiViewScene.from_dataset(scene, depth=False).write_dataset(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_damaged_section_costs_itself_alone(file, weights, tmp_path, monkeypatch, capsys):
    """A flipped bit in the points: `info` names them and shows the rest, `decode` writes the views."""
    data, damaged = bytearray(file.read_bytes()), tmp_path / "damaged.lmvic"
    data[data.index(b"\xf5SECPNTC") + 100] ^= 1
    damaged.write_bytes(data)
    assert lmvic(monkeypatch, "info", damaged) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "section PNTC: damaged" in text and "sparse points" in text and "64 x 48" in text and "lost" not in text
    assert lmvic(monkeypatch, "decode", damaged, tmp_path / "out", "--weights", weights) == 1
    assert "lost: sparse points" in capsys.readouterr().err and len(MultiViewScene.from_dataset(tmp_path / "out")) == 4


def test_a_file_that_was_cut_off_says_so(file, weights, tmp_path, monkeypatch, capsys):
    """Also where all views are whole: nobody knows what followed them."""
    data, cut = file.read_bytes(), tmp_path / "cut.lmvic"
    cut.write_bytes(data[: data.index(b"\xf5SECPNTC")])
    assert lmvic(monkeypatch, "decode", cut, tmp_path / "out", "--weights", weights) == 1
    streams = capsys.readouterr()
    assert "4 views;" in streams.out and "cut off" in streams.err and "such as points, is lost" in streams.err
    assert lmvic(monkeypatch, "info", cut) == 1 and "cut off" in " ".join(capsys.readouterr().out.split())
    assert lmvic(monkeypatch, "verify", cut) == 1


def test_what_came_through_is_not_called_lost(file, weights, tmp_path, monkeypatch, capsys):
    longer = tmp_path / "longer.lmvic"
    longer.write_bytes(file.read_bytes() + b"more")
    assert lmvic(monkeypatch, "decode", longer, tmp_path / "out", "--weights", weights) == 1
    assert "something follows it" in (error := capsys.readouterr().err) and "lost" not in error
    assert (tmp_path / "out" / "sparse_pc.ply").exists()


def test_info_tells_of_every_damaged_view(file, tmp_path, monkeypatch, capsys):
    """Sizes alone look whole."""
    data = bytearray(file.read_bytes())
    data[data.rindex(b"\xf5UNT") + 60] ^= 1
    (tmp_path / "damaged.lmvic").write_bytes(data)
    assert lmvic(monkeypatch, "info", tmp_path / "damaged.lmvic") == 1
    assert "1 of 4 views are lost" in capsys.readouterr().out
    (tmp_path / "text.lmvic").write_bytes(data.replace(b"\r\n", b"\n"))
    assert lmvic(monkeypatch, "info", tmp_path / "text.lmvic") == 2
    assert "a transfer as text changed the bytes" in capsys.readouterr().err


def test_an_encode_in_progress_is_not_called_lost(room, weights, tmp_path, monkeypatch, capsys):
    path, add = tmp_path / "room.lmvic", Writer.add_unit

    def stop_at_the_third(self, *args):
        if len(self.done) == 2:
            raise KeyboardInterrupt
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add_unit", stop_at_the_third)
        assert lmvic(monkeypatch, "encode", room, path, "--weights", weights) == 130
    capsys.readouterr()
    partial = tmp_path / "room.lmvic.partial"
    for command in (("info", partial), ("verify", partial), ("decode", partial, tmp_path / "out", "--weights", weights)):
        assert lmvic(monkeypatch, *command) == 1
        streams = capsys.readouterr()
        text = " ".join((streams.out + streams.err).split())
        assert "unfinished" in text and "2 of 4 views are written" in text and "lost" not in text, command
    assert len(MultiViewScene.from_dataset(tmp_path / "out")) == 2


def test_an_interrupted_encode_is_lost_to_nobody(room, file, weights, tmp_path, monkeypatch, capsys):
    """Other settings or other pictures refuse it in a line; --overwrite begins anew; a second run at once is refused."""
    scene, path = tmp_path / "room", tmp_path / "room.lmvic"
    shutil.copytree(room, scene)
    partial, add = path.with_name("room.lmvic.partial"), Writer.add_unit

    def stop_at_the_third(self, *args):
        if len(self.done) == 2:
            raise KeyboardInterrupt
        add(self, *args)

    command = ("encode", scene, path, "--weights", weights, "--device", "cpu", "--no-verify")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add_unit", stop_at_the_third)
        assert lmvic(monkeypatch, *command) == 130
    before = partial.read_bytes()
    other = write_weights(tmp_path / "other.safetensors", seed=1, name="other")
    for change in (("--quality", 20), ("--effort", "fast"), ("--depth", "none"), ("--weights", other)):
        capsys.readouterr()
        assert lmvic(monkeypatch, *command, *change) == 2, change
        error = capsys.readouterr().err.strip()
        assert "begun with other settings" in error and "--overwrite" in error and "\n" not in error, change
        assert partial.read_bytes() == before
    header = read_partial(partial).header
    assert header is not None
    running = Writer.resume(path, header)
    assert lmvic(monkeypatch, *command) == 2 and "another run is writing it" in capsys.readouterr().err
    running.abort()
    picture = scene / "images" / "003.png"
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert lmvic(monkeypatch, *command) == 2 and "other settings or pictures" in capsys.readouterr().err
    assert lmvic(monkeypatch, *command, "--overwrite") == 0
    assert "beginning anew" in capsys.readouterr().out and not partial.exists()
    with Reader(path) as reader:
        assert reader.verify() == [] and reader.sections() == ("PNTC", "META")
    # a file of somebody else that has the name
    path.unlink()
    partial.write_text("a short note")
    assert lmvic(monkeypatch, *command, "--overwrite") == 2 and partial.read_text() == "a short note"
