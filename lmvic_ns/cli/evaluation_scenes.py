"""`lmvic eval alignment`, `ablation` and `speed`. `lmvic eval rd` is in `evaluation.py`."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from lmvic_ns._util.output import writing
from lmvic_ns.cli.common import check_titles
from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.cache import default_cache_folder
from lmvic_ns.report.terminal import progress
from lmvic_ns.workflows.options import EffortName

if TYPE_CHECKING:
    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.scene import MultiViewScene


@dataclass(frozen=True, kw_only=True)
class AlignmentBasics:
    """What is measured, and where the results go."""

    scenes: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE ...", help_behavior_hint="(default: none)")
    ] = ()
    """Dataset folders with transforms.json. Their own depth is called "scene"."""
    depth: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KIND=FOLDER")] = ()
    """Further depth, as KIND=FOLDER: a dataset of the same views with other depth files. May be given several times."""
    load_config: Annotated[Path | None, tyro.conf.arg(metavar="CONFIG")] = None
    """config.yml of a trained lmvic-splat, for its photographs with median and expected depth."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lmvic-eval/alignment")
    """Folder for tables and pictures."""


@dataclass(frozen=True, kw_only=True)
class AdvancedAlignmentOptions:
    """For most measurements the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    mask: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """Kind of depth whose mask selects the compared pixels. By default "median", or else the first kind."""
    pictures_of: int = 1
    """Number of pairs to write pictures of."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Use only the first pairs, this many."""


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(AdvancedAlignmentOptions, AlignmentBasics):
    """Compare methods that align a view with the next one (Table 2 of the paper)."""


def alignment(options: AlignmentOptions) -> None:
    """Compare methods that align a view with the next one (Table 2 of the paper)."""
    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.scene import MultiViewScene

    if options.depth and len(options.scenes) + (options.load_config is not None) > 1:
        raise LmvicError("--depth KIND=FOLDER is for one scene at a time")
    if options.limit is not None and options.limit < 1:
        raise LmvicError(f"--limit must be at least 1, not {options.limit}")
    if not options.scenes and options.load_config is None:
        raise LmvicError("give a scene's folder, or --load-config with the config.yml of a trained lmvic-splat")
    folders = (text.partition("=")[2] for text in options.depth)
    inputs = (*options.scenes, *(Path(folder) for folder in folders if folder), *filter(None, [options.load_config]))
    titles = [path.resolve().name for path in options.scenes]
    if titles:
        check_titles(titles)
    expected = [f"alignment-{title}.{kind}" for title in titles for kind in ("csv", "md")]
    with ResultsOutput(options.output, names=expected, inputs=inputs) as output:
        if options.load_config is not None:
            name, scene, depths = trained_scene(options.load_config)
            _align(name, scene, depths, options, output)
        for path, title in zip(options.scenes, titles, strict=True):
            scene = MultiViewScene.from_dataset(path)
            _align(title, scene, {"scene": scene} if scene.has_depth else {}, options, output)


def trained_scene(config: Path) -> tuple[str, MultiViewScene, dict[str, MultiViewScene]]:
    """Name, photographs, and the depth kinds "median" and "expected" of a trained lmvic-splat.

    Raises:
        SceneError: See `load_trained`.
    """
    from lmvic_ns.splat.captures import captured_scene
    from lmvic_ns.splat.trained import load_trained, loading

    trained = load_trained(config)
    with loading(config):
        median, expected = captured_scene(trained.pipeline), captured_scene(trained.pipeline, depth="depth")
    depths = {
        kind: scene.with_inverse_depth([scene.inverse_depth(i) for i in range(len(scene))])
        for kind, scene in (("median", median), ("expected", expected))
    }
    return trained.folder.resolve().name, median, depths


def _align(
    name: str,
    scene: MultiViewScene,
    depths: dict[str, MultiViewScene],
    options: AlignmentOptions,
    output: ResultsOutput,
) -> None:
    from lmvic_ns._util.eight_bits import to_8_bit
    from lmvic_ns.evaluation.alignment import align_scene, consecutive_pairs, write_alignment, write_pair_picture
    from lmvic_ns.evaluation.image_set import pose_chain
    from lmvic_ns.evaluation.report import command_line

    for text in options.depth:
        kind, _, folder = text.partition("=")
        if not folder:
            raise LmvicError(f"--depth takes KIND=FOLDER, not '{text}'")
        depths[kind] = _same_views(scene, Path(folder))
    mask_from = options.mask or next((kind for kind in ("median", *depths) if kind in depths), None)
    if mask_from is not None and mask_from not in depths:
        raise LmvicError(f"there is no depth of the kind '{mask_from}' for the mask; there are: {', '.join(depths) or 'none'}")
    missing: dict[str, str] = {}
    if not depths:
        missing["depth"] = f"{name} has no depth files, and neither --depth nor --load-config was given"
    if "colmap" not in depths:
        missing["COLMAP depth"] = "give --depth colmap=FOLDER, a dataset of the same views with COLMAP's dense depth"
    pictures = [to_8_bit(scene.image(i)) for i in range(len(scene))]
    pairs = consecutive_pairs(pose_chain(scene.cameras.world_to_camera))[: options.limit]
    results = []
    aligned = align_scene(pictures, scene.names, pairs, depths, mask_from=mask_from, missing=missing)
    with progress("measuring", len(pairs)) as advance:
        for number, pair in enumerate(aligned):
            results += pair.results
            if number < options.pictures_of:
                first = pair.results[0]
                with writing(options.output):
                    write_pair_picture(pair, output.staging / f"alignment-{name}-{first.reference}-{first.target}.jpg")
            advance(f"aligning {name}")
    with writing(options.output):
        tables = write_alignment(results, missing, output.staging, name, command_line(), mask_from)
    for written in tables:
        print(options.output / written.name)
    output.keep()  # the next scene may fail


def _same_views(scene: MultiViewScene, folder: Path) -> MultiViewScene:
    """A dataset's depth for the views of `scene`, matched by name."""
    from lmvic_ns.scene import MultiViewScene

    other = MultiViewScene.from_dataset(folder)
    if not other.has_depth:
        raise LmvicError(f"{folder} has no depth files (depth_file_path in transforms.json)")
    index = {name: number for number, name in enumerate(other.names)}
    absent = [name for name in scene.names if name not in index]
    if absent:
        raise LmvicError(f"{folder} has no view {absent[0]!r}; depth is needed for all views of the scene")
    return other.select([index[name] for name in scene.names])


@dataclass(frozen=True, kw_only=True)
class AblationBasics:
    """What is measured, and where the results go."""

    scenes: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE ...", help_behavior_hint="(required)")
    ]
    """Dataset folders with transforms.json and depth files."""
    variants: Annotated[str, tyro.conf.arg(metavar="VARIANT,VARIANT", help_behavior_hint="(default: all)")] = ""
    """Comma-separated variants; all by default."""
    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Weights of the codec: a name or a .safetensors file."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Use only the first views of each scene, this many."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lmvic-eval/ablation")
    """Folder for tables and curves."""


@dataclass(frozen=True, kw_only=True)
class AdvancedAblationOptions:
    """For most measurements the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    qualities: Annotated[str, tyro.conf.arg(metavar="LEVEL,LEVEL")] = "8,22,36,50"
    """Comma-separated quality levels, at least four."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu"
    """Device of the networks: cpu, cuda or auto."""
    effort: EffortName = "fast"
    """Encoding effort. More effort hides the differences between variants."""
    seed: int = 0
    """Seed of the random view order."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = field(default_factory=default_cache_folder)
    """Folder of cached results; None for no cache."""


@dataclass(frozen=True, kw_only=True)
class AblationOptions(AdvancedAblationOptions, AblationBasics):
    """Ablation study: BD-rate of the codec without each of its parts (Figure 7 of the paper)."""


def ablation(options: AblationOptions) -> None:
    """Ablation study: BD-rate of the codec without each of its parts (Figure 7 of the paper)."""
    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.evaluation.ablation import FULL, VARIANTS, variant
    from lmvic_ns.evaluation.cache import ResultCache
    from lmvic_ns.evaluation.image_set import load_image_set
    from lmvic_ns.evaluation.rd import Comparison, bd_table, compare, planned
    from lmvic_ns.evaluation.report import command_line, comparison_names, write_comparison
    from lmvic_ns.workflows.options import weights_inputs

    names = [n.strip() for n in options.variants.split(",") if n.strip()] or list(VARIANTS)
    names = list(dict.fromkeys([FULL, *names]))
    qualities = _levels(options.qualities)
    points, missing = [], {}
    titles = [path.resolve().name for path in options.scenes]
    check_titles(titles)
    expected = comparison_names(titles, html=False)
    output = ResultsOutput(options.output, names=expected, inputs=(*options.scenes, *weights_inputs(options.weights)))
    with output, tempfile.TemporaryDirectory(prefix="lmvic-ablation-") as folder:
        for path in options.scenes:
            images = load_image_set(path, pinhole=True, limit=options.limit)
            if not images.scene.has_depth:
                raise LmvicError(
                    f"{images.name} has no depth; export it from a trained model (depth_file_path in transforms.json)"
                )
            codecs = [
                variant(n, images, options.weights, options.device, Path(folder), seed=options.seed, effort=options.effort)
                for n in names
            ]
            settings = {codec.name: qualities for codec in codecs}
            with progress("measuring", planned([images], codecs, settings)) as advance:
                result = compare([images], codecs, settings=settings, cache=ResultCache(options.cache), on_point=advance)
            points += result.points
            missing.update(result.missing)
        comparison = Comparison(tuple(points), missing)
        if not points:
            raise LmvicError("nothing could be measured: " + "; ".join(f"{k}: {v}" for k, v in missing.items()))
        entries = bd_table(points, FULL)
        with writing(options.output):
            write_comparison(comparison, entries, FULL, output.staging, command_line(), html=False)
        for written in output.keep():
            print(written)


def _levels(text: str) -> list[float]:
    """Quality levels with commas between them.

    Raises:
        LmvicError: they are no numbers of 0..63.
    """
    try:
        levels = [float(level) for level in text.split(",")]
    except ValueError:
        levels = [math.nan]
    if not all(0 <= level <= 63 for level in levels):
        raise LmvicError(f"--qualities takes levels of 0..63 with commas between them, not {text!r}")
    return levels


@dataclass(frozen=True, kw_only=True)
class SpeedBasics:
    """What is measured, and where the results go."""

    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Comma-separated names or .safetensors files, or presets, which are untrained where there are no weights."""
    devices: Annotated[str, tyro.conf.arg(metavar="DEVICE,DEVICE", help_behavior_hint="(default: all)")] = ""
    """Comma-separated devices; by default the CPU, and the GPU if there is one."""
    scene: Annotated[Path | None, tyro.conf.arg(metavar="SCENE")] = None
    """Dataset with depth; by default a synthetic textured plane."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lmvic-eval/speed")
    """Folder for speed.csv and speed.md."""


@dataclass(frozen=True, kw_only=True)
class AdvancedSpeedOptions:
    """For most measurements the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    views: int = 4
    """Views to code."""
    height: int = 512
    """Height of the synthetic views."""
    width: int = 768
    """Width of the synthetic views."""
    quality: int = 32
    """Quality level."""
    threads: int = 0
    """Threads of torch on the CPU; 0 for all cores."""
    effort: EffortName = "medium"
    """Encoding effort, as in `lmvic encode`."""


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(AdvancedSpeedOptions, SpeedBasics):
    """Encoding and decoding time by stage, memory, operations and parameters (Table 3 of the paper)."""


def speed(options: SpeedOptions) -> None:
    """Encoding and decoding time by stage, memory, operations and parameters (Table 3 of the paper)."""
    import os

    import torch

    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.evaluation.report import command_line, markdown_table, write_csv
    from lmvic_ns.evaluation.speed import SPEED_HEADER, measure_speed, speed_rows
    from lmvic_ns.workflows.encoding import pick_device

    devices = [d for d in options.devices.split(",") if d] or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    names = [n.strip() for n in options.weights.split(",") if n.strip()]
    least = {"views": 1, "height": 64, "width": 64, "threads": 0, "quality": 0}
    for name, value in least.items():
        if getattr(options, name) < value:
            raise LmvicError(f"--{name} must be at least {value}, not {getattr(options, name)}")
    _levels(str(options.quality))
    for device in devices:
        pick_device(device)
    threads = options.threads or os.cpu_count() or 1
    inputs = () if options.scene is None else (options.scene,)
    with ResultsOutput(options.output, names=("speed.csv", "speed.md"), inputs=inputs) as output:
        results = []
        with progress("measuring", len(names) * len(devices)) as advance:
            for name in names:
                for device in devices:
                    with tempfile.TemporaryDirectory(prefix="lmvic-speed-") as folder:
                        results.append(
                            measure_speed(
                                name,
                                device,
                                options.scene,
                                Path(folder),
                                views=options.views,
                                size=(options.height, options.width),
                                quality=options.quality,
                                threads=threads,
                                effort=options.effort,
                            )
                        )
                    advance(f"{name} on {device}")
        rows = [row for result in results for row in speed_rows(result)]
        first = results[0]
        facts = f"{first.views} views of {first.pixels / 1e6:.2f} MP, quality {options.quality}. " + "; ".join(
            dict.fromkeys(f"{r.device}: {r.machine}" for r in results)
        )
        with writing(options.output):
            write_csv(output.staging / "speed.csv", [*SPEED_HEADER, "machine", "bpp"], (
                [*row, result.machine, f"{result.bits_per_pixel:.4f}"] for result in results for row in speed_rows(result)
            ), command_line())  # fmt: skip
            text = f"# Speed\n\n```\n{command_line()}\n```\n\n{facts}\n\n{markdown_table(SPEED_HEADER, rows)}"
            (output.staging / "speed.md").write_text(text, encoding="utf-8")
        print(text)
