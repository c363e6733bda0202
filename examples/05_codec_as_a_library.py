"""Use the codec inside a program of your own, without datasets on a disk.

A scene is names, cameras, and two functions that give the picture and the inverse depth of a view (or lists of tensors).
Pictures are asked for one by one, so a scene may be larger than the memory. Here a textured wall at a distance of 5 is seen
by four cameras that move sideways. The picture shows a view at three quality levels beside the original.
"""

from __future__ import annotations

import math

import torch
from common import OUTPUT, save_row
from torch import Tensor

import lmvic_ns

HEIGHT, WIDTH, FOCAL, DISTANCE = 240, 320, 280.0, 5.0


def wall(view: int) -> Tensor:
    """What camera `view` sees of the wall, [3, h, w]."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    across, up = (x - WIDTH / 2) / FOCAL * DISTANCE + 0.1 * view, (y - HEIGHT / 2) / FOCAL * DISTANCE
    waves = [(3.1, 0.7, 0.3), (7.7, -5.3, 0.2), (19.0, 13.0, 0.1), (41.0, -37.0, 0.06)]
    shades = [sum(part * torch.sin(a * across + b * up + phase) for a, b, part in waves) for phase in (0.0, 1.0, 2.5)]
    return (0.5 + 0.7 * torch.stack([torch.as_tensor(shade) for shade in shades])).clamp(0, 1)


def main() -> None:
    count = 4
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 0, 3] = -0.1 * torch.arange(count)  # world to camera: the cameras stand at x = 0, 0.1, ...
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = lmvic_ns.Cameras(intrinsics.repeat(count, 1, 1), poses, torch.full((count,), HEIGHT), torch.full((count,), WIDTH))
    names = [f"view-{i}" for i in range(count)]
    scene = lmvic_ns.Scene(names, cameras, wall, lambda i: torch.full((HEIGHT, WIDTH), 1 / DISTANCE))
    # each view refers to the one before it; without a tree the codec chooses by the cameras' distances
    tree = lmvic_ns.ReferenceTree.from_parents((0, 1, 2, 3), (-1, 0, 1, 2))
    codec, shown = lmvic_ns.load_codec("tiny"), {"original": scene.image(count - 1)}
    OUTPUT.mkdir(exist_ok=True)
    for quality in (8, 32, 56):
        path = OUTPUT / f"library-{quality}.lmvic"
        records = codec.encode(scene, path, quality=quality, tree=tree, effort="fast")
        (view,) = codec.decode(path, views=[names[-1]])
        psnr = -10 * math.log10(float((view.image - shown["original"]).square().mean()))
        shown[f"quality {quality}: {records[-1].image_bytes + records[-1].depth_bytes} bytes, {psnr:.1f} dB"] = view.image
        print(f"quality {quality}: {path.stat().st_size} bytes for {count} views")
    print(save_row("05_quality.png", shown))


if __name__ == "__main__":
    main()
