"""What the shipped weights reach on two photographs: a change of code or weights that loses rate or quality is seen here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmvic_ns.codec import EncodeOptions, load_codec
from lmvic_ns.codec.effort import Effort
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import ReferenceTree

# Kodak's photographs 5 and 20, the middle 384x256: level, most bytes, least dB, by the networks alone (seventh weights, 2 % and
# 0.05 dB to spare)
FLOOR = {
    "5": ((12, 2675, 22.13), (24, 7760, 26.51), (40, 20600, 32.49)),
    "20": ((12, 910, 27.93), (24, 2311, 32.09), (40, 6075, 36.88)),
}


def photograph(root: Path, name: str, times: int = 1) -> MultiViewScene:
    """A Kodak photograph, several times at one place, at one depth."""
    with Image.open(root / "photos" / "test" / f"{name}.png") as picture:
        values = np.asarray(picture.convert("RGB").crop((128, 64, 512, 320)))
    image = torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255
    height, width = image.shape[-2:]
    intrinsics = torch.tensor([[400.0, 0, width / 2], [0, 400.0, height / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(
        intrinsics.repeat(times, 1, 1),
        torch.eye(4, dtype=torch.float64).repeat(times, 1, 1),
        torch.tensor([height] * times),
        torch.tensor([width] * times),
    )
    depth = torch.full((height, width), 0.5)
    return MultiViewScene([f"{n}.png" for n in range(times)], cameras, [image] * times, [depth] * times)


@pytest.mark.parametrize("name", FLOOR)
def test_networks_reach_what_they_reached(name: str, data_root: Path, tmp_path: Path) -> None:
    effort = replace(Effort.named("fast"), stored=False, av1=None)
    codec, scene = load_codec("tiny"), photograph(data_root, name)
    for level, most_bytes, least_psnr in FLOOR[name]:
        options = EncodeOptions(level, effort=effort, with_depth=False)
        (view,) = codec.encode(scene, tmp_path / f"{level}.lmvic", options=options)
        assert view.psnr is not None
        assert view.image_bytes <= most_bytes and view.psnr >= least_psnr, (level, view.image_bytes, view.psnr)


@pytest.mark.parametrize("name", FLOOR)
def test_a_photograph_seen_again_costs_next_to_nothing(name: str, data_root: Path, tmp_path: Path) -> None:
    codec, scene = load_codec("tiny"), photograph(data_root, name, 2)
    tree = ReferenceTree.from_parents((0, 1), (-1, 0))
    for level in (24, 40):
        first, again = codec.encode(scene, tmp_path / f"{level}.lmvic", quality=level, tree=tree)
        assert first.psnr is not None and again.psnr is not None and again.psnr > first.psnr - 0.1
        # two parts in a hundred of a photograph; a small crop of it has some fifty bytes that do not shrink with it
        assert again.image_bytes + again.depth_bytes <= max(0.02 * first.image_bytes, 120)
