"""Compress a scene into one file, and look at what came of it.

One view is coded by itself, and every other one is predicted from a view that was coded before it: the depth says where
each pixel was seen there. The picture shows a photograph beside what the file gives back. On the command line this is
`lmvic encode SCENE scene.lmvic`.
"""

from __future__ import annotations

from common import OUTPUT, save_row, scene, scene_folder

import lmvic_ns


def show(view: lmvic_ns.EncodedView) -> None:
    reference = "by itself" if view.parent < 0 else f"from view {view.parent}"
    quality = "taken over" if view.psnr is None else f"{view.psnr:.1f} dB"  # None only where an interrupted encode goes on
    print(f"view {view.index} {reference}: {view.image_bytes} bytes of picture, {view.depth_bytes} of depth, {quality}")


def main() -> None:
    photographs = scene()
    path = OUTPUT / f"{scene_folder().resolve().name}.lmvic"
    OUTPUT.mkdir(exist_ok=True)
    lmvic_ns.load_codec("tiny").encode(photographs, path, quality=32, on_view=show)
    with lmvic_ns.open(path) as file:
        pixels = sum(int(view.camera.height[0]) * int(view.camera.width[0]) for view in file)
        print(f"{path}: {path.stat().st_size} bytes, {path.stat().st_size * 8 / pixels:.3f} bits a pixel")
        last = file[-1]
        print(save_row("01_captured_and_decoded.png", {"captured": photographs.image(last.index), "decoded": last.tensor}))


if __name__ == "__main__":
    main()
