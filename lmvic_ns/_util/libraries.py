"""Hide warnings and notes of libraries while a command runs, unless --verbose is given."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[bool] = ContextVar("libraries_quiet", default=False)


def libraries_are_quiet() -> bool:
    """Whether a library's notes are to be left out; where they are no warnings, whoever calls the library sees to it."""
    return _quiet.get()


@contextmanager
def libraries_quiet(quiet: bool = True) -> Iterator[None]:
    """Within, no warning is shown, whichever filters libraries set for themselves, and of their logs only errors."""
    if not quiet:
        yield
        return
    token = _quiet.set(True)
    last = logging.lastResort  # what is logged where nobody has set logging up
    level = last.level if last is not None else logging.WARNING
    if last is not None:
        last.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        if last is not None:
            last.setLevel(level)
        _quiet.reset(token)
