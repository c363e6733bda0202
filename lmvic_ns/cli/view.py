"""`lmvic view`: look into a coded file or a scene folder with a browser."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lmvic_ns.cli.common import ReadingLimits
from lmvic_ns.errors import LmvicError

_TRIES = 100  # ports after the wanted one


@dataclass
class ViewConfig(ReadingLimits):
    """Show cameras, reference tree, pictures, depth and sizes of a file or of a scene folder in a browser."""

    path: Annotated[Path, tyro.conf.Positional]
    """An .lmvic file, or a folder with transforms.json."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is this machine alone, 0.0.0.0 is everybody who can reach it."""
    port: int = 8080
    """First port to try; the one that was free is printed."""
    weights: str | None = None
    """Name of installed weights or a .safetensors file; by default those that the file names."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    stereo: bool = False
    """Of a scene without depth files: find depth by plane sweep stereo first, as `lmvic encode` does."""
    thumbnails: bool = True
    """Decode all views in the background, for the pictures in the cameras."""


def view(config: ViewConfig) -> int:
    """Show cameras, reference tree, pictures, depth and sizes of a file or of a scene folder in a browser.

    Raises:
        LmvicError: there is nothing to show, or the address cannot be listened on.
    """
    from lmvic_ns.viewer.page import ViewPage
    from lmvic_ns.viewer.sources import open_source

    source = open_source(config.path, config.weights, config.device, config.max_pixels, config.stereo)
    if source.trouble is not None:
        print(f"lmvic view: {source.trouble} (cameras, tree and sizes are shown)", flush=True)
    if source.note:
        print(f"lmvic view: {source.note}", flush=True)
    with stop_signals() as stopped, viser_server(config.host, config.port) as server:
        page = ViewPage(server, source, thumbnails=config.thumbnails)
        print(f"lmvic view: http://{config.host}:{server.get_port()} (Ctrl-C ends it)", flush=True)
        try:
            # a wait without a limit would not let Python handle signals on every platform
            while not stopped.wait(0.5):
                pass
        finally:
            page.close()
    print("lmvic view: closed", flush=True)
    return 0


def free_port(host: str, wanted: int) -> int:
    """The first port from `wanted` on that can be listened on (0: any).

    Raises:
        LmvicError: none, or the address is not of this machine.
    """
    if not 0 <= wanted <= 65535:
        raise LmvicError(f"--port must lie in 0..65535, not {wanted}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, min(wanted + _TRIES, 65536)) if wanted else [0]:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except PermissionError:
                continue
            except socket.gaierror as error:
                raise LmvicError(f"--host {host}: {error.strerror}") from None
            except OSError as error:
                if error.errno in (98, 48, 10048):  # the port is in use (Linux, macOS, Windows)
                    continue
                raise LmvicError(f"--host {host}: cannot listen on it: {error.strerror}") from None
            return probe.getsockname()[1]
    raise LmvicError(f"no free port from {wanted} on: choose another with --port")


@contextmanager
def viser_server(host: str, port: int) -> Iterator[Any]:
    """A viser server on a free port, stopped at the end.

    Raises:
        LmvicError: see `free_port`.
    """
    import viser

    logging.getLogger("asyncio").addFilter(not_of_closed_connections)  # adding it again changes nothing
    server = viser.ViserServer(host=host, port=free_port(host, port), label="lmvic view", verbose=False)
    try:
        yield server
    finally:
        server.stop()


def not_of_closed_connections(record: logging.LogRecord) -> bool:
    """False for what websockets raises when the server stops while a connection comes or goes: no one's fault."""
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        if "websockets" in Path(trace.tb_frame.f_code.co_filename).parts:
            return False
        trace = trace.tb_next
    return True


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of an exception at any line; handlers are put back at the end."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
