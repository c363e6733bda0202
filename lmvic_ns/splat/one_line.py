"""Our errors on nerfstudio's command line: one line and status 2, as `lmvic` prints them, instead of a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from lmvic_ns._util.exit_status import exit_message
from lmvic_ns.errors import LmvicError


def install() -> bool:
    """Make `ns-train`, `ns-eval`, ... say a `LmvicError` in a line; every other error, and every other program, as before.

    Returns:
        Whether the running program is one of nerfstudio's commands.
    """
    program = Path(sys.argv[0]).name if sys.argv else ""
    if not program.startswith("ns-"):
        return False
    previous = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = exit_message(error) if isinstance(error, LmvicError) else None
        if message is None:
            previous(kind, error, trace)
            return
        print(f"{program}: {message.line}", file=sys.stderr, flush=True)
        # raised in an exception hook it sets the exit status
        raise SystemExit(message.status)

    sys.excepthook = say
    return True
