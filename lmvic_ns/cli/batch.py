"""Many scenes at the same time: on this machine (`--jobs`) or on the workers of a cluster (`--cluster`)."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lmvic_ns._util.exit_status import INTERRUPTED, MISTAKE
from lmvic_ns.cli.encoding import EncodeConfig
from lmvic_ns.cli.scene_process import Answer, BatchObserver, SceneProcess, failed, scene_task, threads_per_process
from lmvic_ns.errors import LmvicError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 15.0
"""Seconds that all processes together have to end after Ctrl-C."""
_STEPS = 1000
"""Of the bar, a scene."""


class BatchDisplay:
    """One line for each scene that is over, and a bar over all scenes with the time left.

    Args:
        scenes: for the lines.
    """

    def __init__(self, scenes: Sequence[Path]) -> None:
        self.answers: list[Answer | None] = [None] * len(scenes)
        self._scenes = scenes
        self._shares = [0.0] * len(scenes)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> BatchDisplay:
        from rich.progress import BarColumn, Progress, TimeRemainingColumn

        from lmvic_ns.report.terminal import is_quiet, plain_column, plain_console

        console = plain_console(stderr=True)
        columns = (plain_column("{task.description}"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True))
        hidden = is_quiet() or not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=hidden)
        self._bar.start()
        self._task = self._bar.add_task(self._words(), total=_STEPS * len(self._scenes))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._bar is not None
        self._bar.stop()

    def step(self, number: int, share: float) -> None:
        """See `BatchObserver`."""
        self._shares[number] = max(self._shares[number], min(share, 1.0))
        self._update()

    def answer(self, number: int, answer: Answer) -> None:
        """See `BatchObserver`."""
        from lmvic_ns.report.terminal import say

        self.answers[number], self._shares[number] = answer, 1.0
        self._update()
        if answer["status"] == INTERRUPTED:
            return
        over = sum(found is not None for found in self.answers)
        say(f"{over} of {len(self._scenes)}  {_line(self._scenes[number], answer)}")
        for note in answer.get("notes", []):
            say(f"  {note}")

    def _words(self) -> str:
        return f"{sum(found is not None for found in self.answers)} of {len(self._scenes)} scenes"

    def _update(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=round(_STEPS * sum(self._shares)), description=self._words())


def _line(scene: Path, answer: Answer) -> str:
    """What became of a scene."""
    from lmvic_ns.report.terminal import duration_text, size_text

    if not answer.get("results"):
        return f"{scene}: failed: {answer['error']}"
    data = answer["results"][0]
    if data["done_before"]:
        return f"{data['file']}: done before, {size_text(data['bytes'])}"
    target = ", the target is missed" if data["missed_target"] else ""
    return (
        f"{data['file']}: {size_text(data['captured_bytes'])} to {size_text(data['bytes'])}, {len(data['views'])} views, "
        f"mean PSNR {data['psnr']:.2f} dB{target}; {duration_text(data['seconds'])}"
    )


def code_scenes(config: EncodeConfig, pairs: Sequence[tuple[Path, Path]]) -> tuple[int, list[dict[str, Any]]]:
    """Code scenes at the same time; one that fails does not stop the others.

    Args:
        config: checked already; says how many, or where.
        pairs: each scene and its file.

    Returns:
        Exit status (of the worst scene), and what `--json` prints of each scene that came to an end.

    Raises:
        LmvicError: the cluster is out of reach.
    """
    from lmvic_ns.report.terminal import duration_text, say

    started = time.perf_counter()
    tasks = [scene_task(config, scene, file) for scene, file in pairs]
    display, interrupted, lost = BatchDisplay([scene for scene, _ in pairs]), False, ""
    try:
        if config.cluster is not None:
            from lmvic_ns.cli.cluster import run_on_cluster

            with display:
                run_on_cluster(config.cluster, tasks, display)
        else:
            with display:
                run_here(tasks, config.jobs, display)
    except KeyboardInterrupt:
        interrupted = True
    except LmvicError as error:
        if not any(display.answers):
            raise
        lost = str(error)
    status, results, failed = INTERRUPTED if interrupted else 0, [], 0
    for (scene, file), answer in zip(pairs, display.answers, strict=True):
        if answer is None and lost:
            results.append({"file": str(file), "error": lost})
        if answer is None or answer["status"] == INTERRUPTED:
            continue
        status = max(status, answer["status"])
        failed += not answer.get("results")
        results += answer.get("results") or [{"file": str(file), "error": answer["error"]}]
        _print_failure(scene, answer)
    made = [data for data in results if "error" not in data]
    before = sum(data["done_before"] for data in made)
    say(
        f"{len(made)} of {len(pairs)} scenes are done{f' ({before} of them before)' if before else ''}"
        f"{f', {failed} failed' if failed else ''}; {duration_text(time.perf_counter() - started)}"
    )
    if lost:
        status = MISTAKE
        print(f"lmvic: {lost}", file=sys.stderr, flush=True)
    if interrupted:
        _print_interrupted([file for _, file in pairs])
    return status, results


def _print_failure(scene: Path, answer: Answer) -> None:
    """A line on stderr on a scene that failed or misses its target."""
    if not answer.get("results"):
        error = answer["error"]
        print(f"lmvic: {error if error.startswith(str(scene)) else f'{scene}: {error}'}", file=sys.stderr, flush=True)
        if "trace" in answer:
            print(answer["trace"], file=sys.stderr, end="", flush=True)
    elif answer["results"][0]["missed_target"]:
        data = answer["results"][0]
        print(
            f"lmvic: {data['file']}: the target is missed: {data['missed_target']}; the file is whole",
            file=sys.stderr,
            flush=True,
        )


def _print_interrupted(files: Sequence[Path]) -> None:
    from lmvic_ns.bitstream.partial import partial_path

    kept = [str(partial_path(file)) for file in files if partial_path(file).exists()]
    what = f"{', '.join(kept)} {'is' if len(kept) == 1 else 'are'} kept" if kept else "no scene is half done"
    print(f"lmvic: interrupted; {what}: the same command goes on", file=sys.stderr, flush=True)


def run_here(tasks: Sequence[dict[str, Any]], jobs: int, observer: BatchObserver) -> None:
    """Code scenes on this machine, `jobs` of them at the same time.

    Args:
        tasks: see `scene_task`.
        jobs: scenes at the same time.
        observer: receives all events, in this thread.

    Raises:
        KeyboardInterrupt: after all processes have ended, and `observer` has their answers.
    """
    jobs = min(jobs, len(tasks))
    threads = threads_per_process(jobs)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(tasks)):
        waiting.put(number)
    events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    running: dict[int, SceneProcess] = {}
    lock, over = threading.Lock(), threading.Event()

    def work() -> None:
        while True:
            with lock:  # after `over`, none is begun
                if over.is_set() or waiting.empty():
                    return
                number = waiting.get()
                try:
                    process = running[number] = SceneProcess(tasks[number], threads)
                except OSError as error:
                    answer = failed(error)
                    events.put(lambda n=number, a=answer: observer.answer(n, a))
                    continue
            answer = process.answer(lambda share, n=number: events.put(lambda: observer.step(n, share)))
            with lock:
                del running[number]
            events.put(lambda n=number, a=answer: observer.answer(n, a))

    workers = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers) or not events.empty():
            with suppress(queue.Empty):
                events.get(timeout=0.2)()
    except BaseException:
        _end_all(workers, running, lock, over)
        while not events.empty():
            events.get()()
        raise


def _end_all(
    workers: Sequence[threading.Thread], running: dict[int, SceneProcess], lock: threading.Lock, over: threading.Event
) -> None:
    """Stop what runs and wait for it; what does not end in time, or when Ctrl-C is pressed again, is killed."""
    try:
        with lock:
            over.set()
            for process in running.values():
                process.stop()
        deadline = time.monotonic() + _PATIENCE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
    finally:
        with lock:
            for process in running.values():
                process.kill()
        for worker in workers:
            worker.join(5)
