from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmvic_ns._util.metrics import psnr
from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.cache import ResultCache
from lmvic_ns.evaluation.image_set import ImageSet, load_image_set, our_order
from lmvic_ns.evaluation.peers import Encoded, MissingCodecError, NotApplicableError
from lmvic_ns.evaluation.rd import bd_table, compare, measure, orders_of, planned
from lmvic_ns.evaluation.registry import make_codec

SIZE = (176, 208)


def texture(shift: int) -> np.ndarray:
    """A window that slides over one picture, so that views resemble their neighbours."""
    rng = np.random.default_rng(5)
    wide = rng.normal(size=(SIZE[0], SIZE[1] + 200, 3))
    for axis in (0, 1):
        for _ in range(4):
            wide = (np.roll(wide, 1, axis) + wide + np.roll(wide, -1, axis)) / 3
    wide = (wide - wide.min()) / np.ptp(wide) * 255
    return wide[:, shift : shift + SIZE[1]].astype(np.uint8)


def write_scene(folder: Path, positions: list[float]) -> Path:
    """Views along a line, file names in an order of their own."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for number, x in enumerate(positions):
        Image.fromarray(texture(round(10 * x))).save(folder / "images" / f"{number}.png")
        pose = np.eye(4)
        pose[0, 3] = x
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()})
    intrinsics = {"fl_x": 200.0, "fl_y": 200.0, "cx": SIZE[1] / 2, "cy": SIZE[0] / 2, "w": SIZE[1], "h": SIZE[0]}
    (folder / "transforms.json").write_text(json.dumps({**intrinsics, "frames": frames}))
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> ImageSet:
    return load_image_set(write_scene(tmp_path / "line", [0.0, 3.0, 1.0, 2.0]))


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    (tmp_path / "shots").mkdir()
    for number in (10, 2):
        Image.fromarray(texture(number)).save(tmp_path / "shots" / f"{number}.png")
    Image.fromarray(texture(0)[:, :-7]).save(tmp_path / "shots" / "3.png")  # other size, odd width
    return load_image_set(tmp_path / "shots")


def test_folders_are_told_apart_and_sorted(scene: ImageSet, photos: ImageSet):
    assert (scene.kind, scene.name, len(scene)) == ("scene", "line", 4)
    assert (photos.kind, [f.stem for f in photos.files]) == ("photos", ["2", "3", "10"])
    assert scene.one_size
    assert not photos.one_size


def test_our_order_follows_the_cameras(scene: ImageSet):
    order = our_order(scene)
    x = [[0.0, 3.0, 1.0, 2.0][view] for view in order]
    assert sorted(order) == [0, 1, 2, 3]
    assert sum(abs(a - b) for a, b in zip(x[1:], x[:-1], strict=True)) <= 4.0  # by file name it would be 3 + 2 + 1


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl", "x265-intra"])
def test_still_codecs_give_rgb_back_at_its_size_and_count_all_bytes(name: str, photos: ImageSet, tmp_path: Path):
    codec = make_codec(name)
    try:
        codec.version()
    except MissingCodecError as error:
        pytest.skip(str(error))
    folder = tmp_path / "files"
    folder.mkdir()
    best = codec.settings[0] if name == "x265-intra" else codec.settings[-1]
    encoded = codec.encode(photos, range(len(photos)), best, folder)
    assert sum(encoded.view_bytes) == sum(path.stat().st_size for path in folder.iterdir())
    decoded = codec.decode(encoded, range(len(photos)))
    for original, picture in zip(photos.pictures, decoded, strict=True):
        assert picture.shape == original.shape
        # a colour matrix or range gone wrong costs far more; WebP's 4:2:0 is hard on coloured noise
        assert psnr(original, picture) > (28.0 if name == "webp" else 36.0)


@pytest.mark.parametrize("name", ["x265-ldp", "svtav1"])
def test_video_codecs_keep_views_apart_in_any_order(name: str, scene: ImageSet, tmp_path: Path):
    codec = make_codec(name)
    try:
        codec.version()
    except MissingCodecError as error:
        pytest.skip(str(error))
    for label, order in (("file", [0, 1, 2, 3]), ("line", [1, 3, 2, 0])):
        folder = tmp_path / f"in-{label}-order"
        folder.mkdir()
        encoded = codec.encode(scene, order, codec.settings[1], folder)
        assert sum(encoded.view_bytes) == sum(path.stat().st_size for path in folder.iterdir())
        assert max(encoded.view_bytes) == encoded.view_bytes[order[0]]  # the key frame
        for original, picture in zip(scene.pictures, codec.decode(encoded, order), strict=True):
            assert psnr(original, picture) > 30.0  # views in the wrong place have less than 20 dB


def test_video_codecs_refuse_what_is_no_video(photos: ImageSet, scene: ImageSet, tmp_path: Path):
    with pytest.raises(NotApplicableError, match="predicts between views"):
        make_codec("x265-ldp").encode(photos, range(3), 32, tmp_path)
    scene.pictures[1] = scene.pictures[1][:-8]
    with pytest.raises(NotApplicableError, match="one size"):
        make_codec("x265-ldp").encode(scene, range(4), 32, tmp_path)


def test_bytes_that_are_not_accounted_for_are_an_error(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(ValueError, match="5 bytes were written, 4"):
        Encoded((tmp_path / "a",), (4,))


def test_missing_codecs_are_reported_and_the_rest_is_measured(scene: ImageSet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    done: list[str] = []
    codecs = [make_codec("vvenc"), make_codec("jpeg")]
    comparison = compare([scene], codecs, settings={"jpeg": [30, 60], "vvenc": [32]}, on_point=done.append)
    assert "vvencapp is not on PATH" in comparison.missing["vvenc"]
    assert [(p.codec, p.setting) for p in comparison.points] == [("jpeg", 30.0), ("jpeg", 60.0)]
    assert len(done) == planned([scene], codecs, {"jpeg": [30, 60], "vvenc": [32]}) == 4


def test_a_second_run_comes_from_the_cache_until_pictures_or_settings_change(scene: ImageSet, tmp_path: Path):
    cache = ResultCache(tmp_path / "cache")
    codec, calls = make_codec("jpeg"), []
    encode = codec.encode
    codec.encode = lambda *arguments: calls.append(arguments[2]) or encode(*arguments)  # type: ignore[method-assign]
    first = compare([scene], [codec], settings={"jpeg": [40]}, cache=cache).points
    assert compare([scene], [codec], settings={"jpeg": [40]}, cache=cache).points == first
    assert calls == [40.0]
    compare([scene], [codec], settings={"jpeg": [50]}, cache=cache)
    other = load_image_set(scene.folder)
    other.pictures[0] = other.pictures[0][::-1]
    compare([other], [codec], settings={"jpeg": [40]}, cache=cache)
    assert calls == [40.0, 50.0, 40.0]


def test_our_codec_may_name_its_weights(photos: ImageSet, tmp_path: Path):
    cache, settings = ResultCache(tmp_path / "cache"), {"lmvic-intra": [20], "lmvic-intra@tiny": [20]}
    plain = compare([photos], [make_codec("lmvic-intra", weights="tiny")], settings=settings, cache=cache).points
    named = make_codec("lmvic-intra@tiny", weights="nowhere")
    named.encode = lambda *arguments: pytest.fail("the same weights were measured twice")  # type: ignore[method-assign]
    again = compare([photos], [named], settings=settings, cache=cache).points
    assert [point.codec for point in (*plain, *again)] == ["lmvic-intra", "lmvic-intra@tiny"]
    assert again[0].bytes == plain[0].bytes
    missing = compare([photos], [make_codec("lmvic-intra@nowhere")], settings=settings, cache=cache).missing
    assert "nowhere" in missing["lmvic-intra@nowhere"]
    for wrong, complaint in (("jpeg@tiny", "a codec of ours"), ("lmvic@", "a codec of ours"), ("h264@tiny", "no codec 'h264'")):
        with pytest.raises(LmvicError, match=complaint):
            make_codec(wrong)


def test_a_damaged_cache_entry_is_measured_again(tmp_path: Path):
    cache = ResultCache(tmp_path)
    assert cache.get({"a": 1}, lambda: {"x": 1}) == ({"x": 1}, False)
    next(tmp_path.iterdir()).write_text("{")
    assert cache.get({"a": 1}, lambda: {"x": 2}) == ({"x": 2}, False)
    assert cache.get({"a": 1}, lambda: {"x": 3}) == ({"x": 2}, True)


def test_points_sum_up_their_views(scene: ImageSet):
    codec = make_codec("jpeg")
    views, encode_s, decode_s = measure(scene, codec, range(4), 50)
    point = compare([scene], [codec], settings={"jpeg": [50]}).points[0]
    assert point.bytes == sum(v.bytes for v in views)
    assert point.bits_per_pixel == pytest.approx(8 * point.bytes / (4 * SIZE[0] * SIZE[1]))
    assert point.psnr == pytest.approx(np.mean([v.psnr for v in views]))
    assert min(encode_s, decode_s) > 0
    assert orders_of(codec, scene) == ("",)
    assert orders_of(make_codec("x265-ldp"), scene) == ("file", "ours")


def test_bd_table_is_zero_for_the_anchor(photos: ImageSet):
    comparison = compare([photos], [make_codec("jpeg"), make_codec("webp")])
    entries = {e.codec: e for e in bd_table(comparison.points, "jpeg")}
    assert entries["jpeg"].psnr == pytest.approx(0.0, abs=1e-9)
    assert entries["webp"].psnr is not None


def test_command_writes_tables_and_curves(photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from lmvic_ns.cli.main import run

    out = tmp_path / "out"
    arguments = ["eval", "rd", str(photos.folder), "--codecs", "jpeg,webp,x265-ldp", "--anchor", "jpeg"]
    arguments += ["--output", str(out), "--cache", str(tmp_path / "cache"), "--no-html"]
    monkeypatch.setattr("sys.argv", ["lmvic", *arguments])
    assert run(arguments) == 0
    assert "x265-ldp predicts between views" in capsys.readouterr().out
    with (out / "rd.csv").open() as file:
        assert file.readline() == f"# lmvic {' '.join(arguments)}\n"
        rows = list(csv.DictReader(file))
    assert {row["codec"] for row in rows} == {"jpeg", "webp"}
    assert all(float(row["bpp"]) > 0 for row in rows)
    assert (out / "rd-shots.png").stat().st_size > 1000
    assert "| webp |" in (out / "rd.md").read_text()


@pytest.mark.data
@pytest.mark.slow
def test_x265_on_fountain_agrees_with_running_it_by_hand(data_root: Path):
    images = load_image_set(data_root / "scenes" / "fountain")
    for name, qp, bpp, decibel in (
        ("x265-ldp", 37, 0.085, 30.76),
        ("x265-ldp", 42, 0.039, 28.33),
        ("x265-intra", 32, 0.398, 35.26),
    ):
        views, _, _ = measure(images, make_codec(name), range(len(images)), qp)
        assert 8 * sum(v.bytes for v in views) / images.pixels == pytest.approx(bpp, abs=0.0015)
        assert np.mean([v.psnr for v in views]) == pytest.approx(decibel, abs=0.02)


def test_vvenc_gets_even_sizes_and_gives_back_odd_ones(tmp_path, monkeypatch):
    from lmvic_ns.evaluation import video

    pictures = [np.random.default_rng(i).integers(0, 256, (33, 47, 3)).astype(np.uint8) for i in range(2)]
    images: Any = type("Images", (), {"kind": "scene", "one_size": True, "pictures": pictures, "name": "odd"})()
    sizes: list[str] = []

    def vvencapp(command, **_):
        sizes.append(command[command.index("-s") + 1])
        assert Path(command[command.index("-i") + 1]).stat().st_size == 2 * 34 * 48 * 3  # 4:2:0 of two bytes a sample
        Path(command[-1]).write_bytes(bytes(11))

    monkeypatch.setattr(video.VVenC, "_program", lambda self: "vvencapp")
    monkeypatch.setattr(video.subprocess, "run", vvencapp)
    monkeypatch.setattr(video, "decode_frames", lambda path: [video.padded_to_even(pictures[i]) for i in (1, 0)])
    codec = video.VVenC()
    encoded = codec.encode(images, [1, 0], 32, tmp_path)
    assert sizes == ["48x34"] and encoded.view_bytes == (6, 5)
    for found, picture in zip(codec.decode(encoded, [1, 0]), pictures, strict=True):
        np.testing.assert_array_equal(found, picture)
