"""Median against expected depth: each view is predicted from the one before it, by either depth.

    python benchmarks/alignment_depth.py --load-config outputs/fountain/lmvic-splat/.../config.yml

PSNR of the warped neighbour over the pixels where both masks are 1 (the same pixels for both), each over its own mask,
and over the whole picture; the mean over the views, as in the paper's Table 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.splat.captures import captured_scene
from lmvic_ns.splat.trained import load_trained


@dataclass
class Options:
    """A trained lmvic-splat."""

    load_config: Path
    """config.yml of the training."""


def predict(scene: MultiViewScene, depths: list[torch.Tensor], view: int, reference: int) -> tuple[torch.Tensor, ...]:
    """The reference's photograph warped to the view, and the mask."""
    alignment = disparity_and_mask(depths[view][None], scene.cameras[view], depths[reference][None], scene.cameras[reference])
    return warp(scene.image(reference)[None], alignment.disparity)[0], alignment.mask[0]


def psnr(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    error = (a - b).square().mean(dim=0)
    return float(-10 * torch.log10((error if mask is None else error[mask]).mean()))


def main(options: Options) -> None:
    pipeline = load_trained(options.load_config).pipeline
    median = captured_scene(pipeline)
    expected = captured_scene(pipeline, depth="depth")
    maps = {name: [s.inverse_depth(i) for i in range(len(s))] for name, s in [("median", median), ("expected", expected)]}
    rows = []
    for view in range(1, len(median)):
        target = median.image(view)
        warped = {name: predict(median, maps[name], view, view - 1) for name in maps}
        both = warped["median"][1] & warped["expected"][1]
        row = [psnr(median.image(view - 1), target, both)]
        row += [psnr(warped[name][0], target, both) for name in ("expected", "median")]
        row += [psnr(warped[name][0], target, warped[name][1]) for name in ("expected", "median")]
        row += [psnr(warped[name][0], target) for name in ("expected", "median")]
        row += [float(warped[name][1].float().mean()) for name in ("expected", "median")]
        rows.append(row)
    mean = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    print(f"{len(rows)} views, mean PSNR in dB; a ray in {(torch.stack(maps['median']) == 0).float().mean():.4f} has no median")
    print("| pixels | no alignment | expected depth | median depth |")
    print("|---|---|---|---|")
    print(f"| where both masks are 1 | {mean[0]:.2f} | {mean[1]:.2f} | {mean[2]:.2f} |")
    print(f"| each its own mask ({mean[7]:.2f} and {mean[8]:.2f} of all) | | {mean[3]:.2f} | {mean[4]:.2f} |")
    print(f"| whole picture | | {mean[5]:.2f} | {mean[6]:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
