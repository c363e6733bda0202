"""`lmvic decode`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from lmvic_ns.cli.common import OutputOptions, ReadingLimits
from lmvic_ns.errors import LmvicError


@dataclass(kw_only=True)
class DecodeOptions:
    """What is decoded, and into which files."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .lmvic file."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the dataset. It must be new or empty; `.` is allowed."""
    views: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME [NAME ...]]", help_behavior_hint="(default: all)")] = ()
    """Names or numbers of views; all views by default. Only these and their references are decoded."""
    format: Literal["png", "jpg", "webp", "original"] = "png"
    """Format of the pictures. jpg and webp are lossy. original is that of each photograph, or png if that cannot be written."""
    lens: Literal["pinhole", "original"] = "pinhole"
    """How photographs with lens distortion are written. pinhole: undistorted, as they are coded.
    original: resampled to the lens and frame of the photograph; masked where the pinhole view shows nothing."""
    layout: Literal["nerfstudio", "colmap"] = "nerfstudio"
    """A nerfstudio dataset, or COLMAP folders (images/, masks/, sparse/0/), which hold no depth and no other keys."""
    overwrite: bool = False
    """Replace the files that lmvic wrote into the folder before, as listed in its .lmvic-files.json, and no others."""


@dataclass(kw_only=True)
class AdvancedDecodeOptions:
    """For most files the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    depth: bool = True
    """Write depth files."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Weights of the codec: a name or a .safetensors file. By default the weights that the file names by hash."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """Device of the networks: cpu, cuda or auto."""
    workers: int = 1
    """Branches of the reference tree that are decoded in parallel."""


@dataclass(kw_only=True)
class DecodeConfig(ReadingLimits, AdvancedDecodeOptions, OutputOptions, DecodeOptions):
    """Decode a file into a dataset that any nerfstudio method trains on."""


def decode(config: DecodeConfig) -> int:
    """Decode an .lmvic file into a nerfstudio dataset. Damaged views are named and left out (exit status 1).

    Raises:
        LmvicError: the file, its weights or the folder cannot be used.
    """
    from lmvic_ns.report.terminal import quiet, say
    from lmvic_ns.workflows.dataset import DatasetFormat
    from lmvic_ns.workflows.decoding import decode_file

    if config.workers < 1:
        raise LmvicError(f"--workers must be at least 1, not {config.workers}")
    try:
        with quiet(config.quiet):
            written = decode_file(
                config.file,
                config.out,
                views=config.views,
                format=DatasetFormat(config.format, config.depth, config.lens, config.layout),
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
    with quiet(config.quiet):
        say(f"{written.folder}: {written.views} views{points}; train on it with {train}")
    for name, reason in written.lost.items():
        print(f"lmvic: lost: {name}: {reason}", file=sys.stderr)
    for problem in written.problems:
        print(f"lmvic: {config.file}: {problem}", file=sys.stderr)
    return 1 if written.lost or written.problems else 0
