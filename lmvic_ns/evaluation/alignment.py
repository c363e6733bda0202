"""The paper's Table 2: how well each way of aligning brings the reference onto the next view, on whole pictures and where
the reference shows the same points (the mask of our depth)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from lmvic_ns._util.metrics import ms_ssim, psnr
from lmvic_ns.evaluation.aligners import DepthAlignment, picture_methods, side_by_side
from lmvic_ns.evaluation.image_set import write_picture
from lmvic_ns.evaluation.peers import MissingCodecError, Picture
from lmvic_ns.evaluation.report import markdown_table, write_csv
from lmvic_ns.scene import MultiViewScene


@dataclass(frozen=True)
class AlignmentResult:
    """One method on one pair; the masked figures are NaN without any depth to take a mask from."""

    method: str
    target: str
    reference: str
    psnr: float
    ms_ssim: float
    masked_psnr: float
    masked_ms_ssim: float
    mask_share: float


@dataclass(frozen=True)
class AlignedPair:
    """What all methods made of one pair, for pictures."""

    target: Picture
    reference: Picture
    mask: Bool[np.ndarray, "h w"] | None
    aligned: Mapping[str, Picture]
    results: Sequence[AlignmentResult]


def consecutive_pairs(order: Sequence[int]) -> list[tuple[int, int]]:
    """(target, reference): each view with the one before it in the order."""
    return list(zip(order[1:], order[:-1], strict=True))


def align_scene(
    pictures: Sequence[Picture],
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    depths: Mapping[str, MultiViewScene],
    *,
    mask_from: str | None,
    missing: dict[str, str],
) -> Iterator[AlignedPair]:
    """All methods on all pairs, one pair at a time.

    Args:
        pictures: Views, as pinhole views.
        names: Their names.
        pairs: (target, reference) by index.
        depths: Kind of depth -> the same views with depth of that kind.
        mask_from: The kind whose mask is used for the masked figures of all methods; None for none.
        missing: Receives the methods that could not be tried, with the reason.
    """
    methods: dict[str, Callable[[Picture, Picture], Picture]] = {}
    for name, make in picture_methods().items():
        try:
            methods[name] = make()
        except MissingCodecError as error:
            missing[name] = str(error)
    by_depth = {kind: DepthAlignment(scene) for kind, scene in depths.items()}
    for target, reference in pairs:
        aligned: dict[str, Picture] = {}
        masks: dict[str, Bool[np.ndarray, "h w"]] = {}
        for kind, method in by_depth.items():
            aligned[f"{kind} depth"], masks[kind] = method(target, reference)
        for name in list(methods):
            try:
                aligned[name] = methods[name](pictures[target], pictures[reference])
            except MissingCodecError as error:
                missing[name] = str(error)
                del methods[name]
        mask = masks[mask_from] if mask_from is not None else None
        results = []
        for name in [*methods, *(f"{kind} depth" for kind in by_depth)]:
            a, b = pictures[target], aligned[name]
            masked = (psnr(a, b, mask), ms_ssim(a, b, mask)) if mask is not None else (math.nan, math.nan)
            share = float(mask.mean()) if mask is not None else math.nan
            results.append(AlignmentResult(name, names[target], names[reference], psnr(a, b), ms_ssim(a, b), *masked, share))
        yield AlignedPair(pictures[target], pictures[reference], mask, aligned, results)


def write_alignment(
    results: Sequence[AlignmentResult],
    missing: Mapping[str, str],
    folder: Path,
    title: str,
    command: str,
    mask_from: str | None,
) -> list[Path]:
    """alignment-TITLE.csv (every pair) and alignment-TITLE.md (means over pairs)."""
    table, summary = folder / f"alignment-{title}.csv", folder / f"alignment-{title}.md"
    write_csv(
        table,
        ["method", "target", "reference", "psnr_db", "ms_ssim", "masked_psnr_db", "masked_ms_ssim", "mask_share"],
        (
            (r.method, r.target, r.reference, *(f"{v:.4f}" for v in
             (r.psnr, r.ms_ssim, r.masked_psnr, r.masked_ms_ssim, r.mask_share)))
            for r in results
        ),
        command,
    )  # fmt: skip
    rows = []
    for method in dict.fromkeys(r.method for r in results):
        chosen = [r for r in results if r.method == method]
        means = [np.mean([getattr(r, k) for r in chosen]) for k in ("psnr", "ms_ssim", "masked_psnr", "masked_ms_ssim")]
        rows.append([method, *(f"{m:.{d}f}" if np.isfinite(m) else "-" for m, d in zip(means, (2, 3, 2, 3), strict=True))])
    pairs = len({(r.target, r.reference) for r in results})
    share = np.mean([r.mask_share for r in results]) if mask_from else math.nan
    text = [f"# Alignment of consecutive views: {title}\n", f"```\n{command}\n```\n", f"Means over {pairs} pairs in our order."]
    if mask_from:
        text.append(f"Masked: where the mask (4) of the {mask_from} depth is 1, {share:.0%} of the pixels, for all methods.")
    text.append("")
    text.append(markdown_table(["method", "PSNR, dB", "MS-SSIM", "PSNR masked, dB", "MS-SSIM masked"], rows))
    text += [f"- not measured: {name}: {reason}" for name, reason in missing.items()]
    summary.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    return [table, summary]


def write_pair_picture(pair: AlignedPair, path: Path) -> None:
    """Target, reference, mask, and what each method made of the reference, in a labelled grid."""
    from PIL import Image, ImageDraw

    tiles = {"target": pair.target, "reference": pair.reference}
    if pair.mask is not None:
        tiles["mask"] = np.repeat(pair.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    for result in pair.results:
        tiles[f"{result.method}: {result.psnr:.2f} dB, masked {result.masked_psnr:.2f}"] = pair.aligned[result.method]
    shape = pair.target.shape
    same = {name: tile for name, tile in tiles.items() if tile.shape == shape}
    columns, width = 3, 480
    grid = Image.fromarray(side_by_side(list(same.values()), columns, width))
    draw = ImageDraw.Draw(grid)
    height = round(shape[0] * width / shape[1])
    for number, name in enumerate(same):
        x, y = number % columns * width, number // columns * height
        draw.rectangle((x, y, x + 8 + 7 * len(name), y + 16), fill=(0, 0, 0))
        draw.text((x + 4, y + 2), name, fill=(255, 255, 255))
    write_picture(path, np.asarray(grid))
