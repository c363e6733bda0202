"""Batches as a function of the step number, so that runs resume and distribute exactly.

Step s with a global batch of B uses samples s*B .. s*B+B-1; process r of n takes its B/n of them. So the order of the
data is a function of (seed, step) alone, two processes see together what one process with twice the batch sees, and a
resumed run goes on where the killed one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lmvic_ns.training.photos import PhotoCrops


@dataclass
class PhotoBatch:
    """Crops of photographs with a quality level for each."""

    image: UInt8[Tensor, "b 3 h w"]
    level: Float[Tensor, "b"]

    def to(self, device: torch.device | str) -> PhotoBatch:
        """The same on `device`."""
        return PhotoBatch(self.image.to(device, non_blocking=True), self.level.to(device, non_blocking=True))

    def pin_memory(self) -> PhotoBatch:
        """Page-locked, for copies to a GPU that overlap with work."""
        return PhotoBatch(self.image.pin_memory(), self.level.pin_memory())


@dataclass(frozen=True)
class LevelConfig:
    """Which quality levels training draws."""

    minimum: float = 0.0
    maximum: float = 63.0
    endpoints: float = 0.05
    """Extra share of samples exactly at the minimum and at the maximum, which a uniform draw hardly ever meets."""
    skew: float = 1.0
    """A level is drawn as u**skew of the range, u uniform: above 1 lower levels come more often."""
    fixed: float | None = None
    """One level for every sample (the paper's way); None draws at random."""

    def sample(self, seed: int, number: int) -> float:
        """Level of sample `number`: the same for the same (seed, number)."""
        if self.fixed is not None:
            return self.fixed
        choice, uniform = np.random.default_rng((seed, number, 0x1E)).random(2)
        if choice < self.endpoints:
            return self.minimum if uniform < 0.5 else self.maximum
        return self.minimum + (self.maximum - self.minimum) * float(uniform) ** self.skew


class StepSampler(Sampler):
    """Yields, for ever, the sample numbers of this process's share of each step, from `first_step()` on.

    `keys_of_step(step, numbers)` may turn the numbers into a dataset's own keys.
    """

    def __init__(
        self,
        batch: int,
        *,
        first_step: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        keys_of_step: Callable[[int, list[int]], list] | None = None,
    ):
        self.batch, self.first_step, self.rank, self.world = batch, first_step, rank, world
        self.keys_of_step = keys_of_step

    def __iter__(self) -> Iterator[list]:
        step = self.first_step()
        while True:
            start = (step * self.world + self.rank) * self.batch
            numbers = list(range(start, start + self.batch))
            yield numbers if self.keys_of_step is None else self.keys_of_step(step, numbers)
            step += 1


class PhotoDataset(Dataset):
    """(crop, level) by sample number."""

    def __init__(self, crops: PhotoCrops, levels: LevelConfig):
        self.crops, self.levels = crops, levels

    def __getitem__(self, number: int) -> tuple[Tensor, float]:
        return self.crops.sample(number), self.levels.sample(self.crops.seed, number)


def collate_photos(samples: list[tuple[Tensor, float]]) -> PhotoBatch:
    """Stack (crop, level) pairs."""
    images, levels = zip(*samples, strict=True)
    return PhotoBatch(torch.stack(images), torch.tensor(levels, dtype=torch.float32))


def step_loader(dataset: Dataset, sampler: StepSampler, collate: Callable, *, workers: int, pin: bool) -> DataLoader:
    """An endless loader; `workers` = 0 draws in the training process (best on few cores)."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
