"""Loops over numpy arrays that numba compiles where it is installed, and that run as they are where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CompiledLoop:
    """A function that is compiled at its first call, so that importing the package stays light.

    `loop.python` is the very same function, undecorated: slow and equally correct; it is also what runs without numba.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.python = function
        self._fast: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """Run the loop, compiled where that is possible."""
        if self._fast is None:
            self._fast = _compile(self.python)
        return self._fast(*arguments)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        import numba
    except ImportError:
        return function
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that the cache may be written to
        return numba.njit(nogil=True)(function)
