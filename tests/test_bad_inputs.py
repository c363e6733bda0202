"""What people and damage feed to the commands: each ends in one line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from export_scenes import ROOM, edit, lmvic, refused
from PIL import Image

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.evaluation.image_set import load_image_set
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points
from lmvic_ns.splat.dataparser import check_capture
from lmvic_ns.splat.trained import load_trained
from lmvic_ns.workflows.encoding import check_view_sizes

PACKAGE = Path(__file__).resolve().parent.parent / "lmvic_ns"


# --- pictures ----------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size: what its header claims is all that there is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def broken_chunk() -> bytes:
    """A PNG with a chunk whose checksum fails: Pillow raises SyntaxError."""
    data = bytearray(png_of(64, 48))
    data[20] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (broken_chunk(), "cannot be read as an image"),
        (png_of(64, 48), "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read as an image"),
        (png_of(40_000, 40_000), "268 megapixels"),
        (b"", "cannot be read as an image"),
    ],
    ids=["checksum", "cut", "header only", "1600 megapixels", "empty"],
)
def test_damaged_pictures_are_one_line(content, words, copy, weights, tmp_path, monkeypatch, capsys):
    (copy / "images" / "002.png").write_bytes(content)
    line = refused(capsys, lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights))
    assert words in line and "002.png" in line
    with pytest.raises(SceneError, match=words), open_picture(copy / "images" / "002.png"):
        pass
    assert not (tmp_path / "new.lmvic").exists()


def test_telephone_pictures_of_200_megapixels_open(tmp_path, recwarn):
    file = tmp_path / "large.png"
    file.write_bytes(png_of(16_320, 12_240))
    before = Image.MAX_IMAGE_PIXELS
    with open_picture(file, pixels=False) as picture:
        assert picture.size == (16_320, 12_240)
    assert before == Image.MAX_IMAGE_PIXELS and not recwarn.list


def test_views_beyond_a_decoders_limit_name_the_factor(room):
    scene = MultiViewScene.from_dataset(room)
    scene.cameras.width[:], scene.cameras.height[:] = 16_320, 12_240
    with pytest.raises(LmvicError, match="--downscale 2"):
        check_view_sizes(scene)
    check_view_sizes(scene, 2)


# --- points, configs, the disk -----------------------------------------------------------------------------------------

HEADERS = {
    "format without a word": "ply\nformat\nelement vertex 1\n",
    "vertices without a count": "ply\nformat ascii 1.0\nelement vertex\n",
    "a count that is no number": "ply\nformat ascii 1.0\nelement vertex many\n",
    "a property without a name": "ply\nformat ascii 1.0\nelement vertex 1\nproperty float\n",
    "a property twice": "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n",
    "an element without a name": "ply\nformat ascii 1.0\nelement\n",
    "too many vertices": "ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999999999999\n",
    "no properties": "ply\nformat binary_little_endian 1.0\nelement vertex 5\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_broken_ply_headers_are_one_line(name, copy, weights, tmp_path, monkeypatch, capsys):
    axes = "" if "propert" in name else "property float x\nproperty float y\nproperty float z\n"
    (copy / "sparse_pc.ply").write_text(HEADERS[name] + axes + "end_header\n1 2 3\n")
    with pytest.raises(SceneError, match=r"sparse_pc\.ply"):
        read_points(copy / "sparse_pc.ply")
    line = refused(capsys, lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights))
    assert "sparse_pc.ply" in line
    # stereo has a reader of its own behind this one
    edit(copy, lambda meta: [frame.pop("depth_file_path") for frame in meta["frames"]])
    line = refused(capsys, lmvic(monkeypatch, "prepare", copy, "--output", tmp_path / "prepared"))
    assert "sparse_pc.ply" in line and not (tmp_path / "prepared" / "copy").exists()


def test_end_of_header_may_stand_in_a_comment_or_end_in_crlf(tmp_path):
    file = tmp_path / "p.ply"
    axes = "".join(f"property float {axis}\r\n" for axis in "xyz")
    text = f"ply\r\nformat ascii 1.0\r\ncomment the end_header follows\r\nelement vertex 1\r\n{axes}end_header\r\n1 2 3\r\n"
    file.write_bytes(text.encode())
    assert read_points(file)[0].tolist() == [[1, 2, 3]]
    file.write_bytes(file.read_bytes()[: -len("\r\n1 2 3\r\n")])
    with pytest.raises(SceneError, match="damaged"):
        read_points(file)


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2", "just words", "", "!!python/object:no.such.Thing {}", "\x00\x01", "!!python/object/apply:int ['x']"],
)
def test_a_config_that_is_none_is_one_line(text, tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.yml"
    config.write_text(text)
    with pytest.raises(SceneError, match=r"config\.yml"):
        load_trained(config)
    for command in (
        ("prepare", "--load-config", config, "--output", tmp_path / "out"),
        ("export", "--load-config", config, "--output-dir", tmp_path / "out"),
        ("eval", "alignment", "--load-config", config, "--output", tmp_path / "out"),
    ):
        assert "config.yml" in refused(capsys, lmvic(monkeypatch, *command))


def test_full_disk_in_prepare_is_said_and_leaves_nothing(room, tmp_path, monkeypatch, capsys):
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError("12288 requested and 0 written")):

        def full(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", full)
            status = lmvic(patch, "prepare", room, "--output", tmp_path / "out")
        assert "the disk is full" in refused(capsys, status)
        assert not list((tmp_path / "out").glob("[!.]*"))


# --- files to decode ---------------------------------------------------------------------------------------------------


def forged(path: Path, width: int, height: int) -> Path:
    """A file of a few hundred bytes with one view of any size."""
    header = FileHeader.build(
        names=["a[edited]"],
        intrinsics=np.array([[[100.0, 0, 8], [0, 100.0, 8], [0, 0, 1]]]),
        world_to_camera=np.eye(4)[None],
        height=[height],
        width=[width],
        parent=[-1],
        order=[0],
        preset="tiny",
        weights_name="tiny",
        weights_hash=bytes(16),
        quality=10.0,
        inverse_depth_scale=1.0,
    )
    with Writer(path, header) as writer:
        writer.add_unit(0, b"", b"x")
    return path


@pytest.mark.parametrize(("form", "width"), [("webp", 16_384), ("jpg", 65_501)])
def test_a_format_that_cannot_hold_a_view_is_refused_before_decoding(form, width, tmp_path, monkeypatch, capsys):
    file = forged(tmp_path / "wide.lmvic", width, 8)
    line = refused(capsys, lmvic(monkeypatch, "decode", file, tmp_path / "out", "--format", form))
    assert "--format png" in line and str(width) in line and not (tmp_path / "out").exists()


def test_the_scene_writer_knows_the_same_limits(room, tmp_path):
    scene = MultiViewScene.from_dataset(room)
    scene.cameras.width[:] = 65_501
    with pytest.raises(LmvicError, match="jpg files hold at most 65500"):
        scene.write_dataset(tmp_path / "out", image_format="jpg")


def test_a_small_file_cannot_ask_for_gigabytes(tmp_path, monkeypatch, capsys):
    assert 101_800_000 < DEFAULT_MAX_PIXELS < 1 << 27  # medium format cameras fit, the format's own limit is above
    file = forged(tmp_path / "vast.lmvic", 11_000, 10_001)
    assert file.stat().st_size < 1000
    for command in (("info", file), ("verify", file), ("view", file), ("decode", file, tmp_path / "out")):
        line = refused(capsys, lmvic(monkeypatch, *command))
        assert "--max-megapixels" in line and "11000x10001" in line
    assert lmvic(monkeypatch, "verify", file, "--max-megapixels", 120) == 0
    assert lmvic(monkeypatch, "info", file, "--max-megapixels", 120) == 0
    refused(capsys, lmvic(monkeypatch, "verify", file, "--max-megapixels", "nan"))


@pytest.mark.parametrize("word", ["²", "9" * 5000, "1_0", "", "--1", "٣" * 40])
def test_words_that_are_no_view_are_one_line(word, tmp_path, monkeypatch, capsys):
    file = forged(tmp_path / "one.lmvic", 16, 16)
    assert "no view" in refused(capsys, lmvic(monkeypatch, "decode", file, tmp_path / "out", f"--views={word}"))


# --- text is not markup ------------------------------------------------------------------------------------------------


def test_names_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "[" / "b] :smile:"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    file = forged(folder / "[red]x.lmvic", 16, 16)
    assert lmvic(monkeypatch, "info", file.relative_to(tmp_path / "[")) == 0
    text = capsys.readouterr().out
    assert "a[edited]" in text and "b] :smile:/[red]x.lmvic" in text
    monkeypatch.chdir(tmp_path)
    forged(tmp_path / "[" / "b.lmvic", 16, 16)
    assert lmvic(monkeypatch, "info", "[/b.lmvic") == 0
    assert "[/b.lmvic" in capsys.readouterr().out
    refused(capsys, lmvic(monkeypatch, "info", "[/b]"))


def test_rich_is_used_in_one_place():
    """Every console and every text column comes from `terminal`, which takes no text for markup."""
    theirs = {"training"}  # numbers only, and under work elsewhere
    for source in PACKAGE.rglob("*.py"):
        if source.name == "terminal.py" or source.relative_to(PACKAGE).parts[0] in theirs:
            continue
        assert not re.search(r"rich\.console import|TextColumn\(|rich\.progress import track|Console\(", source.read_text()), (
            source
        )


# --- datasets: hints ---------------------------------------------------------------------------------------------------


def swap_sizes(meta: dict) -> None:
    for holder in (meta, *meta["frames"]):
        if "w" in holder:
            holder["w"], holder["h"] = holder["h"], holder["w"]


def rotated_by_exif(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[0x0112] = 6
            picture.save(path, exif=exif)
    edit(folder, swap_sizes)


def with_backslashes(folder: Path) -> None:
    edit(folder, lambda meta: [frame.update(file_path=frame["file_path"].replace("/", "\\")) for frame in meta["frames"]])


def with_mark(folder: Path) -> None:
    file = folder / "transforms.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def of_blender(folder: Path) -> None:
    (folder / "transforms.json").rename(folder / "transforms_train.json")


def with_nan_pose(folder: Path) -> None:
    edit(folder, lambda meta: meta["frames"][1]["transform_matrix"][0].__setitem__(3, float("nan")))


def without_json(folder: Path) -> None:
    (folder / "transforms.json").write_text("{")


def huge_number(folder: Path) -> None:
    edit(folder, lambda meta: [holder.update(fl_x=10**400) for holder in (meta, *meta["frames"])])


HINTS = {
    "EXIF": (rotated_by_exif, "auto-orient"),
    "swapped": (lambda folder: edit(folder, swap_sizes), "w and h are swapped"),
    "backslashes": (with_backslashes, "write paths with '/'"),
    "byte order mark": (with_mark, "byte order mark"),
    "Blender": (of_blender, "blender-data"),
    "NaN": (with_nan_pose, "is not finite"),
    "no JSON": (without_json, "not valid JSON"),
    "huge number": (huge_number, "must be a finite number"),
}


@pytest.mark.parametrize("name", HINTS)
def test_refusals_name_the_way_out_in_all_programs(name, copy, weights, tmp_path, monkeypatch, capsys):
    change, words = HINTS[name]
    change(copy)
    line = refused(capsys, lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights))
    assert words in line
    with pytest.raises(SceneError, match=re.escape(words)):
        check_capture(copy)


def test_a_few_metres_in_geographic_coordinates_are_not_one_place(copy):
    def move(meta):
        for frame in meta["frames"]:
            for row, offset in enumerate((500_000.0, 4_500_000.0, 100.0)):
                frame["transform_matrix"][row][3] += offset

    edit(copy, move)
    check_capture(copy)


def test_all_cameras_in_one_place_are_refused_before_training(copy):
    check_capture(copy)
    edit(
        copy, lambda meta: [frame["transform_matrix"][row].__setitem__(3, 7.0) for frame in meta["frames"] for row in range(3)]
    )
    with pytest.raises(SceneError, match=f"all {ROOM.views} cameras are in one place"):
        check_capture(copy)
    edit(copy, lambda meta: meta.update(frames=meta["frames"][:1]))
    with pytest.raises(SceneError, match="there is one camera"):
        check_capture(copy)


def test_a_coded_file_is_no_dataset(room, weights, tmp_path, monkeypatch, capsys):
    file = forged(tmp_path / "x.lmvic", 16, 16)
    assert "lmvic decode" in refused(capsys, lmvic(monkeypatch, "encode", file, tmp_path / "y.lmvic", "--weights", weights))
    with pytest.raises(SceneError, match="lmvic decode"):
        check_capture(file)


def test_evaluation_reads_datasets_through_the_same_function(copy):
    without_json(copy)
    with pytest.raises(SceneError, match="not valid JSON"):
        load_image_set(copy)
