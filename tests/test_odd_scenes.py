"""Scenes as public bug reports have them: what cannot be meant is refused by name, what is left out is said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_scenes import edit, lmvic
from PIL import Image, ImageCms

from lmvic_ns._util.pictures import check_eight_bits
from lmvic_ns.bitstream.poses import round_to_stored
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.weights import load_weights
from lmvic_ns.errors import SceneError, WeightsError
from lmvic_ns.evaluation.image_set import load_image_set
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points, write_ply
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.training.photos import load_photos
from lmvic_ns.workflows.sources import dataset_inputs, dataset_scene, say_not_kept


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cx", 1e9, "principal point of .* lies far from its picture"),
        ("cy", -1e9, "principal point of .* lies far from its picture"),
        ("fl_x", 1e14, "are not those of a picture"),
        ("fl_y", 1e-9, "are not those of a picture"),
        ("k5", 0.1, "k5 of .* is not supported"),
        ("p3", 0.1, "p3 of .* is not supported"),
        ("s1", 0.1, "s1 of .* is not supported"),
        ("fl_x", 10**400, "must be a finite number, not 1000"),
        ("ply_file_path", "a\0b", "ply_file_path .* holds what no path can hold"),
    ],
)
def test_numbers_that_no_camera_has_are_refused(copy: Path, key: str, value: Any, words: str) -> None:
    edit(copy, lambda meta: meta.update({key: value}))
    with pytest.raises(SceneError, match=words) as caught:
        MultiViewScene.from_dataset(copy)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_paths_that_no_system_takes_are_one_line(copy, weights, name, tmp_path, monkeypatch, capsys) -> None:
    edit(copy, lambda meta: meta["frames"][1].update(file_path=name))
    assert lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights) == 2
    error = capsys.readouterr().err.strip()
    assert "holds what no path can hold" in error and "\n" not in error


def test_a_pose_that_mirrors_or_is_nowhere_is_refused(copy: Path) -> None:
    original = (copy / "transforms.json").read_text()
    edit(copy, lambda meta: meta["frames"][1].update(transform_matrix=np.diag([1, 1, -1, 1]).tolist()))
    with pytest.raises(SceneError, match="not a rotation: it mirrors"):
        MultiViewScene.from_dataset(copy)
    (copy / "transforms.json").write_text(original)
    edit(copy, lambda meta: meta["frames"][1]["transform_matrix"][0].__setitem__(3, 1e300))
    with pytest.raises(SceneError, match="too far from everything"):
        MultiViewScene.from_dataset(copy)


def test_one_lost_camera_does_not_move_the_others() -> None:
    """Single precision around the cameras' middle: with one at 1e8 the others would come back off by units."""
    motions = np.tile(np.eye(4), (9, 1, 1))
    motions[:, :3, 3] = np.random.default_rng(0).normal(size=(9, 3))
    _, centres, origin = round_to_stored(motions)
    assert np.abs(centres + origin + motions[:, :3, 3]).max() < 1e-6
    far = motions.copy()
    far[4, 0, 3] = 1e8
    with pytest.raises(SceneError, match=r"view 4: its camera is 1e\+08 units from the others"):
        round_to_stored(far)
    tripod = np.tile(np.eye(4), (9, 1, 1))
    tripod[4, 0, 3] = 1e8
    round_to_stored(tripod)  # nothing to move: all others are in one place
    round_to_stored(far[4:5])
    utm = motions + 0.0
    utm[:, :3, 3] += [5e5, 4e6, 100]
    round_to_stored(utm)


def test_depth_without_any_depth_is_refused(copy: Path) -> None:
    for path in (copy / "depths").iterdir():
        np.save(path, np.zeros_like(np.load(path)))
    with pytest.raises(SceneError, match="know no depth"):
        dataset_scene(copy, "auto")
    np.save(next(iter((copy / "depths").iterdir())), np.zeros((0, 0)))
    with pytest.raises(SceneError, match="is 0 x 0"):
        [scene.inverse_depth(i) for scene in [MultiViewScene.from_dataset(copy)] for i in range(len(scene))]


def test_what_is_not_kept_is_said(copy: Path) -> None:
    assert dataset_inputs(copy).not_kept() == []
    first, second, third = sorted((copy / "images").iterdir())[:3]
    picture = Image.open(first).convert("RGB")
    picture.save(first, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    picture.save(second, icc_profile=bytes(16) + b"GRAY" + bytes(108))
    picture.save(third, save_all=True, append_images=[picture.rotate(90)])
    (copy / "labels.json").write_text("{}")
    edit(copy, lambda meta: meta["frames"][0].update(semantics_path="labels.json", mask_path="mask.gif"))
    mask = Image.new("L", picture.size)
    mask.save(copy / "mask.gif", save_all=True, append_images=[mask.point(lambda _: 255)])
    lines = dataset_inputs(copy).not_kept()
    assert lines == [
        f"1 pictures with a colour profile of grey or CMYK values: they are coded as RGB without it ({second.name})",
        f"1 pictures that are animations or have several pages: the first is coded ({third.name})",
        "1 masks that are animations or have several pages: the first is kept (mask.gif)",
        "1 files that the key semantics_path names",
    ]
    with pytest.raises(SceneError, match="not kept would be: 1 pictures"):
        say_not_kept("scene", lines, strict=True)


@pytest.mark.parametrize("bits", [(), ("a",), ((8, 8),), None])
def test_a_damaged_bit_depth_is_one_line(bits: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGB", (8, 8)).save(path)
    with Image.open(path) as picture:
        picture.tag_v2 = {258: bits}  # type: ignore[attr-defined]
        with pytest.raises(SceneError, match=r"a\.tif: does not say how many bits"):
            check_eight_bits(path, picture)


def test_a_header_of_spaces_costs_no_time(tmp_path: Path) -> None:
    """A pattern that tries every way to split them took forever."""
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 8 8" + b" " * 5000 + b"255\n" + bytes(192))
    with Image.open(path) as picture:
        check_eight_bits(path, picture)
    path.write_bytes(b"P6 8 " + b" " * 5000 + b"x")
    picture = Image.new("RGB", (8, 8))
    picture.format = "PPM"
    check_eight_bits(path, picture)


@pytest.mark.parametrize("touched", [False, True])
def test_a_scene_that_changes_while_it_is_coded_is_told(copy, weights, touched, tmp_path, monkeypatch, capsys) -> None:
    """Half of the views of one capture and half of another looked like a whole file."""
    picture = sorted((copy / "images").iterdir())[0]
    content = picture.read_bytes()
    original = MultiViewModel.compress

    def compress(self, *arguments, **options):
        if touched:
            picture.write_bytes(content)  # the same bytes at another time are no change
        else:
            Image.open(io.BytesIO(content)).rotate(180).save(picture)
        return original(self, *arguments, **options)

    monkeypatch.setattr(MultiViewModel, "compress", compress)
    status = lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights, "--effort", "fast")
    error = capsys.readouterr().err
    assert (status, "were changed while they were coded" in error) == ((0, False) if touched else (2, True))
    assert (tmp_path / "new.lmvic").exists() == touched


def test_points_that_no_view_shows_are_counted(copy, weights, tmp_path, monkeypatch, capsys) -> None:
    positions, colours = read_points(copy / "sparse_pc.ply")
    positions[:3], count = 1e5, len(positions)
    write_ply(copy / "sparse_pc.ply", SparsePoints(positions.astype(np.float32), colours))
    arguments = ("encode", copy, tmp_path / "new.lmvic", "--weights", weights, "--effort", "fast", "--overwrite")
    assert lmvic(monkeypatch, *arguments) == 0
    assert f"3 of {count} sparse points are left out" in capsys.readouterr().out
    assert lmvic(monkeypatch, *arguments, "--points", "exact") == 0
    assert "left out" not in capsys.readouterr().out


def test_bad_pictures_are_found_before_anything_is_coded(copy, weights, tmp_path, monkeypatch, capsys) -> None:
    """The last picture's turn comes after hours."""
    last = sorted((copy / "images").iterdir())[-1]
    content = last.read_bytes()
    for change, words in (
        (lambda: last.write_bytes(content[:-200]), "cannot be read as an image"),
        (lambda: Image.new("RGBA", Image.open(io.BytesIO(content)).size, (1, 2, 3, 4)).save(last), "transparent pixels"),
    ):
        change()
        assert lmvic(monkeypatch, "encode", copy, tmp_path / "new.lmvic", "--weights", weights) == 2
        assert words in (error := capsys.readouterr().err) and last.name in error
        assert not list(tmp_path.glob("new*"))


def test_folders_of_photographs_skip_what_macos_leaves_and_refuse_what_hides(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    assert len(load_photos(tmp_path)) == len(load_image_set(tmp_path).pictures) == 1
    Image.new("RGBA", (64, 48), (9, 9, 9, 0)).save(tmp_path / "b.png")
    for load in (load_photos, lambda folder: load_image_set(folder).pictures):
        with pytest.raises(SceneError, match=r"b\.png: has transparent pixels"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ablation", "{}", "--qualities", "high"), "levels of 0..63"),
        (("ablation", "{}", "--qualities", "8,99"), "levels of 0..63"),
        (("alignment", "{}", "--limit", "0"), "--limit must be at least 1"),
        (("rd", "{}", "--limit", "-1"), "--limit must be at least 1"),
        (("rd", "{}", "--codecs", "lmvic@nope", "--cache", "none"), "nothing could be measured: lmvic@nope: no weights"),
        (("speed", "--devices", "tpu"), "no device 'tpu'"),
        (("speed", "--views", "0"), "--views must be at least 1"),
        (("speed", "--quality", "64"), "levels of 0..63"),
    ],
)
def test_evaluation_refuses_options_in_one_line(room, arguments, words, tmp_path, monkeypatch, capsys) -> None:
    given = [str(room) if argument == "{}" else argument for argument in arguments]
    assert lmvic(monkeypatch, "eval", *given, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert words in error.splitlines()[-1] and not (tmp_path / "out").exists()


def repacked(source: Path, target: Path, change: Callable[[dict], Any]) -> Path:
    """A weights file that says something else about itself."""
    data = source.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    fields = json.loads(header["__metadata__"]["lmvic"])
    change(fields)
    header["__metadata__"]["lmvic"] = json.dumps(fields)
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return target


def with_config(key: str, value: Any) -> Callable[[dict], Any]:
    def change(fields: dict) -> None:
        config = json.loads(fields["config"])
        config["image"][key] = value
        fields["config"] = json.dumps(config)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fields: fields.update(name=[]), "is no text"),
        (lambda fields: fields.update(format={}), "is no text"),
        (lambda fields: fields.update(config="[]"), "expected settings by name"),
        (lambda fields: fields.update(config="{"), "its config makes no model"),
        (lambda fields: fields.pop("config"), "its config makes no model"),
        (with_config("features", "x"), "features cannot be 'x'"),
        (with_config("latent", 10**9), "latent cannot be '1000000000'"),
        (with_config("features", 4096), "do not fit their preset"),  # 6 GB of memory, if one tried
        (with_config("features", 0), "weights"),
        (with_config("symbol_context", 7), "symbol_context cannot be '7'"),
    ],
)
def test_damaged_weights_are_one_line(weights: Path, change: Callable, words: str, tmp_path: Path) -> None:
    load_weights(repacked(weights, tmp_path / "same.safetensors", lambda fields: None))
    with pytest.raises(WeightsError, match=words) as caught:
        load_weights(repacked(weights, tmp_path / "bad.safetensors", change))
    assert "bad.safetensors" in str(caught.value) and "\n" not in str(caught.value)
