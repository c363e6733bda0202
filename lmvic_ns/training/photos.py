"""Photographs for the intra path: decoded once into memory, crops drawn by number.

Every crop is a pure function of (seed, sample number): nothing about the data has state, so a resumed or a distributed
run sees exactly the samples that an uninterrupted single process would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns._util.pictures import opaque_rgb
from lmvic_ns.training import TrainingError
from lmvic_ns.training.synthetic import synthetic_picture

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class PhotoSet:
    """Photographs as uint8 arrays (height, width, 3), with their names."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    held_out: tuple[str, ...] = ()
    """Names to validate on where a pack says so: those that the whole collection holds out."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def megabytes(self) -> float:
        """Memory of the decoded pictures in MB."""
        return sum(image.nbytes for image in self.images) / 1e6

    def subset(self, indices: Sequence[int]) -> PhotoSet:
        """The photographs at `indices`, sharing memory."""
        return PhotoSet(tuple(self.names[i] for i in indices), tuple(self.images[i] for i in indices), self.held_out)

    def exclude(self, patterns: Sequence[str]) -> PhotoSet:
        """Without the names that match a shell pattern (such as `urban-*`, whose terms are for research only)."""
        keep = [i for i, name in enumerate(self.names) if not any(fnmatch(name, pattern) for pattern in patterns)]
        return self.subset(keep)

    def split_validation(self, count: int) -> tuple[PhotoSet, PhotoSet]:
        """(training, validation): `count` pictures at equal strides of the sorted names, so every source is in it."""
        if count >= len(self):
            raise TrainingError(f"{count} validation photographs asked of {len(self)}: give more photographs or fewer")
        stride = len(self) / max(count, 1)
        held_out = {int((k + 0.5) * stride) for k in range(count)}
        if self.held_out:
            held_out = {i for i, name in enumerate(self.names) if name in self.held_out}
        rest = [i for i in range(len(self)) if i not in held_out]
        return self.subset(rest), self.subset(sorted(held_out))


def decode_photo(path: Path) -> np.ndarray:
    """One picture as uint8 (height, width, 3); see `opaque_rgb`."""
    with open_picture(path) as picture:
        return np.asarray(opaque_rgb(path, picture))


def load_photos(folder: Path, *, threads: int = 2) -> PhotoSet:
    """Decode all pictures directly in `folder`, sorted by name.

    Raises:
        TrainingError: if the folder does not exist or holds no picture.
    """
    folder = Path(folder)
    paths = (
        sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
        if folder.is_dir()
        else []
    )
    if not paths:
        raise TrainingError(f"no photographs ({', '.join(IMAGE_SUFFIXES)}) in {folder}: give a folder that holds some")
    with ThreadPoolExecutor(max_workers=threads) as pool:
        images = tuple(pool.map(decode_photo, paths))
    return PhotoSet(tuple(p.name for p in paths), images)


def to_tensor(image: np.ndarray) -> UInt8[Tensor, "3 h w"]:
    """(height, width, 3) uint8 to a channels-first tensor of its own memory."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@dataclass(frozen=True)
class CropConfig:
    """How random crops of photographs are drawn."""

    crop_size: int = 256
    """Side of the crop in pixels (a multiple of 64)."""
    flip_probability: float = 0.5
    """Share of crops that are mirrored left to right."""
    downscale_probability: float = 0.4
    """Share of crops taken from a larger window that is then reduced: sharper, denser detail than the files have."""
    downscale_minimum: float = 0.5
    """Smallest scale of such a reduction; the scale is uniform up to 1."""
    synthetic_probability: float = 0.06
    """Share of crops in whose place stands a picture that no camera takes (`lmvic_ns.training.synthetic`)."""
    dark_probability: float = 0.04
    """Share of crops that are darkened to a night."""
    prefer: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[PATTERN [PATTERN ...]]")] = ("large-*",)
    """Shell patterns of names that are drawn more often: cuts of photographs at the size of real captures."""
    prefer_factor: float = 3.0
    """How much more often, for their area."""


class PhotoCrops:
    """Random crops of a photograph set by number; large pictures are drawn more often (by their area)."""

    def __init__(self, photos: PhotoSet, config: CropConfig, *, seed: int):
        self.photos, self.config, self.seed = photos, config, seed
        areas = np.array([max(image.shape[0] * image.shape[1], 1) for image in photos.images], dtype=np.float64)
        preferred = [any(fnmatch(name, pattern) for pattern in config.prefer) for name in photos.names]
        areas[preferred] *= config.prefer_factor
        self._cumulative = np.cumsum(areas / areas.sum())

    def sample(self, number: int) -> UInt8[Tensor, "3 size size"]:
        """Crop number `number`: the same for the same (photographs, config, seed, number)."""
        c = self.config
        random = np.random.default_rng((self.seed, number, 0xC0))
        if random.random() < c.synthetic_probability:
            return to_tensor(synthetic_picture(random, c.crop_size))
        image = self.photos.images[min(int(np.searchsorted(self._cumulative, random.random())), len(self.photos) - 1)]
        scale = random.uniform(c.downscale_minimum, 1.0) if random.random() < c.downscale_probability else 1.0
        x, y, mirrored = random.random(), random.random(), random.random() < c.flip_probability
        height, width = image.shape[:2]
        window = min(round(c.crop_size / scale), height, width)
        y0, x0 = int(y * (height - window + 1)), int(x * (width - window + 1))
        crop = image[y0 : y0 + window, x0 : x0 + window]
        if window != c.crop_size:  # reduced on purpose, or a picture smaller than the crop
            resized = Image.fromarray(crop).resize((c.crop_size, c.crop_size), Image.Resampling.BICUBIC)
            crop = np.asarray(resized)
        if random.random() < c.dark_probability:
            crop = (crop * random.uniform(0.05, 0.5)).astype(np.uint8)
        return to_tensor(crop[:, ::-1] if mirrored else crop)


def centre_crops(photos: PhotoSet, size: int) -> Float[Tensor, "n 3 size size"]:
    """The middle of each picture in 0..1, for validation; a smaller picture is enlarged first."""
    crops = []
    for image in photos.images:
        height, width = image.shape[:2]
        if min(height, width) < size:
            factor = size / min(height, width)
            wide, high = max(size, round(width * factor)), max(size, round(height * factor))
            image = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
            height, width = image.shape[:2]
        y0, x0 = (height - size) // 2, (width - size) // 2
        crops.append(to_tensor(image[y0 : y0 + size, x0 : x0 + size]))
    return torch.stack(crops).float() / 255
