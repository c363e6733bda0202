"""`lmvic eval rd|alignment|ablation|speed`: options, progress, where results go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lmvic_ns.errors import LmvicError

DEFAULT_CODECS = "lmvic,lmvic-intra,jpeg,webp,avif,jxl,x265-intra,x265-ldp,svtav1,vvenc"


@dataclass(frozen=True)
class RateDistortionOptions:
    """Rate-distortion of our codec and its peers on the same pictures.

    Attributes:
        sets: Scenes (folders with transforms.json; with depth files for `lmvic`) and folders of photographs.
        codecs: Names with commas between them.
        settings: Other values of a codec's knob, as NAME=V,V,V (may be given several times).
        anchor: Codec (or curve, such as "x265-ldp (ours order)") to which BD-rates refer.
        method: Interpolation of BD-rate.
        weights: Weights of lmvic and lmvic-intra: a name or a .safetensors file.
        device: Where our networks run.
        pictures: A scene's views as stored, or as undistorted pinhole views (what our codec codes).
        limit: Only the first so many pictures of each set.
        orders: Orders of views in which video codecs are tried: by file name, and ours.
        output: Folder for rd.csv, rd-views.csv, bd-rate.csv, rd.md and the curves.
        html: Interactive curves as well.
        cache: Folder of kept results; `none` keeps nothing.
    """

    sets: Annotated[tuple[Path, ...], tyro.conf.Positional]
    codecs: str = DEFAULT_CODECS
    settings: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    anchor: str = "x265-ldp"
    method: Literal["akima", "pchip", "cubic"] = "akima"
    weights: str = "tiny"
    device: str = "cpu"
    pictures: Literal["stored", "pinhole"] = "pinhole"
    limit: int | None = None
    orders: Literal["both", "file", "ours"] = "both"
    output: Path = Path("lmvic-eval/rd")
    html: bool = True
    cache: Path | None = field(default_factory=lambda: _default_cache())


def _default_cache() -> Path:
    from lmvic_ns.evaluation.cache import default_cache_folder

    return default_cache_folder()


def rate_distortion(options: RateDistortionOptions) -> None:
    """Rate-distortion of our codec and its peers on the same pictures."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from lmvic_ns.evaluation.cache import ResultCache
    from lmvic_ns.evaluation.image_set import load_image_set
    from lmvic_ns.evaluation.peers import make_codec
    from lmvic_ns.evaluation.rd import bd_table, compare, planned
    from lmvic_ns.evaluation.report import command_line, write_comparison

    sets = [load_image_set(path, pinhole=options.pictures == "pinhole", limit=options.limit) for path in options.sets]
    if len({images.name for images in sets}) != len(sets):
        raise LmvicError("two of the folders have the same name; results could not be told apart")
    names = [name.strip() for name in options.codecs.split(",") if name.strip()]
    codecs = [make_codec(name, weights=options.weights, device=options.device) for name in names]
    settings = _parse_settings(options.settings, names)
    orders = ("file", "ours") if options.orders == "both" else (options.orders,)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("measuring", total=planned(sets, codecs, settings, orders))

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=text)

        comparison = compare(sets, codecs, settings=settings, orders=orders, cache=ResultCache(options.cache), on_point=advance)
    for name, reason in comparison.missing.items():
        print(f"not measured: {name}: {reason}")
    if not comparison.points:
        raise LmvicError("nothing could be measured")
    measured = {point.codec for point in comparison.points} | {point.label for point in comparison.points}
    anchor = options.anchor
    if anchor not in measured:
        anchor = comparison.points[0].label
        print(f"the anchor {options.anchor} was not measured; BD-rates refer to {anchor}")
    entries = bd_table(comparison.points, anchor, method=options.method)
    for path in write_comparison(comparison, entries, anchor, options.output, command_line(), html=options.html):
        print(path)


def _parse_settings(texts: tuple[str, ...], names: list[str]) -> dict[str, list[float]]:
    settings: dict[str, list[float]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            settings[name] = [float(value) for value in values.split(",")]
        except ValueError:
            raise LmvicError(f"--settings takes NAME=V,V,V with numbers, not '{text}'") from None
        if name not in names:
            raise LmvicError(f"--settings names the codec '{name}', which is not among {', '.join(names)}")
    return settings


@dataclass(frozen=True)
class AlignmentOptions:
    """How well each way of aligning brings a view onto the next one (the paper's Table 2).

    Attributes:
        scenes: Datasets with transforms.json; the depth they bring themselves is called "scene".
        depth: More kinds of depth, as KIND=FOLDER: the same views with other depth files (median, expected, colmap, ...).
        mask: Kind of depth whose mask is used for the masked figures; "median" if there is one, else the first.
        pictures_of: How many pairs are drawn.
        limit: Only the first so many pairs.
        output: Folder for tables and pictures.
    """

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    depth: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    mask: str | None = None
    pictures_of: int = 1
    limit: int | None = None
    output: Path = Path("lmvic-eval/alignment")


def alignment(options: AlignmentOptions) -> None:
    """How well each way of aligning brings a view onto the next one (the paper's Table 2)."""
    from rich.progress import track

    from lmvic_ns.evaluation.alignment import align_scene, consecutive_pairs, write_alignment, write_pair_picture
    from lmvic_ns.evaluation.image_set import load_image_set, our_order
    from lmvic_ns.evaluation.report import command_line

    if options.depth and len(options.scenes) > 1:
        raise LmvicError("--depth KIND=FOLDER is for one scene at a time")
    for path in options.scenes:
        images = load_image_set(path, pinhole=True)
        depths = {"scene": images.scene} if images.scene.has_depth else {}
        for text in options.depth:
            kind, _, folder = text.partition("=")
            if not folder:
                raise LmvicError(f"--depth takes KIND=FOLDER, not '{text}'")
            depths[kind] = _same_views(images.scene, Path(folder))
        mask_from = options.mask or next((kind for kind in ("median", *depths) if kind in depths), None)
        if mask_from is not None and mask_from not in depths:
            raise LmvicError(
                f"there is no depth of the kind '{mask_from}' for the mask; there are: {', '.join(depths) or 'none'}"
            )
        missing: dict[str, str] = {}
        if not depths:
            missing["depth"] = f"{images.name} has no depth files and no --depth was given"
        pairs = consecutive_pairs(our_order(images))[: options.limit]
        results = []
        aligned = align_scene(images.pictures, images.scene.names, pairs, depths, mask_from=mask_from, missing=missing)
        for number, pair in enumerate(track(aligned, total=len(pairs), description=f"aligning {images.name}")):
            results += pair.results
            if number < options.pictures_of:
                first = pair.results[0]
                write_pair_picture(pair, options.output / f"alignment-{images.name}-{first.reference}-{first.target}.png")
        for written in write_alignment(results, missing, options.output, images.name, command_line(), mask_from):
            print(written)


def _same_views(scene, folder: Path):
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
