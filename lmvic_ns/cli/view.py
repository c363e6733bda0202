"""`lmvic view`: look into a coded file or a scene folder with a browser."""

from __future__ import annotations

import io
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from lmvic_ns._util.libraries import libraries_are_quiet
from lmvic_ns.cli.common import ReadingLimits
from lmvic_ns.errors import LmvicError
from lmvic_ns.report.terminal import size_text

if TYPE_CHECKING:
    from lmvic_ns.viewer.sources import PageSource

_TRIES = 100  # ports after the wanted one


@dataclass(kw_only=True)
class ViewOptions:
    """What is shown, and where."""

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """An .lmvic file, or a dataset folder with a transforms.json."""
    scene: Annotated[Path | None, tyro.conf.arg(metavar="SCENE")] = None
    """Dataset folder that the file was made from. Each view is then shown beside its original."""
    static: Annotated[Path | None, tyro.conf.arg(metavar="PAGE")] = None
    """Write one HTML page, such as view.html, instead of starting a server. It opens without Python and without a network."""
    static_views: int = 24
    """With --static: number of views on the page, 1 to 200. They are evenly spread; with --scene, half are the worst ones.
    The page stays below 15 MB: more views are shown smaller."""
    overwrite: bool = False
    """With --static: replace a page that lmvic wrote."""
    port: int = 8080
    """First port to try. The first free one is used and printed."""


@dataclass(kw_only=True)
class AdvancedViewOptions:
    """For most files the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only, 0.0.0.0 from every machine on the network."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Weights of the codec: a name or a .safetensors file. By default the weights that the file names by hash."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """Device of the networks: cpu, cuda or auto."""
    stereo: bool = False
    """For a dataset without depth files: compute depth by plane sweep stereo first, as `lmvic encode` does."""
    dark: bool = False
    """Dark colours for every visitor. By default the page follows the setting of the visitor's browser."""
    thumbnails: bool = True
    """Decode all views in the background, for the thumbnails and the list of the worst views."""


@dataclass(kw_only=True)
class ViewConfig(ReadingLimits, AdvancedViewOptions, ViewOptions):
    """Show the photographs in a file beside their originals, with cameras, sparse points and depth in 3D."""


def view(config: ViewConfig) -> int:
    """Show the photographs in a file or a dataset in a browser, or write one page that shows them (--static).

    Raises:
        LmvicError: there is nothing to show, or the address cannot be listened on.
    """
    from lmvic_ns.viewer.sources import open_source

    if config.static is not None:
        check_static(config)
    source = open_source(config.path, config.weights, config.device, config.max_pixels, config.stereo, config.scene)
    if source.trouble is not None and config.static is None:
        print(f"lmvic view: {source.trouble} (cameras, tree and sizes are shown)", flush=True)
    if source.note:
        print(f"lmvic view: {source.note}", flush=True)
    return serve(config, source) if config.static is None else write_static(config, source)


def check_static(config: ViewConfig) -> None:
    """Refuse early what `--static` cannot write.

    Raises:
        LmvicError: what is in the way.
    """
    from lmvic_ns.viewer.static import MOST_VIEWS, check_page

    assert config.static is not None
    if not 1 <= config.static_views <= MOST_VIEWS:
        raise LmvicError(f"--static-views must lie in 1..{MOST_VIEWS}, not {config.static_views}")
    inputs = (config.path,) if config.scene is None else (config.path, config.scene)
    check_page(config.static, config.overwrite, inputs)


def write_static(config: ViewConfig, source: PageSource) -> int:
    """Write the page of `--static`."""
    from lmvic_ns.viewer.static import write_page

    assert config.static is not None
    try:
        written = write_page(config.static, source, config.static_views)
    finally:
        source.close()
    size = size_text(config.static.stat().st_size)
    for problem in written.problems:
        print(f"lmvic view: left out: {problem}", file=sys.stderr)
    print(f"{config.static}: {written.views} of {len(source.names)} views, {size}; open it in any browser", flush=True)
    return 1 if written.problems else 0


def serve(config: ViewConfig, source: PageSource) -> int:
    """Show the page until Ctrl-C."""
    from lmvic_ns.viewer.client import own_client
    from lmvic_ns.viewer.page import ViewPage

    with stop_signals() as stopped, own_client() as roots, viser_server(config.host, config.port) as server:
        root = roots[0] if roots else None
        page = ViewPage(server, source, thumbnails=config.thumbnails, root=root, dark=config.dark)
        if not roots:
            print(
                "lmvic view: this version of viser hands out its own page, which asks a tag manager (googletagmanager.com) "
                "at every visit; block it in your browser if you mind",
                flush=True,
            )
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
    # viser prints a frame round its address; ours follows
    with redirect_stdout(io.StringIO()) if libraries_are_quiet() else nullcontext():
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
