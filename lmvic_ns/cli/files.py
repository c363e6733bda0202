"""`lmvic encode`, `decode`, `info` and `verify`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.options import CodingOptions, weights_inputs


@dataclass
class EncodeConfig(CodingOptions):
    """Code a dataset into one file; no splat is needed."""

    dataset: tyro.conf.Positional[Path]
    """Folder with a transforms.json, or a COLMAP one (images/ and sparse/0/)."""
    file: tyro.conf.Positional[Path]
    """The .lmvic file to write."""
    depth: Literal["auto", "files", "stereo", "none"] = "auto"
    """Where depth comes from: the dataset's files, plane sweep stereo, or no depth (views stand alone)."""
    report: Path | None = None
    """Folder for report.html and report.json; none without."""


def encode(config: EncodeConfig) -> int:
    """Code a nerfstudio dataset into one .lmvic file.

    Raises:
        LmvicError: the dataset, an option, the weights or the place to write to is not fit.
    """
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.report.files import check_report
    from lmvic_ns.report.terminal import interruptible
    from lmvic_ns.workflows.encoding import check_output, check_partial, downscaled, encode_scene, finish, pick_device
    from lmvic_ns.workflows.sources import dataset_inputs, dataset_scene, say_not_kept

    config.check()
    files = dataset_inputs(config.dataset)
    inputs = (*files.all, *weights_inputs(config.weights))
    check_output(config.file, config.overwrite, inputs)
    if config.points != "none":
        files.check_points()
    say_not_kept(str(config.dataset), files.not_kept(), config.strict)
    if config.report is not None:
        check_report(config.report, config.overwrite, inputs)

    def source_now() -> str:
        return f"{config.depth} {files.fingerprint()}"

    source = source_now()
    if not config.overwrite:  # early; clearing away what is in the way comes after all other checks
        check_partial(config.file, config.settings(source), overwrite=False)
    with interruptible(config.file) as outcome:
        codec = load_codec(config.weights, pick_device(config.device))
        capture = files.capture(config.downscale, config.metadata)
        scene = downscaled(
            dataset_scene(config.dataset, config.depth, config.reference_structure, downscale=config.downscale),
            config.downscale,
        )
        started = time.perf_counter()
        encoded = encode_scene(scene, config.file, config, codec, source, inputs, source_now, capture)
        seconds = time.perf_counter() - started
        pictures = sorted(files.pictures)
        outcome.status = finish(encoded, scene, codec, config, report=config.report, files=pictures, seconds=seconds)
    return outcome.status


@dataclass(kw_only=True)
class ReadingLimits:
    """What a file that nobody vouches for may ask for."""

    max_megapixels: float = DEFAULT_MAX_PIXELS / 1e6
    """Refuse a file with a larger view than this (millions of pixels); decoding takes memory for all of a view's pixels."""

    @property
    def max_pixels(self) -> int:
        """Of one view.

        Raises:
            LmvicError: the limit is no positive number.
        """
        if not 0 < self.max_megapixels < 1e6:
            raise LmvicError(f"--max-megapixels must be a positive number, not {self.max_megapixels}")
        return int(self.max_megapixels * 1e6)


@dataclass
class DecodeConfig(ReadingLimits):
    """Decode a file into a dataset that any nerfstudio method trains on."""

    file: tyro.conf.Positional[Path]
    """The .lmvic file."""
    out: tyro.conf.Positional[Path]
    """Folder for the dataset; new or empty (`.` will do)."""
    views: tuple[str, ...] = ()
    """Names or numbers of views; all without. Only they and the views that they refer to are decoded."""
    format: Literal["png", "jpg", "webp", "original"] = "png"
    """Of the pictures; jpg and webp lose a little. original takes that of each photograph (png where it cannot be written)."""
    lens: Literal["pinhole", "original"] = "pinhole"
    """Photographs with lens distortion come back as the pinhole views that are coded, or with their distortion and frame
    (resampled, and black with a mask where the pinhole view shows nothing)."""
    layout: Literal["nerfstudio", "colmap"] = "nerfstudio"
    """A nerfstudio dataset, or COLMAP's folders: images/, masks/, sparse/0/ (they have no place for depth and other keys)."""
    depth: bool = True
    """Write depth files."""
    weights: str | None = None
    """Weights of the codec, a name or a .safetensors file; by default those that the file names."""
    device: str = "auto"
    """Where the networks run: cpu, cuda, or auto."""
    workers: int = 1
    """Branches of the tree that are decoded at the same time."""
    overwrite: bool = False
    """Replace the files that lmvic wrote into the folder before (its .lmvic-files.json names them), and no others."""


def decode(config: DecodeConfig) -> int:
    """Decode an .lmvic file into a nerfstudio dataset; damaged views are named and left out (exit status 1).

    Raises:
        LmvicError: the file, its weights or the folder is not fit.
    """
    from lmvic_ns.report.terminal import say
    from lmvic_ns.workflows.dataset import DatasetFormat
    from lmvic_ns.workflows.decoding import decode_file

    if config.workers < 1:
        raise LmvicError(f"--workers must be at least 1, not {config.workers}")
    try:
        written = decode_file(
            config.file,
            config.out,
            views=config.views,
            form=DatasetFormat(config.format, config.depth, config.lens, config.layout),
            weights=config.weights,
            device=config.device,
            workers=config.workers,
            overwrite=config.overwrite,
            max_pixels=config.max_pixels,
        )
    except KeyboardInterrupt:
        print(f"lmvic: interrupted; what was decoded so far is removed, {config.out} is as it was", file=sys.stderr)
        return 130
    points = f" and {written.points} sparse points" if written.points else ""
    train = f"`ns-train splatfacto --data {written.folder}`"
    if config.layout == "colmap":
        train = f"`ns-train splatfacto --data {written.folder} colmap --colmap-path sparse/0`"
    say(f"{written.folder}: {written.views} views{points}; train on it with {train}")
    for name, reason in written.lost.items():
        print(f"lmvic: lost: {name}: {reason}", file=sys.stderr)
    for problem in written.problems:
        print(f"lmvic: {config.file}: {problem}", file=sys.stderr)
    return 1 if written.lost or written.problems else 0


@dataclass
class FileConfig(ReadingLimits):
    """An .lmvic file."""

    file: tyro.conf.Positional[Path]
    """The .lmvic file."""


def info(config: FileConfig) -> int:
    """Show what is in an .lmvic file: views, tree, sizes, the weights that it needs (they need not be there), and damage."""
    from lmvic_ns.report.inspection import print_info

    return print_info(config.file, config.max_pixels)


def verify(config: FileConfig) -> int:
    """Check every checksum of an .lmvic file without decoding; exit status 1 and the lost views if it is damaged."""
    from lmvic_ns.report.inspection import check_file

    problems, lost, views = check_file(config.file, config.max_pixels)
    if not problems:
        print(f"{config.file}: intact, {views} views")
        return 0
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems[0].startswith("unfinished"):
        return 1
    print(f"{config.file}: damaged; {len(lost)} of {views} views are lost" + "".join(f"\n  {name}" for name in lost))
    return 1
