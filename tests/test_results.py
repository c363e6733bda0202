"""Tables, curves, weights and packs follow the one rule of outputs: nothing of somebody else is replaced, nothing is half."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bitstream_files import scene
from PIL import Image
from safetensors.torch import save_file

from lmvic_ns._util.output import check_file, whole_file, writing
from lmvic_ns._util.results import RESULTS_LIST, ResultsOutput
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.cli.training import TrainPackConfig, train_pack
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.evaluation.cache import ResultCache
from lmvic_ns.training import TrainingError
from lmvic_ns.training.curves import CurvesConfig, train_curves
from lmvic_ns.training.files import check_run_folder, check_weights_output, write_state
from lmvic_ns.training.pack import Pack, PackConfig


def add(folder: Path, text: str, **options: object) -> None:
    with ResultsOutput(folder, names=("rd.csv",), **options) as output:  # type: ignore[arg-type]
        (output.staging / "rd.csv").write_text(text)
        (output.staging / "plots").mkdir()
        (output.staging / "plots" / "a.png").write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != RESULTS_LIST}


def test_results_lie_beside_others_files_and_replace_only_their_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    add(tmp_path, "first")
    add(tmp_path, "second")
    assert tree(tmp_path) == {"notes.txt": "mine", "rd.csv": "second", "plots/a.png": "second"}
    (tmp_path / "rd.csv").write_text("with my remarks")
    with pytest.raises(LmvicError, match=r"rd\.csv: was not written by lmvic, or was changed since"):
        ResultsOutput(tmp_path, names=("rd.csv",))
    with pytest.raises(LmvicError, match="changed since"), ResultsOutput(tmp_path) as output:  # not known before
        (output.staging / "rd.csv").write_text("third")
    assert tree(tmp_path)["rd.csv"] == "with my remarks"


def test_results_of_others_and_inputs_are_refused(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    for place in (scene, scene / "eval", tmp_path):
        with pytest.raises(LmvicError, match="this command reads"):
            ResultsOutput(place, inputs=(scene,))
    (tmp_path / "file").touch()
    with pytest.raises(LmvicError, match="is a file"):
        ResultsOutput(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "scene"]


def test_a_failure_leaves_no_results_but_those_that_were_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ResultsOutput(tmp_path / "new" / "folder") as output:
        (output.staging / "a.csv").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), ResultsOutput(tmp_path / "out") as output:
        (output.staging / "a.csv").write_text("a")
        output.keep()
        (output.staging / "b.csv").write_text("b")
        raise RuntimeError
    assert tree(tmp_path / "out") == {"a.csv": "a"}


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"a.txt": "before"}


def curve(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{i},{i},{100 * i},1,1,photos,32,1,30,,{2 - i / 10}" for i in (1, 2, 3)]
    head = "step,seconds,crops,training_loss,score,kind,level,bpp,psnr,ms_ssim,loss"
    (folder / "curve.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def test_curves_replace_only_their_own_picture(tmp_path: Path) -> None:
    run, picture = curve(tmp_path / "run"), tmp_path / "curves.png"
    for _ in range(2):
        train_curves(CurvesConfig((run,), picture))
    Image.new("RGB", (8, 8)).save(picture)
    before = picture.read_bytes()
    with pytest.raises(LmvicError, match="is not a picture that this command drew"):
        train_curves(CurvesConfig((run,), picture))
    assert picture.read_bytes() == before
    with pytest.raises(LmvicError, match="this command reads"):
        train_curves(CurvesConfig((run / "curve.csv",), run / "curve.csv"))
    with pytest.raises(TrainingError, match="cannot be drawn"):
        train_curves(CurvesConfig((run,), tmp_path / "curves.mp3"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "run"]


def test_weights_replace_weights_only_when_told(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    write_state(ours, {"a": torch.zeros(2)}, {"format": "lmvic-training"})
    save_file({"a": torch.zeros(2)}, str(other))
    check_weights_output(tmp_path / "new.safetensors", inputs=(ours,), overwrite=False)
    check_weights_output(ours, inputs=(), overwrite=True)
    for path, inputs, overwrite, message in (
        (ours, (), False, "exists already"),
        (ours, (ours,), True, "is what this command reads"),
        (other, (), True, "is not a weights file of lmvic"),
        (tmp_path / "weights", (), False, r"call it weights\.safetensors"),
    ):
        with pytest.raises(LmvicError, match=message):
            check_weights_output(path, inputs=inputs, overwrite=overwrite)


def test_a_run_begins_in_a_folder_of_its_own(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    check_run_folder(run, [data], resume=False)
    run.mkdir()
    (run / "settings.json").write_text('{"format": "lmvic-training"}')  # stopped before its first checkpoint
    check_run_folder(run, [data], resume=False)
    (run / "best.safetensors").touch()
    with pytest.raises(LmvicError, match="give a new folder"):
        check_run_folder(run, [data], resume=False)
    (run / "last.ckpt").touch()
    with pytest.raises(LmvicError, match="add --resume"):
        check_run_folder(run, [data], resume=False)
    check_run_folder(run, [data, run / "best.safetensors"], resume=True)
    (data / "settings.json").write_text("{}")
    with pytest.raises(LmvicError, match="give a new folder"):
        check_run_folder(data, [], resume=False)
    with pytest.raises(LmvicError, match="this command reads"):
        check_run_folder(data, [data], resume=True)


def test_a_pack_replaces_a_pack_only_when_told_and_names_damaged_pictures(tmp_path: Path) -> None:
    photos, pack = tmp_path / "photos", tmp_path / "a.lmvicpack"
    photos.mkdir()
    for i in range(4):
        Image.fromarray(np.full((64, 64, 3), 60 * i, np.uint8)).save(photos / f"{i}.png")
    config = TrainPackConfig(output=pack, data=photos, pack=PackConfig(validation_photos=1))
    train_pack(config)
    with pytest.raises(LmvicError, match="exists already"):
        train_pack(config)
    train_pack(TrainPackConfig(output=pack, data=photos, pack=PackConfig(validation_photos=1), overwrite=True))
    with pytest.raises(LmvicError, match="lies inside"):
        train_pack(TrainPackConfig(output=photos / "b.lmvicpack", data=photos))
    with zipfile.ZipFile(pack) as archive:
        facts = archive.read("pack.json")
    with zipfile.ZipFile(tmp_path / "b.lmvicpack", "w") as archive:
        archive.writestr("pack.json", facts)
        archive.writestr("photos/0.jpg", b"no picture")
    with pytest.raises(LmvicError, match=r"b\.lmvicpack: photos/0\.jpg: cannot be read as an image"):
        Pack(tmp_path / "b.lmvicpack").photos()


def test_devices_and_pipes_are_no_outputs(tmp_path: Path) -> None:
    """A file was renamed to the name of the device, which was gone then: for root, /dev/null of the whole machine."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    header = FileHeader.build(**scene())
    for path in (pipe, link):
        for attempt in (
            lambda path=path: check_file(path, overwrite=True, ours=lambda _: True, kind="ours"),
            lambda path=path: whole_file(path).__enter__(),
            lambda path=path: Writer(path, header),
        ):
            with pytest.raises(LmvicError, match="is a device or a pipe"):
                attempt()
    assert pipe.is_fifo() and sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_pipe_is_no_input_either(tmp_path: Path) -> None:
    """Opening one waits forever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BitstreamError, match="is a device or a pipe; save it to a file first"):
        Reader(tmp_path / "pipe")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_every_signal_that_ends_a_program_leaves_nothing_half(name: str, status: int, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path; from lmvic_ns._util.exit_status import run_cleanly\n"
        "from lmvic_ns._util.results import ResultsOutput\n"
        "def call():\n"
        "    with ResultsOutput(Path(sys.argv[1])) as output:\n"
        "        (output.staging / 'half').touch(); os.kill(os.getpid(), getattr(signal, sys.argv[2])); time.sleep(20)\n"
        "sys.exit(run_cleanly('lmvic', call))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out", name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "lmvic: interrupted\n") and list(tmp_path.iterdir()) == []
    ignored = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{code.replace('time.sleep(20)', 'pass')}"
    if name == "SIGHUP":  # as below nohup
        assert subprocess.run([sys.executable, "-c", ignored, tmp_path / "out", name]).returncode == 0
        assert (tmp_path / "out" / "half").exists()


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "cache").touch()
    cache = ResultCache(tmp_path / "cache" / "below a file")
    assert cache.get({"a": 1}, lambda: {"b": 2}) == ({"b": 2}, False)
    assert "this result is not kept: cannot write" in capsys.readouterr().err


def test_a_full_disk_is_named_by_what_was_written(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write gives it: without a name
    with pytest.raises(LmvicError, match=r"cannot write .*out: the disk is full"), writing(tmp_path / "out"):
        raise error
