"""`lmvic train photos | scenes | pack`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from torch import Tensor

from lmvic_ns._util.output import check_file
from lmvic_ns.depth_sources.sfm import find_scenes
from lmvic_ns.training import TrainingError, require_lightning
from lmvic_ns.training.data import LevelConfig, PhotoDataset, collate_photos
from lmvic_ns.training.pack import Pack, PackConfig, is_pack, write_pack
from lmvic_ns.training.pairs import PairBatch
from lmvic_ns.training.photos import CropConfig, PhotoCrops, PhotoSet, centre_crops, load_photos
from lmvic_ns.training.scenes import (
    ChainConfig,
    MixedDataset,
    SceneChains,
    TrainingScene,
    collate_chains,
    load_scene,
    validation_chains,
)
from lmvic_ns.training.settings import OptionsConfig, default_data, now, optimization_config, run_config, start_model
from lmvic_ns.training.validation import CHAIN_VALIDATION_LEVELS, VALIDATION_LEVELS, rd_chains, rd_curve

VALIDATION_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """Options of training on photographs alone."""

    batch: int = 8
    """Crops per step and process."""
    crops: CropConfig = field(default_factory=CropConfig)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class TrainPhotosConfig(PhotoOptions, OptionsConfig):
    """Train intra coding on photographs."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Options of training on scenes."""

    scenes: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the output of `lmvic prepare`; by default the scenes in the training pack."""
    validation_scene: Annotated[str, tyro.conf.arg(metavar="SCENE")] = "sceaux"
    """Scene held out of training, by which the best weights are chosen."""
    batch: int = 2
    """Chains per step and process."""
    photo_share: float = 0.3
    """Share of the steps on single photographs, so that intra coding stays good."""
    pair_share: float = 0.3
    """Share of the steps on synthetic pairs of views, made from single photographs."""
    depth_coding: Literal["quadtree", "learned", "given"] = "quadtree"
    """How the depth of the chains is coded: as in files (quadtree), by the learned codec, or not at all (given).
    `given` averages the depth over blocks and counts no bits. It is fast on a GPU, where the quadtree search is slow."""
    crops: CropConfig = field(default_factory=CropConfig)
    chains: ChainConfig = field(default_factory=ChainConfig)


@dataclass(frozen=True, kw_only=True)
class AdvancedSceneOptions:
    """Loss over a chain of views, and learned depth."""

    HELP_SECTION: ClassVar[str] = "advanced"

    validation_chains: int = 4
    """Chains of the validation scene to validate on."""
    detach: bool = False
    """Cut the gradient between the views of a chain. This saves memory, but references get worse."""
    train_depth: bool = True
    """With learned depth: train the depth codec too. `lmvic train depth` does so in minutes."""
    depth_trust: float = 1.0
    """With learned depth: largest weight, 0..1, of the true depth in a random mix with the decoded depth.
    The encoder refines depth, so that files have better depth than a training step decodes."""
    level_spread: float = 5.0
    """Largest offset of a view's quality level from that of its chain; twice as large, and positive, for the first view."""
    view_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """Weights of the views' distortions in equation (9). The paper has 0.5, 1.2, 0.5, 0.9 for a model of one quality."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class TrainScenesConfig(AdvancedSceneOptions, SceneOptions, OptionsConfig):
    """Train cross-view coding on chains of views, and intra coding on photographs."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class TrainPackConfig:
    """Pack photographs and scenes with depth into one file, for training without nerfstudio."""

    output: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write, such as training.lmvicpack."""
    data: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = field(default_factory=default_data)
    """A folder with photos/train, or a folder of pictures."""
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the output of `lmvic prepare`; by default only photographs are packed."""
    exclude: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[PATTERN [PATTERN ...]]", help_behavior_hint="(default: none)")
    ] = ()
    """Shell patterns of names (of photographs or scenes) to leave out."""
    pack: PackConfig = field(default_factory=PackConfig)
    overwrite: bool = False
    """Replace an existing pack."""


def train_pack(config: TrainPackConfig) -> None:
    """Pack photographs and scenes with depth into one file, for training without nerfstudio."""
    inputs = (config.data, *(() if config.scenes is None else (config.scenes,)))
    check_file(config.output, inputs=inputs, overwrite=config.overwrite, ours=is_pack, kind="a training pack")
    photos = find_photos(config.data).exclude(config.exclude)
    folders = [] if config.scenes is None else find_scenes(config.scenes)
    scenes = [load_scene(f) for f in folders if not any(fnmatch(f.name, pattern) for pattern in config.exclude)]
    facts = write_pack(config.output, photos, scenes, config.pack)
    views = ", ".join(f"{name} {count}" for name, count in facts["views"].items())
    print(f"{config.output}: {facts['megabytes']:.1f} MB, {facts['photos']} photographs; views: {views or 'none'}")


def find_photos(data: Path) -> PhotoSet:
    """The training photographs of a data folder, of a plain folder of pictures, or of a pack."""
    if data.is_file():
        return Pack(data).photos()
    folder = data / "photos" / "train"
    return load_photos(folder if folder.is_dir() else data)


def find_training_scenes(config: TrainScenesConfig) -> list[TrainingScene]:
    """Scenes with depth, from a folder of datasets or from the pack.

    Raises:
        TrainingError: a scene has no depth.
        SceneError: there are no scenes.
    """
    if config.scenes is None:
        if not config.data.is_file():
            raise TrainingError("stage scenes needs scenes with depth: give --scenes FOLDER (see `lmvic prepare`)")
        scenes = Pack(config.data).scenes()
    else:
        scenes = [load_scene(folder) for folder in find_scenes(config.scenes)]
    return [s for s in scenes if not any(fnmatch(s.name, pattern) for pattern in config.exclude)]


def train_photos(config: TrainPhotosConfig) -> None:
    """Train intra coding on photographs (stage `photos`)."""
    started = now()
    require_lightning()
    from lmvic_ns.codec.quality import lambda_of_level
    from lmvic_ns.training.objectives import LossConfig, PhotoObjective, level_of_lambda
    from lmvic_ns.training.runner import run_training

    optimization = optimization_config(config, config.batch)
    run = run_config(config, "photos", started)
    training, validation = find_photos(config.data).exclude(config.exclude).split_validation(config.validation_photos)
    print(f"{len(training)} photographs to train on, {len(validation)} held out, {training.megabytes:.0f} MB")
    model = start_model(config)
    loss = LossConfig(config.metric, config.level_weight_power, config.fixed_lambda)
    fixed = None if loss.fixed_lambda is None else level_of_lambda(loss.fixed_lambda, lambda_of_level, model.levels)
    crops = PhotoCrops(training, config.crops, seed=config.seed)
    held_out = validation_photos(validation, config.batch)
    levels = VALIDATION_LEVELS if fixed is None else (fixed,)
    run_training(
        model,
        PhotoObjective(loss, lambda_of_level, model.levels),
        PhotoDataset(crops, LevelConfig(maximum=model.levels - 1.0, skew=config.level_skew, fixed=fixed)),
        collate_photos,
        lambda m: rd_curve(m, held_out, levels, lambda_of_level),
        optimization,
        run,
    )


def train_scenes(config: TrainScenesConfig) -> None:
    """Train cross-view coding on chains of views, with the loss of equation (9) (stage `scenes`)."""
    started = now()
    require_lightning()
    from lmvic_ns.codec.depth.search import DepthSearch
    from lmvic_ns.codec.quality import depth_lambda_of_level, lambda_of_level
    from lmvic_ns.training.objectives import ChainObjective, LossConfig, level_of_lambda
    from lmvic_ns.training.runner import run_training

    optimization = optimization_config(config, config.batch)
    run = run_config(config, "scenes", started)
    scenes = find_training_scenes(config)
    training = [scene for scene in scenes if scene.name != config.validation_scene]
    held_out_scenes = [scene for scene in scenes if scene.name == config.validation_scene]
    if not held_out_scenes:
        known = ", ".join(scene.name for scene in scenes)
        raise TrainingError(f"no scene {config.validation_scene!r} to validate on: --validation-scene is one of {known}")
    photos, validation = find_photos(config.data).exclude(config.exclude).split_validation(config.validation_photos)
    memory = sum(scene.megabytes for scene in scenes) + photos.megabytes
    views = sum(len(scene) for scene in training)
    print(f"{len(training)} scenes with {views} views and {len(photos)} photographs to train on, {memory:.0f} MB")
    model = start_model(config)
    quadtree = DepthSearch() if config.depth_coding == "quadtree" else None
    given = config.depth_coding == "given"
    if quadtree is not None or given or not config.train_depth:
        model.depth.requires_grad_(False)
    loss = LossConfig(config.metric, config.level_weight_power, config.fixed_lambda)
    fixed = None if loss.fixed_lambda is None else level_of_lambda(loss.fixed_lambda, lambda_of_level, model.levels)
    levels = LevelConfig(maximum=model.levels - 1.0, skew=config.level_skew, fixed=fixed)
    photo_data = PhotoDataset(PhotoCrops(photos, config.crops, seed=config.seed), levels)
    dataset = MixedDataset(
        SceneChains(training, config.chains, seed=config.seed),
        photo_data.__getitem__,
        lambda number: levels.sample(config.seed, number),
        photo_share=config.photo_share,
        pair_share=config.pair_share,
    )
    chains = validation_chains(held_out_scenes, config.chains, config.validation_chains, batch=config.batch)
    pictures = validation_photos(validation, config.batch * config.chains.views)
    looked_at = CHAIN_VALIDATION_LEVELS if fixed is None else (fixed,)

    def validate(model):
        return [
            *rd_chains(model, chains, looked_at, lambda_of_level, depth_search=quadtree, given_depth=given),
            *rd_chains(model, chains, looked_at, lambda_of_level, independent=True),
            *rd_curve(model, pictures, looked_at, lambda_of_level),
        ]

    objective = ChainObjective(
        loss,
        lambda_of_level,
        depth_lambda_of_level,
        model.levels,
        view_weights=config.view_weights,
        detach=config.detach,
        depth_trust=config.depth_trust,
        level_spread=0.0 if fixed is not None else config.level_spread,
        depth_search=quadtree,
        given_depth=given,
    )
    run_training(model, objective, dataset, collate_mixed, validate, optimization, run)


def validation_photos(photos: PhotoSet, batch: int) -> list[Tensor]:
    """Centre crops of the held out photographs, in batches."""
    return list(centre_crops(photos, VALIDATION_SIZE).split(batch))


def collate_mixed(samples: Sequence[tuple]) -> object:
    """Stack the samples of a step: chains, photographs or pairs."""
    if isinstance(samples[0][0], Tensor):
        photos = collate_photos([sample[:2] for sample in samples])
        return PairBatch(photos.image, photos.level) if samples[0][2] == "pair" else photos
    return collate_chains(samples)
