"""What goes in comes out: masks, EXIF, profiles, names, lists, keys, lenses; and sections that are hostile."""

from __future__ import annotations

import io
import json
import lzma
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_scenes import lmvic
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.capture import masks
from lmvic_ns.capture.masks import FileMasks, pack_masks, read_mask
from lmvic_ns.capture.photographs import PhotographData, pack_photographs, unpack_photographs, without_thumbnail
from lmvic_ns.capture.records import CaptureRecords, pack_records, read_records, unpack_records
from lmvic_ns.capture.sections import FileCapture
from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.geometry.undistortion import (
    LensDistortion,
    PinholeModel,
    distortion_map,
    undistorted_pinhole,
    undistortion_map,
)
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.workflows.layout import dataset_layout, safe_path

WIDTH, HEIGHT = 64, 48
XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"/><?xpacket end="w"?>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(model: str, preview: bytes = b"") -> bytes:
    """EXIF with a camera's model and, behind it, a preview picture."""
    text = model.encode() + b"\0"
    first = 8
    second = first + 2 + 12 + 4 + len(text)
    data = b"II*\0" + struct.pack("<I", first) + struct.pack("<HHHII", 1, 0x0110, 2, len(text), first + 18)
    data += struct.pack("<I", second if preview else 0) + text
    if preview:
        at = second + 2 + 24 + 4
        data += struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, at, 0x202, 4, 1, len(preview), 0) + preview
    return data


def write_capture(folder: Path, **scene_keys: Any) -> Path:
    """Two cameras whose pictures have equal names, with masks, EXIF, a profile, lists and keys of other programs."""
    random = np.random.default_rng(3)
    frames = []
    for number, (camera, name) in enumerate([("left", "0001"), ("left", "0002"), ("right", "0001"), ("right", "0002")]):
        picture = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        suffix = "jpg" if camera == "left" else "png"
        path = folder / "rgb" / camera / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "jpg":
            picture.save(path, exif=b"Exif\0\0" + exif(f"camera {number}"), icc_profile=PROFILE, xmp=XMP, quality=98)
        else:
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", XMP.decode())
            picture.save(path, exif=exif(f"camera {number}"), pnginfo=info)
        matrix = np.eye(4)
        matrix[0, 3] = 0.1 * number
        frame = {
            "file_path": f"rgb/{camera}/{name}.{suffix}",
            "transform_matrix": matrix.tolist(),
            "timestamp": 1.5e9 + number / 3,
            "exposure": {"seconds": 0.01, "iso": [100, number]},
        }
        if number != 1:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[number : 20 + number, 5:40] = 255 if number else 200
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"{camera}-{name}.png")
            frame["mask_path"] = f"masks/{camera}-{name}.png"
        if number == 2:
            frame["note"] = "ü"
        frames.insert(0, frame)
    meta = {
        "camera_model": "PINHOLE", "fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0, "w": WIDTH, "h": HEIGHT,
        "orientation_override": "none", "applied_transform": np.eye(4)[:3].tolist(), "applied_scale": 0.25,
        "train_filenames": ["rgb/left/0001.jpg", "rgb/right/0001.png"], "val_filenames": ["rgb/left/0002.jpg"],
        "test_filenames": ["rgb/right/0002.png"], "rig": {"baseline": 0.1}, **scene_keys, "frames": frames,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def coded(folder: Path, weights: Path, path: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> Path:
    command = ("encode", folder, path, "--weights", weights, "--device", "cpu", "--effort", "fast", *options)
    assert lmvic(monkeypatch, *command) == 0
    return path


def decoded(path: Path, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, Any]:
    assert lmvic(monkeypatch, "decode", path, out, "--weights", weights, "--device", "cpu", *options) == 0
    return json.loads((out / "transforms.json").read_text())


def test_what_goes_in_comes_out(weights: Path, tmp_path: Path, monkeypatch, capsys):
    folder = write_capture(tmp_path / "in")
    path = coded(folder, weights, tmp_path / "a.lmvic", monkeypatch, "--strict")
    assert "not kept" not in capsys.readouterr().out
    back = decoded(path, weights, tmp_path / "out", monkeypatch, "--format", "original")
    before = json.loads((folder / "transforms.json").read_text())
    ours = ("transform_matrix",)
    for old, new in zip(before["frames"], back["frames"], strict=True):  # the frames' order too
        assert {k: v for k, v in new.items() if k not in ours} == {k: v for k, v in old.items() if k not in ours}
        assert np.allclose(new["transform_matrix"], old["transform_matrix"], atol=1e-6)
        if "mask_path" in old:
            masks = [np.asarray(Image.open(root / old["mask_path"])) for root in (folder, tmp_path / "out")]
            assert np.array_equal(masks[0], masks[1])
        with Image.open(folder / old["file_path"]) as first, Image.open(tmp_path / "out" / new["file_path"]) as second:
            assert first.format == second.format and first.size == second.size
            for key in ("exif", "xmp", "icc_profile"):
                assert first.info.get(key) == second.info.get(key), key
    assert {k: v for k, v in back.items() if k != "frames"} == {k: v for k, v in before.items() if k != "frames"}


def test_lists_follow_the_names_and_the_views(weights: Path, tmp_path: Path, monkeypatch):
    path = coded(write_capture(tmp_path / "in"), weights, tmp_path / "a.lmvic", monkeypatch)
    back = decoded(path, weights, tmp_path / "out", monkeypatch, "--views", "left/0001", "right/0002", "--format", "webp")
    assert back["train_filenames"] == ["rgb/left/0001.webp"] and back["val_filenames"] == []
    assert back["test_filenames"] == ["rgb/right/0002.webp"]
    with Image.open(tmp_path / "out" / "rgb/left/0001.webp") as picture:
        assert picture.getexif()[0x0110] == "camera 0" and picture.info["icc_profile"] == PROFILE


def test_metadata_may_be_left_out(weights: Path, tmp_path: Path, monkeypatch):
    path = coded(write_capture(tmp_path / "in"), weights, tmp_path / "a.lmvic", monkeypatch, "--no-metadata")
    with Reader(path) as reader:
        capture = FileCapture(reader)
        assert capture.photograph(0) == PhotographData(icc_profile=PROFILE)
        assert capture.records is not None and not capture.records.scene and not any(capture.records.frames)
        assert capture.has_mask(0) and capture.records.paths[0] == "rgb/left/0001.jpg"


def test_damaged_sections_cost_themselves_alone(weights: Path, tmp_path: Path, monkeypatch, capsys):
    path = coded(write_capture(tmp_path / "in"), weights, tmp_path / "a.lmvic", monkeypatch)
    data = bytearray(path.read_bytes())
    for tag in (b"META", b"MASK", b"PHOT"):
        data[data.index(b"\xf5SEC" + tag) + 20] ^= 0xFF
    path.write_bytes(data)
    capsys.readouterr()
    assert lmvic(monkeypatch, "decode", path, tmp_path / "out", "--weights", weights, "--device", "cpu") == 1
    lost = capsys.readouterr().err
    assert all(f"lost: {what}" in lost for what in ("names, lenses and other keys", "masks", "EXIF, XMP"))
    assert len(json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]) == 4


@pytest.mark.parametrize("gone", [False, True])
def test_masks_without_their_lenses_say_so(gone: bool, weights: Path, tmp_path: Path, monkeypatch, capsys):
    """The frame of a mask is that of the photograph: who moves it to the pinhole view are the records."""
    path = coded(write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.2), weights, tmp_path / "a.lmvic", monkeypatch)
    data = bytearray(path.read_bytes())
    begin = data.index(b"\xf5SECMETA")
    if gone:  # as a whole: only the index knows that something is missing
        end = data.index(b"\xf5SECMASK")
        del data[begin:end]
    else:
        data[begin + 20] ^= 0xFF
    path.write_bytes(data)
    capsys.readouterr()
    assert lmvic(monkeypatch, "decode", path, tmp_path / "out", "--weights", weights, "--device", "cpu") == 1
    lost = capsys.readouterr().err
    assert "lost: place of masks: right only for photographs without lens distortion" in lost
    assert ("beside views it still has" in lost) == gone


def test_planes_of_any_size_are_not_asked_for(weights: Path, tmp_path: Path, monkeypatch):
    """A lens or a mask of a few bytes that claims a picture of gigabytes is refused, at the least for small views."""
    path = coded(write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.2), weights, tmp_path / "a.lmvic", monkeypatch)
    with Reader(path) as reader:
        records = unpack_records(reader.section("META") or b"", 4)
        header = reader.header
    lens = records.lenses[0]
    assert lens is not None
    huge = replace(records, lenses=(replace(lens, height=65535, width=65535), *records.lenses[1:]))
    picture = io.BytesIO()
    Image.new("1", (30_000, 5000)).convert("L").save(picture, "PNG")
    numbers = np.array([1, 0, 0, 0, 1], "<u2").tobytes() + len(picture.getvalue()).to_bytes(4, "little")
    sections = {"META": pack_records(huge), "MASK": numbers + picture.getvalue()}
    with Writer(tmp_path / "b.lmvic", header) as writer:
        for tag, data in sections.items():
            writer.add_section(tag, data)
        for view in header.order:
            writer.add_unit(view, b"", b"")
    with Reader(tmp_path / "b.lmvic", max_pixels=5_000_000) as reader:
        capture = FileCapture(reader)
        assert "expected the view's size 64 x 48, found 65535 x 65535" in capture.problems["names, lenses and other keys"]
        with pytest.raises(BitstreamError, match=r"expected at most 1\.04858 megapixels"):
            capture.photograph_mask(0)


def test_masks_that_no_reader_takes_are_refused_before_encoding(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(masks, "LEAST_PIXELS", 1)
    monkeypatch.setattr(masks, "MOST_TIMES", 0.5)
    folder = write_capture(tmp_path / "in")
    command = ("encode", folder, tmp_path / "a.lmvic", "--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, *command) == 2
    assert "masks are more than 16 times as wide and high as the views" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.lmvic*"))


def test_a_lens_is_kept_and_given_back(weights: Path, tmp_path: Path, monkeypatch, capsys):
    folder = write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.1, k2=0.01, p1=0.001, p2=-0.001)
    capsys.readouterr()
    path = coded(folder, weights, tmp_path / "a.lmvic", monkeypatch)
    assert "not kept: the rim of 4 photographs" in capsys.readouterr().out
    command = ("encode", folder, tmp_path / "b.lmvic", "--weights", weights, "--device", "cpu", "--strict")
    assert lmvic(monkeypatch, *command) == 2 and "leave out --strict" in capsys.readouterr().err
    assert not (tmp_path / "b.lmvic").exists()
    pinhole = decoded(path, weights, tmp_path / "pinhole", monkeypatch)
    assert pinhole["camera_model"] == "PINHOLE" and "k1" not in pinhole and pinhole["fl_x"] != 60.0
    own = decoded(path, weights, tmp_path / "own", monkeypatch, "--lens", "original")
    assert own["camera_model"] == "OPENCV" and own["k1"] == -0.1 and own["fl_x"] == 60.0
    # what the two datasets show as pinhole views is the same
    first, second = (MultiViewScene.from_dataset(tmp_path / name) for name in ("pinhole", "own"))
    assert torch.allclose(first.cameras.intrinsics, second.cameras.intrinsics)
    error = (first.image(0) - second.image(0))[:, 4:-4, 4:-4].abs().mean()
    assert error < 0.03
    frames = {frame["file_path"]: frame for frame in own["frames"]}
    mask = np.asarray(Image.open(tmp_path / "own" / frames["rgb/left/0001.png"]["mask_path"]))
    kept = np.asarray(Image.open(folder / "masks/left-0001.png"))
    assert ((mask == kept) | (mask == 0)).all() and (mask > 0).sum() > 0.9 * (kept > 0).sum()
    without = np.asarray(Image.open(tmp_path / "own" / frames["rgb/left/0002.png"]["mask_path"]))  # had none: the rim
    assert set(np.unique(without)) == {0, 255} and without[HEIGHT // 2, WIDTH // 2] == 255


def test_a_mask_follows_its_view_through_the_lens(weights: Path, tmp_path: Path, monkeypatch):
    folder = write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.2)
    # the picture shows its own mask
    for name in ("left-0001", "right-0001", "right-0002"):
        mask = np.asarray(Image.open(folder / "masks" / f"{name}.png"))
        side, number = name.split("-")
        Image.fromarray(mask).convert("RGB").save(folder / f"rgb/{side}/{number}.{'jpg' if side == 'left' else 'png'}")
    path = coded(folder, weights, tmp_path / "a.lmvic", monkeypatch)
    scene = MultiViewScene.from_dataset(folder)
    with Reader(path) as reader:
        capture = FileCapture(reader)
        for view in (0, 2, 3):
            mask, shown = capture.mask(view), scene.image(view)[0].numpy() > 0.4
            assert mask is not None and ((mask > 0) == shown).mean() > 0.98
        assert capture.mask(1) is None


def test_the_inverse_of_undistortion():
    camera, lens = PinholeModel(60, 61, 31, 25), LensDistortion(-0.15, 0.02, 0.0, 0.001, -0.002)
    pinhole = undistorted_pinhole(camera, lens, HEIGHT, WIDTH)
    there, back = (make(camera, lens, pinhole, HEIGHT, WIDTH) for make in (undistortion_map, distortion_map))
    row, column = 20, 30
    x, y = column + 0.5 + float(there[0, row, column, 0]), row + 0.5 + float(there[0, row, column, 1])
    around = back[0, int(y) : int(y) + 2, int(x) : int(x) + 2].mean((0, 1))
    assert abs(x + float(around[0]) - column - 0.5) < 0.6 and abs(y + float(around[1]) - row - 0.5) < 0.6


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_masks_of_all_kinds(mode: str, tmp_path: Path):
    values = np.where(np.arange(35).reshape(5, 7) % 3 == 0, 255, 0).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", (5, 7)), values)
    packed = pack_masks([tmp_path / "m.png", None, tmp_path / "m.png"], [(5, 7)] * 3)
    masks = FileMasks(packed, 3)
    again = masks.mask(2)
    assert again is not None and np.array_equal(again, values) and masks.mask(1) is None and masks.number(0) == masks.number(2)


def test_masks_that_are_none(tmp_path: Path):
    colours = np.zeros((5, 7, 3), np.uint8)
    colours[..., 0] = 9
    Image.fromarray(colours).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((5, 7), np.uint16)).save(tmp_path / "deep.png")
    for name, words in (("colour.png", "colours"), ("deep.png", "8 bits"), ("none.png", "not found")):
        with pytest.raises(SceneError, match=words):
            pack_masks([tmp_path / name], [(5, 7)])
    Image.fromarray(colours[..., 1]).save(tmp_path / "m.png")
    with pytest.raises(SceneError, match="is 7 x 5 pixels, its photograph 7 x 6"):
        pack_masks([tmp_path / "m.png"], [(6, 7)])
    assert pack_masks([None, None], [(1, 1)] * 2) == b""


def test_previews_go_and_all_else_stays():
    preview = bytes(range(1, 200))
    whole, empty = exif("X", preview), exif("X", bytes(len(preview)))
    assert without_thumbnail(whole) == empty and without_thumbnail(exif("X")) == exif("X")
    for cut in range(len(whole)):  # damaged EXIF is no reason to fail, and comes out at its length
        assert len(without_thumbnail(whole[:cut])) == cut


def test_photograph_data_comes_back():
    data = [PhotographData(b"a" * 70000, None, b"icc"), PhotographData(), PhotographData(b"b", b"xmp", b"icc")]
    packed = pack_photographs(data)
    assert unpack_photographs(packed, 3) == data and len(packed) < 300
    assert pack_photographs([PhotographData()] * 3) == b""


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(paths=["a"]), lambda d: d.update(paths=7), lambda d: d.update(order=[0, 0]),
        lambda d: d.update(lenses=[[1] * 10], lens=[0, 0]), lambda d: d.update(lenses=[[0] * 11], lens=[0, 0]),
        lambda d: d.update(lenses=[], lens=[0, -1]), lambda d: d.update(frames={"x": {"values": [1]}}),
        lambda d: d.update(frames={"x": {"views": [2], "values": [1]}}), lambda d: d.update(depth_unit=-1),
        lambda d: d.update(points=[]), lambda d: d.update(masks=[1, 2]), lambda d: d.update(scene=3),
        lambda d: d.update(depth_unit=float("nan")), lambda d: d.update(lens=None, lenses=[[1.0] * 4 + [9, 9] + [0] * 5]),
    ],
)  # fmt: skip
def test_hostile_records_are_named(change):
    data: dict[str, Any] = {"paths": ["a", "b"]}
    assert unpack_records(zlib.compress(json.dumps(data).encode()), 2).paths == ("a", "b")
    change(data)
    with pytest.raises(BitstreamError, match="META"):
        unpack_records(zlib.compress(json.dumps(data).encode()), 2)


def test_hostile_streams_are_named():
    for data in (b"", b"x", zlib.compress(bytes(1 << 25)), zlib.compress(b"[" * 100000), zlib.compress(b"{}") + b"x"):
        with pytest.raises(BitstreamError):
            unpack_records(data, 2)
    bomb = lzma.compress(bytes((1 << 28) + 1), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=[{"id": lzma.FILTER_LZMA2}])
    for data in (b"", b"x", bomb, lzma.compress(b"\xff" * 40), lzma.compress(b"")):
        with pytest.raises(BitstreamError):
            unpack_photographs(data, 2)
    for data in (b"", b"\1\0\0\0\0\0", b"\0\0\0\0\1\0\5\0\0\0abc"):
        with pytest.raises(BitstreamError):
            FileMasks(data, 2)
    masks = FileMasks(b"\1\0\0\0\1\0\3\0\0\0abc", 2)
    with pytest.raises(BitstreamError):
        masks.mask(0)


def test_random_changes_are_found_or_harmless(tmp_path: Path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 2, (30, 40), dtype=np.uint8) * 255).save(tmp_path / "m.png")
    (tmp_path / "transforms.json").write_text("{}")
    records = read_records(write_capture(tmp_path / "in", camera_model="OPENCV", k1=-0.1))
    assert records is not None
    whole = {
        "META": (pack_records(records), lambda data: unpack_records(data, 4)),
        "MASK": (pack_masks([tmp_path / "m.png"] * 4, [(30, 40)] * 4), lambda data: FileMasks(data, 4).mask(1)),
        "PHOT": (pack_photographs([PhotographData(bytes(range(200)))] * 4), lambda data: unpack_photographs(data, 4)),
    }
    for data, unpack in whole.values():
        for _ in range(300):
            changed = bytearray(data[: int(random.integers(1, len(data) + 1))])
            for at in random.integers(0, len(changed), int(random.integers(0, 4))):
                changed[at] = random.integers(256)
            try:
                unpack(bytes(changed))
            except BitstreamError:
                continue


def test_names_that_leave_the_folder_are_not_used():
    assert safe_path("./images//a.jpg") == "images/a.jpg"
    assert not any(map(safe_path, ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a\\b.jpg", "", "a/CON.jpg", "a\0b", "."]))
    views = ["a", "b"]
    for paths in (("../a.png", "b.png"), ("x/a.jpg", "x/a.png"), ("a.png", "A.jpg"), ("a.png", "a.png/b.png"),
                  ("transforms.json/a.png", "b.png"), ("depths/a.npy/x.png", "b.png")):  # fmt: skip
        assert [view.image for view in dataset_layout(views, CaptureRecords(paths), "png").views] == [
            "images/a.png",
            "images/b.png",
        ]
    mine = dataset_layout(views, CaptureRecords(("x/a.JPG", "x/b.tif"), masks=("m.png", "m.png")), "original", [1, 2])
    assert [view.image for view in mine.views] == ["x/a.JPG", "x/b.png"]
    assert len({view.mask for view in mine.views}) == 2  # one name for two masks
    shared = dataset_layout(views, CaptureRecords(("x/a.JPG", "x/b.tif"), masks=("m.gif", "m.gif")), "original", [1, 1])
    assert {view.mask for view in shared.views} == {"m.gif.png"}


def test_a_capture_outside_its_folder_comes_back_below(weights: Path, tmp_path: Path, monkeypatch):
    folder = write_capture(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    os.rename(folder / "transforms.json", tmp_path / "elsewhere" / "transforms.json")
    text = (tmp_path / "elsewhere" / "transforms.json").read_text()
    text = text.replace('"rgb/', '"../in/rgb/').replace('"masks/', '"../in/masks/')
    (tmp_path / "elsewhere" / "transforms.json").write_text(text)
    path = coded(tmp_path / "elsewhere", weights, tmp_path / "a.lmvic", monkeypatch)
    back = decoded(path, weights, tmp_path / "out", monkeypatch)
    assert {frame["file_path"] for frame in back["frames"]} == {
        f"images/{name}.png" for name in ("left/0001", "left/0002", "right/0001", "right/0002")
    }
    assert back["train_filenames"] == ["images/left/0001.png", "images/right/0001.png"]
    assert all((tmp_path / "out" / frame["mask_path"]).is_file() for frame in back["frames"] if "mask_path" in frame)
