"""Two processes through Lightning's DDP train as one process with twice the batch does.

Run as a program, this file is one such training: Lightning starts it a second time for the second process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

STEPS = 5


@pytest.mark.slow
def test_two_gloo_processes_equal_one_with_twice_the_batch(tmp_path: Path):
    pytest.importorskip("lightning")
    from safetensors.torch import load_file
    from test_training import rows, train
    from training_standin import StandInCodec

    torch.manual_seed(0)
    alone = train(tmp_path / "one", steps=STEPS, batch=4, model=StandInCodec(noise=0.0))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, __file__, str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    together = load_file(tmp_path / "two" / "last.safetensors")
    for name, weight in alone.average.average.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-4, atol=1e-5)
    ours, theirs = rows(tmp_path / "one")[-1], rows(tmp_path / "two")[-1]
    assert theirs["step"] == ours["step"] and theirs["crops"] == ours["crops"] == str(4 * STEPS)
    assert float(theirs["score"]) == pytest.approx(float(ours["score"]), abs=1e-3)


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path: Path):
    pytest.importorskip("lightning")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path), "endless"], env=environment)
    checkpoint = tmp_path / "last.ckpt"
    limit = time.monotonic() + 240
    while not checkpoint.is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)  # into the steps, or into the next checkpoint
    process.kill()
    process.wait()
    reached = torch.load(checkpoint, map_location="cpu", weights_only=True)["lmvic"]["step"]
    # in a process of their own: equal bits need equal threads and precision, which other tests' libraries change
    subprocess.run([sys.executable, __file__, str(tmp_path), "compare", str(reached + 3)], env=environment, check=True)
    resumed, whole = (torch.load(tmp_path / f"{mode}.pt", weights_only=True) for mode in ("resume", "whole"))
    assert reached > 0
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def main(folder: Path, mode: str = "ddp", steps: str = "0") -> None:
    from test_training import train
    from training_standin import StandInCodec

    if mode != "ddp":
        torch.set_num_threads(1)
        if mode == "endless":
            train(folder, steps=None, checkpoint_every=0.2)
        for name in ("resume", "whole"):
            run = train(folder if name == "resume" else folder / "whole", steps=int(steps), resume=name == "resume")
            torch.save(run.model.state_dict(), folder / f"{name}.pt")
        return
    torch.manual_seed(0)
    train(folder, steps=STEPS, batch=2, model=StandInCodec(noise=0.0), devices=2, strategy="ddp")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
