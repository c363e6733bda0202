"""Scenes for the cross-view path: chains of views with crops that follow the geometry.

Like photographs, every chain is a pure function of (seed, sample number).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.training import TrainingError
from lmvic_ns.training.photos import to_tensor
from lmvic_ns.tree.ordering import covisibility

_DEPTH_STEPS = 65535


@dataclass(frozen=True)
class TrainingScene:
    """A scene in memory, in the codec's units.

    Attributes:
        name: of the scene's folder.
        images: uint8 (h, w, 3) of each view.
        inverse_depths: uint16 (h, w), normalised inverse depth in steps of 1/65535; may be coarser than the image.
        intrinsics: (v, 3, 3) at the images' sizes.
        world_to_camera: (v, 4, 4), translations in units in which depth is 1 / normalised inverse depth.
        distances: (v, v), 1 - covisibility.
    """

    name: str
    images: tuple[np.ndarray, ...]
    inverse_depths: tuple[np.ndarray, ...]
    intrinsics: Float[np.ndarray, "v 3 3"]
    world_to_camera: Float[np.ndarray, "v 4 4"]
    distances: Float[np.ndarray, "v v"]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def megabytes(self) -> float:
        """Memory in MB."""
        return sum(a.nbytes for a in (*self.images, *self.inverse_depths)) / 1e6


def normalised_scene(scene: MultiViewScene, name: str) -> TrainingScene:
    """Load a scene with depth as training needs it.

    Raises:
        TrainingError: it has no depth.
        SceneError: a view cannot be read.
    """
    from lmvic_ns.codec.planning import inverse_depth_scale  # what files are normalised with

    if not scene.has_depth:
        raise TrainingError(f"scene {name} has no depth: run `lmvic prepare` on it and train on what it writes")
    scale = inverse_depth_scale(scene)
    images, depths = [], []
    for view in range(len(scene)):
        images.append((scene.image(view) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
        normalised = (scene.inverse_depth(view).double() / scale).clamp(0, 1)
        depths.append((normalised * _DEPTH_STEPS).round().numpy().astype(np.uint16))
    transforms = scene.cameras.world_to_camera.clone()
    transforms[:, :3, 3] *= scale
    return training_scene(name, images, depths, scene.cameras.intrinsics.numpy(), transforms.numpy())


def training_scene(
    name: str,
    images: Sequence[np.ndarray],
    inverse_depths: Sequence[np.ndarray],
    intrinsics: Float[np.ndarray, "v 3 3"],
    world_to_camera: Float[np.ndarray, "v 4 4"],
) -> TrainingScene:
    """A scene from its parts, with the distances between its views."""
    heights = torch.tensor([image.shape[0] for image in images])
    widths = torch.tensor([image.shape[1] for image in images])
    cameras = Cameras(torch.from_numpy(intrinsics), torch.from_numpy(world_to_camera), heights, widths)
    shares = covisibility([torch.from_numpy(d.astype(np.float32) / _DEPTH_STEPS) for d in inverse_depths], cameras)
    return TrainingScene(name, tuple(images), tuple(inverse_depths), intrinsics, world_to_camera, 1 - shares.numpy())


def load_scene(folder: Path) -> TrainingScene:
    """A nerfstudio dataset with depth, such as `lmvic prepare` writes."""
    return normalised_scene(MultiViewScene.from_dataset(folder), folder.name)


@dataclass
class ChainBatch:
    """Chains of views: crops, normalised inverse depth, cameras and which references are kept."""

    image: Tensor
    """uint8 [b, n, 3, h, w]."""
    inverse_depth: Tensor
    """float32 [b, n, h, w] in 0..1."""
    cameras: list[Cameras]
    """n batches of b cameras, of the crops."""
    level: Tensor
    """float32 [b]."""
    keep: Tensor
    """bool [b, n]: False where the view must do without its reference; the first view has none anyway."""

    def to(self, device: torch.device | str) -> ChainBatch:
        """The same on `device`."""
        return ChainBatch(
            self.image.to(device, non_blocking=True),
            self.inverse_depth.to(device, non_blocking=True),
            [cameras.to(device) for cameras in self.cameras],
            self.level.to(device, non_blocking=True),
            self.keep.to(device, non_blocking=True),
        )

    def pin_memory(self) -> ChainBatch:
        """Pictures and depth page-locked, for copies to a GPU that overlap with work; cameras are small."""
        return replace(self, image=self.image.pin_memory(), inverse_depth=self.inverse_depth.pin_memory())


@dataclass(frozen=True)
class ChainConfig:
    """Random chains of views."""

    chain_size: int = 256
    """Side of the crops in pixels (a multiple of 64)."""
    views: int = 4
    """Views of a chain. Each refers to the one before it."""
    neighbours: int = 5
    """The next view is drawn from this many nearest ones; nearer ones are more frequent."""
    reference_dropout: float = 0.15
    """Share of views that are coded without their reference, so that intra coding stays good."""
    smallest_scale: float = 0.5
    """Smallest random scale. A crop is cut from a window 1 / scale times as large, which is then reduced."""
    jitter: float = 0.1
    """Largest random shift of a window, relative to its side."""


@dataclass(frozen=True)
class Chain:
    """One sample, before it is stacked."""

    image: Tensor
    inverse_depth: Tensor
    cameras: Cameras
    keep: Tensor


class SceneChains:
    """Random chains by number; scenes are drawn by the square root of their number of views."""

    def __init__(self, scenes: Sequence[TrainingScene], config: ChainConfig, *, seed: int):
        short = [scene.name for scene in scenes if len(scene) < 2]
        if not scenes or short:
            raise TrainingError(f"scene {short[0]} has one view: chains need two" if short else "no scenes to train on")
        self.scenes, self.config, self.seed = list(scenes), config, seed
        weights = np.sqrt([len(scene) for scene in scenes])
        self._cumulative = np.cumsum(weights / weights.sum())

    def sample(self, number: int) -> Chain:
        """Chain number `number`: the same for the same (scenes, config, seed, number)."""
        c = self.config
        random = np.random.default_rng((self.seed, number, 0xCA))
        scene = self.scenes[min(int(np.searchsorted(self._cumulative, random.random())), len(self.scenes) - 1)]
        view = int(random.integers(len(scene)))
        scale = random.uniform(c.smallest_scale, 1.0)
        side = _window_side(scene.images[view].shape, c.chain_size / scale)
        height, width = scene.images[view].shape[:2]
        window = (int(random.integers(width - side + 1)), int(random.integers(height - side + 1)), side)
        views, windows = [view], [window]
        while len(views) < c.views:
            view, window = self._next(scene, views, windows, random)
            views.append(view)
            windows.append(window)
        keep = torch.from_numpy(random.random(c.views) >= c.reference_dropout)
        keep[0] = False
        return cut_chain(scene, views, windows, c.chain_size, keep)

    def _next(
        self, scene: TrainingScene, views: list[int], windows: list[tuple[int, int, int]], random: np.random.Generator
    ) -> tuple[int, tuple[int, int, int]]:
        """A view near the last one, and the window in it that shows most of the last window."""
        current, window = views[-1], windows[-1]
        order = [int(v) for v in np.argsort(scene.distances[current], kind="stable") if v != current]
        unused = [v for v in order if v not in views] or order
        best: tuple[float, int, tuple[int, int, int]] | None = None
        for _ in range(3):
            rank = min(int(random.geometric(0.35)) - 1, self.config.neighbours - 1, len(unused) - 1)
            view = unused[rank]
            share, found = follow_window(scene, current, window, view)
            side = found[2]
            height, width = scene.images[view].shape[:2]
            dx, dy = (int(d) for d in random.integers(-1, 2, 2) * round(self.config.jitter * side * random.random()))
            moved = (min(max(found[0] + dx, 0), width - side), min(max(found[1] + dy, 0), height - side), side)
            if best is None or share > best[0]:
                best = (share, view, moved)
            if share > 0.4:
                break
        assert best is not None
        return best[1], best[2]


def _window_side(shape: tuple[int, ...], side: float) -> int:
    return max(1, min(round(side), shape[0], shape[1]))


def follow_window(
    scene: TrainingScene, view: int, window: tuple[int, int, int], other: int
) -> tuple[float, tuple[int, int, int]]:
    """Where another view shows what a window shows: a grid of its points is projected by their depth.

    Returns:
        the share of the points that lie in the window found, and the window (x0, y0, side), inside the other picture.
    """
    x0, y0, side = window
    grid = (np.arange(9) + 0.5) * (side / 9)
    x, y = (a.ravel() for a in np.meshgrid(x0 + grid, y0 + grid))
    depth = scene.inverse_depths[view]
    height, width = scene.images[view].shape[:2]
    rows = np.minimum((y * depth.shape[0] / height).astype(int), depth.shape[0] - 1)
    columns = np.minimum((x * depth.shape[1] / width).astype(int), depth.shape[1] - 1)
    rho = depth[rows, columns] / _DEPTH_STEPS
    ray = np.stack([x, y, np.ones_like(x)]) * 1.0
    relative = scene.world_to_camera[other] @ np.linalg.inv(scene.world_to_camera[view])
    point = relative[:3, :3] @ (np.linalg.inv(scene.intrinsics[view]) @ ray) + relative[:3, 3:] * rho
    image = scene.intrinsics[other] @ point
    front = image[2] > 1e-6
    other_height, other_width = scene.images[other].shape[:2]
    new_side = _window_side(scene.images[other].shape, side)
    if not front.any():
        return 0.0, ((other_width - new_side) // 2, (other_height - new_side) // 2, new_side)
    u, v = image[0, front] / image[2, front], image[1, front] / image[2, front]
    left = int(np.clip(round(float(np.median(u)) - new_side / 2), 0, other_width - new_side))
    top = int(np.clip(round(float(np.median(v)) - new_side / 2), 0, other_height - new_side))
    inside = (u >= left) & (u < left + new_side) & (v >= top) & (v < top + new_side)
    return float(inside.sum()) / len(x), (left, top, new_side)


def cut_chain(
    scene: TrainingScene,
    views: Sequence[int],
    windows: Sequence[tuple[int, int, int]],
    size: int,
    keep: Tensor,
) -> Chain:
    """Crops of these windows, reduced (or enlarged) to `size`, with the cameras that belong to them."""
    images, depths, cameras = [], [], []
    for view, (x0, y0, side) in zip(views, windows, strict=True):
        crop = scene.images[view][y0 : y0 + side, x0 : x0 + side]
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        images.append(to_tensor(crop))
        depth, (height, width) = scene.inverse_depths[view], scene.images[view].shape[:2]
        centres = (np.arange(size) + 0.5) * (side / size)  # nearest: nothing is averaged across an edge
        rows = np.minimum(((y0 + centres) * depth.shape[0] / height).astype(int), depth.shape[0] - 1)
        columns = np.minimum(((x0 + centres) * depth.shape[1] / width).astype(int), depth.shape[1] - 1)
        depths.append(torch.from_numpy(depth[rows[:, None], columns].astype(np.float32) / _DEPTH_STEPS))
        full = Cameras(
            torch.from_numpy(scene.intrinsics[view])[None],
            torch.from_numpy(scene.world_to_camera[view])[None],
            torch.tensor([height]),
            torch.tensor([width]),
        )
        cameras.append(full.crop(x0, y0, side, side).resize(size, size))
    return Chain(torch.stack(images), torch.stack(depths), Cameras.cat(cameras), keep)


def collate_chains(samples: Sequence[tuple[Chain, float]]) -> ChainBatch:
    """Stack (chain, level) pairs of equal length."""
    chains = [chain for chain, _ in samples]
    views = len(chains[0].cameras)
    return ChainBatch(
        torch.stack([chain.image for chain in chains]),
        torch.stack([chain.inverse_depth for chain in chains]),
        [Cameras.cat([chain.cameras[n] for chain in chains]) for n in range(views)],
        torch.tensor([level for _, level in samples], dtype=torch.float32),
        torch.stack([chain.keep for chain in chains]),
    )


def validation_chains(
    scenes: Sequence[TrainingScene], config: ChainConfig, count: int, *, batch: int, seed: int = 12345
) -> list[ChainBatch]:
    """Fixed chains of scenes that are not trained on, in batches, every reference kept."""
    chains = SceneChains(scenes, replace(config, reference_dropout=0.0, smallest_scale=1.0), seed=seed)
    drawn: list[tuple[Chain, float]] = [(chains.sample(number), 0.0) for number in range(count)]
    return [collate_chains(drawn[i : i + batch]) for i in range(0, count, batch)]


class MixedDataset(torch.utils.data.Dataset):
    """Whole steps of chains, or (with given shares) of photographs, so that the intra path stays good, or of pairs made
    of photographs (`lmvic_ns.training.pairs`).

    The kind of a step is a function of (seed, step), so all processes agree on it.
    """

    def __init__(
        self,
        chains: SceneChains,
        photo: Callable[[int], tuple[Tensor, float]] | None,
        level: Callable[[int], float],
        *,
        photo_share: float,
        pair_share: float = 0.0,
    ):
        self.chains, self.photo, self.level = chains, photo, level
        self.photo_share, self.pair_share = (photo_share, pair_share) if photo is not None else (0.0, 0.0)

    def keys_of_step(self, step: int, numbers: list[int]) -> list[tuple[str, int]]:
        """What to load for a step; a step of photographs has as many crops as one of chains."""
        draw = np.random.default_rng((self.chains.seed, step, 0x31)).random()
        if draw >= self.photo_share + self.pair_share:
            return [("chain", number) for number in numbers]
        views = self.chains.config.views
        kind = "photo" if draw < self.photo_share else "pair"
        return [(kind, number * views + n) for number in numbers for n in range(views)]

    def __getitem__(self, key: tuple[str, int]) -> tuple:
        kind, number = key
        if kind != "chain":
            assert self.photo is not None
            return (*self.photo(number), kind)
        return self.chains.sample(number), self.level(number)
