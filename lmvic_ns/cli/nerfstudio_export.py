"""`lmvic export` and `ns-export lmvic-codec`: a trained scene's photographs into one file, with a report."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lmvic_ns._util.exit_status import run_cleanly
from lmvic_ns.workflows.options import CodingOptions, weights_inputs


@dataclass(kw_only=True)
class TrainedScene:
    """What is exported, and to where."""

    load_config: Annotated[Path, tyro.conf.arg(metavar="CONFIG")]
    """config.yml of the trained scene."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder for scene.lmvic, report.html and report.json."""
    split: Literal["all", "train", "eval"] = "all"
    """Photographs to code: all, only those trained on, or only the others."""


@dataclass(kw_only=True)
class ExportConfig(CodingOptions, TrainedScene):
    """Code the captured photographs of a trained lmvic-splat, with its median depth, into scene.lmvic, with a report."""


@dataclass(kw_only=True)
class ExportLmvicCodec(ExportConfig):
    """Code the captured photographs of a trained lmvic-splat, with its median depth, into scene.lmvic, with a report."""

    def main(self) -> None:
        """Run as a subcommand of ns-export. A user error ends the program with status 2."""
        status = run_cleanly("ns-export lmvic-codec", lambda: export(self))
        if status:
            sys.exit(status)


def export(config: ExportConfig) -> int:
    """Encode the photographs of a trained scene into OUTPUT_DIR/scene.lmvic and write OUTPUT_DIR/report.html and report.json.

    Raises:
        LmvicError: the config, an option, the weights or the folder cannot be used.
    """
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.report.files import check_report
    from lmvic_ns.report.terminal import interruptible
    from lmvic_ns.sparse_points.exact import scene_points
    from lmvic_ns.splat.depth_source import cached_depth, splat_scene
    from lmvic_ns.workflows.encoding import check_output, check_partial, encode_scene, finish, pick_device
    from lmvic_ns.workflows.sources import capture_of, say_not_kept

    config.check()
    file = config.output_dir / "scene.lmvic"
    given = (config.load_config, *weights_inputs(config.weights))
    check_output(file, config.overwrite, given)
    check_report(config.output_dir, config.overwrite, given)
    codec = load_codec(config.weights, pick_device(config.device))  # before anything slow: it may be missing
    with interruptible(file) as outcome:
        captured = splat_scene(config.load_config, config.split, config.downscale)
        inputs = (*given, *captured.inputs)
        check_output(file, config.overwrite, inputs)
        check_report(config.output_dir, config.overwrite, inputs)
        if config.points != "none":
            scene_points(captured.scene)  # they may be missing or damaged: said before anything slow
        if not config.overwrite:
            check_partial(file, config.settings(captured.source), overwrite=False)
        capture, not_kept = capture_of(captured.dataset, captured.files, config.downscale, config.metadata)
        say_not_kept(str(config.load_config), not_kept, config.strict)
        with cached_depth(captured.scene, config.output_dir) as scene:
            started = time.perf_counter()
            encoded = encode_scene(scene, file, config, codec, captured.source, inputs, capture=capture)
            seconds = time.perf_counter() - started
            outcome.status = finish(
                encoded, scene, codec, config, report=config.output_dir, files=captured.files, seconds=seconds
            )
    return outcome.status
