"""The dispatcher: lazy commands, groups, one-line errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from lmvic_ns import cli
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
    code = "import sys; from lmvic_ns import cli; cli.run(['--help']); sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
