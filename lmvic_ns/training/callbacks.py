"""Lightning callback for reports, validation, checkpoints and the end of training."""

from __future__ import annotations

import csv
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lmvic_ns._util.output import whole_file
from lmvic_ns.training import require_lightning
from lmvic_ns.training.files import write_state
from lmvic_ns.training.module import TrainingModule
from lmvic_ns.training.validation import RdRow, score

require_lightning()
from lightning.pytorch.callbacks import Callback  # noqa: E402

Validate = Callable[[torch.nn.Module], Sequence[RdRow]]


class StopSignals:
    """Ctrl-C and SIGTERM ask for an end after the current step; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Install the signal handlers. Outside of the main thread nothing changes."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread
                return

    def restore(self) -> None:
        """Restore the signal handlers."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class LearningCurve:
    """`curve.csv`: a row for each level at each validation; rows after the step resumed from are dropped."""

    FIELDS = ("step", "seconds", "crops", "training_loss", "score", "kind", "level", "bpp", "psnr", "ms_ssim", "loss")

    def __init__(self, path: Path, *, from_step: int):
        self.path = path
        rows: list[dict[str, str]] = []
        if path.is_file() and from_step > 0:
            with path.open(newline="", encoding="utf-8") as stream:
                rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= from_step]
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(self.FIELDS)
            writer.writerows([row.get(name, "") for name in self.FIELDS] for row in rows)

    def append(self, module: TrainingModule, training_loss: float, rows: Sequence[RdRow]) -> None:
        """Add one validation."""
        head = (module.step, f"{module.seconds:.1f}", module.samples_seen, f"{training_loss:.5f}", f"{score(rows):.5f}")
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            for row in rows:
                values = (f"{v:.5f}" if math.isfinite(v) else "" for v in (row.bpp, row.psnr, row.ms_ssim, row.loss))
                writer.writerow((*head, row.kind, f"{row.level:g}", *values))


class RunningMeans:
    """Sums of steps since the last report, kept on the device so that steps do not wait for them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self.loss: Any = 0.0
        self.bits: Any = 0.0
        self.db: Any = 0.0
        self.extra: dict[str, Any] = {}
        self.steps = self.samples = self.pixels = 0
        self.since = time.monotonic()

    def add(self, module: TrainingModule) -> None:
        """Count the module's last step."""
        last = module.last
        if last is None or not bool(torch.isfinite(last.loss)):
            return
        self.loss, self.bits, self.db = self.loss + last.loss, self.bits + last.bits, self.db + last.squared_error_db
        for name, value in last.extra.items():
            total, count = self.extra.get(name, (0.0, 0))
            self.extra[name] = (total + value, count + 1)
        self.steps, self.samples, self.pixels = self.steps + 1, self.samples + last.samples, self.pixels + last.pixels

    def read(self, world: int) -> dict[str, float]:
        """Means: loss, bpp, psnr, crops a second, and whatever the objective added."""
        steps, samples = max(self.steps, 1), max(self.samples, 1)
        means = {
            "loss": float(self.loss) / steps,
            "bpp": float(self.bits) / max(self.pixels, 1),
            "psnr": float(self.db) / samples,
            "crops_per_second": world * self.samples / max(time.monotonic() - self.since, 1e-9),
        }
        return means | {name: float(total) / count for name, (total, count) in self.extra.items()}


def save_average(path: Path, module: TrainingModule, metadata: dict[str, str]) -> None:
    """The averaged weights with the model's buffers as safetensors, in one step so that no half file remains."""
    module.average.swap(module.model)
    try:
        update = getattr(module.model, "update", None)
        if update is not None:  # integer tables follow from the weights that are saved with them
            update()
        state = {name: tensor.detach().clone().cpu() for name, tensor in module.model.state_dict().items()}
    finally:
        module.average.swap(module.model)
    counted = {"step": str(module.step), "seconds": f"{module.seconds:.0f}", "crops": str(module.samples_seen)}
    write_state(path, state, metadata | counted)


class TrainingCallback(Callback):
    """Reports, validates, saves and stops a run. With several processes, the clock of process 0 decides.

    Args:
        folder: gets `last.ckpt`, `last.safetensors`, `best.safetensors`, `curve.csv`.
        validate: rows of a rate-distortion curve of the model as it is given.
        metadata: strings that the weights files carry (preset, data, command).
        stop_after: time limit of this process, in seconds after `started`.
        started: monotonic time from which `stop_after` counts (the command's start).
        every_seconds: (report, validate, checkpoint) intervals.
    """

    def __init__(
        self,
        folder: Path,
        validate: Validate,
        metadata: dict[str, str],
        *,
        stop_after: float | None = None,
        started: float | None = None,
        report_every: float = 10.0,
        validate_every: float = 300.0,
        checkpoint_every: float = 300.0,
        say: Callable[[str], None] | None = None,
    ):
        self.folder, self.validate, self.metadata = folder, validate, metadata
        self.stop_after, self.started = stop_after, time.monotonic() if started is None else started
        self.report_every, self.validate_every, self.checkpoint_every = report_every, validate_every, checkpoint_every
        self.say = say or (lambda line: print(line, flush=True))
        self.signals = StopSignals()
        self.means = RunningMeans()
        self.curve: LearningCurve | None = None
        self.ended_by = "the whole budget is spent"
        self._next_report = self._next_validation = self._next_checkpoint = 0.0
        self._saved_step = -1
        self._validated_step = -1
        self._validated_at = -math.inf
        self._training_loss = math.nan
        self._validation_seconds = 0.0  # what the last validation took: the time limit includes the one at the end

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clocks; Lightning has installed its own signal handlers by now, ours replace them."""
        now = time.monotonic()
        self._next_report = now + self.report_every
        self._next_validation, self._next_checkpoint = now + self.validate_every, now + self.checkpoint_every
        if trainer.is_global_zero:
            self.curve = LearningCurve(self.folder / "curve.csv", from_step=pl_module.step)
        self.signals.install()
        self.means.reset()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report, validate, save or stop, if it is time. Process 0 decides for all."""
        self.means.add(pl_module)
        now = time.monotonic()
        out_of_time = self.stop_after is not None and now - self.started + self._validation_seconds >= self.stop_after
        stop = pl_module.finished or out_of_time
        decisions = [now >= self._next_report, now >= self._next_validation, now >= self._next_checkpoint, stop]
        report, validate, checkpoint, stop = self._agree(trainer, pl_module, decisions)
        if self.signals.received:
            self.ended_by = f"{self.signals.received} was received"
        elif out_of_time:
            self.ended_by = "--max-time is over"
        if report:
            self._report(trainer, pl_module)
        if validate and not stop:
            self._validate(trainer, pl_module)
        if checkpoint and not stop:
            self._checkpoint(trainer, pl_module)
        if stop:
            trainer.should_stop = True

    def _agree(self, trainer: Any, module: Any, decisions: list[bool]) -> list[bool]:
        if trainer.world_size == 1:
            return [*decisions[:3], decisions[3] or self.signals.received is not None]
        clock = torch.tensor(decisions, dtype=torch.float32, device=module.device)
        if not trainer.is_global_zero:
            clock.zero_()
        clock[3] += self.signals.received is not None  # a signal to any process ends all
        return [bool(v > 0) for v in trainer.strategy.reduce(clock, reduce_op="sum")]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Validate and save at the end."""
        self._report(trainer, pl_module)
        just_validated = time.monotonic() - self._validated_at < self._validation_seconds
        if not just_validated:  # little has changed since the last validation
            self._validate(trainer, pl_module)
        self._checkpoint(trainer, pl_module)
        self.signals.restore()
        self._print(trainer, f"ended at step {pl_module.step}: {self.ended_by}; weights and checkpoint in {self.folder}")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self.signals.restore()

    def _print(self, trainer: Any, line: str) -> None:
        if trainer.is_global_zero:
            self.say(line)

    def _report(self, trainer: Any, module: Any) -> None:
        self._next_report = time.monotonic() + self.report_every
        if self.means.steps == 0:
            return
        means = self.means.read(trainer.world_size)
        self._training_loss = means["loss"]
        means["learning_rate"] = module.all_optimizers()[0].param_groups[0]["lr"]
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"train/{name}": value for name, value in means.items()}, step=module.step)
        share = f" {min(module.progress, 1):4.0%}" if module.progress > 0 else ""
        skipped = f"  skipped {module.skipped}" if module.skipped else ""
        self._print(
            trainer,
            f"step {module.step:6d}{share}  loss {means['loss']:.4f}  {means['bpp']:.3f} bpp  {means['psnr']:.2f} dB  "
            f"{means['crops_per_second']:.1f} crops/s  lr {means['learning_rate']:.1e}{skipped}",
        )
        self.means.reset()

    def _validate(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero and module.step != self._validated_step:
            self._validated_step = module.step
            before = time.monotonic()
            module.average.swap(module.model)
            try:
                rows = self.validate(module.model)
            finally:
                module.average.swap(module.model)
            value = score(rows)
            kinds = list(dict.fromkeys(row.kind for row in rows))
            best = value < module.best_score
            self.say(f"validation {value:.4f}{' (best)' if best else ''}, bpp/dB")
            for kind in kinds:
                points = "  ".join(f"{row.bpp:.3f}/{row.psnr:.2f}" for row in rows if row.kind == kind)
                self.say(f"  {kind:6} {points}")
            if self.curve is not None:
                self.curve.append(module, self._training_loss, rows)
            if trainer.logger is not None:
                metrics = {"validation/score": value}
                for row in rows:
                    name = f"{row.kind}-level{row.level:g}"
                    metrics |= {f"bpp/{name}": row.bpp, f"psnr/{name}": row.psnr}
                trainer.logger.log_metrics(metrics, step=module.step)
            if best:
                module.best_score = value
                save_average(self.folder / "best.safetensors", module, self.metadata)
            self._validated_at = time.monotonic()
            self._validation_seconds = self._validated_at - before
        self._next_validation = time.monotonic() + self.validate_every
        self.means.reset()

    def _checkpoint(self, trainer: Any, module: Any) -> None:
        if module.step != self._saved_step:
            self._saved_step = module.step
            temporary = self.folder / "last.partial.ckpt"
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                temporary.replace(self.folder / "last.ckpt")
                save_average(self.folder / "last.safetensors", module, self.metadata)
        self._next_checkpoint = time.monotonic() + self.checkpoint_every


def progress_line() -> Callable[[str], None]:
    """A function that prints lines. On a terminal, each report of a step replaces the last one."""
    if not sys.stdout.isatty():
        return lambda line: print(line, flush=True)

    def say(line: str) -> None:
        end = "\r" if line.startswith("step ") else "\n"
        print(f"\x1b[2K{line}", end=end, flush=True)

    return say
