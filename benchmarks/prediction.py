"""What the cross-view path makes of a reference, part by part, beside what HEVC's P frame needs.

usage: python benchmarks/prediction.py SCENE TARGET REFERENCE [--levels 12,32,48] [--weights tiny] [--effort medium]

SCENE is a folder that `lmvic prepare` wrote; TARGET and REFERENCE are view numbers. The reference is coded alone, the target

- alone, without the reference;
- predicted from the reference, as files hold it, every byte counted;
- predicted with the scene's own depth, whose bytes are not counted: what better depth could bring;
- "same": the target itself is the reference: a codec that uses what it knows spends next to nothing;
- by x265 as a P frame after the reference (slow, PSNR tuning), at the same PSNR, everything counted (needs PyAV).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.planning import inverse_depth_scale
from lmvic_ns.codec.view_encoder import ViewEncoder
from lmvic_ns.codec.weights import load_weights
from lmvic_ns.evaluation import video
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import downsample_inverse_depth
from lmvic_ns.scene import MultiViewScene

QUANTIZERS = (16, 19, 22, 25, 28, 31, 34, 37, 40, 43)


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-10))


def p_frame(reference: Tensor, target: Tensor) -> list[tuple[float, float]]:
    """(PSNR, bits a pixel) of the second of two frames at each quantizer."""
    frames = [(x[0].permute(1, 2, 0) * 255).round().byte().numpy() for x in (reference, target)]
    points = []
    for q in QUANTIZERS:
        parameters = f"qp={q}:bframes=0:keyint=-1:scenecut=0:pools=1:frame-threads=1:info=0:log-level=none"
        options = {"preset": "slow", "tune": "psnr", "x265-params": parameters}
        stream = video._Stream("libx265", "hevc", "yuv444p", options, ".hevc")
        with tempfile.TemporaryDirectory() as folder:
            size = video.encode_frames(frames, stream, Path(folder) / "x.hevc")[-1]
            last = video.decode_frames(Path(folder) / "x.hevc")[-1].astype(float)
        error = ((last - frames[-1]) ** 2).mean() / 65025
        points.append((-10 * math.log10(error), 8 * size / last[..., 0].size))
    return sorted(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("target", type=int)
    parser.add_argument("reference", type=int)
    parser.add_argument("--levels", default="12,32,48")
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--effort", default="medium")
    o = parser.parse_args()
    scene = MultiViewScene.from_dataset(o.scene)
    scale = inverse_depth_scale(scene)
    poses = scene.cameras.world_to_camera.clone()
    poses[:, :3, 3] *= scale
    cameras = Cameras(scene.cameras.intrinsics, poses, scene.cameras.height, scene.cameras.width)
    model, effort = load_weights(o.weights).model, Effort.named(o.effort)

    def view(number: int) -> tuple[Tensor, Tensor]:
        return scene.image(number)[None], (scene.inverse_depth(number)[None].double() / scale).clamp(0, 1)

    (image, depth), (reference_image, reference_depth) = view(o.target), view(o.reference)
    pixels = image.shape[-2] * image.shape[-1]
    peer = p_frame(reference_image, image)
    print("| level | | bits a pixel | depth's share | PSNR |\n|---:|---|---:|---:|---:|")
    for level in map(int, o.levels.split(",")):

        def row(name: str, depth_bytes: int, image_bytes: int, quality: float, level: int = level) -> None:
            total = 8 * (depth_bytes + image_bytes) / pixels
            share = depth_bytes / max(depth_bytes + image_bytes, 1)
            print(f"| {level} | {name} | {total:.4f} | {share:.1%} | {quality:.2f} |", flush=True)

        with torch.no_grad():
            root = model.compress(reference_image, reference_depth, cameras[o.reference], None, level, None, effort)[2]
            alone = model.compress(image, None, cameras[o.target], None, level, None, effort)
            row("alone", 0, len(alone[1]), psnr(alone[2].image, image))
            coded = model.compress(image, depth, cameras[o.target], root, level, None, effort)
            row("predicted", len(coded[0]), len(coded[1]), psnr(coded[2].image, image))
            encoder = ViewEncoder(model, image, cameras[o.target], root, level)
            encoder.rounding_rate_weight = effort.rounding_rate_weight
            exact = encoder._code_image(b"\xff", downsample_inverse_depth(depth, 4))
            exact = encoder._with_loop_filter(replace(exact, depth=b""))
            row("the scene's depth, not counted", 0, len(exact.image), psnr(exact.state.image, image))
            first = model.compress(image, depth, cameras[o.target], None, level, None, effort)
            again = model.compress(image, depth, cameras[o.target], first[2], level, None, effort)
            row("same", len(again[0]), len(again[1]), psnr(again[2].image, image))
        quality = psnr(coded[2].image, image)
        same = math.exp(np.interp(quality, [p[0] for p in peer], [math.log(p[1]) for p in peer]))
        print(f"| {level} | x265 P frame | {same:.4f} | | {quality:.2f} |", flush=True)


if __name__ == "__main__":
    main()
