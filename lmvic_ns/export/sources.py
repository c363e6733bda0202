"""Where a scene and its depth come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lmvic_ns.errors import SceneError
from lmvic_ns.export.options import ReferenceStructure
from lmvic_ns.export.points import check_points
from lmvic_ns.export.terminal import progress, say
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.transforms import load_transforms, transforms_file

DepthSource = Literal["auto", "files", "stereo", "none"]


def dataset_scene(
    folder: Path, depth: DepthSource, structure: ReferenceStructure = "tree", *, downscale: int = 1
) -> MultiViewScene:
    """A dataset with the depth that was asked for; says in a line where it comes from.

    Args:
        folder: of the dataset.
        depth: "auto" takes the dataset's files, else stereo where there are sparse points, else none.
        structure: without references, no depth is searched for.
        downscale: how much smaller its pictures are going to be; views that are too large even then are refused at once.

    Raises:
        SceneError: the dataset is damaged, or lacks what `depth` needs.
    """
    from lmvic_ns.export.encoding import check_view_sizes

    scene = MultiViewScene.from_dataset(folder)
    check_view_sizes(scene, downscale)
    if depth == "files" and not scene.has_depth:
        raise SceneError(f"{folder}: has no depth files; use --depth stereo, --depth none, or export from a trained splat")
    if depth == "none" or (structure == "none" and depth == "auto" and not scene.has_depth):
        say(f"{folder}: {len(scene)} views without depth: each stands alone")
        return scene.with_inverse_depth(None)
    if depth in ("auto", "files") and scene.has_depth:
        say(f"{folder}: {len(scene)} views with depth from its files")
        return scene
    if len(scene) == 1:
        say(f"{folder}: one view: there is nothing that it could refer to")
        return scene.with_inverse_depth(None)
    if depth == "auto" and scene.sparse_points is None:
        say(f"{folder}: {len(scene)} views, neither depth files nor sparse points: each stands alone")
        return scene
    from lmvic_ns.training.stereo_depth import with_stereo_depth

    check_points(scene)

    say(f"{folder}: {len(scene)} views, depth by plane sweep stereo (a trained splat's is better: lmvic export)")
    with progress("stereo", len(scene)) as step:
        return with_stereo_depth(scene, on_view=lambda view: step(scene.names[view]))


def dataset_files(folder: Path) -> list[Path]:
    """The captured files of a dataset that was read before."""
    file = transforms_file(folder)
    return sorted(file.parent / frame["file_path"] for frame in load_transforms(folder)["frames"])
