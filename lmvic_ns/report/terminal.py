"""How the commands talk: lines on stdout, a progress bar on stderr, mistakes as one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmvic_ns.bitstream.partial import partial_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn


def say(text: str) -> None:
    """One line, at once (a person may be waiting)."""
    print(text, flush=True)


def size_text(count: float) -> str:
    """Bytes for people: 834 bytes, 12.3 kB, 4.56 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


def plain_console(*, stderr: bool = False) -> Console:
    """The one way to print tables: names of views, files and folders are shown as they are, never taken for markup."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the program with a status of its own; `endings` has one for all

    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def plain_column(template: str) -> TextColumn:
    """Text in a progress bar, shown as it is; `template` is the program's, its fields (`{task.description}`) anybody's."""
    from rich.progress import TextColumn

    return TextColumn(template, markup=False)


@contextmanager
def progress(task: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar of `total` steps on stderr; the function given counts one step and shows a remark."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    words, remarks = plain_column("{task.description}"), plain_column("{task.fields[remark]}")
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), remarks)
    console = plain_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        number = bar.add_task(task, total=total, remark="")
        yield lambda remark: bar.update(number, advance=1, remark=remark)


@dataclass
class Outcome:
    """Exit status of a command that may be interrupted."""

    status: int = 0


@contextmanager
def interruptible(file: Path) -> Iterator[Outcome]:
    """Ctrl-C becomes exit status 130 and a line that says what is left of `file`."""
    outcome = Outcome()
    try:
        yield outcome
    except KeyboardInterrupt:
        partial = partial_path(file)
        kept = f"{partial} is kept: the same command goes on with it" if partial.exists() else "nothing is left behind"
        print(f"lmvic: interrupted; {kept}", file=sys.stderr)
        outcome.status = 130
