"""`lmvic eval downstream`: sizes that peers are taken at, what is trained on, one run end to end, and one that goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from export_scenes import edit, entries, lmvic, refused, write_room, write_weights
from PIL import Image

pytest.importorskip("nerfstudio")

from lmvic_ns.demo.scene import DemoSceneConfig
from lmvic_ns.errors import SceneError
from lmvic_ns.evaluation import downstream
from lmvic_ns.evaluation.cache import ResultCache
from lmvic_ns.evaluation.downstream import (
    Coder,
    PreparedScene,
    choose_settings,
    nearest_setting,
    prepare_scene,
    span_of,
    write_training_dataset,
)
from lmvic_ns.evaluation.registry import make_codec

ROOM = DemoSceneConfig(views=6, width=96, height=64, supersample=1, seed_points=300)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("six") / "six", ROOM)


@pytest.fixture(scope="module")
def prepared(six: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedScene:
    return prepare_scene(six, tmp_path_factory.mktemp("prepared") / "training", every=3)


@pytest.mark.parametrize("span", [(1, 95), (51, 0)])
def test_the_nearest_size_is_found_with_few_encodings(span: tuple[int, int]) -> None:
    asked: set[int] = set()

    def size_of(setting: int) -> int:
        asked.add(setting)
        return round(1_000_000 * 1.07 ** (setting if span[0] < span[1] else -setting))

    for setting in (span[0], 20, 37, span[1]):
        asked.clear()
        exact = size_of(setting)
        assert nearest_setting(size_of, span, exact) == setting
        assert nearest_setting(size_of, span, round(exact * 1.02)) == setting
        assert len(asked) <= 12
    smallest, largest = size_of(span[0]), size_of(span[1])
    assert nearest_setting(size_of, span, smallest // 10) == span[0]
    assert nearest_setting(size_of, span, largest * 10) == span[1]


def test_peers_are_taken_at_the_sizes_of_ours(prepared: PreparedScene, tmp_path: Path) -> None:
    anchor, jpeg = make_codec("lmvic", weights=str(write_weights(tmp_path / "w.safetensors"))), make_codec("jpeg")
    coder = Coder(prepared, ResultCache(None), tmp_path / "files")
    chosen = choose_settings(coder, anchor, [20, 60], [jpeg])
    ours = [size for codec, _, size in chosen if codec is anchor]
    theirs = {setting: size for codec, setting, size in chosen if codec is jpeg}
    sizes = {setting: coder.size(jpeg, setting) for setting in range(1, 96)}
    for size in ours:
        best = min(abs(np.log(other / size)) for other in sizes.values())
        assert min(abs(np.log(other / size)) for other in theirs.values()) <= best + 0.02  # JPEG's sizes are not quite monotone
    with pytest.raises(downstream.LmvicError, match="jxl has no settings"):
        span_of(make_codec("jxl"))


def test_held_out_views_stay_as_captured(prepared: PreparedScene, six: Path, tmp_path: Path) -> None:
    assert prepared.held_out == (0, 3) and prepared.trained == (1, 2, 4, 5)
    assert prepared.training.scene.has_depth
    grey = [np.full_like(picture, 40 + i) for i, picture in enumerate(prepared.training.pictures)]
    folder = write_training_dataset(prepared, grey, tmp_path / "scene")
    meta = json.loads((folder / "transforms.json").read_text())
    assert len(meta["train_filenames"]) == 4 and meta["val_filenames"] == meta["test_filenames"]
    for i, name in enumerate(meta["train_filenames"]):
        assert (np.asarray(Image.open(folder / name)) == 40 + i).all()
    captured = sorted((six / "images").iterdir())
    for name, view in zip(meta["val_filenames"], prepared.held_out, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / name)), np.asarray(Image.open(captured[view]).convert("RGB")))
    assert (folder / meta["ply_file_path"]).is_file()


def test_stereo_for_ours_does_not_see_held_out_views(six: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(six, tmp_path / "in"))
    edit(folder, lambda meta: [frame.pop("depth_file_path", None) for frame in meta["frames"]])
    first = prepare_scene(folder, tmp_path / "first", every=3).training.scene
    for name in (0, 3):
        path = sorted((folder / "images").iterdir())[name]
        Image.new("RGB", (96, 64)).save(path)
    second = prepare_scene(folder, tmp_path / "second", every=3).training.scene
    assert first.has_depth and all((first.inverse_depth(i) == second.inverse_depth(i)).all() for i in range(4))
    with pytest.raises(SceneError, match="two are the least"):
        prepare_scene(write_room(tmp_path / "two", DemoSceneConfig(views=2, width=64, height=48)), tmp_path / "third")


def arguments(six: Path, weights: Path, output: Path) -> list[object]:
    options = ["--every", 3, "--steps", 4, "--repeats", 2, "--qualities", "10,50", "--codecs", "jpeg", "--weights", weights]
    return ["eval", "downstream", six, *options, "--output", output]


@pytest.mark.slow
def test_a_run_and_the_same_again(six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    weights, output = write_weights(tmp_path / "small.safetensors"), tmp_path / "out"
    train, calls = downstream.train_and_compare, []

    def third_fails(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(downstream, "train_and_compare", third_fails)
    assert lmvic(monkeypatch, *arguments(six, weights, output)) == 130
    assert entries(output) == {"runs"}
    monkeypatch.setattr(downstream, "train_and_compare", lambda *args: calls.append(args) or train(*args))
    calls.clear()
    assert lmvic(monkeypatch, *arguments(six, weights, output)) == 0
    text = capsys.readouterr().out
    assert text.count("done before") == 2 and "| lmvic 50 |" in text
    with (output / "downstream.csv").open() as file:
        assert next(file).startswith("# ") and "downstream" in str(file.name)
        rows = list(csv.DictReader(file))
    assert f"({len(rows)} of {len(rows)})" in text
    assert len(calls) == len(rows) - 2  # the two that were finished before the interruption
    assert [(row["codec"], row["seed"]) for row in rows[:4]] == [
        ("originals", "0"),
        ("originals", "1"),
        ("lmvic", "0"),
        ("lmvic", "0"),
    ]
    assert all(5 < float(row["psnr_db"]) < 60 and 0 < float(row["ssim"]) < 1 for row in rows)
    ours = [row for row in rows if row["codec"] == "lmvic"]
    assert int(ours[0]["bytes"]) < int(ours[1]["bytes"]) < int(rows[0]["bytes"])
    assert entries(output) == {"runs", ".lmvic-results.json", "downstream.csv", "downstream.md", "downstream-six.png"}
    calls.clear()
    before = (output / "downstream.csv").read_bytes()
    assert lmvic(monkeypatch, *arguments(six, weights, output)) == 0
    assert not calls and (output / "downstream.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], "--steps must be at least 1"),
        (["--every", 1], "--every must be at least 2"),
        (["--qualities", "12,x"], "--qualities takes whole numbers"),
        (["--anchor", "jpeg"], "--anchor takes a codec of ours"),
        (["--codecs", "jxl"], "has no settings to search"),
    ],
)
def test_mistakes_are_one_line(options: list, words: str, six: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    status = lmvic(monkeypatch, "eval", "downstream", six, *options, "--output", tmp_path / "out")
    assert words in refused(capsys, status)
    assert not (tmp_path / "out").exists()
