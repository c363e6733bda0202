"""Stage `photos`: data by number, resuming to the identical step, clean ends, averages, losses."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from training_standin import StandInCodec, lambda_of_level

pytest.importorskip("lightning")

from lmvic_ns.cli.main import run
from lmvic_ns.training import TrainingError, require_lightning
from lmvic_ns.training.data import LevelConfig, PhotoDataset, StepSampler, collate_photos
from lmvic_ns.training.ema import WeightAverage
from lmvic_ns.training.losses import MS_SSIM_LAMBDA_RATIO, image_distortion, level_weight, view_loss
from lmvic_ns.training.module import OptimizationConfig, TrainingModule
from lmvic_ns.training.objectives import LossConfig, PhotoObjective, level_of_lambda
from lmvic_ns.training.photos import CropConfig, PhotoCrops, PhotoSet, centre_crops, load_photos
from lmvic_ns.training.runner import RunConfig, load_initial_weights, run_training
from lmvic_ns.training.schedule import ScheduleConfig, learning_rate
from lmvic_ns.training.settings import parse_duration
from lmvic_ns.training.speed import faster_convolutions
from lmvic_ns.training.validation import rd_curve, score

SIZE = 64


def photo_set(count: int = 8) -> PhotoSet:
    random = np.random.default_rng(1)
    images = []
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        images.append(np.asarray(small.resize((90 + 10 * i, 80 + 5 * i), Image.Resampling.BICUBIC)))
    return PhotoSet(tuple(f"photo-{i}.png" for i in range(count)), tuple(images))


def train(folder: Path, *, steps: int | None, resume: bool = False, batch: int = 2, model=None, **options) -> TrainingModule:
    torch.manual_seed(5)
    model = model or StandInCodec()
    training, held_out = photo_set().split_validation(2)
    crops = PhotoCrops(training, CropConfig(crop_size=SIZE), seed=3)
    schedule = options.pop("schedule", ScheduleConfig(learning_rate=3e-3, warmup_steps=2, decay="constant"))
    optimization = OptimizationConfig(schedule=schedule, batch=batch, seed=3, max_steps=steps)
    validation = [centre_crops(held_out, SIZE)]
    settings = RunConfig(folder=folder, resume=resume, precision="32-true", accelerator="cpu", tensorboard=False, **options)
    return run_training(
        model,
        PhotoObjective(LossConfig(), lambda_of_level, 64),
        PhotoDataset(crops, LevelConfig()),
        collate_photos,
        lambda m: rd_curve(m, validation, (0, 63), lambda_of_level),
        optimization,
        settings,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_resumed_training_is_bit_equal_to_uninterrupted(tmp_path: Path):
    whole = train(tmp_path / "whole", steps=6)
    half = train(tmp_path / "half", steps=3)
    assert half.step == 3
    resumed = train(tmp_path / "half", steps=6, resume=True)
    assert resumed.step == whole.step == 6 and resumed.samples_seen == 12
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    for name, weight in whole.average.average.items():
        assert torch.equal(weight, resumed.average.average[name]), name
    assert not torch.equal(half.model.state_dict()["analysis.weight"], whole.model.state_dict()["analysis.weight"])
    assert [int(r["step"]) for r in rows(tmp_path / "half")] == [3, 3, 6, 6]


def test_an_existing_run_is_not_overwritten(tmp_path: Path):
    train(tmp_path, steps=1)
    with pytest.raises(TrainingError, match="--resume"):
        train(tmp_path, steps=1)


def test_training_lowers_the_loss_and_saves_the_average(tmp_path: Path):
    module = train(tmp_path, steps=60, batch=4, validate_every=0.2)
    table = rows(tmp_path)
    first, last = [r for r in table if r["step"] == table[0]["step"]], table[-2:]
    assert float(last[1]["psnr"]) > float(first[1]["psnr"]) + 1
    saved = load_file(tmp_path / "last.safetensors")
    fresh = StandInCodec()
    assert load_initial_weights(fresh, tmp_path / "last.safetensors") == []
    assert all(torch.equal(saved[n], p) for n, p in module.average.average.items())
    _, held_out = photo_set().split_validation(2)
    again = rd_curve(fresh, [centre_crops(held_out, SIZE)], (0, 63), lambda_of_level)
    assert score(again) == pytest.approx(float(last[0]["score"]), abs=1e-4)
    assert (tmp_path / "best.safetensors").is_file()


def test_a_time_limit_ends_cleanly_and_the_schedule_follows_time(tmp_path: Path):
    start = time.monotonic()
    schedule = ScheduleConfig(schedule_by="time", warmup_steps=1)
    module = train(tmp_path, steps=None, stop_after=1.5, schedule=schedule)
    assert module.step >= 1 and time.monotonic() - start < 20
    assert (tmp_path / "last.ckpt").is_file() and (tmp_path / "last.safetensors").is_file()


def test_sigterm_ends_cleanly_with_a_checkpoint(tmp_path: Path):
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    before = signal.getsignal(signal.SIGTERM)
    module = train(tmp_path, steps=None, stop_after=60)
    assert module.step > 0 and module.seconds < 30
    assert (tmp_path / "last.ckpt").is_file()
    assert signal.getsignal(signal.SIGTERM) == before


class Poisoned(StandInCodec):
    """Gives a loss that is not a number in one step."""

    calls = 0

    def forward_photo(self, image, level):
        out = super().forward_photo(image, level)
        self.calls += self.training
        if self.training and self.calls == 2:
            out.image = out.image * math.nan
        return out


def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path):
    module = train(tmp_path, steps=4, model=Poisoned())
    assert module.skipped == 1 and module.step == 4
    assert all(torch.isfinite(p).all() for p in module.model.parameters())


def test_two_processes_see_what_one_with_twice_the_batch_sees():
    one = iter(StepSampler(4, first_step=lambda: 7))
    halves = [iter(StepSampler(2, first_step=lambda: 7, rank=r, world=2)) for r in (0, 1)]
    for _ in range(3):
        assert next(one) == next(halves[0]) + next(halves[1])


def test_crops_are_functions_of_their_number():
    crops = PhotoCrops(photo_set(), CropConfig(crop_size=SIZE), seed=3)
    assert torch.equal(crops.sample(11), crops.sample(11))
    assert not torch.equal(crops.sample(11), crops.sample(12))
    assert crops.sample(0).shape == (3, SIZE, SIZE) and crops.sample(0).dtype == torch.uint8
    levels = [LevelConfig().sample(3, n) for n in range(2000)]
    assert min(levels) == 0 and max(levels) == 63 and abs(float(np.mean(levels)) - 31.5) < 1.5


def test_pictures_smaller_than_a_crop_are_enlarged():
    tiny = PhotoSet(("a",), (np.zeros((20, 30, 3), np.uint8),))
    assert PhotoCrops(tiny, CropConfig(crop_size=SIZE), seed=0).sample(0).shape == (3, SIZE, SIZE)
    assert centre_crops(tiny, SIZE).shape == (1, 3, SIZE, SIZE)


def test_validation_photographs_are_held_out_of_training():
    photos = photo_set(8)
    training, held_out = photos.split_validation(2)
    assert len(held_out) == 2 and not set(training.names) & set(held_out.names) and len(training) == 6
    assert photos.exclude(["photo-[0-5]*"]).names == ("photo-6.png", "photo-7.png")
    with pytest.raises(TrainingError, match="validation photographs"):
        photos.split_validation(8)


def test_a_folder_without_photographs_is_named(tmp_path: Path):
    with pytest.raises(TrainingError, match="no photographs"):
        load_photos(tmp_path)


def test_average_follows_the_closed_form():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.5)
    model.weight.data.fill_(1.0)
    expected = 0.0
    for t in range(1, 20):
        average.update(model)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay)
    assert average.average["weight"].item() == pytest.approx(expected, rel=1e-6)
    average.swap(model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    average.swap(model)
    assert model.weight.item() == 1.0


def test_schedule_warms_up_and_decays():
    config = ScheduleConfig(learning_rate=1.0, warmup_steps=10, final_ratio=0.1)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 100, 0.0) == 1.0
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.55)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)
    halved = ScheduleConfig(learning_rate=1.0, warmup_steps=1, decay="halve")
    assert [learning_rate(halved, 9, p) for p in (0.0, 0.3, 0.99)] == [1.0, 0.5, 0.0625]


def test_losses_are_what_the_method_says():
    one = torch.ones(1)
    loss = view_loss(0.01 * one, 0.02 * one, 640 * one, 256 * one, 64 * one, 64, view_weight=1.2)
    assert loss.item() == pytest.approx(1.2 * (256 * 0.01 + 64 * 0.02) + 10)
    assert level_weight(torch.tensor([100.0, 400.0]), 100.0, 0.5).tolist() == pytest.approx([1.0, 0.5])
    assert level_of_lambda(30.0, lambda_of_level, 64) == 0 and level_of_lambda(8000.0, lambda_of_level, 64) == 63


def test_durations():
    assert parse_duration("00:08:00") == 480 and parse_duration("1:30") == 90 and parse_duration("45") == 45
    with pytest.raises(TrainingError, match="HH:MM:SS"):
        parse_duration("8min")


def test_faster_convolutions_compute_the_same():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2, stride=2), torch.nn.Conv2d(8, 4, 3, stride=2, padding=1))
    x = torch.rand(2, 3, 11, 14)
    before = model(x)
    assert faster_convolutions(model) == 1 and faster_convolutions(model) == 0
    torch.testing.assert_close(model(x), before)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_without_lightning_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(TrainingError, match=r"lmvic-ns\[train\]"):
        require_lightning()


def test_ms_ssim_loss_is_zero_for_equals_and_grows_with_noise():
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24), size=192, mode="bicubic").clamp(0, 1)
    noisy = image + torch.tensor([0.02, 0.2])[:, None, None, None] * torch.randn_like(image)
    assert image_distortion(image, image, "ms-ssim").abs().max() < 1e-5
    little, much = image_distortion(noisy, image, "ms-ssim")
    assert 0 < little < much / 4 and much < MS_SSIM_LAMBDA_RATIO


@pytest.mark.slow
def test_the_command_trains_a_real_model_and_resumes(tmp_path: Path):
    photos = photo_set(6)
    for name, image in zip(photos.names, photos.images, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    command = ["train", "photos", "--output", str(tmp_path / "run"), "--data", str(tmp_path), "--crop-size", "64"]
    command += ["--batch", "1", "--validation-photos", "1", "--accelerator", "cpu"]
    assert run([*command, "--max-steps", "1"]) == 0
    assert run([*command, "--max-steps", "2", "--resume"]) == 0
    assert {row["step"] for row in rows(tmp_path / "run")} == {"1", "2"}
    with safe_open(str(tmp_path / "run" / "last.safetensors"), framework="pt") as stream:
        assert stream.metadata()["preset"] == "tiny" and stream.metadata()["step"] == "2"
    with pytest.raises(TrainingError, match="--max-steps"):
        run([*command, "--resume"])
