"""Where is each pixel of one view seen in another one, and is it seen there at all?

Depth and cameras of two views give both answers without any search: `disparity` is the way from a pixel to its place in
the reference, and `mask` is 1 where the reference sees the same point (it lies in its frame, and nothing stands in front
of it). The picture shows the reference, the view, the reference warped to the view, and the mask. No weights are needed.
"""

from __future__ import annotations

from common import room, save_row

from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene import MultiViewScene


def main() -> None:
    scene = MultiViewScene.from_dataset(room())
    view, reference = 1, 3
    seen = disparity_and_mask(
        scene.inverse_depth(view)[None],
        scene.cameras[view],
        scene.inverse_depth(reference)[None],
        scene.cameras[reference],
    )
    aligned = warp(scene.image(reference)[None], seen.disparity)[0]
    mask = seen.mask.float()
    error = ((aligned - scene.image(view)).square() * mask).sum() / (3 * mask.sum())
    print(f"{mask.mean():.0%} of the pixels are seen by both views")
    print(f"there the warped reference is off by {error.sqrt() * 255:.1f} grey levels")
    print(save_row("03_warped.png", scene.image(reference), scene.image(view), aligned, mask.expand(3, -1, -1)))


if __name__ == "__main__":
    main()
