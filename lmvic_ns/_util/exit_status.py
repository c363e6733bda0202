"""Error messages and exit statuses of commands: one line on stderr, and a traceback only for bugs.

Every program of this package (`lmvic`, our parts of `ns-*`) takes its last words from here, so that they all end alike.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lmvic_ns.errors import LmvicError

MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit statuses: bad input or a machine that cannot do it; Ctrl-C; the reader of our output went away (128 + SIGPIPE)."""


@dataclass(frozen=True)
class ExitMessage:
    """The error message (may be empty) and the exit status of a program."""

    line: str
    status: int


def exit_message(error: BaseException) -> ExitMessage | None:
    """Message and exit status for an error; None for a bug, which should show its traceback."""
    if isinstance(error, LmvicError):
        return ExitMessage(" ".join(str(error).split()), MISTAKE)
    if isinstance(error, KeyboardInterrupt):
        return ExitMessage("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return ExitMessage("", CLOSED_PIPE)
    if _is_out_of_memory(error):
        return ExitMessage("not enough memory; take smaller pictures (--downscale) or fewer --workers", MISTAKE)
    if isinstance(error, OSError):
        return ExitMessage(" ".join(refusal(error).split()), MISTAKE)
    return None


def refusal(error: OSError) -> str:
    """The error message for an error of the operating system."""
    reason = error.strerror or str(error)
    if error.filename is None:
        # files that we write name themselves: what is left is mostly standard output
        return f"standard output, or a file without a name, failed: {reason}"
    if is_disk_full(error):
        return f"{error.filename}: the disk is full; make room or choose another place"
    return f"{error.filename}: {reason}"


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room; numpy says so in words ("4096 requested and 0 written") instead of by a number."""
    return error.errno == errno.ENOSPC or (error.errno is None and "requested and" in str(error))


_made: list[Path] = []


def make_folder(folder: Path) -> None:
    """Make a folder with its parents early; what of them is still empty when the program ends is removed again.

    Raises:
        OSError: the system refuses.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _made.extend(missing)


def remove_empty_folders() -> None:
    """Remove the folders of `make_folder` that nothing came into."""
    for folder in sorted(set(_made), key=lambda path: -len(path.parts)):
        with suppress(OSError):
            folder.rmdir()
    _made.clear()


def run_cleanly(program: str, call: Callable[[], int]) -> int:
    """The exit status of `call`, with everything that it printed really written, and no empty folder left behind.

    Args:
        program: begins the line on stderr.
        call: the program; may raise, also SystemExit.

    Raises:
        Exception: what `exit_message` takes for a bug.
    """
    # Pillow warns of damage that it reads past, such as in EXIF, which is kept byte for byte: what matters is an error of ours
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        _take_any_text(stream)
    received: list[int] = []
    try:
        with _stopped_by_signals(received):
            status = call()
        _flush(sys.stdout)
    except SystemExit as stop:  # tyro's, after help or a usage error
        status = _status_of(stop)
        try:
            _flush(sys.stdout)
        except OSError as error:
            status = _end(program, error)
    except BaseException as error:
        if exit_message(error) is None:
            raise
        status = _end(program, error)
    finally:
        remove_empty_folders()
    return 128 + received[0] if received and status == INTERRUPTED else status


@contextmanager
def _stopped_by_signals(received: list[int]) -> Iterator[None]:
    """SIGTERM and SIGHUP end a program as Ctrl-C does: what is half-written is removed, what can be gone on with is kept.

    Args:
        received: gets the signal's number.
    """

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    taken = []
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # below nohup the signal is ignored, and stays so; elsewhere than in the main thread nothing changes
        if number is not None and signal.getsignal(number) is signal.SIG_DFL and _in_main_thread():
            signal.signal(number, stop)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(program: str, error: BaseException) -> int:
    message = exit_message(error)
    assert message is not None
    try:
        _flush(sys.stdout)
    except OSError:
        _discard_stdout()  # else Python complains about it once more when it ends
    if message.line and sys.stderr is not None:  # print would take standard output in place of a closed one
        with suppress(OSError):
            print(f"{program}: {message.line}", file=sys.stderr, flush=True)
    return message.status


def _status_of(stop: SystemExit) -> int:
    if isinstance(stop.code, int) or stop.code is None:
        return stop.code or 0
    with suppress(OSError):
        print(stop.code, file=sys.stderr)
    return 1


def _take_any_text(stream: TextIO | None) -> None:
    """Names of files and views may hold what a terminal cannot show: it is shown as an escape instead of an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        stream.flush()


def _discard_stdout() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, numpy's or torch's (whose CPU allocator raises a RuntimeError; torch is not imported for this)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
