"""Many scenes at the same time, on one machine and on a cluster: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY
from export_scenes import ROOM, lmvic, write_room
from test_capture import write_capture

from lmvic_ns.bitstream.partial import partial_path, read_partial
from lmvic_ns.cli.encode import local_path
from lmvic_ns.cli.scene_process import SceneProcess
from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.restart import UncheckedMarker

OPTIONS = ("--weights", str(REPOSITORY / "tests/golden/small.safetensors"), "--device", "cpu", "--effort", "fast")
PATIENCE = 120.0


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY / "tests" / "slow_coding"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def started(*args: object) -> subprocess.Popen[str]:
    """`lmvic encode ARGS` in a process."""
    code = "from lmvic_ns.cli.main import entrypoint; entrypoint()"
    command = [sys.executable, "-c", code, "encode", *map(str, args), *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def views_done(file: Path) -> int:
    """Views of a scene that has begun and is not done."""
    try:
        return len(read_partial(partial_path(file)).done)
    except LmvicError:
        return 0


def half_done(file: Path) -> bool:
    """Whether a scene has begun and is not done."""
    return views_done(file) > 0


def wait_until_half_done(process: subprocess.Popen[str], files: list[Path]) -> None:
    wait_for(lambda: process.poll() is not None or all(map(half_done, files)))
    assert process.poll() is None, process.communicate()


def is_free(file: Path) -> bool:
    """Whether no process writes a partial file."""
    import fcntl

    with partial_path(file).open("r+b") as partial:
        try:
            fcntl.flock(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def slow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the seconds that each view takes in processes; coding is as fast as it can once the file is gone."""
    file = tmp_path_factory.mktemp("slow") / "seconds"
    file.write_text("3")
    monkeypatch.setenv("LMVIC_TEST_SLOW", str(file))
    return file


@pytest.fixture(scope="module")
def long_rooms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scenes that take longer than a process takes to start, where each view takes seconds."""
    folder = tmp_path_factory.mktemp("long")
    return [write_room(folder / name, replace(ROOM, views=16)) for name in ("a", "b")]


@pytest.fixture(scope="module")
def long_files(long_rooms: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their files, coded one after the other."""
    folder = tmp_path_factory.mktemp("files")
    process = started(*long_rooms, folder)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return folder


def same_bytes(files: list[Path], others: Path) -> bool:
    return all(file.read_bytes() == (others / file.name).read_bytes() for file in files)


def test_jobs_give_the_same_files_and_a_broken_scene_stops_none(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    second, broken = write_capture(tmp_path / "second"), tmp_path / "broken"
    broken.mkdir()
    scenes = (second, broken, room)
    assert lmvic(monkeypatch, "encode", second, room, tmp_path / "one", *OPTIONS) == 0
    capsys.readouterr()
    assert lmvic(monkeypatch, "encode", *scenes, tmp_path / "two", *OPTIONS, "--jobs", 2) == 2
    out = capsys.readouterr()
    files = [tmp_path / "two" / f"{name}.lmvic" for name in ("second", room.name)]
    assert same_bytes(files, tmp_path / "one")
    lines = out.out.splitlines()
    assert [line.split("  ")[0] for line in lines if " of 3  " in line] == ["1 of 3", "2 of 3", "3 of 3"]
    assert lines[-1].startswith("2 of 3 scenes are done, 1 failed")
    (line,) = out.err.splitlines()
    assert line.startswith(f"lmvic: {broken}/transforms.json: not found")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {file.name for file in files}  # no mark is left
    times = [file.stat().st_mtime_ns for file in files]
    assert lmvic(monkeypatch, "encode", *scenes, tmp_path / "two", *OPTIONS, "--jobs", 2, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [one.get("done_before") for one in found] == [True, None, True] and "not found" in found[1]["error"]
    assert found[0]["bytes"] == files[0].stat().st_size and len(found[2]["views"]) == 4
    assert [file.stat().st_mtime_ns for file in files] == times
    assert lmvic(monkeypatch, "encode", second, room, tmp_path / "two", *OPTIONS, "--quiet") == 0
    assert capsys.readouterr().out == "" and [file.stat().st_mtime_ns for file in files] == times


def test_only_whole_files_of_the_same_settings_are_done(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    second, folder = write_capture(tmp_path / "second"), tmp_path / "files"

    def again(*more: object) -> int:
        return lmvic(monkeypatch, "encode", room, second, folder, *OPTIONS, "--json", *more)

    assert again() == 0
    file = folder / "second.lmvic"
    assert again("--quality", 20) == 2  # other settings
    assert capsys.readouterr().err.count("exists already") == 2
    marker = UncheckedMarker(file)
    marker.write()  # its process died before the file was checked: now it is
    assert again() == 0
    assert json.loads(capsys.readouterr().out)[1]["psnr"] > 10 and not marker.exists
    marker.write("view 3 differs")
    assert again() == 2 and "its check failed (view 3 differs)" in capsys.readouterr().err
    assert again("--overwrite") == 0 and not marker.exists
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert again() == 2 and "is damaged" in capsys.readouterr().err
    file.write_bytes(whole)
    assert again("--target-psnr", 200) == 2
    picture = next((second / "rgb").rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes() + b"changed")
    capsys.readouterr()
    assert again() == 2 and "second.lmvic: exists already" in capsys.readouterr().err


def test_a_missed_target_stays_missed(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    second = write_capture(tmp_path / "second")
    args = ("encode", room, second, tmp_path / "files", *OPTIONS, "--target-psnr", 20, "--search-views", 2, "--json")
    assert lmvic(monkeypatch, *args) == 0
    first = json.loads(capsys.readouterr().out)
    assert lmvic(monkeypatch, *args, "--jobs", 2) == 0
    for one, before in zip(json.loads(capsys.readouterr().out), first, strict=True):
        assert one["done_before"] and one["psnr"] == pytest.approx(before["psnr"], abs=0.02) and one["psnr"] >= 20
        # the same record otherwise
        for data in (one, before):
            for key in ("done_before", "seconds", "psnr"):
                del data[key]
            for view in data["views"]:
                view["psnr"] = round(view["psnr"], 1)
        assert one == before


def test_a_process_that_dies_is_one_line(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    answer = SceneProcess.answer

    def killed(self: SceneProcess, on_step: Callable[[float], None] | None = None) -> dict:
        self._process.kill()
        return answer(self, on_step)

    monkeypatch.setattr(SceneProcess, "answer", killed)
    second = write_capture(tmp_path / "second")
    assert lmvic(monkeypatch, "encode", room, second, tmp_path / "files", *OPTIONS, "--jobs", 2) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("ended by SIGKILL; perhaps the memory" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_jobs_go_on(
    how: signal.Signals, slow: Path, long_rooms: list[Path], long_files: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.lmvic" for name in ("a", "b")]
    process = started(*long_rooms, tmp_path, "--jobs", 2)
    wait_until_half_done(process, files)
    process.send_signal(how)
    slow.unlink()
    _, err = process.communicate(timeout=PATIENCE)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "a.lmvic.partial" in err and "b.lmvic.partial are kept" in err
    wait_for(lambda: all(map(is_free, files)))  # no process of a scene outlives it
    assert not any(file.exists() for file in files)
    process = started(*long_rooms, tmp_path, "--jobs", 2)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and out.count("going on after") == 2, err
    assert same_bytes(files, long_files)
    assert {path.name for path in tmp_path.iterdir()} == {file.name for file in files}


class Cluster:
    """A scheduler and two workers, each a process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self._folder = folder
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self._processes = [self.scheduler]
        wait_for(self._is_written)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self._start("worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
        self._processes += self.workers

    def _is_written(self) -> bool:
        """Whether the scheduler has written its whole file: it exists for a moment before."""
        try:
            return "address" in json.loads(self.file.read_text())
        except (OSError, ValueError):
            return False

    def _start(self, kind: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file), *args]
        with (self._folder / f"{kind}-{time.monotonic_ns()}.log").open("w") as log:
            return subprocess.Popen(
                [*command, "--no-dashboard"], cwd=self._folder, env=environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(slow: Path, tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="Dask distributed is not installed: pip install 'lmvic-ns[cluster]'")
    (tmp_path / "cluster").mkdir()
    found = Cluster(tmp_path / "cluster")
    yield found
    found.close()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker(
    cluster: Cluster, slow: Path, long_rooms: list[Path], long_files: Path, tmp_path: Path
) -> None:
    files, broken = [tmp_path / f"{name}.lmvic" for name in ("a", "b")], tmp_path / "broken"
    broken.mkdir()
    process = started(*long_rooms, tmp_path, "--cluster", cluster.address)
    wait_until_half_done(process, files)
    cluster.workers[0].kill()
    slow.unlink()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "2 of 2 scenes are done;" in out, err
    assert "going on after" in out  # what the lost worker had coded is not coded again
    assert same_bytes(files, long_files)
    times = [file.stat().st_mtime_ns for file in files]
    process = started(*long_rooms, broken, tmp_path, "--cluster", cluster.address, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and err.startswith(f"lmvic: {broken}/transforms.json: not found"), err
    assert [one.get("done_before") for one in json.loads(out)] == [True, True, None]
    assert [file.stat().st_mtime_ns for file in files] == times


@pytest.mark.slow
def test_an_interrupted_client_stops_its_workers(cluster: Cluster, long_rooms: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.lmvic" for name in ("a", "b")]
    process = started(*long_rooms, tmp_path, "--cluster", cluster.address)
    # the first that has begun: it has nearly all its views to go
    wait_for(lambda: process.poll() is not None or any(map(half_done, files)))
    assert process.poll() is None, process.communicate()
    begun = next(file for file in files if half_done(file))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "partial" in err and "Traceback" not in err
    wait_for(lambda: is_free(begun))
    assert not begun.exists()


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line(
    cluster: Cluster, slow: Path, room: Path, long_rooms: list[Path], tmp_path: Path
) -> None:
    slow.write_text("0.5")
    process = started(room, *long_rooms, tmp_path, "--cluster", cluster.address, "--json")
    wait_until_half_done(process, [tmp_path / "b.lmvic"])  # so the room, which was begun first, is done
    wait_for((tmp_path / f"{room.name}.lmvic").is_file)
    # by the third view of the next scene the client has the first one's answer; the rest is slow enough to be interrupted
    slow.write_text("3")
    wait_for(lambda: process.poll() is not None or views_done(tmp_path / "b.lmvic") >= 3)
    assert process.poll() is None, process.communicate()
    cluster.scheduler.kill()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "the scheduler went away" in err and len(err.splitlines()) == 1, err
    assert "the scheduler went away" in json.loads(out)[2]["error"]
    wait_for(lambda: is_free(tmp_path / "b.lmvic"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "foo://there"])
def test_no_scheduler_is_one_line(address: str, room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("distributed", reason="Dask distributed is not installed: pip install 'lmvic-ns[cluster]'")
    assert lmvic(monkeypatch, "encode", room, tmp_path / "a.lmvic", *OPTIONS, "--cluster", address) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lmvic: --cluster {address}: no Dask scheduler answers there")


def test_without_distributed_a_line_says_what_to_install(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert lmvic(monkeypatch, "encode", room, tmp_path / "a.lmvic", *OPTIONS, "--cluster", "tcp://there:8786") == 2
    assert "lmvic-ns[cluster]" in capsys.readouterr().err


def test_options_that_make_no_sense(room: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for more, words in (
        (("--jobs", 0), "--jobs must be at least 1"),
        (("--jobs", 2, "--cluster", "tcp://there:1"), "give one of them"),
    ):
        assert lmvic(monkeypatch, "encode", room, tmp_path / "a.lmvic", *OPTIONS, *more) == 2
        assert words in capsys.readouterr().err
    assert local_path(Path("file:///data/scene")) == Path("/data/scene") and local_path(Path("C:/data")) == Path("C:/data")
    for address in ("s3://bucket/scene", "memory://files"):
        assert lmvic(monkeypatch, "encode", room, address, *OPTIONS) == 2
        assert "is an address" in capsys.readouterr().err
