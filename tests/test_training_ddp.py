"""Two processes through Lightning's DDP train as one process with twice the batch does.

Run as a program, this file is one such training: Lightning starts it a second time for the second process.
"""

from __future__ import annotations

import os
import subprocess
import sys
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


def main(folder: str) -> None:
    from test_training import train
    from training_standin import StandInCodec

    torch.manual_seed(0)
    train(Path(folder), steps=STEPS, batch=2, model=StandInCodec(noise=0.0), devices=2, strategy="ddp")


if __name__ == "__main__":
    main(sys.argv[1])
