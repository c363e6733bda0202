"""`lmvic eval rd`. The other evaluation commands are in `evaluation_scenes.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from lmvic_ns.cli.common import check_titles
from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.cache import default_cache_folder
from lmvic_ns.report.terminal import progress

DEFAULT_CODECS = "lmvic,lmvic-intra,jpeg,webp,avif,jxl,x265-intra,x265-ldp,svtav1,vvenc"


@dataclass(frozen=True, kw_only=True)
class RateDistortionBasics:
    """What is measured, and where the results go."""

    sets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE ...", help_behavior_hint="(required)")]
    """Dataset folders with transforms.json (for `lmvic` with depth files), and folders of photographs."""
    codecs: Annotated[str, tyro.conf.arg(metavar="CODEC,CODEC")] = DEFAULT_CODECS
    """Comma-separated names. Weights may follow an @, as in lmvic@base or lmvic-intra@FILE.safetensors."""
    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Weights of lmvic and lmvic-intra: a name or a .safetensors file."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Use only the first pictures of each set, this many."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lmvic-eval/rd")
    """Folder for rd.csv, rd-views.csv, bd-rate.csv, rd.md and the curves."""


@dataclass(frozen=True, kw_only=True)
class AdvancedRateDistortionOptions:
    """For most measurements the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    settings: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="CODEC=V,V,V")] = ()
    """Other quality settings of a codec, as NAME=V,V,V. May be given several times."""
    anchor: Annotated[str, tyro.conf.arg(metavar="CODEC")] = "x265-ldp"
    """Codec to which BD-rates refer, or a curve such as "x265-ldp (our order)"."""
    method: Literal["akima", "pchip", "cubic"] = "akima"
    """Interpolation for BD-rates."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu"
    """Device of the networks: cpu, cuda or auto."""
    pictures: Literal["stored", "pinhole"] = "pinhole"
    """Views as stored, or undistorted to pinhole views, which is what lmvic codes."""
    orders: Literal["both", "file", "ours"] = "both"
    """Order of the views for video codecs: by file name, the greedy chain of the paper, or both."""
    html: bool = True
    """Also write interactive curves."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = field(default_factory=default_cache_folder)
    """Folder of cached results; None for no cache."""


@dataclass(frozen=True, kw_only=True)
class RateDistortionOptions(AdvancedRateDistortionOptions, RateDistortionBasics):
    """Rate-distortion curves and BD-rates of this codec and of others, on the same pictures."""


def rate_distortion(options: RateDistortionOptions) -> None:
    """Rate-distortion curves and BD-rates of this codec and of others, on the same pictures."""
    from lmvic_ns._util.output import writing
    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.evaluation.cache import ResultCache
    from lmvic_ns.evaluation.image_set import load_image_set
    from lmvic_ns.evaluation.rd import bd_table, compare, planned
    from lmvic_ns.evaluation.registry import make_codec
    from lmvic_ns.evaluation.report import command_line, comparison_names, write_comparison
    from lmvic_ns.workflows.options import weights_inputs

    sets = [load_image_set(path, pinhole=options.pictures == "pinhole", limit=options.limit) for path in options.sets]
    check_titles([images.name for images in sets])
    names = [name.strip() for name in options.codecs.split(",") if name.strip()]
    codecs = [make_codec(name, weights=options.weights, device=options.device) for name in names]
    settings = _parse_settings(options.settings, names)
    orders = ("file", "ours") if options.orders == "both" else (options.orders,)
    expected = comparison_names([images.name for images in sets], options.html)
    inputs = (*options.sets, *weights_inputs(options.weights))
    with ResultsOutput(options.output, names=expected, inputs=inputs) as output:
        with progress("measuring", planned(sets, codecs, settings, orders)) as advance:
            comparison = compare(
                sets, codecs, settings=settings, orders=orders, cache=ResultCache(options.cache), on_point=advance
            )
        for name, reason in comparison.missing.items():
            print(f"not measured: {name}: {reason}")
        if not comparison.points:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in comparison.missing.items())
            raise LmvicError(f"nothing could be measured: {reasons or 'give codecs with --codecs'}")
        measured = {point.codec for point in comparison.points} | {point.label for point in comparison.points}
        anchor = options.anchor
        if anchor not in measured:
            anchor = comparison.points[0].label
            print(f"the anchor {options.anchor} was not measured; BD-rates refer to {anchor}")
        entries = bd_table(comparison.points, anchor, method=options.method)
        with writing(options.output):
            write_comparison(comparison, entries, anchor, output.staging, command_line(), html=options.html)
        for path in output.keep():
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
