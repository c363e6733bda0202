"""One scene of a batch in a process of its own, on this machine or on a worker of a cluster.

The process reads its task as a line of JSON and keeps reading: when the other end goes away, however that ends, the process
ends too, as after Ctrl-C, and keeps its `.partial` file. It answers in lines of JSON: steps, notes, the result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from lmvic_ns import __version__
from lmvic_ns._util.exit_status import INTERRUPTED, MISTAKE, exit_message
from lmvic_ns._util.libraries import libraries_quiet
from lmvic_ns.cli.encoding import EncodeConfig, encode_one

_GRACE = 10.0
"""Seconds that an interrupted scene has to come to its end."""
_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from lmvic_ns.cli.scene_process import main; main()"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Answer = dict[str, Any]
"""`status`, and of a scene that was made `results` and `seconds`; of others `error`, a line, and perhaps `trace` or `busy`."""


class BatchObserver(Protocol):
    """Receives the progress and the results of scenes that are coded."""

    def step(self, number: int, share: float) -> None:
        """So much of a scene is done, 0..1."""

    def answer(self, number: int, answer: Answer) -> None:
        """A scene came to its end."""


def failed(error: Exception) -> Answer:
    """The answer for a scene whose process could not even be started."""
    message = exit_message(error)
    return {"status": MISTAKE, "error": message.line if message is not None else f"{type(error).__name__}: {error}"}


def scene_task(config: EncodeConfig, scene: Path, file: Path) -> dict[str, Any]:
    """All that a process needs to know, as plain values."""
    options = asdict(config) | {"paths": [], "report": None if config.report is None else str(config.report)}
    named = [scene, file, *([config.report] if config.report else []), *([Path(config.weights)] if _is_path(config) else [])]
    folder = None if all(path.is_absolute() for path in named) else os.getcwd()
    return {"version": __version__, "options": options, "scene": str(scene), "file": str(file), "folder": folder}


def _is_path(config: EncodeConfig) -> bool:
    return config.weights.endswith(".safetensors")


def threads_per_process(scenes: int) -> int:
    """Threads of a scene when so many are coded at the same time: its share of the cores, and not more than OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // scenes, int(bound) if bound.isdecimal() else cores))


class SceneProcess:
    """A scene that is being coded.

    Args:
        task: see `scene_task`.
        threads: that the networks may use.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, task: Mapping[str, Any], threads: int) -> None:
        count = str(max(1, threads))
        paths = [os.path.abspath(path) for path in sys.path]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the answer is there
        self._lock = threading.Lock()
        self._stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=task["folder"],
            env={**os.environ, **dict.fromkeys(_THREADS, count)},
            start_new_session=True,  # Ctrl-C in a terminal reaches us alone, and we end it
        )
        assert self._process.stdin is not None
        with suppress(OSError):  # it ended already: its answer says why
            self._process.stdin.write(json.dumps(dict(task)).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, on_step: Callable[[float], None] | None = None) -> Answer:
        """Wait for the end.

        Args:
            on_step: gets the share of the views that are coded, 0..1.
        """
        assert self._process.stdout is not None
        found: Answer | None = None
        notes: list[str] = []
        for line in self._process.stdout:
            with suppress(ValueError):
                event = json.loads(line)
                if "share" in event and on_step is not None:
                    on_step(float(event["share"]))
                notes += [event["note"]] if "note" in event else []
                found = event if "status" in event else found
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()
        self.close()
        if found is None:
            found = {"status": MISTAKE, "error": _last_words(status, said)}
            if self._stopped:
                found = {"status": INTERRUPTED, "error": "interrupted"}
        return {**found, "notes": list(dict.fromkeys(notes))}

    def stop(self) -> None:
        """End it as Ctrl-C does: what can be gone on with is kept. `answer` returns soon."""
        self._stopped = True
        self._close_input()

    def kill(self) -> None:
        """End it at once."""
        self._stopped = True
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Nothing is left of it."""
        self._close_input()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _close_input(self) -> None:
        with self._lock, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def _last_words(status: int, said: str) -> str:
    """A line on a process that ended without an answer."""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = "; perhaps the memory was not enough: take fewer at the same time, or --downscale" if status == -9 else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {status}" + (f": {said.splitlines()[-1]}" if said else "")


class _EventWriter:
    """The lines of JSON that the process writes."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def write(self, event: Mapping[str, Any]) -> None:
        with suppress(OSError):  # nobody listens any more: the end comes by the other way
            self._file.write(json.dumps(dict(event)) + "\n")
            self._file.flush()

    def step(self, task: str, done: int, total: int) -> None:
        """Coding takes most of the time; a search, stereo and the check stay in a tenth before and after."""
        if task.startswith("encoding"):
            self.write({"share": 0.1 + 0.7 * done / max(total, 1)})
        elif task == "checking":
            self.write({"share": 0.8 + 0.2 * done / max(total, 1)})

    def note(self, line: str) -> None:
        self.write({"note": line})


def main() -> None:
    """What the process runs; its input is the task."""
    answers = _EventWriter(os.dup(1))
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # below nohup it would be ignored
    task = json.loads(sys.stdin.buffer.readline() or b"null")
    if task is None:
        sys.exit(INTERRUPTED)
    over = threading.Event()
    threading.Thread(target=_watch, args=(over,), daemon=True).start()
    found: Answer
    try:
        found = _encode(task, answers)
    except BaseException as error:
        message = exit_message(error)
        if message is None:
            line = f"{type(error).__name__}: {' '.join(str(error).split())} (this is a bug: please report it)"
            found = {"status": MISTAKE, "error": line, "trace": traceback.format_exc()}
        else:
            found = {"status": message.status, "error": message.line, "busy": type(error).__name__ == "BusyError"}
    over.set()
    answers.write(found)
    sys.exit(0)


def _encode(task: Mapping[str, Any], answers: _EventWriter) -> Answer:
    from lmvic_ns._util.exit_status import remove_empty_folders
    from lmvic_ns.report.terminal import observed_by, quiet

    options = dict(task["options"])
    options |= {"paths": (), "report": None if options["report"] is None else Path(options["report"])}
    try:
        with libraries_quiet(), quiet(), observed_by(answers):
            status, results = encode_one(EncodeConfig(**options), Path(task["scene"]), Path(task["file"]), restartable=True)
    finally:
        remove_empty_folders()
    return {"status": status, "results": results, **({"error": "interrupted"} if status == INTERRUPTED else {})}


def _watch(over: threading.Event) -> None:
    """Interrupt the scene when the other end of the input goes away."""
    import _thread

    while os.read(0, 4096):
        pass
    if over.is_set():
        return
    _thread.interrupt_main()
    if not over.wait(_GRACE):
        os._exit(INTERRUPTED)  # a partial file is whole at any time
