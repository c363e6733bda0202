"""The core alone: everything of a file works where no extra is installed, and other commands say what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmvic_ns.cli.main import EXTRAS

PACKAGE = Path(__file__).resolve().parent.parent
PROGRAM = """
import json
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from lmvic_ns.cli.main import entrypoint
for words in json.loads(sys.argv.pop()):
    sys.argv = ["lmvic", *words]
    try:
        entrypoint()
    except SystemExit as end:
        if end.code:
            raise
"""


def bare(*args: object, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`lmvic ARGS` in a process in which no extra can be imported, nor what it is to be `without`."""
    return bare_commands([args], without)


def bare_commands(commands: list[tuple[object, ...]], without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The same for one command after another, until one fails."""
    blocked = {name for names in EXTRAS.values() for name in names} | {*without}
    program = PROGRAM.replace("BLOCKED", repr(blocked))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, json.dumps([[str(word) for word in args] for args in commands])]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_files_need_no_extra(room: Path, weights: Path, tmp_path: Path) -> None:
    path, options = tmp_path / "a.lmvic", ("--weights", weights, "--device", "cpu")
    commands = [
        ("encode", room, path, *options, "--depth", "files", "--report", tmp_path / "report"),
        ("info", path),
        ("verify", path),
        ("decode", path, tmp_path / "out", *options),
        ("estimate", tmp_path / "out", *options, "--effort", "fast", "--search-views", 1),
        ("--version",),
    ]
    done = bare_commands(commands)
    assert done.returncode == 0 and "file format" in done.stdout.splitlines()[-1], done.stderr
    assert (tmp_path / "out" / "transforms.json").is_file() and (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("export", "--load-config", "config.yml", "--output-dir", "x"), "nerfstudio"),
        (("view", "FILE"), "viewer"),
        (("train", "photos", "--data", "x", "--output", "y"), "train"),
    ],
)
def test_other_commands_say_what_to_install(command: tuple[str, ...], extra: str, file: Path, tmp_path: Path) -> None:
    places = {"FILE": file, **{word: tmp_path / word for word in ("x", "y", "config.yml")}}
    done = bare(*(places.get(word, word) for word in command))
    assert done.returncode == 2 and f"lmvic-ns[{extra}]" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_address_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\nimport lmvic_ns\n"
        "try: lmvic_ns.open('http://127.0.0.1:9/scene.lmvic')\nexcept lmvic_ns.BitstreamError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "lmvic-ns[http]" in found.stdout and len(found.stdout.splitlines()) == 1


def test_loading_weights_imports_no_compiler() -> None:
    """Arithmetic on torch's meta device would import torch._dynamo: two seconds and 180 MB at each start."""
    program = "import sys; from lmvic_ns.codec import load_codec; load_codec(); print('torch._dynamo' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_without_torch_a_line_says_so_and_the_version_is_told(tmp_path: Path) -> None:
    done = bare("--version", without=("torch",))
    assert done.returncode == 0 and "weights tiny " in done.stdout and not done.stderr
    done = bare("encode", tmp_path, tmp_path / "a.lmvic", without=("torch",))
    assert done.returncode == 2 and done.stderr.startswith("lmvic: lmvic encode needs torch, which is not installed")
    assert len(done.stderr.strip().splitlines()) == 1
