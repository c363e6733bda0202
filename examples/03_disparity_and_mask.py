"""Find one photograph in another by its depth: disparity (3), mask (4) and warp of the paper.

Needs a scene with depth. The picture shows the reference, the view, the reference as it lies over the view, and the mask:
white where both see the same. What is white costs few bits.
"""

from __future__ import annotations

from common import save_row, scene

import lmvic_ns


def main() -> None:
    photographs = scene()
    if not photographs.has_depth or len(photographs) < 2:
        raise SystemExit("this example needs a scene of two views or more with depth files")
    view, reference = 0, 1
    seen = lmvic_ns.disparity_and_mask(
        photographs.inverse_depth(view)[None],
        photographs.cameras[view],
        photographs.inverse_depth(reference)[None],
        photographs.cameras[reference],
    )
    aligned = lmvic_ns.warp(photographs.image(reference)[None], seen.disparity)[0]
    mask = seen.mask.float()
    error = ((aligned - photographs.image(view)).square() * mask).sum() / (3 * mask.sum())
    print(f"{mask.mean():.0%} of the pixels are seen by both views")
    print(f"there the warped reference is off by {error.sqrt() * 255:.1f} grey levels")
    pictures = {
        "reference": photographs.image(reference),
        "view": photographs.image(view),
        "reference, warped": aligned,
        "mask": mask.expand(3, -1, -1),
    }
    print(save_row("03_warped.png", pictures))


if __name__ == "__main__":
    main()
