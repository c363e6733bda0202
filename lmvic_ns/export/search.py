"""The quality level that meets a target rate or PSNR, by bisection over real encodes of some views."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmvic_ns.codec.multiview import EncodedView, MultiViewCodec, depth_first
from lmvic_ns.codec.quality import LEVELS
from lmvic_ns.export.options import CodingOptions
from lmvic_ns.export.terminal import say
from lmvic_ns.geometry.ordering import ReferenceTree
from lmvic_ns.output import writing
from lmvic_ns.scene import MultiViewScene


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


def whole_rate(sample: Sample, coded: Sequence[EncodedView]) -> float:
    """Bits a pixel of the whole scene, from the sample's views: those without and with a reference weigh as there."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for view in coded:
        camera = sample.scene.cameras[view.index]
        pixels = int(camera.height[0]) * int(camera.width[0])
        rates[view.parent < 0].append((view.depth_bytes + view.image_bytes) * 8 / pixels)
    alone = float(np.mean(rates[True]))
    referring = float(np.mean(rates[False])) if rates[False] else alone
    return (alone * sample.independent + referring * (sample.views - sample.independent)) / sample.views


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
    """
    sample = take_sample(scene, tree, options.search_views)
    lines: list[str] = []
    tried: dict[int, bool] = {}
    with writing(folder):
        place = Path(tempfile.mkdtemp(prefix=".search-", dir=folder))

    def meets(level: int) -> bool:
        how = options.encode_options(level)
        coded = codec.encode(sample.scene, place / "try.lmvic", tree=sample.tree, options=how)
        rate, psnr = whole_rate(sample, coded), float(np.mean([view.psnr for view in coded]))
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
            lines.append(f"no quality reaches {wanted}: taking {level}, the nearest")
            say("  " + lines[-1])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return level, lines
