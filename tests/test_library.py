"""A file as a library: views by number and name, cached, from threads, from addresses; a dataset; the public names."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import lmvic
from test_capture import write_capture
from torch.utils.data import DataLoader

import lmvic_ns
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.file import LmvicFile
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.errors import BitstreamError, LmvicError, WeightsError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the views that are decoded, in order."""
    numbers: list[int] = []
    decode = MultiViewCodec.decode_unit

    def counted(self, header, cameras, view, *rest):
        numbers.append(view)
        return decode(self, header, cameras, view, *rest)

    monkeypatch.setattr(MultiViewCodec, "decode_unit", counted)
    return numbers


def test_views_are_what_the_codec_decodes(file: Path, weights: Path, decoded: list[int]) -> None:
    expected = {view.index: view for view in lmvic_ns.load_codec(weights).decode(file)}
    decoded.clear()
    with lmvic_ns.open(file, weights) as views:
        assert len(views) == 4 and views.names == [expected[i].name for i in range(4)] and not decoded
        for view in views:
            found = expected[view.index]
            assert torch.equal(view.tensor, found.image) and view.image.dtype == np.uint8
            assert view.image.shape == (48, 64, 3) and view.mask is None and view.metadata == {}
            assert torch.equal(view.camera.world_to_camera, found.camera.world_to_camera)
            depth = view.inverse_depth
            assert depth is not None and found.inverse_depth is not None and tuple(depth.shape) == (48, 64)
            assert abs(float(depth.mean() / found.inverse_depth.mean()) - 1) < 0.05
        assert sorted(decoded) == [0, 1, 2, 3]  # each once
        assert views[views.names[2]].index == 2 and views[-1].index == 3 and [v.index for v in views[1:3]] == [1, 2]
        assert views[np.int64(-1)] == views[3] != views[2]  # type: ignore[call-overload]
        assert views[2] in views and views.names[2] in views and "nobody" not in views and views.index(views[2]) == 2
        with pytest.raises(TypeError):
            views[1.5]  # type: ignore[call-overload]
        for wrong in (4, -5):
            with pytest.raises(IndexError):
                views[wrong]
        with pytest.raises(LmvicError, match="nobody"):
            views["nobody"]
        last = views[3]
    with pytest.raises(LmvicError, match="is closed"):
        last.image  # noqa: B018


def test_the_cache_is_bounded(file: Path, weights: Path, decoded: list[int]) -> None:
    with lmvic_ns.open(file, weights, cache_bytes=1) as views:
        deepest = max(range(4), key=lambda view: len(views.references(view)))
        path = [*views.references(deepest), deepest]
        assert len(path) > 1
        views[deepest].image  # noqa: B018
        views[deepest].image  # noqa: B018
        assert decoded == path
        views[path[0]].image  # noqa: B018
        assert decoded == [*path, path[0]]


def test_threads_share_a_file(file: Path, weights: Path, decoded: list[int]) -> None:
    with lmvic_ns.open(file, weights) as views, ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda i: views[i % 4].image, range(32)))
    assert sorted(decoded) == [0, 1, 2, 3]
    assert all(np.array_equal(pictures[i], pictures[i % 4]) for i in range(32))


def test_damage_costs_its_branch(file: Path, weights: Path, tmp_path: Path) -> None:
    with Reader(file) as reader:
        victim = reader.header.order[-1]
        name, part = reader.header.views[victim].name, reader.unit(victim).image
    data = bytearray(file.read_bytes())
    data[data.index(part) + 3] ^= 1
    (tmp_path / "a.lmvic").write_bytes(data)
    with lmvic_ns.open(tmp_path / "a.lmvic", weights) as views:
        with pytest.raises(BitstreamError, match=name):
            views[victim].image  # noqa: B018
        assert views[0 if victim else 1].image.size


def test_weights_that_are_missing_are_named(file: Path) -> None:
    with lmvic_ns.open(file) as views, pytest.raises(WeightsError, match="needs the weights 'small'"):
        views[0].image  # noqa: B018


class _Server(SimpleHTTPRequestHandler):
    """Serves a folder with ranges, and counts what it sends."""

    sent = 0
    requests = 0
    trouble = ""

    def do_GET(self) -> None:
        if self.trouble == "refuses":
            self.send_error(500)
        elif self.trouble == "hangs up":
            self.close_connection = True
        elif self.trouble == "is cut off":
            self.send_response(206)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"little")
        elif self.trouble in ("ignores ranges", "tells no size"):
            self.whole(True)
        else:
            self.answer(True)

    def do_HEAD(self) -> None:
        if self.trouble in ("ignores ranges", "tells no size"):
            self.whole(False)
        else:
            self.answer(False)

    def whole(self, body: bool) -> None:
        """The answer of a server that knows nothing of ranges."""
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        if self.trouble == "ignores ranges":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            with suppress(OSError):  # the reader may have seen enough
                self.wfile.write(data)

    def answer(self, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        begin, end = 0, len(data) - 1
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last or end), end)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.end_headers()
        if body:
            type(self).sent += end - begin + 1
            type(self).requests += 1
            self.wfile.write(data[begin : end + 1])

    def log_message(self, *_: object) -> None:  # type: ignore[override]
        return None


@pytest.fixture
def address(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the file can be read over HTTP."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(_Server, "trouble", "")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=str(file.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{file.name}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("trouble", ["refuses", "hangs up", "is cut off"])
def test_a_server_that_fails_later_is_one_clear_line(trouble: str, address: str, weights: Path, file: Path) -> None:
    with lmvic_ns.open(address, weights) as views:
        _Server.trouble = trouble
        with pytest.raises(BitstreamError, match=f"cannot read {file.name}"):
            views[3].image  # noqa: B018
        _Server.trouble = ""
        assert views[3].image.size  # it is back


@pytest.mark.parametrize("trouble", ["ignores ranges", "tells no size"])
def test_a_server_without_ranges_is_one_clear_line(trouble: str, address: str, weights: Path) -> None:
    _Server.trouble = trouble
    with pytest.raises(BitstreamError, match="no parts of files"):
        lmvic_ns.open(address, weights)


def test_what_cannot_be_opened_is_named(address: str, file: Path) -> None:
    with pytest.raises(BitstreamError, match="not found, or its server cannot be reached"):
        lmvic_ns.open(address + "x")
    closed = file.open("rb")
    closed.close()
    for source, words in ((closed, "closed file"), ("a\0b", "null byte")):
        with pytest.raises(BitstreamError, match=words):
            lmvic_ns.open(source)


def test_workers_read_an_address_after_this_process_did(address: str, file: Path, weights: Path) -> None:
    dataset = lmvic_ns.LmvicDataset(address, weights=weights)
    first = dataset[0]["image"]
    batches = list(DataLoader(dataset, batch_size=None, num_workers=1, timeout=60))
    assert [batch["index"] for batch in batches] == [0, 1, 2, 3] and torch.equal(batches[0]["image"], first)


def test_one_view_of_an_address_reads_its_branch_alone(address: str, weights: Path, file: Path) -> None:
    with Reader(file) as reader:
        sizes, first = reader.sizes(), reader.header.order[0]
    _Server.sent = 0
    with lmvic_ns.open(address, weights) as views:
        opened = _Server.sent
        picture = views[first].image
        unit = sizes[first]
        assert unit is not None and _Server.sent - opened <= unit.total + 100
    assert opened < file.stat().st_size - sum(size.total for size in sizes if size is not None) + 200
    with lmvic_ns.open(file, weights) as views:
        assert np.array_equal(picture, views[first].image)
    with pytest.raises(BitstreamError, match="cannot read"):
        lmvic_ns.open(address.replace(file.name, "nothing.lmvic"))


def test_open_files_and_other_sources(file: Path, weights: Path) -> None:
    with open(file, "rb") as stream:
        with lmvic_ns.open(stream, weights) as views:
            assert views[0].image.size
        assert not stream.closed  # it was given open
    with pytest.raises(BitstreamError, match="cannot read"):
        lmvic_ns.open("nowhere://x/y.lmvic")
    with open(file, "rb") as stream, pytest.raises(BitstreamError, match="sought"):
        lmvic_ns.open(subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE).stdout)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader(file: Path, weights: Path, workers: int) -> None:
    dataset = lmvic_ns.LmvicDataset(file, weights=weights)
    assert len(pickle.loads(pickle.dumps(dataset))) == 4
    batches = list(DataLoader(dataset, batch_size=2, num_workers=workers))
    assert [batch["image"].shape for batch in batches] == [(2, 3, 48, 64)] * 2
    assert batches[0]["intrinsics"].shape == (2, 3, 3) and batches[1]["inverse_depth"].shape == (2, 48, 64)
    with lmvic_ns.open(file, weights) as views:
        assert torch.equal(batches[1]["image"][1], views[3].tensor)


def test_forked_workers_open_the_file_by_themselves(
    file: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that this process has open would have one place for reading in all of them."""
    dataset = lmvic_ns.LmvicDataset(file, weights=weights)
    dataset[0]
    start = LmvicFile.__init__

    def noted(self, *arguments, **options):
        (tmp_path / str(os.getpid())).touch()
        start(self, *arguments, **options)

    monkeypatch.setattr(LmvicFile, "__init__", noted)
    assert len(list(DataLoader(dataset, num_workers=2, multiprocessing_context="fork"))) == 4
    assert len(list(tmp_path.iterdir())) == 2 and not (tmp_path / str(os.getpid())).exists()


def test_masks_and_keys_of_views(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_capture(tmp_path / "in")
    assert lmvic(monkeypatch, "encode", folder, tmp_path / "a.lmvic", "--weights", weights) == 0
    with lmvic_ns.open(tmp_path / "a.lmvic", weights) as views:
        mask = views["left/0001"].mask
        assert mask is not None and set(np.unique(mask)) == {0, 200} and views["left/0002"].mask is None
        assert views["right/0001"].metadata["note"] == "ü" and views[0].photograph.exif is not None


def test_public_names_are_documented_and_light() -> None:
    for name in lmvic_ns.__all__:
        value = getattr(lmvic_ns, name)
        assert name == "__version__" or (inspect.getdoc(value) and name in dir(lmvic_ns)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lmvic_ns.nothing  # noqa: B018
    assert set(lmvic_ns._PLACES) | {"__version__"} == set(lmvic_ns.__all__)
    light = "import lmvic_ns, sys; dir(lmvic_ns); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], check=True, cwd=Path(lmvic_ns.__file__).parent.parent)
