"""`lmvic encode` and `lmvic estimate`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lmvic_ns._util.exit_status import INTERRUPTED, MISTAKE, exit_message
from lmvic_ns.cli.common import JsonOutputOptions
from lmvic_ns.cli.encoding import DepthChoice, EncodeConfig, encode_one
from lmvic_ns.errors import LmvicError
from lmvic_ns.workflows.options import CodingOptions


def encode(config: EncodeConfig) -> int:
    """Code nerfstudio or COLMAP datasets, each into one .lmvic file.

    Of several scenes, those whose file is there and was made with the same settings and pictures are not coded again.

    Raises:
        LmvicError: the dataset, an option, the weights or the place to write to is not fit.
    """
    from lmvic_ns.report.terminal import print_json, quiet

    config.check()
    if len(config.paths) < 2:
        raise LmvicError(
            "give a scene and the .lmvic file to write: lmvic encode SCENE FILE (several scenes: SCENE ... FOLDER)"
        )
    *scenes, target = map(local_path, config.paths)
    with quiet(config.quiet or config.json):
        if len(scenes) > 1:
            status, results = _encode_all(config, _pairs(config, scenes, target))
        elif config.cluster is not None:
            status, results = _at_once(config, [(scenes[0], target)])
        else:
            status, results = encode_one(config, scenes[0], target)
    if config.json:
        print_json(results[0] if len(scenes) == 1 and results else results)
    return status


def local_path(path: Path) -> Path:
    """The path that `file:///...` stands for, and any other path itself.

    Raises:
        LmvicError: an address of another kind.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path))
    if found is None or path.exists():
        return path
    if found[1].lower() == "file":
        return Path("/" + found[2])
    raise LmvicError(
        f"{path}: is an address; encode reads scenes from and writes files to folders: mount it, or copy the scenes"
    )


def _pairs(config: EncodeConfig, scenes: Sequence[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Each scene and its file.

    Raises:
        LmvicError: they cannot all go there.
    """
    if folder.suffix == ".lmvic":
        raise LmvicError(f"{folder}: {len(scenes)} scenes need a folder to write to, not a file")
    names = [scene.resolve().parent.name if scene.suffix == ".json" else scene.resolve().name for scene in scenes]
    if len(set(names)) != len(names):
        raise LmvicError(f"two scenes are called {max(names, key=names.count)!r}: code them one by one")
    if config.report is not None:
        raise LmvicError("--report takes one scene: leave it out, or code the scenes one by one")
    return [(scene, folder / f"{name}.lmvic") for scene, name in zip(scenes, names, strict=True)]


def _at_once(config: EncodeConfig, pairs: Sequence[tuple[Path, Path]]) -> tuple[int, list[dict[str, Any]]]:
    from lmvic_ns.cli.batch import code_scenes

    return code_scenes(config, pairs)


def _encode_all(config: EncodeConfig, pairs: Sequence[tuple[Path, Path]]) -> tuple[int, list[dict[str, Any]]]:
    """Each scene into a file of its name; one that fails does not stop the others."""
    from lmvic_ns.report.terminal import say

    if config.jobs > 1 or config.cluster is not None:
        return _at_once(config, pairs)
    worst, results = 0, []
    for scene, file in pairs:
        say(f"{scene}: {len(results) + 1} of {len(pairs)}")
        try:
            status, found = encode_one(config, scene, file, restartable=True)
        except Exception as error:
            message = exit_message(error)
            if message is None or message.status != MISTAKE:
                raise
            print(f"lmvic: {message.line}", file=sys.stderr)
            status, found = MISTAKE, [{"file": str(file), "error": message.line}]
        results += found
        worst = max(worst, status)
        if status == INTERRUPTED:
            break
    return worst, results


@dataclass(kw_only=True)
class EstimatedScene:
    """What is estimated."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE")]
    """Folder with a transforms.json, or a COLMAP one."""
    depth: DepthChoice = "auto"
    """Where depth comes from; see `lmvic encode`."""


@dataclass(kw_only=True)
class EstimateConfig(JsonOutputOptions, CodingOptions, EstimatedScene):
    """What a scene would take at the named qualities, from a few of its views."""


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
