"""Inputs that a person who tried to break the program found: each ends in the right result, or in one line."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_scenes import edit, entries, lmvic, refused
from PIL import Image
from test_capture import coded, write_capture

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns.bitstream.layout import MAGIC
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.capture.masks import read_mask
from lmvic_ns.capture.records import CaptureRecords, pack_records, unpack_records
from lmvic_ns.capture.sections import FileCapture
from lmvic_ns.codec.file import LmvicFile
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.geometry.undistortion import undistort_nearest
from lmvic_ns.workflows import sources
from lmvic_ns.workflows.file_dataset import FileDataset
from lmvic_ns.workflows.layout import dataset_layout
from lmvic_ns.workflows.sources import dataset_scene

# --- photographs and masks -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_picture_and_is_not_waited_for(copy, weights, tmp_path, monkeypatch, capsys):
    """Opening one without a writer would never return."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SceneError, match="a device or a pipe"), open_picture(tmp_path / "pipe.png"):
        pass
    os.mkfifo(copy / "mask.png")
    edit(copy, lambda meta: meta["frames"][0].update(mask_path="mask.png"))
    status = lmvic(monkeypatch, "encode", copy, tmp_path / "a.lmvic", "--weights", weights)
    assert "mask not found; transforms.json lists it as 'mask.png'" in refused(capsys, status)


@pytest.mark.parametrize("path", [5, "", ["a"], False])
def test_a_mask_that_is_no_path_is_not_left_out_silently(path, copy, weights, tmp_path, monkeypatch, capsys):
    edit(copy, lambda meta: meta["frames"][0].update(mask_path=path))
    status = lmvic(monkeypatch, "encode", copy, tmp_path / "a.lmvic", "--weights", weights)
    assert "mask_path of 'images/000.png' must name a file" in refused(capsys, status)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_in_the_transparency_is_not_lost(mode, tmp_path):
    """Of such a mask only the colours would be kept, and those say nothing."""
    mask = Image.new("LA", (8, 6), (255, 255))
    mask.putpixel((3, 3), (255, 0))
    if mode == "P":
        Image.new("L", (8, 6), 255).convert("P").save(tmp_path / "m.png", transparency=255)
    else:
        mask.convert(mode).save(tmp_path / "m.png")
    with pytest.raises(SceneError, match="transparent"):
        read_mask(tmp_path / "m.png")


def test_damaged_exif_is_kept_without_warnings(copy, weights, tmp_path, monkeypatch):
    """Pillow warns on stderr, once for each time that it looks."""
    path = copy / "images" / "000.jpg"
    with Image.open(copy / "images" / "000.png") as picture:
        picture.convert("RGB").save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    edit(copy, lambda meta: meta["frames"][0].update(file_path="images/000.jpg"))
    command = ("encode", copy, tmp_path / "a.lmvic", "--weights", weights, "--device", "cpu", "--effort", "fast")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert lmvic(monkeypatch, *command, "--depth", "none", "--no-verify") == 0
    assert [str(warning.message) for warning in seen] == []


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [".", "images/..", ""])
def test_a_frame_that_names_the_folder_is_one_line(path, copy, weights, tmp_path, monkeypatch, capsys):
    edit(copy, lambda meta: meta["frames"][0].update(file_path=path))
    status = lmvic(monkeypatch, "encode", copy, tmp_path / "a.lmvic", "--weights", weights)
    line = refused(capsys, status)
    assert ("has no file_path" if not path else "image not found") in line


@pytest.mark.parametrize("name", ["...png", "..jpg"])
def test_names_of_dots_come_back(name, copy, weights, tmp_path, monkeypatch):
    """Pillow sees no suffix in some of them."""
    with Image.open(copy / "images" / "000.png") as picture:
        picture.convert("RGB").save(copy / "images" / name, "JPEG" if "jpg" in name else "PNG")
    Image.new("L", (64, 48), 255).save(copy / "...png", "PNG")
    edit(copy, lambda meta: meta["frames"][0].update(file_path=f"images/{name}", mask_path="...png"))
    path, options = tmp_path / "a.lmvic", ("--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, "encode", copy, path, *options, "--effort", "fast", "--depth", "none", "--no-verify") == 0
    assert lmvic(monkeypatch, "decode", path, tmp_path / "out", *options, "--format", "original") == 0
    frames = json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]
    assert len(frames) == 4
    for frame in frames:
        assert np.asarray(Image.open(tmp_path / "out" / frame["file_path"])).shape == (48, 64, 3)


# --- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "other"), [(b"META", b"MDTA"), (b"MASK", b"MASJ"), (b"PHOT", b"PIOT")])
def test_a_section_whose_tag_is_damaged_is_missed(tag, other, weights, tmp_path, monkeypatch, capsys):
    """One bit makes a tag that nobody knows, and sections of unknown tags are skipped."""
    path = coded(write_capture(tmp_path / "in"), weights, tmp_path / "a.lmvic", monkeypatch, "--no-verify")
    path.write_bytes(path.read_bytes().replace(b"\xf5SEC" + tag, b"\xf5SEC" + other))
    capsys.readouterr()
    assert lmvic(monkeypatch, "decode", path, tmp_path / "out", "--weights", weights, "--device", "cpu") == 1
    assert f"lost: section {other.decode()}: " in capsys.readouterr().err
    asked = {b"META": "metadata", b"MASK": "mask", b"PHOT": "photograph"}
    with LmvicFile(path, weights) as opened:
        for kind, attribute in asked.items():
            if kind == tag or (tag, kind) == (b"META", b"MASK"):  # without its lens, nobody knows where a mask belongs
                with pytest.raises(BitstreamError, match=other.decode()):
                    getattr(opened[0], attribute)
            else:
                assert getattr(opened[0], attribute) is not None
    dataset = FileDataset(path, str(weights))
    dataset.close()
    assert f"lost: section {other.decode()}: " in capsys.readouterr().err


@pytest.mark.parametrize("device", ["meta", "mps", "cuda:77", "cpu:x"])
def test_devices_that_cannot_be_used_are_one_line(device, file, weights, tmp_path, monkeypatch, capsys):
    status = lmvic(monkeypatch, "decode", file, tmp_path / "out", "--weights", weights, "--device", device)
    line = refused(capsys, status)
    assert "use cpu" in line or "use --device cpu" in line


@pytest.mark.parametrize("length", [251, 255])
def test_names_as_long_as_a_system_takes_come_back(length, weights, tmp_path, monkeypatch):
    """A file made elsewhere may hold longer ones, and another suffix or a mask's makes a name longer."""
    folder = write_capture(tmp_path / "in")
    name = "n" * (length - 4) + ".jpg"
    (folder / "rgb/left/0001.jpg").rename(folder / "rgb/left" / name)
    edit(folder, lambda meta: [frame.update(file_path=frame["file_path"].replace("left/0001.jpg", f"left/{name}"))
                               for frame in meta["frames"]])  # fmt: skip
    path = coded(folder, weights, tmp_path / "a.lmvic", monkeypatch, "--no-verify")
    for options in (("--format", "webp"), ("--layout", "colmap", "--format", "original")):
        out = tmp_path / options[1]
        assert lmvic(monkeypatch, "decode", path, out, "--weights", weights, "--device", "cpu", *options) == 0
        assert len([file for file in out.rglob("*") if file.suffix in (".webp", ".jpg")]) >= 2
        assert any(file.name.startswith("nnn") for file in out.rglob("*"))
    dataset = FileDataset(path, str(weights))
    try:
        dataset.write(points=False)
        for view in dataset.layout.views:
            assert dataset.make(view.image).is_file() and dataset.make(view.mask).is_file()
    finally:
        dataset.close()


def test_paths_that_no_system_takes_cost_the_names_alone():
    for paths in (("a" * 5000 + ".png", "b.png"), ("/".join(["d" * 200] * 20) + "/a.png", "b.png"), ("é" * 130 + ".png", "b")):
        layout = dataset_layout(["a", "b"], CaptureRecords(paths), "png")
        assert [view.image for view in layout.views] == ["images/a.png", "images/b.png"]


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_partial_file_that_is_a_pipe_or_a_link_to_nowhere(room, weights, tmp_path, monkeypatch, capsys):
    """The one was waited for without end, the other moved to where the file should be."""
    partial = tmp_path / "a.lmvic.partial"
    command = ("encode", room, tmp_path / "a.lmvic", "--weights", weights)
    os.mkfifo(partial)
    assert "is a device or a pipe" in refused(capsys, lmvic(monkeypatch, *command))
    partial.unlink()
    partial.symlink_to(tmp_path / "nowhere")
    assert "is a link to" in refused(capsys, lmvic(monkeypatch, *command))
    assert entries(tmp_path) == {"a.lmvic.partial"}


@pytest.mark.parametrize(("name", "report"), [("a.lmvic", "a.lmvic"), ("report.html", "."), ("a.lmvic", "a.lmvic/report")])
def test_a_report_does_not_take_the_place_of_its_file(name, report, room, weights, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    command = ("encode", room, folder / name, "--weights", weights, "--report", folder / report)
    assert "would take the place of" in refused(capsys, lmvic(monkeypatch, *command))
    assert not folder.exists() or entries(folder) == set()


def test_a_damaged_list_leaves_nothing_in_the_folder(file, weights, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".lmvic-files.json").write_text("{")
    status = lmvic(monkeypatch, "decode", file, folder, "--weights", weights, "--overwrite")
    assert "is damaged" in refused(capsys, status)
    assert entries(folder) == {".lmvic-files.json"}


def test_a_scene_that_the_system_refuses_does_not_stop_the_others(room, weights, tmp_path, monkeypatch, capsys):
    other = shutil.copytree(room, tmp_path / "other")

    def failing(folder, *args, **options):
        if folder == room:
            raise OSError(5, "Input/output error", str(folder))
        return dataset_scene(folder, *args, **options)

    monkeypatch.setattr(sources, "dataset_scene", failing)
    options = ("--weights", weights, "--device", "cpu", "--effort", "fast", "--depth", "none", "--no-verify")
    assert lmvic(monkeypatch, "encode", room, other, tmp_path / "all", *options) == 2
    assert "Input/output error" in capsys.readouterr().err
    assert entries(tmp_path / "all") == {"other.lmvic"}


def test_a_file_that_another_run_finished_in_the_meantime_stays(room, weights, tmp_path, monkeypatch, capsys):
    """Both found no file of that name when they began."""
    path = tmp_path / "a.lmvic"
    whole = MultiViewCodec.encode

    def late(self, scene, place, *, on_view, **others):
        def seen(view):
            path.write_bytes(MAGIC + b"of another run")
            on_view(view)

        return whole(self, scene, place, on_view=seen, **others)

    monkeypatch.setattr(MultiViewCodec, "encode", late)
    options = ("--weights", weights, "--device", "cpu", "--effort", "fast", "--depth", "none", "--no-verify")
    assert "exists already" in refused(capsys, lmvic(monkeypatch, "encode", room, path, *options))
    assert path.read_bytes() == MAGIC + b"of another run" and entries(tmp_path) == {"a.lmvic", "a.lmvic.partial"}
    monkeypatch.setattr(MultiViewCodec, "encode", whole)
    assert lmvic(monkeypatch, "encode", room, path, *options, "--overwrite") == 0
    assert "going on after 4 of 4 views" in capsys.readouterr().out and entries(tmp_path) == {"a.lmvic"}


@pytest.mark.parametrize("k1", [1e300, -1e6, 5.0])
def test_a_lens_that_nobody_made_is_refused(k1, weights, tmp_path, monkeypatch):
    """Its pixels would lie nowhere."""
    path = coded(write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.1), weights, tmp_path / "a.lmvic", monkeypatch)
    with Reader(path) as reader:
        records = unpack_records(reader.section("META") or b"", 4)
        units = {view: reader.unit(view) for view in reader.header.order}
        lenses = [replace(lens, lens=replace(lens.lens, k1=k1)) for lens in records.lenses if lens is not None]
        sections = {"META": pack_records(replace(records, lenses=tuple(lenses))), "MASK": reader.section("MASK") or b""}
        header = reader.header
    with Writer(tmp_path / "b.lmvic", header) as writer:
        for tag, data in sections.items():
            writer.add_section(tag, data)
        for view, unit in units.items():
            writer.add_unit(view, unit.depth, unit.image)
    with Reader(tmp_path / "b.lmvic") as reader:
        reason = FileCapture(reader).problems["names, lenses and other keys"]
    assert "expected" in reason and "lens" in reason
    nowhere = torch.full((1, 4, 4, 2), torch.nan)
    assert torch.equal(undistort_nearest(torch.arange(16.0).view(4, 4), nowhere), torch.arange(16.0).view(4, 4))
