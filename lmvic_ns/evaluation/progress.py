"""A progress bar for measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` steps; gives the function that counts one step and says what it was."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from lmvic_ns.report.terminal import plain_column, plain_console

    columns = (plain_column("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=plain_console()) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda text: bar.update(task, advance=1, description=text)
