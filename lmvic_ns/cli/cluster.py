"""Scenes on the workers of a Dask cluster: each scene is a task, and a worker codes it in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from lmvic_ns import __version__
from lmvic_ns._util.exit_status import MISTAKE
from lmvic_ns._util.libraries import libraries_are_quiet
from lmvic_ns.cli.scene_process import Answer, BatchObserver, SceneProcess, failed, threads_per_process
from lmvic_ns.errors import LmvicError

_CONNECT = 5.0
"""Seconds that a scheduler has to answer."""
_BUSY = 60.0
"""Seconds that the process of a lost worker has to let go of a partial file."""


def run_on_cluster(address: str, tasks: Sequence[Mapping[str, Any]], observer: BatchObserver) -> None:
    """Code scenes on the workers of a scheduler.

    Args:
        address: of the scheduler.
        tasks: see `scene_task`.
        observer: receives the answers.

    Raises:
        LmvicError: no scheduler answers, or it went away.
        KeyboardInterrupt: after the workers were asked to stop.
    """
    from distributed import as_completed

    if libraries_are_quiet():
        for name in list(logging.root.manager.loggerDict):  # each has a level of its own
            if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    client = _connect(address)
    try:
        _say_workers(client, address)
        batch = uuid4().hex[:8]
        futures = {
            client.submit(code_scene, dict(task), key=f"lmvic-{batch}-{number}", pure=False): number
            for number, task in enumerate(tasks)
        }
        try:
            for future in as_completed(futures, loop=client.loop):
                observer.answer(futures[future], _answer(future, client, address))
        except BaseException:
            client.cancel(list(futures), force=True)
            raise
    finally:
        client.close(timeout=5)


def _connect(address: str) -> Any:
    """A client of the scheduler.

    Raises:
        LmvicError: it does not answer in time, or is none.
    """
    from distributed import Client

    try:
        kind = asyncio.run(asyncio.wait_for(_kind_of(address), _CONNECT))
        if kind == "Scheduler":
            return Client(address, timeout=_CONNECT, set_as_default=False, name="lmvic")
    except Exception as error:  # a wrong scheme, an unknown host, another service, nobody there: each has its own
        cause: Exception | None = error
    else:
        cause = None
    raise LmvicError(
        f"--cluster {address}: no Dask scheduler answers there; start one with `dask scheduler`, or give the address that it "
        "names (tcp://HOST:8786)"
    ) from cause


async def _kind_of(address: str) -> str:
    """What answers at an address; asked before a client is made, which would go on trying after it was stopped."""
    from distributed import rpc

    async with rpc(address) as there:
        return dict(await there.identity() or {}).get("type", "")


def _say_workers(client: Any, address: str) -> None:
    from lmvic_ns.report.terminal import say

    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if workers:
        say(f"{address}: {len(workers)} workers for {sum(worker['nthreads'] for worker in workers)} scenes at the same time")
    else:
        say(f"{address}: no worker yet; waiting until one joins (dask worker {address} --nthreads 1)", note=True)


def _answer(future: Any, client: Any, address: str) -> Answer:
    """Of a scene that is over.

    Raises:
        LmvicError: the scheduler went away.
    """
    try:
        return future.result()
    except Exception as error:
        kind = type(error).__name__
        if client.status != "running" or kind in ("CommClosedError", "FutureCancelledError", "CancelledError"):
            raise LmvicError(
                f"--cluster {address}: the scheduler went away; start it again and give the same command: what is done is "
                "not done again"
            ) from error
        if kind == "KilledWorker":
            line = "the workers that coded it died again and again; perhaps their memory was not enough"
            return {"status": MISTAKE, "error": line}
        if isinstance(error, ImportError):
            return {"status": MISTAKE, "error": f"a worker cannot load lmvic ({error}): install the same version there"}
        return failed(error)


def code_scene(task: Mapping[str, Any]) -> Answer:
    """What a worker runs.

    Args:
        task: see `scene_task`.
    """
    from distributed import get_worker

    worker = get_worker()
    if task["version"] != __version__:
        return _refused(worker, f"has lmvic {__version__}, and {task['version']} asks it: install the same version")
    if task["folder"] is not None and not os.path.isdir(task["folder"]):
        return _refused(worker, f"does not see {task['folder']}: give paths that all machines see")
    threads = threads_per_process(max(1, worker.state.nthreads))
    key = worker.get_current_task()
    deadline = time.monotonic() + _BUSY
    while True:
        process, over = SceneProcess(task, threads), threading.Event()
        threading.Thread(target=_stop_if_cancelled, args=(worker, key, process, over), daemon=True).start()
        try:
            answer = process.answer()
        finally:
            over.set()
        if not answer.get("busy") or time.monotonic() > deadline:
            return answer
        time.sleep(1)


def _refused(worker: Any, why: str) -> Answer:
    return {"status": MISTAKE, "error": f"the worker {worker.address} {why}"}


def _stop_if_cancelled(worker: Any, key: str, process: SceneProcess, over: threading.Event) -> None:
    """End the scene when nobody wants its answer any more: the client was interrupted or went away, or the worker ends."""
    while not over.wait(0.5):
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled" or worker.status.name in ("closing", "closed", "failed"):
            process.stop()
            return
