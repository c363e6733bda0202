"""Use the codec inside a program of your own, without datasets on a disk.

A scene is names, cameras, and two functions that give the picture and the inverse depth of a view (or lists of tensors).
Pictures are asked for one by one, so a scene may be larger than the memory. The picture shows a view at three quality
levels beside the original: one set of weights serves all of them.
"""

from __future__ import annotations

import torch
from common import OUTPUT, codec, save_row

from lmvic_ns.demo.scene import DemoSceneConfig, intrinsics, render_demo_scene
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import pose_distance, reference_tree


def main() -> None:
    config = DemoSceneConfig(views=4, width=192, height=144)
    views = render_demo_scene(config)  # any source of pictures, cameras and depth
    count = len(views)
    cameras = Cameras(
        intrinsics(config).repeat(count, 1, 1),
        torch.stack([torch.linalg.inv(view.camera_to_world) for view in views]),
        torch.full((count,), config.height),
        torch.full((count,), config.width),
    )
    names = [f"view-{i}" for i in range(count)]
    images = [view.image.permute(2, 0, 1).float() for view in views]
    scene = MultiViewScene(names, cameras, lambda i: images[i], lambda i: (1 / views[i].depth).float())
    tree = reference_tree(pose_distance(scene.cameras.world_to_camera, translation_scale=2.0), max_depth=2)
    weights = codec()
    shown = [scene.image(count - 1)]
    for quality in (8, 32, 56):
        path = OUTPUT / f"library-{quality}.lmvic"
        path.parent.mkdir(exist_ok=True)
        weights.encode(scene, path, quality=quality, tree=tree)
        (view,) = weights.decode(path, views=[names[-1]])
        shown.append(view.image)
        print(f"quality {quality}: {path.stat().st_size} bytes for {count} views")
    print(save_row("05_quality.png", *shown))


if __name__ == "__main__":
    main()
