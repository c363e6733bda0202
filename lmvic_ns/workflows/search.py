"""The quality level that meets a target rate or PSNR, by bisection over real encodes of some views."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmvic_ns._util.output import writing
from lmvic_ns.bitstream.layout import PREAMBLE_BYTES, stored_header_bytes, unpack_preamble_and_header
from lmvic_ns.bitstream.partial import finished_path, partial_path
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.planning import depth_first
from lmvic_ns.codec.quality import LEVELS
from lmvic_ns.codec.records import EncodedView
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.report.terminal import say
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import ReferenceTree
from lmvic_ns.workflows.options import CodingOptions

if TYPE_CHECKING:
    from lmvic_ns.report.results import EncodedFile

_NEAR = 3
"""Levels that a finished file may be off the level that the search found, at most, for an interrupted run to be the same."""


@dataclass(frozen=True)
class Sample:
    """Some views of a scene that are coded in place of all.

    Attributes:
        scene: these views.
        tree: their references, as in the whole tree.
        independent: how many views of the whole tree have no reference.
        views: how many views the whole tree has.
    """

    scene: MultiViewScene
    tree: ReferenceTree
    independent: int
    views: int


def take_sample(scene: MultiViewScene, tree: ReferenceTree, count: int) -> Sample:
    """The first `count` views in coding order (all for 0): each has its reference among them."""
    independent = sum(parent < 0 for parent in tree.parent)
    chosen = list(depth_first(tree))[: count or len(tree)]
    place = {view: index for index, view in enumerate(chosen)}
    parents = [place.get(tree.parent[view], -1) for view in chosen]
    return Sample(
        scene.select(chosen), ReferenceTree.from_parents(tuple(range(len(chosen))), tuple(parents)), independent, len(tree)
    )


def whole_rate(sample: Sample, coded: Sequence[EncodedView], file_size: int) -> float:
    """Bits a pixel of the whole scene, from the sample's views: those without and with a reference weigh as there.

    Args:
        sample: the views.
        coded: what each cost.
        file_size: of their file, bytes; what is not theirs (cameras, names, index) is about as much a pixel in all files.
    """
    rates: dict[bool, list[float]] = {True: [], False: []}
    for view in coded:
        camera = sample.scene.cameras[view.index]
        pixels = int(camera.height[0]) * int(camera.width[0])
        rates[view.parent < 0].append((view.depth_bytes + view.image_bytes) * 8 / pixels)
    pixels = int((sample.scene.cameras.height * sample.scene.cameras.width).sum())
    container = (file_size - sum(view.depth_bytes + view.image_bytes for view in coded)) * 8 / pixels
    alone = float(np.mean(rates[True]))
    referring = float(np.mean(rates[False])) if rates[False] else alone
    return (alone * sample.independent + referring * (sample.views - sample.independent)) / sample.views + container


def bisect_levels(meets: Callable[[int], bool], *, rising: bool) -> int:
    """The lowest level (`rising`: met from some level on) or the highest one (met up to some level) that meets a target.

    Where no level does, the last (first) one.
    """
    low, high = 0, LEVELS - 1
    while low < high:
        if rising:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle + 1, high)
        else:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if meets(middle) else (low, middle - 1)
    return low


def search_quality(
    codec: MultiViewCodec, scene: MultiViewScene, tree: ReferenceTree, options: CodingOptions, folder: Path
) -> tuple[int, list[str]]:
    """The level for `options.target_bpp` or `options.target_psnr`; says each try.

    Args:
        codec: weights.
        scene: all views.
        tree: of all views.
        options: the target and the number of views to try on.
        folder: for the tries' files, which are removed.

    Returns:
        The level, and a line for each try.

    Raises:
        LmvicError: no level meets the target; says what can be had.
    """
    sample = take_sample(scene, tree, options.search_views)
    lines: list[str] = []
    tried: dict[int, bool] = {}
    found: dict[int, tuple[float, float]] = {}
    with writing(folder):
        place = Path(tempfile.mkdtemp(prefix=".search-", dir=folder))

    def meets(level: int) -> bool:
        how = options.encode_options(level)
        coded = codec.encode(sample.scene, place / "try.lmvic", tree=sample.tree, options=how)
        rate = whole_rate(sample, coded, (place / "try.lmvic").stat().st_size)
        psnr = float(np.mean([view.psnr for view in coded if view.psnr is not None]))
        found[level] = rate, psnr
        if options.target_psnr is not None:
            tried[level] = psnr >= options.target_psnr
        else:
            tried[level] = options.target_bpp is not None and rate <= options.target_bpp
        verdict = "meets the target" if tried[level] else "misses it"
        lines.append(f"quality {level}: about {rate:.4f} bits a pixel, {psnr:.2f} dB: {verdict}")
        say("  " + lines[-1])
        return tried[level]

    wanted = f"{options.target_psnr:g} dB" if options.target_psnr is not None else f"{options.target_bpp:g} bits a pixel"
    say(f"searching the quality for {wanted} on {len(sample.scene)} of {len(scene)} views")
    try:
        level = bisect_levels(meets, rising=options.target_psnr is not None)
        if not tried.get(level, False) and not meets(level):
            raise LmvicError(_unreachable(options, level, *found[level], f"{len(sample.scene)} of {len(scene)} views"))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return level, lines


def hold_target(encode_at: Callable[[int], EncodedFile], level: int, options: CodingOptions) -> EncodedFile:
    """A file that meets the target, not only by the estimate on some views: coded again at the next level while it does not.

    Args:
        encode_at: codes the scene at a level.
        level: what the search found; without a target, the level asked for.
        options: the target.

    Returns:
        The finished file. At the end of the scale it may miss the target: then its `missed` says so.
    """
    while True:
        encoded = encode_at(level)
        missed = missed_target(encoded, options)
        following = level + (1 if options.target_psnr is not None else -1)
        if not missed:
            return encoded
        if not 0 <= following < LEVELS:
            return replace(encoded, missed=missed)
        encoded.tries.append(f"quality {level}: the whole file has {missed}: coding again at {following}")
        say("  " + encoded.tries[-1])
        # it is not what was asked for, and would be in the way of going on after an interruption; a link to it stays
        finished_path(encoded.path).unlink()
        level = following


def begun_level(path: Path, level: int, options: CodingOptions) -> int:
    """The level to go on with: that of an interrupted run's file where `hold_target` had moved on from `level`."""
    partial = partial_path(path)
    if not partial.is_file():
        return level
    try:
        with partial.open("rb") as file:
            preamble = file.read(PREAMBLE_BYTES)
            header = unpack_preamble_and_header(preamble, file.read(stored_header_bytes(preamble)))
    except BitstreamError:
        return level
    begun, step = int(header.quality), 1 if options.target_psnr is not None else -1
    return begun if 0 <= (begun - level) * step <= _NEAR else level


def missed_target(encoded: EncodedFile, options: CodingOptions) -> str:
    """How a finished file misses the target; empty if it does not."""
    if options.target_psnr is not None and encoded.psnr < options.target_psnr:
        return f"{encoded.psnr:.3f} dB of {options.target_psnr:g} dB"
    if options.target_bpp is not None and encoded.bits_per_pixel > options.target_bpp:
        return f"{encoded.bits_per_pixel:.5f} bits a pixel, for at most {options.target_bpp:g}"
    return ""


def _unreachable(options: CodingOptions, level: int, rate: float, psnr: float, views: str) -> str:
    if options.target_psnr is not None:
        return (
            f"--target-psnr {options.target_psnr:g} cannot be reached: quality {level}, the best, has about {psnr:.2f} dB "
            f"(on {views}); ask for less"
        )
    return (
        f"--target-bpp {options.target_bpp:g} cannot be reached: quality {level}, the smallest, takes about {rate:.4f} bits a "
        f"pixel (on {views}); ask for more, or make the pictures smaller with --downscale"
    )
