"""A quick look at weights: estimated bits per pixel, PSNR and MS-SSIM of the intra path over test photographs.

    python benchmarks/rd_photos.py runs/tiny/best.safetensors --levels 8

Rates are estimates (no file is written); `lmvic eval` measures real files. The photographs are only looked at.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors import safe_open

from lmvic_ns._util.output import check_new, whole_file
from lmvic_ns.training.photos import load_photos, to_tensor
from lmvic_ns.training.settings import default_data
from lmvic_ns.training.validation import rd_curve


@dataclass
class RdPhotosConfig:
    weights: tyro.conf.Positional[Path]
    preset: str | None = None
    """The model's preset; without it the one named in the weights file."""
    levels: int = 6
    photos: Path | None = None
    """Folder of pictures; without it photos/test of the data."""
    first: int | None = None
    """Only the first so many pictures."""
    ms_ssim: bool = True
    csv: Path | None = None


def main(config: RdPhotosConfig) -> None:
    if config.csv is not None:
        check_new(config.csv, inputs=(config.weights,))
    from lmvic_ns.codec.presets import build_model
    from lmvic_ns.codec.quality import lambda_of_level
    from lmvic_ns.training.runner import load_initial_weights

    with safe_open(str(config.weights), framework="pt") as stream:
        named = (stream.metadata() or {}).get("preset")
    model = build_model(config.preset or named or "tiny")
    missing = load_initial_weights(model, config.weights)
    if missing:
        print(f"{len(missing)} weights are not in the file, such as {missing[0]}", file=sys.stderr)
    photos = load_photos(config.photos or default_data() / "photos" / "test")
    pictures = [to_tensor(image)[None].float() / 255 for image in photos.images[: config.first]]
    top = int(getattr(model, "levels", 64)) - 1
    levels = [top * i / (config.levels - 1) for i in range(config.levels)]
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = time.perf_counter()
    rows = rd_curve(model, pictures, levels, lambda_of_level, with_ms_ssim=config.ms_ssim)
    print(f"{len(pictures)} pictures, {time.perf_counter() - start:.1f} s\nlevel    bpp   PSNR  MS-SSIM")
    for row in rows:
        print(f"{row.level:5.1f}  {row.bpp:.3f}  {row.psnr:5.2f}  {row.ms_ssim:.4f}")
    if config.csv is not None:
        with whole_file(config.csv) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("level", "bpp", "psnr", "ms_ssim", "loss"))
            writer.writerows([(r.level, r.bpp, r.psnr, r.ms_ssim, r.loss) for r in rows])


if __name__ == "__main__":
    main(tyro.cli(RdPhotosConfig))
