"""Where a scene and its depth come from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from lmvic_ns._util.output import checksum
from lmvic_ns._util.picture_files import open_picture
from lmvic_ns._util.pictures import opaque_rgb
from lmvic_ns.errors import SceneError
from lmvic_ns.report.terminal import progress, say
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.exact import check_points
from lmvic_ns.workflows.options import ReferenceStructure

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
    from lmvic_ns.workflows.encoding import check_view_sizes

    scene = MultiViewScene.from_dataset(folder, depth=depth in ("auto", "files"))
    check_view_sizes(scene, downscale)
    if depth == "files" and not scene.has_depth:
        raise SceneError(f"{folder}: has no depth files; use --depth stereo, --depth none, or export from a trained splat")
    if depth == "none" or (structure == "none" and depth == "auto" and not scene.has_depth):
        say(f"{folder}: {len(scene)} views without depth: each stands alone")
        return scene.with_inverse_depth(None)
    if depth in ("auto", "files") and scene.has_depth:
        if not any(bool((scene.inverse_depth(view)[::8, ::8] > 0).any()) for view in range(len(scene))):
            raise SceneError(
                f"{folder}: its depth files know no depth (all is 0 or infinite); use --depth stereo or --depth none"
            )
        say(f"{folder}: {len(scene)} views with depth from its files")
        return scene
    if len(scene) == 1:
        say(f"{folder}: one view: there is nothing that it could refer to")
        return scene.with_inverse_depth(None)
    if depth == "auto" and scene.sparse_points is None:
        say(f"{folder}: {len(scene)} views, neither depth files nor sparse points: each stands alone")
        return scene
    from lmvic_ns.depth_sources.stereo import with_stereo_depth

    check_points(scene)

    say(f"{folder}: {len(scene)} views, depth by plane sweep stereo (a trained splat's is better: lmvic export)")
    with progress("stereo", len(scene)) as step:
        return with_stereo_depth(scene, on_view=lambda view: step(scene.names[view]))


def dataset_files(folder: Path) -> list[Path]:
    """The captured files of a dataset that was read before."""
    return sorted(dataset_inputs(folder).pictures)


@dataclass(frozen=True)
class DatasetInputs:
    """The files that a dataset consists of.

    Attributes:
        file: its transforms.json.
        pictures: captured files.
        depths: depth files that it names.
        points: the sparse points that it names.
        masked: how many pictures have a mask.
    """

    file: Path
    pictures: tuple[Path, ...]
    depths: tuple[Path, ...]
    points: Path | None
    masked: int = 0

    def remarks(self) -> list[str]:
        """A line on each thing about the pictures that is not coded, for people.

        Raises:
            SceneError: a picture cannot be read.
        """
        lines = [f"has {self.masked} masks, which are not coded: the whole pictures are"] if self.masked else []
        return lines + picture_remarks(self.pictures)

    @property
    def others(self) -> tuple[Path, ...]:
        """What is no picture."""
        return (*self.depths, *((self.points,) if self.points is not None else ()))

    def check_points(self) -> None:
        """Miss a point file that is named and wanted before anything slow.

        Raises:
            SceneError: it is not there.
        """
        if self.points is not None and not self.points.is_file():
            raise SceneError(
                f"{self.points}: not found; {self.file.name} names it as ply_file_path: put it back, take the key out, or "
                "leave the points out with --points none"
            )

    @property
    def all(self) -> tuple[Path, ...]:
        """The folder and every file, for `lmvic_ns._util.output.check_apart`."""
        return (self.file.parent, self.file, *self.pictures, *self.others)

    def fingerprint(self) -> str:
        """Stands for their contents: names and bytes of all files, and all of transforms.json. Copies have the same.

        Raises:
            SceneError: a file cannot be read.
        """
        found = hashlib.blake2b(self.file.read_bytes(), digest_size=16)
        for path in (*self.pictures, *self.others):
            try:
                content = checksum(path) if path.is_file() else ""
            except OSError as error:
                raise SceneError(f"cannot read {path}: {error.strerror or error}") from error
            found.update(repr((os.path.relpath(path, self.file.parent), content)).encode())
        return found.hexdigest()


def picture_remarks(pictures: Iterable[Path]) -> list[str]:
    """A line on each thing in picture files that is not coded, for people; every picture is decoded once.

    So a picture that is damaged, too deep or transparent is found before anything slow, and not when its turn comes.

    Raises:
        SceneError: there is such a picture.
    """
    profiles, several = [], []
    for path in pictures:
        if path.is_file():
            with open_picture(path) as picture:
                opaque_rgb(path, picture)
                profile = picture.info.get("icc_profile") or b"sRGB"
                profiles += [] if any("sRGB".encode(code) in profile for code in ("ascii", "utf-16-be")) else [path]
                several += [path] if _frames(picture) > 1 and picture.format != "MPO" else []
    lines = []
    for found, what in (
        (profiles, "pictures with a colour profile other than sRGB, which is not kept: their values are coded as they are"),
        (several, "pictures that are animations or have several pages: the first is coded"),
    ):
        lines += [f"has {len(found)} {what} ({found[0].name}{', ...' if len(found) > 1 else ''})"] if found else []
    return lines


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # damage behind the first one is of no account
        return 1


def dataset_inputs(folder: Path) -> DatasetInputs:
    """What a dataset consists of, as its transforms.json says; nothing of it is checked here.

    Raises:
        SceneError: there is no transforms.json, or it cannot be read.
    """
    from lmvic_ns.scene.reader import load_transforms, transforms_file

    file = transforms_file(folder)
    meta = load_transforms(folder)
    records = meta.get("frames")
    frames = [frame for frame in records if isinstance(frame, dict)] if isinstance(records, list) else []

    def named(key: str) -> tuple[Path, ...]:
        return tuple(file.parent / frame[key] for frame in frames if isinstance(frame.get(key), str))

    points = meta.get("ply_file_path")
    points = file.parent / points if isinstance(points, str) and points else None
    return DatasetInputs(file, named("file_path"), named("depth_file_path"), points, len(named("mask_path")))
