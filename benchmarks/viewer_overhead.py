"""What an open viewer with the correspondence panel costs training while no client is connected.

    python benchmarks/viewer_overhead.py --data ../shared/data/scenes/fox

Trains the same steps with `--vis viewer` and with nothing to watch them in turn, each in a process of its own, and counts
processor seconds (all threads), a fair measure on a machine that is shared. In the runs with the viewer it also counts
what our panel (`CorrespondencePanel.after_step`) and nerfstudio's own viewer (`Viewer.update_scene`) take of them.
"""

from __future__ import annotations

import copy
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

MODES: tuple[Literal["viewer", "none"], ...] = ("viewer", "none")


@dataclass
class Options:
    """What to train, and how often."""

    data: Path
    """A nerfstudio dataset."""
    factor: float = 0.5
    """Size of the pictures relative to the files."""
    warmup: int = 20
    """Steps that are not counted: compilation, caches."""
    steps: int = 200
    """Steps that are counted."""
    repeats: int = 3
    """Runs of each kind."""
    run: Literal["viewer", "none"] | None = None
    """One run of this kind in this process, as a line of JSON."""


class Clock:
    """Processor seconds of one function, summed over its calls in the calling thread."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # nerfstudio looks at the arguments' names
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - started
                self.calls += 1

        return timed


def train(options: Options) -> dict[str, float]:
    """One training run; processor seconds of the counted steps and of their parts."""
    import torch
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
    from nerfstudio.viewer.viewer import Viewer

    from lmvic_ns.splat.panel import CorrespondencePanel

    panel, theirs = Clock(), Clock()
    CorrespondencePanel.after_step = panel.around(CorrespondencePanel.after_step)  # type: ignore[method-assign]
    Viewer.update_scene = theirs.around(Viewer.update_scene)  # type: ignore[method-assign]
    config: Any = copy.deepcopy(all_methods["lmvic-splat"])
    config.data = config.pipeline.datamanager.data = options.data
    config.pipeline.datamanager.camera_res_scale_factor = options.factor
    config.vis, config.experiment_name, config.timestamp = options.run, options.data.name, "run"
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_save = 0
    config.max_num_iterations = options.warmup + options.steps
    config.viewer.quit_on_train_completion, config.viewer.websocket_host = True, "127.0.0.1"
    with tempfile.TemporaryDirectory() as scratch:
        config.output_dir = Path(scratch)
        config.set_timestamp()
        config.save_config()
        torch.manual_seed(config.machine.seed)
        trainer = config.setup()
        trainer.setup()
        marks: list[tuple[float, float, int, float]] = []

        def look(step: int) -> None:
            if step + 1 in (options.warmup, options.warmup + options.steps):
                marks.append((time.process_time(), panel.seconds, panel.calls, theirs.seconds))

        trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], look))
        trainer.train()
    whole, ours, calls, other = (after - before for before, after in zip(*marks, strict=True))
    return {"whole": whole, "panel": ours, "panel_calls": calls, "nerfstudio_viewer": other}


def main(options: Options) -> None:
    if options.run is not None:
        print("\n" + json.dumps(train(options)), flush=True)
        return
    runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for repeat in range(options.repeats):
        # in turn, and the other one first every second time: what else the machine does changes slowly
        for mode in MODES if repeat % 2 == 0 else MODES[::-1]:
            command = [sys.executable, __file__, *sys.argv[1:], "--run", mode]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(f"{mode}: {result.stderr[-2000:]}")
            found = json.loads(next(line for line in reversed(result.stdout.splitlines()) if line.startswith("{")))
            runs[mode].append(found)
            print(f"{mode:12} {1000 * found['whole'] / options.steps:8.2f} ms a step", flush=True)
            if mode == "viewer":
                for part in ("panel", "nerfstudio_viewer"):
                    milliseconds = 1000 * found[part] / options.steps
                    print(f"  {part:18} {milliseconds:8.4f} ms a step, {100 * found[part] / found['whole']:.4f} %", flush=True)
    middle = {mode: statistics.median(run["whole"] for run in runs[mode]) for mode in MODES}
    share = max(run["panel"] / run["whole"] for run in runs["viewer"])
    print(f"with the viewer open: {100 * (middle['viewer'] / middle['none'] - 1):+.2f} % (medians of {options.repeats})")
    print(f"our panel: at most {100 * share:.4f} % of a step")


if __name__ == "__main__":
    main(tyro.cli(Options))
