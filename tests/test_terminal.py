"""What a terminal gets: our lines, those of libraries only on request, and no empty folder after a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmvic_ns._util.exit_status import make_folder, run_cleanly
from lmvic_ns._util.output import check_file
from lmvic_ns.cli.main import run, usage
from lmvic_ns.errors import LmvicError

NOISY = """
import logging, sys, warnings
from lmvic_ns.cli.main import Command, run

def noisy():
    warnings.simplefilter("always", DeprecationWarning)  # as libraries do
    warnings.warn("an old way", DeprecationWarning)
    warnings.warn("cannot cache the function")
    logging.getLogger("elsewhere").warning("cache miss")
    logging.getLogger("elsewhere").error("the disk burns")
    print("done")

sys.modules["noisy_module"] = sys.modules["__main__"]
sys.exit(run(sys.argv[1:], {"noisy": Command("noisy_module:noisy", "make noise")}))
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_libraries_are_heard_only_on_request(verbose: bool):
    command = [sys.executable, "-c", NOISY, "noisy", *(["--verbose"] if verbose else [])]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout == "done\n"
    for line in ("an old way", "cannot cache the function", "cache miss"):
        assert (line in ended.stderr) is verbose
    assert "the disk burns" in ended.stderr, "errors are always shown"


def test_help_names_the_option():
    assert "--verbose" in usage()


def test_a_failing_command_leaves_no_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "transforms.json").write_text('{"frames": []}')
    there = tmp_path / "there"
    there.mkdir()
    for place in ("new/deep", "there"):
        args = ["encode", str(scene), str(tmp_path / place / "a.lmvic"), "--weights", "nope"]
        assert run_cleanly("lmvic", lambda args=args: run(args)) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert there.is_dir(), "a folder that was there stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene", "there"]


def test_what_was_made_early_goes_only_while_it_is_empty(tmp_path: Path):
    def write_one_of_two() -> int:
        check_file(tmp_path / "a/b/one", ours=lambda _: True, kind="ours")
        make_folder(tmp_path / "c/d")
        (tmp_path / "a/b/one").write_text("1")
        raise LmvicError("no more")

    assert run_cleanly("lmvic", write_one_of_two) == 2
    assert (tmp_path / "a/b/one").is_file() and not (tmp_path / "c").exists()

    def a_bug() -> int:
        make_folder(tmp_path / "e")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_cleanly("lmvic", a_bug)
    assert not (tmp_path / "e").exists()
