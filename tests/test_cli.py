"""The dispatcher: lazy commands, groups, one-line errors."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from lmvic_ns._util.exit_status import run_cleanly
from lmvic_ns.cli import main as cli
from lmvic_ns.cli.decode import DecodeConfig
from lmvic_ns.cli.parsing import call, marked_bases, sectioned
from lmvic_ns.errors import SceneError


def greet(name: str, /, times: int = 1) -> int:
    """Say hello."""
    if name == "nobody":
        raise SceneError("nobody is there;\n  name someone")
    if name == "stop":
        raise KeyboardInterrupt
    print(f"hello {name} " * times)
    return 0


@dataclass
class Loudness:
    """A config."""

    level: int = 1
    """How loud."""


def shout(config: Loudness) -> int:
    """Shout."""
    print("A" * config.level)
    return 0


TABLE = {
    "shout": cli.Command("tests.test_cli:shout", "Shout."),
    "greet": cli.Command("tests.test_cli:greet", "Say hello."),
    "eval rd": cli.Command("no.such.module:main", "Never imported here."),
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, cli.Command]:
    commands = {name: cli.Command(c.target.replace("tests.test_cli", __name__), c.summary) for name, c in TABLE.items()}
    monkeypatch.setattr(cli.run, "__defaults__", (commands,))
    return commands


def run_entrypoint(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lmvic", *args])
    with pytest.raises(SystemExit) as stop:
        cli.entrypoint()
    return int(stop.value.code or 0)


def test_command_runs_and_others_stay_unimported(table, monkeypatch, capsys):
    assert run_entrypoint(monkeypatch, "greet", "fox", "--times", "2") == 0
    assert capsys.readouterr().out.strip() == "hello fox hello fox"


def test_fields_of_a_lone_config_are_the_options(table, monkeypatch, capsys):
    assert run_entrypoint(monkeypatch, "shout", "--level", "3") == 0
    assert capsys.readouterr().out == "AAA\n"


def test_help_lists_every_command_without_importing_any(table, monkeypatch, capsys):
    assert run_entrypoint(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert "Say hello." in text and "Never imported here." in text
    assert run_entrypoint(monkeypatch, "eval", "--help") == 0
    text = capsys.readouterr().out
    assert "eval rd" in text and "greet" not in text


def test_errors_are_one_line(table, monkeypatch, capsys):
    assert run_entrypoint(monkeypatch, "greet", "nobody") == 2
    assert capsys.readouterr().err == "lmvic: nobody is there; name someone\n"
    assert run_entrypoint(monkeypatch, "greet", "stop") == 130
    assert capsys.readouterr().err == "lmvic: interrupted\n"
    assert run_entrypoint(monkeypatch, "gret") == 2
    assert "did you mean `lmvic greet`?" in capsys.readouterr().err
    assert run_entrypoint(monkeypatch, "greet", "fox", "--times", "many") == 2
    assert run_entrypoint(monkeypatch) == 2


def test_every_registered_command_exists():
    for name, command in cli.COMMANDS.items():
        assert callable(command.load()), name
        assert command.summary.endswith(".") and "\n" not in command.summary, name


def test_help_is_light():
    """`lmvic --help` must not wait for torch."""
    code = "import sys; from lmvic_ns.cli import main; main.run(['--help']); sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


# --- how a program ends ------------------------------------------------------------------------------------------------


PRINT = "import sys; from lmvic_ns._util.exit_status import run_cleanly; sys.exit(run_cleanly('lmvic', lambda: {}))"


def ended(body: str, environment: dict[str, str] | None = None, tail: str = "") -> subprocess.CompletedProcess[str]:
    """A program of ours in a shell; `tail` says where its output goes."""
    command = f'"{sys.executable}" -c "{PRINT.format(body)}" {tail}'
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=variables)


def test_closed_pipe_ends_quietly():
    lines = "[print('line', i) for i in range(100000)] and 0"
    done = ended(lines, tail="| head -1")
    assert done.stdout == "line 0\n" and done.stderr == "" and done.returncode == 141
    console = "__import__('lmvic_ns.report.terminal').report.terminal.plain_console()"
    done = ended(f"[{console}.print('line') for i in range(30000)] and 0", tail="| head -c 1")
    assert done.stderr == "" and done.returncode == 141
    # a little text stays in the buffer until the very end
    assert ended("print(1) or 0", tail="| true").stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("flush", [True, False])
def test_full_stdout_is_said_in_a_line(flush):
    done = ended(f"print(1, flush={flush}) or 0", tail="> /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("lmvic: standard output") and done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


def test_stdout_that_is_not_utf8_gets_escapes():
    done = ended("print('caf\\xe9 \\u4e2d', chr(0xdc80)) or 0", {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout == "caf\\xe9 \\u4e2d \\udc80\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "lmvic: /x/y: the disk is full; make room or"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "lmvic: /x/y: Permission denied"),
        (MemoryError(), "lmvic: not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "lmvic: not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, line, capsys):
    def call() -> int:
        raise error

    assert run_cleanly("lmvic", call) == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_cleanly("lmvic", lambda: 1 // 0)


def test_a_quoted_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    home = str(tmp_path / "home")
    words = {"~/scene": f"{home}/scene", "~": home, "--report=~/r": f"--report={home}/r", "~other": "~other", "a~/b": "a~/b"}
    assert {word: cli.with_home(word) for word in words} == words
    (tmp_path / "~").mkdir()
    assert cli.with_home("~") == "~", "a folder of this name is itself"


@pytest.mark.parametrize("name", ["encode", "decode", "view", "train scenes", "eval rd"])
def test_help_shows_advanced_options_apart(name, monkeypatch, capsys):
    """All options of the command are there once, positional ones and required ones first, advanced ones last."""
    kind = next(iter(get_type_hints(cli.COMMANDS[name].load()).values()))
    assert run_entrypoint(monkeypatch, *name.split(), "--help") == 0
    text = capsys.readouterr().out
    basic, found, advanced = text.partition("advanced options")
    assert found and "required" not in advanced
    listed = Counter(re.findall(r"^\W (--[a-z0-9-]+)", text, re.M))
    marked = {f.name for bases in marked_bases(kind).values() for base in bases for f in fields(base)}
    assert marked
    for option in fields(kind):
        flag = "--" + option.name.replace("_", "-")
        if is_dataclass(option.type) or flag not in listed:  # a box of its own, or a positional argument
            assert option.name not in marked
            continue
        assert listed[flag] == 1
        assert re.search(rf"^\W {flag}\b", advanced if option.name in marked else basic, re.M), flag


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_says_what_a_value_is(name, monkeypatch, capsys):
    """Metavars are what the user knows (FILE, SCENE), not types of Python; no default is empty."""
    monkeypatch.setenv("COLUMNS", "120")
    assert run_entrypoint(monkeypatch, *name.split(), "--help") == 0
    text = capsys.readouterr().out
    assert name in text
    assert not re.findall(r"\{None\}|\bPATH\b|\bSTR\b|\(default: \)|Raises:", text)


@pytest.mark.parametrize("name", ["eval rd", "eval ablation", "eval downstream", "eval alignment", "encode", "prepare"])
def test_no_scene_is_a_mistake(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_entrypoint(monkeypatch, *name.split()) == 2
    said = capsys.readouterr().err
    assert "scene" in said.lower() and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_of_all_boxes_reach_the_command():
    seen = []

    def command(config: DecodeConfig) -> None:
        seen.append(config)

    command.__annotations__["config"] = DecodeConfig
    call(command, "lmvic decode", ["a.lmvic", "out", "--no-depth", "--format", "jpg", "--max-megapixels", "3", "--quiet"])
    assert seen == [
        DecodeConfig(file=Path("a.lmvic"), out=Path("out"), depth=False, format="jpg", max_megapixels=3.0, quiet=True)
    ]


def test_options_that_would_get_lost_are_refused():
    @dataclass
    class Mixed(DecodeConfig):
        more: int = 1

    with pytest.raises(TypeError, match="more"):
        sectioned(Mixed, marked_bases(Mixed))
