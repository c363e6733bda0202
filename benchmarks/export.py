"""The main job on trained scenes, as a person does it: export, decode, and the same pictures with x265 at equal PSNR.

    python benchmarks/export.py fountain=outputs/fountain/.../config.yml fox=outputs/fox/.../config.yml \\
        --work scratch --output docs/results/export

For each scene `ns-export lmvic-codec`, then `lmvic decode` in a process of its own, then x265 on the pictures that
were coded (undistorted, as the method saw them; `lmvic eval rd`). `--train-steps N` also trains lmvic-splat on the
originals and on the decoded pictures, with the same seed, and compares both with the originals of the views held out.
Whole programs are timed, imports and loading included.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lmvic_ns._util.results import ResultsOutput

PEER = "x265-ldp"


@dataclass
class Options:
    """What to export, and where."""

    scenes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """NAME=config.yml of trained scenes."""
    work: Path = Path("export-benchmark")
    """Scratch folder: exports and decoded datasets (earlier ones are replaced), originals (earlier ones are kept)."""
    output: Path = Path("docs/results/export")
    """Folder for export.csv and export.md."""
    qualities: tuple[int, ...] = (32,)
    """Quality levels; the splats are trained on pictures of the last."""
    weights: str = "tiny"
    """Weights of the codec: a name that the package brings, or a .safetensors file."""
    train_steps: int = 0
    """Steps of lmvic-splat on originals and decoded pictures; 0 leaves that out."""
    train_factor: float = 0.5
    """Size of the pictures that these are trained and compared on."""


@dataclass(frozen=True)
class Row:
    """One scene at one quality level."""

    scene: str
    views: int
    quality: int
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    depth_share: float
    jpeg_files: float
    """Size of the captured files over ours."""
    jpeg_equal: float
    """Size of JPEG at our PSNR over ours."""
    x265_bpp: float
    """At our PSNR."""
    encode_s: float
    check_s: float
    decode_s: float
    decode_cpu_s: float


def program(name: str, *args: object) -> tuple[float, float]:
    """Run a console script beside this Python; its seconds by the clock and of the processor."""
    command = [str(Path(sys.executable).with_name(name)), *map(str, args)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_originals(config: Path, folder: Path) -> Path:
    """The captured photographs as the method saw them, as a dataset with the same cameras and points."""
    from lmvic_ns.splat.depth_source import splat_scene

    folder.parent.mkdir(parents=True, exist_ok=True)
    return splat_scene(config).scene.with_inverse_depth(None).write_dataset(folder, overwrite=True)


def peer_curve(originals: Path, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """PSNR and bits per pixel of x265 low delay P in the order of the files, by rising PSNR."""
    program("lmvic", "eval", "rd", originals, "--codecs", PEER, "--orders", "file", "--no-html", "--output", work)
    with (work / "rd.csv").open() as stream:
        rows = csv.DictReader(line for line in stream if not line.startswith("#"))
        points = sorted((float(row["psnr_db"]), float(row["bpp"])) for row in rows)
    return np.array(points)[:, 0], np.array(points)[:, 1]


def rate_at(curve: tuple[np.ndarray, np.ndarray], psnr: float) -> float:
    """Bits per pixel at a PSNR, log-linear between measured points; NaN outside of them."""
    quality, rate = curve
    return float(np.exp(np.interp(psnr, quality, np.log(rate), left=np.nan, right=np.nan)))


def run_scene(name: str, config: Path, options: Options) -> list[Row]:
    folder = options.work / name
    originals = folder / "originals"
    if not originals.is_dir():
        write_originals(config, originals)
    curve = peer_curve(originals, folder / "peers")
    rows = []
    for quality in options.qualities:
        export, decoded = folder / f"q{quality}", folder / f"q{quality}-decoded"
        for old in (export, decoded):
            shutil.rmtree(old, ignore_errors=True)
        coding = ("--quality", quality, "--weights", options.weights)
        program("ns-export", "lmvic-codec", "--load-config", config, "--output-dir", export, *coding)
        decode_s, decode_cpu_s = program("lmvic", "decode", export / "scene.lmvic", decoded, "--weights", options.weights)
        report = json.loads((export / "report.json").read_text())
        size = report["bytes"]["total"] - report["bytes"]["points"]
        row = Row(
            scene=name,
            views=len(report["views"]),
            quality=quality,
            bytes=size,
            bpp=report["bits_per_pixel"],
            psnr=report["psnr"],
            ms_ssim=report["ms_ssim"],
            depth_share=report["bytes"]["depth"] / size,
            jpeg_files=report["captured_files"]["bytes"] / size,
            jpeg_equal=report["other_formats"]["jpeg"]["bytes"] / size,
            x265_bpp=rate_at(curve, report["psnr"]),
            encode_s=report["seconds"]["encode"],
            check_s=report["seconds"]["decode and measure"],
            decode_s=decode_s,
            decode_cpu_s=decode_cpu_s,
        )
        print(row, flush=True)
        rows.append(row)
    return rows


def train_and_compare(data: Path, originals: Path, output: Path, options: Options) -> tuple[float, int]:
    """Train lmvic-splat on a dataset; mean PSNR of the held-out views against the *originals*, and their number."""
    import torch
    from nerfstudio.configs.method_configs import all_methods

    from lmvic_ns.splat.schedule import rescheduled

    method: Any = all_methods["lmvic-splat"]
    config: Any = rescheduled(method, options.train_steps)
    manager = config.pipeline.datamanager
    manager.camera_res_scale_factor = options.train_factor
    manager.dataparser.eval_mode, manager.dataparser.eval_interval = "interval", 5
    config.output_dir, config.experiment_name, config.timestamp, config.vis = output, data.name, "run", "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.viewer.quit_on_train_completion = True

    def trainer_on(folder: Path) -> Any:
        setup: Any = copy.deepcopy(config)
        setup.data = setup.pipeline.datamanager.data = folder
        torch.manual_seed(setup.machine.seed)
        trainer = setup.setup()
        trainer.setup()
        return trainer

    trained, truth = trainer_on(data), trainer_on(originals)
    trained.train()
    model = trained.pipeline.model.eval()
    values = []
    with torch.no_grad():
        # the same cameras in the same split: only the pictures differ
        views = trained.pipeline.datamanager.fixed_indices_eval_dataloader
        for (camera, _), (_, batch) in zip(views, truth.pipeline.datamanager.fixed_indices_eval_dataloader, strict=True):
            rgb = model.get_outputs_for_camera(camera)["rgb"]
            values.append(float(-10 * torch.log10((rgb - model.get_gt_img(batch["image"])).square().mean())))
    return float(np.mean(values)), len(values)


def tables(rows: list[Row], trained: list[tuple[str, int, int, float, float]], options: Options) -> str:
    lines = [
        "| scene | views | quality | bits a pixel | PSNR, dB | MS-SSIM | depth | captured files | JPEG at our PSNR "
        "| x265 low delay P at our PSNR, bits a pixel | encode, s | check + report, s | decode, s (processor) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.scene} | {r.views} | {r.quality} | {r.bpp:.4f} | {r.psnr:.2f} | {r.ms_ssim:.4f} | {r.depth_share:.1%} "
            f"| {r.jpeg_files:.1f} x | {r.jpeg_equal:.2f} x | {r.x265_bpp:.4f} | {r.encode_s:.0f} | {r.check_s:.0f} "
            f"| {r.decode_s:.0f} ({r.decode_cpu_s:.0f}) |"
        )
    if trained:
        lines += [
            "",
            f"lmvic-splat, {options.train_steps} steps on pictures of {options.train_factor:g} times the size, every fifth "
            "view held out and compared with its *original*:",
            "",
            "| scene | held out | trained on originals | on decoded pictures |",
            "|---|---:|---:|---:|",
        ]
        lines += [f"| {n} | {held} | {first:.2f} dB | {second:.2f} dB (quality {q}) |" for n, q, held, first, second in trained]
    return "\n".join(lines) + "\n"


def write(rows: list[Row], trained: list[tuple[str, int, int, float, float]], options: Options) -> str:
    """export.csv and export.md; returns the latter's text."""
    text = tables(rows, trained, options)
    with ResultsOutput(options.output) as output:
        with (output.staging / "export.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(vars(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: round(v, 5) if isinstance(v, float) else v for key, v in vars(row).items()} for row in rows)
        (output.staging / "export.md").write_text(text, encoding="utf-8")
    return text


def main(options: Options) -> None:
    configs = [Path(text.partition("=")[2]) for text in options.scenes]
    ResultsOutput(options.output, names=("export.csv", "export.md"), inputs=configs).close()  # refused before the work
    rows: list[Row] = []
    trained: list[tuple[str, int, int, float, float]] = []
    for text in options.scenes:
        name, _, config = text.partition("=")
        rows += run_scene(name, Path(config), options)
        write(rows, trained, options)  # so that an interruption leaves what is done
        if options.train_steps:
            folder, quality = options.work / name, options.qualities[-1]
            originals, outputs = folder / "originals", folder / "outputs"
            first, held = train_and_compare(originals, originals, outputs, options)
            second, _ = train_and_compare(folder / f"q{quality}-decoded", originals, outputs, options)
            trained.append((name, quality, held, first, second))
    print(write(rows, trained, options))


if __name__ == "__main__":
    main(tyro.cli(Options))
