"""Compress a scene into one file, and look at what came of it.

The scene is a folder that nerfstudio reads (`transforms.json`, pictures, depth files). One view is coded by itself, and
every other one is predicted from a view that was coded before it: the depth says where each pixel was seen there. The
picture shows a photograph beside what the file gives back. On the command line this is
`lmvic encode SCENE scene.lmvic`.
"""

from __future__ import annotations

from common import OUTPUT, codec, room, save_row

from lmvic_ns.codec.multiview import EncodedView
from lmvic_ns.scene import MultiViewScene


def show(view: EncodedView) -> None:
    reference = "by itself" if view.parent < 0 else f"from view {view.parent}"
    quality = "taken over" if view.psnr is None else f"{view.psnr:.1f} dB"  # None only where an interrupted encode goes on
    print(f"view {view.index} {reference}: {view.image_bytes} bytes of picture, {view.depth_bytes} of depth, {quality}")


def main() -> None:
    scene, weights = MultiViewScene.from_dataset(room()), codec()
    path = OUTPUT / "room.lmvic"
    weights.encode(scene, path, quality=40, on_view=show)
    pixels = int((scene.cameras.height * scene.cameras.width).sum())
    print(f"{path}: {path.stat().st_size} bytes, {path.stat().st_size * 8 / pixels:.3f} bits a pixel")
    last = list(weights.decode(path))[-1]
    print(save_row("01_original_and_decoded.png", scene.image(last.index), last.image))


if __name__ == "__main__":
    main()
