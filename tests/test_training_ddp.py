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
    from test_training import train

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
    resumed = train(tmp_path, steps=reached + 3, resume=True)
    whole = train(tmp_path / "whole", steps=reached + 3)
    assert reached > 0
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def main(folder: str, endless: bool) -> None:
    from test_training import train
    from training_standin import StandInCodec

    if endless:
        torch.set_num_threads(1)
        train(Path(folder), steps=None, checkpoint_every=0.2)
        return
    torch.manual_seed(0)
    train(Path(folder), steps=STEPS, batch=2, model=StandInCodec(noise=0.0), devices=2, strategy="ddp")


if __name__ == "__main__":
    main(sys.argv[1], len(sys.argv) > 2)
