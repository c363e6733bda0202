"""`lmvic encode` and `lmvic estimate`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lmvic_ns._util.endings import MISTAKE, ending_of
from lmvic_ns.cli.common import Answering
from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.options import CodingOptions, weights_inputs

if TYPE_CHECKING:
    from lmvic_ns.report.results import EncodedFile

def encode(config: EncodeConfig) -> int:
    """Code nerfstudio or COLMAP datasets, each into one .lmvic file.

    Raises:
        LmvicError: the dataset, an option, the weights or the place to write to is not fit.
    """
    from lmvic_ns.report.terminal import print_json, quiet

    config.check()
    *scenes, target = config.paths
    if not scenes:
        raise LmvicError(
            "give a scene and the .lmvic file to write: lmvic encode SCENE FILE (several scenes: SCENE ... FOLDER)"
        )
    with quiet(config.quiet or config.json):
        if len(scenes) == 1:
            status, results = _encode_one(config, scenes[0], target)
        else:
            status, results = _encode_all(config, scenes, target)
    if config.json:
        print_json(results[0] if len(scenes) == 1 and results else results)
    return status


def _encode_all(config: EncodeConfig, scenes: list[Path], folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Each scene into a file of its name; one that fails does not stop the others."""
    from lmvic_ns.report.terminal import say

    if folder.suffix == ".lmvic":
        raise LmvicError(f"{folder}: {len(scenes)} scenes need a folder to write to, not a file")
    names = [scene.resolve().parent.name if scene.suffix == ".json" else scene.resolve().name for scene in scenes]
    if len(set(names)) != len(names):
        raise LmvicError(f"two scenes are called {max(names, key=names.count)!r}: code them one by one")
    if config.report is not None and len(scenes) > 1:
        raise LmvicError("--report takes one scene: leave it out, or code the scenes one by one")
    worst, results = 0, []
    for scene, name in zip(scenes, names, strict=True):
        say(f"{scene}: {len(results) + 1} of {len(scenes)}")
        try:
            status, found = _encode_one(config, scene, folder / f"{name}.lmvic")
        except Exception as error:
            ending = ending_of(error)
            if ending is None or ending.status != MISTAKE:
                raise
            print(f"lmvic: {ending.line}", file=sys.stderr)
            status, found = MISTAKE, [{"file": str(folder / f"{name}.lmvic"), "error": ending.line}]
        results += found
        worst = max(worst, status)
        if status == 130:
            break
    return worst, results


@dataclass
class EstimateConfig(CodingOptions, Answering):
    """What a scene would take at the named qualities, from a few of its views."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE")]
    """Folder with a transforms.json, or a COLMAP one."""
    depth: DepthChoice = "auto"
    """Where depth comes from; see `lmvic encode`."""


def estimate(config: EstimateConfig) -> int:
    """Size, quality, time and memory of a scene at the named qualities, from --search-views of its views (nothing is written).

    Raises:
        LmvicError: the dataset, an option or the weights is not fit.
    """
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.report.terminal import print_json, quiet
    from lmvic_ns.workflows.encoding import downscaled, pick_device
    from lmvic_ns.workflows.estimate import estimate_scene, print_estimates
    from lmvic_ns.workflows.sources import dataset_inputs, dataset_scene

    config.check()
    files = dataset_inputs(config.dataset)
    with quiet(config.quiet or config.json):
        codec = load_codec(config.weights, pick_device(config.device))
        scene = downscaled(
            dataset_scene(config.dataset, config.depth, config.reference_structure, downscale=config.downscale),
            config.downscale,
        )
        found = estimate_scene(codec, scene, config, sorted(files.pictures))
    if config.json:
        print_json(found)
    else:
        print_estimates(found)
    return 0
