"""nerfstudio's own lines on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lmvic_ns._util.libraries import libraries_are_quiet


@contextmanager
def nerfstudio_quiet() -> Iterator[None]:
    """Within, nerfstudio's own lines are left out, if those of libraries are (`lmvic_ns._util.libraries`)."""
    import rich
    from nerfstudio.utils.rich_utils import CONSOLE

    consoles = (CONSOLE, rich.get_console())  # its progress bars take the latter
    before = [console.quiet for console in consoles]
    for console in consoles:
        console.quiet = console.quiet or libraries_are_quiet()
    try:
        yield
    finally:
        for console, quiet in zip(consoles, before, strict=True):
            console.quiet = quiet
