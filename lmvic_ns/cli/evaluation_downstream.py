"""`lmvic eval downstream`: what coding costs a splat that is trained on the pictures."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from lmvic_ns._util.output import writing
from lmvic_ns.cli.common import check_titles
from lmvic_ns.errors import LmvicError

if TYPE_CHECKING:
    from lmvic_ns.evaluation.cache import ResultCache
    from lmvic_ns.evaluation.downstream import Run
    from lmvic_ns.evaluation.peers import Codec


@dataclass(frozen=True, kw_only=True)
class DownstreamBasics:
    """What is measured, and where the results go."""

    scenes: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE ...", help_behavior_hint="(required)")
    ]
    """Dataset folders with transforms.json and depth files or sparse points."""
    anchor: Annotated[str, tyro.conf.arg(metavar="CODEC")] = "lmvic"
    """The codec that sets the sizes; one of ours. Weights may follow an @."""
    qualities: Annotated[str, tyro.conf.arg(metavar="LEVEL,LEVEL")] = "12,24,36"
    """Comma-separated quality levels of the anchor, whole numbers of 0..63."""
    codecs: Annotated[str, tyro.conf.arg(metavar="CODEC,CODEC")] = "jpeg,avif,x265-ldp-noinfo"
    """Comma-separated peers; each is taken at the settings whose files are nearest in size to the anchor's."""
    steps: int = 1000
    """Training steps of each splat."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lmvic-eval/downstream")
    """Folder for downstream.csv, downstream.md and the curves. Its folder `runs` keeps each finished training, so
    that the same command goes on where it stopped."""


@dataclass(frozen=True, kw_only=True)
class AdvancedDownstreamOptions:
    """For most measurements the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    downscale: int = 1
    """Pictures so many times smaller, before anything else."""
    every: int = 8
    """One view of so many is held out: never coded, never trained on."""
    repeats: int = 3
    """Trainings on the originals, each with another seed; how far apart they end is what chance does."""
    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Weights of the codec: a name or a .safetensors file."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu"
    """Device of the codec's networks: cpu, cuda or auto."""


@dataclass(frozen=True, kw_only=True)
class DownstreamOptions(AdvancedDownstreamOptions, DownstreamBasics):
    """Train splats on originals and on what codecs give back, and compare them with held-out photographs."""


def downstream(options: DownstreamOptions) -> None:
    """Train splats on originals and on what codecs give back, and compare them with held-out photographs."""
    from lmvic_ns._util.results import ResultsOutput
    from lmvic_ns.evaluation.cache import ResultCache
    from lmvic_ns.evaluation.downstream import lpips_at_hand, span_of
    from lmvic_ns.evaluation.downstream_report import downstream_names, downstream_table, write_downstream
    from lmvic_ns.evaluation.registry import make_codec
    from lmvic_ns.evaluation.report import command_line
    from lmvic_ns.workflows.options import weights_inputs

    for name, least in (("steps", 1), ("downscale", 1), ("every", 2), ("repeats", 1)):
        if getattr(options, name) < least:
            raise LmvicError(f"--{name} must be at least {least}, not {getattr(options, name)}")
    titles = [path.resolve().name for path in options.scenes]
    check_titles(titles)
    qualities = _qualities(options.qualities)
    anchor = make_codec(options.anchor, weights=options.weights, device=options.device)
    if not options.anchor.startswith("lmvic"):
        raise LmvicError(f"--anchor takes a codec of ours, such as lmvic or lmvic-intra, not {options.anchor!r}")
    names = [name.strip() for name in options.codecs.split(",") if name.strip()]
    peers = [make_codec(name, weights=options.weights, device=options.device) for name in dict.fromkeys(names)]
    for codec in (anchor, *peers):
        span_of(codec)
        codec.version()  # says what is missing before anything slow
    inputs = (*options.scenes, *weights_inputs(options.weights))
    remarks = [
        f"Pictures {options.downscale} times smaller, {options.steps} steps, one view of {options.every} held out. Bytes are "
        "those of all training views' files: pictures only, of ours with cameras and the depth that prediction needs, without "
        "sparse points. The change is against the mean of the trainings on the originals"
        + (", whose seeds differ by the ± given." if options.repeats > 1 else "."),
    ]
    remarks += [] if lpips_at_hand() else ["LPIPS is left out: its weights are not on this machine."]
    with ResultsOutput(options.output, names=downstream_names(titles), inputs=inputs) as output:
        cache = ResultCache(options.output / "runs")
        runs: list[Run] = []
        for path in options.scenes:
            with tempfile.TemporaryDirectory(prefix="lmvic-downstream-") as folder:
                runs += _measure(path, options, anchor, qualities, peers, cache, Path(folder))
        with writing(options.output):
            write_downstream(runs, output.staging, command_line(), remarks)
        for title in titles:
            print(f"\n{title}\n\n{downstream_table([run for run in runs if run.images == title])}")
        for written in output.keep():
            print(written)


def _measure(
    path: Path,
    options: DownstreamOptions,
    anchor: Codec,
    qualities: list[int],
    peers: list[Codec],
    cache: ResultCache,
    folder: Path,
) -> list[Run]:
    from lmvic_ns.evaluation.downstream import Coder, SplatTrainings, choose_settings, prepare_scene
    from lmvic_ns.report.terminal import progress, say

    prepared = prepare_scene(path, folder / "training", downscale=options.downscale, every=options.every)
    size = prepared.scene.cameras[0]
    say(
        f"{prepared.name}: {len(prepared.trained)} views of {int(size.width[0])}x{int(size.height[0])} to train on, "
        f"{len(prepared.held_out)} held out; coding them to find settings of equal size"
    )
    coder = Coder(prepared, cache, folder / "files")
    chosen = choose_settings(coder, anchor, qualities, peers)
    wanted: list[tuple[Codec | None, float, int]] = [(None, 0.0, seed) for seed in range(options.repeats)]
    wanted += [(codec, setting, 0) for codec, setting, _ in chosen]
    runs = []
    with progress(f"{prepared.name}, training", options.steps * len(wanted)) as step:
        trainings = SplatTrainings(prepared, cache, options.steps, lambda: step(""))
        for codec, setting, seed in wanted:
            run, cached = trainings.run(coder, codec, setting, seed)
            for _ in range(options.steps if cached else 0):
                step("")
            runs.append(run)
            what = f"{run.codec} {run.setting:g}" if codec is not None else f"{run.codec}, seed {seed}"
            done = f"{len(runs)} of {len(wanted)}{', done before' if cached else ''}"
            say(f"{prepared.name}: {what}: {run.bytes:,} bytes, {run.psnr:.2f} dB ({done})")
    return runs


def _qualities(text: str) -> list[int]:
    try:
        levels = [int(level) for level in text.split(",")]
    except ValueError:
        levels = [-1]
    if not all(0 <= level <= 63 for level in levels):
        raise LmvicError(f"--qualities takes whole numbers of 0..63 with commas between them, not {text!r}")
    return list(dict.fromkeys(levels))
