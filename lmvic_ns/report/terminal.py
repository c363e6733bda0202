"""Terminal output of the commands: lines on stdout, a progress bar and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lmvic_ns.bitstream.partial import partial_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


class ProgressObserver(Protocol):
    """Receives the progress of a command that runs for another program, as the scenes of a batch do."""

    def step(self, task: str, done: int, total: int) -> None:
        """So many steps of a task are done."""

    def note(self, line: str) -> None:
        """A line that people need to see, however many scenes there are."""


_observer: ContextVar[ProgressObserver | None] = ContextVar("observer", default=None)


@contextmanager
def observed_by(observer: ProgressObserver) -> Iterator[None]:
    """Within, `observer` receives what `progress` and the notes of `say` show, quiet or not."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Within, `say` and `progress` show nothing (if `silent`); errors still go to stderr."""
    token = _quiet.set(silent or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether `say` and `progress` show nothing."""
    return _quiet.get()


def say(text: str, *, note: bool = False) -> None:
    """One line, at once (a person may be waiting); a `note` is also shown where each scene of many has one line."""
    if note and (observer := _observer.get()) is not None:
        observer.note(text)
    if not _quiet.get():
        print(text, flush=True)


def print_json(data: Any) -> None:
    """One JSON object on stdout, for scripts; what is no finite number becomes null."""
    print(json.dumps(finite(data), indent=1, ensure_ascii=False, allow_nan=False), flush=True)


def finite(data: Any) -> Any:
    """The same with None in place of infinities and what is no number."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    return [finite(value) for value in data] if isinstance(data, list | tuple) else data


def duration_text(seconds: float) -> str:
    """Time for people: 8.4 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
            raise BrokenPipeError  # rich would end the program with a status of its own; `exit_status` has one for all

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
    with Progress(*columns, console=console, transient=True, disable=_quiet.get() or not console.is_terminal) as bar:
        number = bar.add_task(task, total=total, remark="")
        observer, done = _observer.get(), 0

        def step(remark: str) -> None:
            nonlocal done
            done += 1
            bar.update(number, advance=1, remark=remark)
            if observer is not None:
                observer.step(task, done, total)

        yield step


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
