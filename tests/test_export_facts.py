"""What the commands say of a file holds: taken-over views, targets, sizes, the tree that `view` shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from export_scenes import ROOM, entries, lmvic

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.records import EncodedView
from lmvic_ns.errors import LmvicError
from lmvic_ns.report.results import EncodedFile, psnr_8bit, remarkable_views, summary
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import independent_views
from lmvic_ns.workflows.encoding import encode_scene, finish, verify_file
from lmvic_ns.workflows.options import CodingOptions
from lmvic_ns.workflows.search import begun_level, hold_target

FAST = CodingOptions(effort="fast")


def strict_json(file: Path) -> Any:
    """As every other program reads JSON: NaN is not in it."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(file.read_text(), parse_constant=refuse)


# --- resumed runs ------------------------------------------------------------------------------------------------------


def test_taken_over_views_are_measured_and_said(room, weights, tmp_path, monkeypatch, capsys):
    path, add = tmp_path / "room.lmvic", Writer.add_unit

    def stop_at_the_third(self, *args):
        if len(self.done) == 2:
            raise KeyboardInterrupt
        add(self, *args)

    command = ("encode", room, path, "--weights", weights, "--effort", "fast", "--report", tmp_path / "report")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add_unit", stop_at_the_third)
        assert lmvic(monkeypatch, *command) == 130
    capsys.readouterr()
    assert lmvic(monkeypatch, *command, "--resume") == 0
    text = capsys.readouterr().out
    assert "checked: 2 views decode as the encoder saw them" in text and "2 taken over from the interrupted run" in text
    assert "every view" not in text
    data = strict_json(tmp_path / "report" / "report.json")
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    whole = encode_scene(scene, tmp_path / "whole.lmvic", FAST, codec)
    assert data["psnr"] == pytest.approx(whole.psnr, abs=1e-3)
    assert f"mean PSNR {whole.psnr:.2f} dB" in text


def test_the_codec_says_that_it_did_not_see_a_view(room, weights, tmp_path):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    with Reader(encoded.path) as reader:
        cut = sorted(block.offset for block in reader._units.values())[2] + 5  # two views, and a torn one
    data = encoded.path.read_bytes()[:cut]
    (tmp_path / "again.lmvic.partial").write_bytes(data)
    options = CodingOptions(resume=True, verify=False, effort="fast")
    seen: list[EncodedView] = []
    codec.encode(
        scene,
        tmp_path / "again.lmvic",
        tree=encoded.tree,
        options=replace(options.encode_options(32), resume=True, settings=options.settings()),
        on_view=seen.append,
    )
    taken = [view.index for view in seen if view.psnr is None]
    assert len(taken) == 2
    (tmp_path / "third.lmvic.partial").write_bytes(data)
    resumed = encode_scene(scene, tmp_path / "third.lmvic", options, codec)
    assert resumed.taken_over == set(taken)
    assert [view.psnr for view in resumed.views] == pytest.approx([view.psnr for view in encoded.views], abs=1e-3)


@pytest.mark.parametrize("part", ["picture", "depth", "encoder"])
def test_no_number_is_no_agreement(part, room, weights, tmp_path, monkeypatch):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    decode = MultiViewCodec.decode

    def broken(self, *args, **kwargs):
        for view in decode(self, *args, **kwargs):
            if view.index == 1 and part == "picture":
                view.image[0, 3, 4] = float("nan")
            if view.index == 1 and part == "depth":
                assert view.inverse_depth is not None
                view.inverse_depth[0, 0] = float("inf")
            yield view

    if part == "encoder":
        encoded = replace(encoded, views=[replace(view, psnr=float("nan")) for view in encoded.views])
    monkeypatch.setattr(MultiViewCodec, "decode", broken)
    with pytest.raises(LmvicError, match="do not rely on this file"):
        verify_file(encoded, scene, codec)
    nothing = torch.full((3, 8, 8), float("nan"))
    with pytest.raises(LmvicError, match="not finite"):
        psnr_8bit(nothing, nothing)


# --- views that came out badly -----------------------------------------------------------------------------------------


def test_the_encoder_says_which_views_are_stored(room, weights, tmp_path):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    with Reader(encoded.path) as reader:
        assert [view.stored for view in encoded.views] == [reader.unit(v.index).image[0] & 0x0F == 2 for v in encoded.views]


def test_views_that_came_out_badly_are_named(room, weights, tmp_path, capsys):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    psnr = [40.0, 41.0, 31.0, 99.0]  # the last one is exact: it says nothing of what the others should have
    views = [replace(view, psnr=p, stored=p == 99.0) for view, p in zip(encoded.views, psnr, strict=True)]
    finish(replace(encoded, views=views), scene, codec, CodingOptions(verify=False), report=tmp_path / "report")
    lines = capsys.readouterr().out.splitlines()
    said = strict_json(tmp_path / "report" / "report.json")["remarks"]
    assert said == remarkable_views(views) and len(said) == 2 and set(said) <= set(lines)
    assert said[0].startswith("1 of 4 views stored") and views[3].name in said[0]
    assert said[1].startswith("1 of 4 views 6 dB") and views[2].name in said[1]
    many = [EncodedView(i, f"v{i}", -1, 0, 0, 99.0, True) for i in range(7)]
    assert [line.endswith(" and 2 more") for line in remarkable_views(many)] == [True]


# --- targets -----------------------------------------------------------------------------------------------------------


def test_a_target_rate_is_held_by_the_whole_file(room, weights, tmp_path, monkeypatch):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    at_20 = encode_scene(scene, tmp_path / "20.lmvic", CodingOptions(quality=20, effort="fast"), codec)
    for views in (0, 2):
        path, target = tmp_path / f"{views}.lmvic", at_20.bits_per_pixel * 0.999
        options = ("--weights", weights, "--effort", "fast", "--no-verify", "--search-views", views, "--target-bpp", target)
        assert lmvic(monkeypatch, "encode", room, path, *options) == 0
        pixels = ROOM.views * ROOM.width * ROOM.height
        points = at_20.points_bytes
        assert 0.7 * target < (path.stat().st_size - points) * 8 / pixels <= target


@pytest.mark.parametrize(
    ("target", "words"),
    [(("--target-psnr", 120), "the best, has about"), (("--target-bpp", 1e-4), "the smallest, takes about")],
)
def test_targets_out_of_reach_are_refused_with_what_can_be_had(target, words, room, weights, tmp_path, monkeypatch, capsys):
    path = tmp_path / "room.lmvic"
    assert lmvic(monkeypatch, "encode", room, path, "--weights", weights, "--effort", "fast", "--search-views", 1, *target) == 2
    error = capsys.readouterr().err
    assert "cannot be reached" in error and words in error and error.count("\n") == 1
    assert entries(tmp_path) == set()


def pretend(tmp_path: Path, rates: dict[int, float], psnr: dict[int, float]) -> Any:
    """An encoder whose files have these rates and PSNR, by level."""

    def encode_at(level: int) -> EncodedFile:
        path = tmp_path / "x.lmvic"
        path.write_bytes(bytes(round(rates[level] * 1000)))
        views = [EncodedView(0, "a", -1, 0, 0, psnr[level])]
        return EncodedFile(path, views, independent_views(1), level, 0, 8000, [])

    return encode_at


def test_levels_move_on_until_the_whole_file_meets_the_target(tmp_path):
    rates, psnr = {level: 0.1 + 0.1 * level for level in range(64)}, {level: 30.0 + 0.1 * level for level in range(64)}
    encode_at = pretend(tmp_path, rates, psnr)
    held = hold_target(encode_at, 10, CodingOptions(target_bpp=1.0))
    assert held.quality == 9 and not held.missed and held.bits_per_pixel <= 1.0
    held = hold_target(encode_at, 10, CodingOptions(target_psnr=31.15))
    assert held.quality == 12 and not held.missed
    assert hold_target(encode_at, 10, CodingOptions()).quality == 10
    (tmp_path / "kept.lmvic").touch()
    (tmp_path / "x.lmvic").unlink()
    (tmp_path / "x.lmvic").symlink_to(tmp_path / "kept.lmvic")  # a link as output stays one
    assert hold_target(encode_at, 10, CodingOptions(target_bpp=1.0)).path.is_symlink()
    end = hold_target(encode_at, 63, CodingOptions(target_psnr=36.5))
    assert end.quality == 63 and "36.300 dB of 36.5 dB" in end.missed


def test_a_missed_target_is_exit_status_1(room, weights, tmp_path, capsys):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    options = CodingOptions(verify=False)
    assert finish(encoded, scene, codec, options) == 0
    assert finish(replace(encoded, missed="36 dB of 37 dB"), scene, codec, options) == 1
    assert "the target is missed: 36 dB of 37 dB" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_at_the_level_that_it_had_moved_to(room, weights, tmp_path):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    path = encode_scene(scene, tmp_path / "room.lmvic", CodingOptions(quality=19, effort="fast"), codec).path
    path.rename(tmp_path / "x.lmvic.partial")
    for level, options, expected in (
        (20, CodingOptions(target_bpp=1, resume=True), 19),
        (19, CodingOptions(target_bpp=1, resume=True), 19),
        (18, CodingOptions(target_bpp=1, resume=True), 18),
        (18, CodingOptions(target_psnr=30, resume=True), 19),
        (40, CodingOptions(target_bpp=1, resume=True), 40),
        (20, CodingOptions(target_bpp=1), 19),  # the same command goes on by itself
    ):
        assert begun_level(tmp_path / "x.lmvic", level, options) == expected


# --- one size ----------------------------------------------------------------------------------------------------------


def test_a_file_has_one_size_wherever_it_is_told(room, weights, tmp_path, monkeypatch, capsys):
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    encoded = encode_scene(scene, tmp_path / "room.lmvic", FAST, codec)
    size, pixels = encoded.path.stat().st_size, ROOM.views * ROOM.width * ROOM.height
    with_points = f"{size * 8 / pixels:.4f}"
    without = f"{(size - encoded.points_bytes) * 8 / pixels:.4f}"
    assert encoded.points_bytes > 0
    line = summary(encoded)
    assert f"{with_points} bits a pixel ({without} without the points)" in line
    finish(encoded, scene, codec, CodingOptions(), report=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert f">{with_points}</td>" in page and f">{without}</td>" in page
    capsys.readouterr()
    assert lmvic(monkeypatch, "info", encoded.path) == 0
    text = capsys.readouterr().out
    assert re.search(rf"file +│ +{size:,} │ +100\.0% │ +{with_points}", text), text
    assert re.search(rf"file without the points .*{without}", text)
    data = strict_json(tmp_path / "report" / "report.json")
    assert data["bytes"]["total"] == size
