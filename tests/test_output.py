"""No writer touches its inputs or a file that this program did not write, whatever the command, link or folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from export_scenes import entries, lmvic, write_room

from lmvic_ns._util.output import FolderOutput, check_apart, files_below, read_list
from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.workflows.encoding import encode_scene
from lmvic_ns.workflows.options import CodingOptions


@pytest.fixture(scope="module")
def originals(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a file of it, and a note."""
    folder = tmp_path_factory.mktemp("originals")
    scene = write_room(folder / "scene")
    encode_scene(MultiViewScene.from_dataset(scene), folder / "scene.lmvic", CodingOptions(weights=str(weights)))
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def work(originals: Path, weights: Path, tmp_path: Path) -> Path:
    """A copy of it, with the weights."""
    work = tmp_path / "work"
    shutil.copytree(originals, work)
    shutil.copy(weights, work / "small.safetensors")
    return work


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder) if not (folder / name).is_symlink()}


REFUSED = {
    ("decode", "scene.lmvic", "."): "holds scene.lmvic",
    ("decode", "scene.lmvic", "scene"): "did not write|not a dataset that lmvic wrote",
    ("decode", "scene.lmvic", "scene", "--views", "001"): "not a dataset that lmvic wrote",
    ("decode", "scene.lmvic", "scene.lmvic"): "is a file",
    ("decode", "scene.lmvic", "notes.txt"): "is a file",
    ("decode", "scene.lmvic", "link-to-scene"): "not a dataset that lmvic wrote",
    ("decode", "scene.lmvic", "circle"): "circle",
    ("decode", "scene.lmvic", "nowhere"): "not there",
    ("decode", "scene.lmvic", "a" * 300): "too long",
    ("encode", "scene", "a" * 300): "too long",
    ("encode", "a" * 300, "new.lmvic"): "too long",
    ("encode", "scene", "scene/transforms.json"): "lies inside scene",
    ("encode", "scene", "scene/images/001.png"): "lies inside scene",
    ("encode", "scene", "link-to-scene/new.lmvic"): "lies inside scene",
    ("encode", "scene/transforms.json", "scene/new.lmvic"): "lies inside scene",
    ("encode", "scene", "notes.txt"): "is not an .lmvic file",
    ("encode", "scene", "link-to-notes"): "is not an .lmvic file",
    ("encode", "scene", "small.safetensors"): "is what this command reads",
    ("encode", "scene", "new.lmvic", "--report", "scene"): "lies inside scene",
    ("encode", "scene", "new.lmvic", "--report", "reports"): "is not a report that lmvic wrote",
    ("prepare", "scene", "--output", "."): "is what this command reads",
    ("prepare", "scene", "--output", "prepared"): "not a dataset that lmvic wrote",
    ("prepare", "scene", "other/scene", "--output", "new"): "under the name of",
    ("prepare", "link-to-scene", "--output", "."): "is what this command reads",
}


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words)[:60])
def test_what_is_there_stays_there(words, work, monkeypatch, capsys):
    """Every command that could replace, with --overwrite: refused in a line, and not a byte changed."""
    for folder in ("prepared/scene", "reports", "other"):
        (work / folder).mkdir(parents=True)
    shutil.copytree(work / "scene", work / "other" / "scene")
    (work / "prepared" / "scene" / "thesis.txt").write_text("mine")
    (work / "reports" / "report.html").write_text("mine")
    for link, target in (("scene", "scene"), ("notes", "notes.txt")):
        (work / f"link-to-{link}").symlink_to(target)
    (work / "circle").symlink_to("circle")
    (work / "nowhere").symlink_to("gone")
    before = contents(work)
    monkeypatch.chdir(work)
    options = () if words[0] == "prepare" else ("--weights", "small.safetensors")
    assert lmvic(monkeypatch, *words, "--overwrite", *options) == 2
    error = capsys.readouterr().err.strip()
    assert any(part in error for part in REFUSED[words].split("|")) and "\n" not in error, error
    assert contents(work) == before


def test_a_file_in_the_way_is_not_replaced_without_overwrite(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    assert lmvic(monkeypatch, "prepare", "scene", "--output", ".") == 2  # not "already prepared"
    assert lmvic(monkeypatch, "encode", "scene", "scene.lmvic", "--weights", "small.safetensors") == 2
    command = ("encode", "scene", "new.lmvic", "--weights", "small.safetensors", "--report", "report")
    assert lmvic(monkeypatch, *command) == 0
    os.remove("new.lmvic")
    assert lmvic(monkeypatch, *command) == 2 and "report.html: exists already" in capsys.readouterr().err
    assert lmvic(monkeypatch, *command, "--overwrite") == 0
    assert entries(work / "report") == {"report.html", "report.json"}


def test_folders_are_filled_in_place(work, tmp_path, monkeypatch):
    """`.`, a link to an empty folder, and an empty folder below one that nobody may write to."""
    decode = ("decode", work / "scene.lmvic")
    options = ("--weights", work / "small.safetensors", "--no-depth")
    expected = {"images", "transforms.json", "sparse_pc.ply", ".lmvic-files.json"}
    here, real, link = tmp_path / "here", tmp_path / "real", tmp_path / "link"
    here.mkdir()
    real.mkdir()
    link.symlink_to(real)
    kept = (here.stat().st_ino, real.stat().st_ino)
    monkeypatch.chdir(here)
    assert lmvic(monkeypatch, *decode, ".", *options) == 0 and entries(here) == expected
    assert lmvic(monkeypatch, *decode, link, *options) == 0 and entries(real) == expected and link.is_symlink()
    assert (here.stat().st_ino, real.stat().st_ino) == kept  # a mount would have stayed one
    assert lmvic(monkeypatch, *decode, link, *options, "--overwrite") == 0 and link.is_symlink()
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    made: list[str] = []
    mkdtemp = __import__("tempfile").mkdtemp
    monkeypatch.setattr("tempfile.mkdtemp", lambda **how: (made.append(str(how["dir"])), mkdtemp(**how))[1])
    assert lmvic(monkeypatch, *decode, inner, *options) == 0
    assert made == [str(inner)] and entries(inner) == expected  # nothing was made beside it: its parent may be read-only


def test_a_link_as_file_stays_a_link(work, monkeypatch):
    monkeypatch.chdir(work)
    Path("elsewhere").mkdir()
    shutil.move("scene.lmvic", "elsewhere/scene.lmvic")
    Path("scene.lmvic").symlink_to("elsewhere/scene.lmvic")
    Path("elsewhere/scene.lmvic").write_bytes(b"")
    command = ("encode", "scene", "scene.lmvic", "--weights", "small.safetensors", "--no-verify", "--overwrite")
    assert lmvic(monkeypatch, *command) == 0
    assert Path("scene.lmvic").is_symlink() and Path("elsewhere/scene.lmvic").stat().st_size > 1000
    assert entries(Path("elsewhere")) == {"scene.lmvic"}


# --- the folder itself ------------------------------------------------------------------------------------------------


def fill(folder: Path, files: dict[str, str], **how) -> None:
    with FolderOutput(folder, **how) as output:
        for name, text in files.items():
            path = output.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def test_a_failure_at_any_move_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    fill(folder, {"images/a": "1", "images/b": "2", "transforms.json": "3"})
    (folder / "note").touch()
    before, replace = contents(folder), os.replace
    for count in range(8):
        calls = iter(range(100))

        def fails(source, target, calls=calls, count=count):
            if next(calls) == count:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", fails)
        with pytest.raises(KeyboardInterrupt):
            fill(folder, {"images/a": "4", "depths/c": "5", "transforms.json": "6"}, overwrite=True)
        monkeypatch.setattr(os, "replace", replace)
        assert contents(folder) == before, count
    fill(folder, {"images/a": "4", "depths/c": "5", "transforms.json": "6"}, overwrite=True)
    assert set(files_below(folder)) == {"images/a", "depths/c", "transforms.json", "note", ".lmvic-files.json"}


def test_what_a_killed_run_left_is_cleared_away_and_what_runs_is_not(tmp_path):
    folder = tmp_path / "out"
    left = folder / ".lmvic-partial-killed"
    left.mkdir(parents=True)
    (left / "a.png").touch()
    running = FolderOutput(folder)
    assert not left.exists()
    fill(folder, {"transforms.json": "1"})
    assert running.staging.is_dir()
    running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert entries(folder) == {"transforms.json", ".lmvic-files.json"}


def test_transforms_come_last(tmp_path, monkeypatch):
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b))[1])
    fill(tmp_path / "out", {"transforms.json": "1", "zebra": "2"})
    assert order == [".lmvic-files.json", "zebra", "transforms.json"]


def test_files_of_others_are_never_written_over(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"images/a": "1", "transforms.json": "2"})
    (folder / "images" / "b").write_text("mine")
    with pytest.raises(SceneError, match="did not write this file"):
        fill(folder, {"images/b": "3", "transforms.json": "4"}, overwrite=True)
    assert (folder / "images" / "b").read_text() == "mine" and (folder / "images" / "a").read_text() == "1"
    shutil.rmtree(folder / "images")
    (tmp_path / "away").mkdir()
    (folder / "images").symlink_to(tmp_path / "away")
    with pytest.raises(SceneError, match="in the way"):
        fill(folder, {"images/a": "3"}, overwrite=True)
    (tmp_path / "away" / "a").write_text("1")  # the very file, but not in the folder
    with pytest.raises(SceneError, match="changed since"):
        fill(folder, {"images/a": "3"}, overwrite=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": ["a"]}', '{"files": {"../note": "1"}}', '{"files": {"/etc/x": "1"}}'])
def test_a_damaged_list_removes_nothing(text, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").touch()
    (folder / ".lmvic-files.json").write_text(text)
    with pytest.raises(LmvicError, match="is damaged"):
        fill(folder, {"b": ""}, overwrite=True)
    assert entries(folder) == {"a", ".lmvic-files.json"}


def test_a_list_alone_is_no_obstacle_and_names_what_was_written(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"a": "1"})
    (folder / "a").unlink()
    fill(folder, {"b": "1"})
    assert set(read_list(folder) or {}) == {"b"}
    assert json.loads((folder / ".lmvic-files.json").read_text())["files"].keys() == {"b"}


def test_hard_links_and_parents_are_inputs_too(tmp_path):
    (tmp_path / "scene").mkdir()
    file = tmp_path / "scene" / "a.png"
    file.touch()
    os.link(file, tmp_path / "b.png")
    for output in (tmp_path / "b.png", tmp_path, tmp_path / "scene" / ".." / "scene" / "a.png"):
        with pytest.raises(SceneError):
            check_apart(output, [file])
    check_apart(tmp_path / "scene-2", [file, tmp_path / "scene"])
