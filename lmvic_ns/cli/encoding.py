"""`lmvic encode` of one scene: options, and the way from a dataset to a checked file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from lmvic_ns.cli.common import JsonOutputOptions
from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.options import CodingOptions, weights_inputs

if TYPE_CHECKING:
    from lmvic_ns.report.results import EncodedFile
    from lmvic_ns.workflows.restart import UncheckedMarker
    from lmvic_ns.workflows.sources import DatasetInputs

DepthChoice = Literal["auto", "files", "stereo", "none"]


@dataclass(kw_only=True)
class ScenesAndFile:
    """What is coded, and into which file."""

    paths: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SCENE [SCENE ...] FILE", help_behavior_hint="(required)"),
    ] = ()
    """SCENE FILE: a folder with a transforms.json, or a COLMAP one (images/ and sparse/0/), and the .lmvic file to write.
    SCENE SCENE ... FOLDER codes several, each into FOLDER/NAME.lmvic."""


@dataclass(kw_only=True)
class SceneOptions:
    """How scenes are taken, and what is written beside the file."""

    depth: DepthChoice = "auto"
    """Where depth comes from: the dataset's files, plane sweep stereo, or no depth (views stand alone)."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for report.html and report.json; none without."""
    jobs: int = 1
    """Of several scenes, so many are coded at the same time, each in a process of its own with its share of the cores."""


@dataclass(kw_only=True)
class ClusterOptions:
    """Coding on many machines."""

    HELP_SECTION: ClassVar[str] = "advanced"

    cluster: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a Dask scheduler (tcp://HOST:8786) whose workers code the scenes; all of them must see scenes and FOLDER."""


@dataclass(kw_only=True)
class EncodeConfig(JsonOutputOptions, ClusterOptions, SceneOptions, CodingOptions, ScenesAndFile):
    """Code a dataset into one file; no splat is needed."""

    def check(self) -> None:
        """Raise on values that make no sense.

        Raises:
            LmvicError: the first such value, and what it may be.
        """
        super().check()
        if self.jobs < 1:
            raise LmvicError(f"--jobs must be at least 1, not {self.jobs}")
        if self.cluster is not None and self.jobs != 1:
            raise LmvicError("--jobs is for this machine and --cluster for others; give one of them")


def encode_one(
    config: EncodeConfig, dataset: Path, file: Path, *, restartable: bool = False
) -> tuple[int, list[dict[str, Any]]]:
    """Code one scene.

    Args:
        config: checked already.
        dataset: folder of the scene.
        file: to write.
        restartable: it is one of many: a whole file of the same settings and pictures is taken as done.

    Returns:
        Exit status, and what `--json` prints (nothing after an interruption).

    Raises:
        LmvicError: the dataset, the weights or the place to write to is not fit.
    """
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.report.files import check_report
    from lmvic_ns.report.results import result_data
    from lmvic_ns.report.terminal import interruptible
    from lmvic_ns.workflows.encoding import check_output, check_partial, downscaled, encode_scene, finish, pick_device
    from lmvic_ns.workflows.restart import UncheckedMarker
    from lmvic_ns.workflows.sources import dataset_inputs, dataset_scene, say_not_kept

    files = dataset_inputs(dataset)
    inputs = (*files.all, *weights_inputs(config.weights))
    depth = "none" if config.lossless else config.depth  # pictures that refer to nothing need none

    def source_now() -> str:
        return f"{depth} {files.fingerprint()}"

    if restartable and not config.overwrite and (done := _done_before(config, dataset, file, files, source_now)):
        return done
    check_output(file, config.overwrite, inputs)
    if config.points != "none":
        files.check_points()
    say_not_kept(str(dataset), files.not_kept(), config.strict)
    if config.report is not None:
        check_report(config.report, config.overwrite, inputs, file)
    source = source_now()
    if not config.overwrite:  # early; clearing away what is in the way comes after all other checks
        check_partial(file, config.settings(source), overwrite=False)
    results: list[dict[str, Any]] = []
    marker = UncheckedMarker(file)
    with interruptible(file) as outcome, _marked(marker, restartable):
        codec = load_codec(config.weights, pick_device(config.device))
        capture = files.capture(config.downscale, config.metadata)
        scene = downscaled(
            dataset_scene(dataset, depth, config.reference_structure, downscale=config.downscale), config.downscale
        )
        started = time.perf_counter()
        encoded: EncodedFile = encode_scene(scene, file, config, codec, source, inputs, source_now, capture)
        seconds = time.perf_counter() - started
        pictures = sorted(files.pictures)
        try:
            outcome.status = finish(encoded, scene, codec, config, report=config.report, files=pictures, seconds=seconds)
        except LmvicError as error:
            if restartable:
                marker.write(str(error))
            raise
        results = [result_data(encoded, pictures, time.perf_counter() - started)]
    return outcome.status, results


@contextmanager
def _marked(marker: UncheckedMarker, restartable: bool) -> Iterator[None]:
    """The marker stands while a scene of many is coded and checked; when that is done, any scene removes it."""
    if restartable:
        marker.write()
    try:
        yield
    except BaseException:
        marker.remove_if_nothing_begun()
        raise
    marker.remove()


def _done_before(
    config: EncodeConfig, dataset: Path, file: Path, files: DatasetInputs, source_now: Callable[[], str]
) -> tuple[int, list[dict[str, Any]]] | None:
    """Status and result of a file that an earlier run has made from the same; None if it is to be made."""
    from lmvic_ns.bitstream.partial import finished_path
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.report.results import result_data
    from lmvic_ns.report.terminal import say
    from lmvic_ns.scene import MultiViewScene
    from lmvic_ns.workflows.encoding import downscaled, pick_device
    from lmvic_ns.workflows.restart import UncheckedMarker, finished_file, made_with, measured
    from lmvic_ns.workflows.search import missed_target

    if not file.is_file():
        return None
    codec = load_codec(config.weights, pick_device(config.device))
    if not made_with(file, config, config.settings(source_now()), codec.weights.hash):
        return None
    marker = UncheckedMarker(file)
    if marker.failure:
        raise LmvicError(f"{file}: was made, and its check failed ({marker.failure}): make it anew with --overwrite")
    psnr: dict[int, float] = {}
    if marker.exists or config.target_psnr is not None:
        scene = MultiViewScene.from_dataset(dataset, depth=False)
        psnr = measured(file, downscaled(scene, config.downscale), codec)
    encoded = finished_file(file, codec, psnr)
    encoded = replace(encoded, missed=missed_target(encoded, config))
    if encoded.missed and marker.exists:
        finished_path(file).unlink()  # of a search that was going on to the next level
        return None
    marker.remove()
    say(f"{file}: done before")
    return int(bool(encoded.missed)), [result_data(encoded, sorted(files.pictures), 0.0, done_before=True)]
