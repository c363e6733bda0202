"""Where a scene and its depth come from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from lmvic_ns._util.output import checksum
from lmvic_ns._util.picture_files import open_picture
from lmvic_ns._util.pictures import opaque_rgb
from lmvic_ns.capture.records import CaptureRecords, read_records
from lmvic_ns.capture.sections import capture_sections, pinhole_coverage
from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.undistortion import distortion_map, undistorted_pinhole
from lmvic_ns.report.terminal import progress, say
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.colmap import model_files
from lmvic_ns.scene.transforms import load_transforms, model_folder, transforms_file
from lmvic_ns.sparse_points.exact import check_points
from lmvic_ns.workflows.layout import IMAGE_SUFFIXES
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
    if depth == "auto" and scene.sparse_points is None and scene.cloud is None:
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
        source: its folder, or transforms.json.
        file: its transforms.json; of a COLMAP folder, the model's cameras.
        pictures: captured files.
        depths: depth files that it names.
        points: the sparse points that it names.
        masks: mask files that it names.
        model: further files of a COLMAP model.
    """

    source: Path
    file: Path
    pictures: tuple[Path, ...]
    depths: tuple[Path, ...]
    points: Path | None
    masks: tuple[Path, ...] = ()
    model: tuple[Path, ...] = ()

    def not_kept(self) -> list[str]:
        """See `capture_of`."""
        lines = not_kept(self.folder, self.pictures, read_records(self.source))
        unposed = set(picture_files(self.folder / "images")) - set(self.pictures) if self.model else set()
        return [*lines, *([f"{len(unposed)} pictures that the COLMAP model has no pose for"] if unposed else [])]

    def capture(self, downscale: int = 1, metadata: bool = True) -> dict[str, bytes]:
        """See `capture_of`."""
        records = read_records(self.source, downscale=downscale)
        pictures = [self.folder / path for path in records.paths] if records is not None else []
        if records is None or not all(path.is_file() for path in pictures):
            return {}  # who reads the pictures will miss them
        return capture_sections(records, self.folder, pictures, metadata=metadata)

    @property
    def folder(self) -> Path:
        """That pictures are named below."""
        return transforms_file(self.source).parent

    @property
    def others(self) -> tuple[Path, ...]:
        """What is no picture."""
        return (*self.depths, *self.masks, *self.model, *((self.points,) if self.points is not None else ()))

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
        return (self.folder, self.file, *self.pictures, *self.others)

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
            found.update(repr((os.path.relpath(path, self.folder), content)).encode())
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
                profile = picture.info.get("icc_profile")
                profiles += [path] if profile and profile[16:20] != b"RGB " else []
                several += [path] if _frames(picture) > 1 and picture.format != "MPO" else []
    lines = []
    for found, what in (
        (profiles, "pictures with a colour profile of grey or CMYK values: they are coded as RGB without it"),
        (several, "pictures that are animations or have several pages: the first is coded"),
    ):
        lines += [f"{len(found)} {what} ({found[0].name}{', ...' if len(found) > 1 else ''})"] if found else []
    return lines


def capture_of(
    dataset: Path, pictures: Sequence[Path], downscale: int = 1, metadata: bool = True
) -> tuple[dict[str, bytes], list[str]]:
    """What a capture holds beside pictures, cameras, depth and points.

    Args:
        dataset: folder or transforms.json that the pictures belong to; one of another kind gives names and EXIF alone.
        pictures: file of each view, in the views' order.
        downscale: how much smaller the pictures are coded.
        metadata: see `capture_sections`.

    Returns:
        Sections of a file, and a line on each thing that they do not keep.

    Raises:
        SceneError: a mask or a picture is missing or damaged.
    """
    file = transforms_file(dataset)
    records = read_records(dataset, pictures, downscale) if file.is_file() else None
    if records is None:
        folder = file.parent.absolute()
        paths = [path.absolute() for path in pictures]
        names = [str(path.relative_to(folder) if path.is_relative_to(folder) else path.name) for path in paths]
        records = CaptureRecords(tuple(names), masks=(None,) * len(names), lenses=(None,) * len(names))
    return capture_sections(records, file.parent, pictures, metadata=metadata), not_kept(file.parent, pictures, records)


def not_kept(folder: Path, pictures: Sequence[Path], records: CaptureRecords | None) -> list[str]:
    """A line on each thing of a capture that does not go into a file, for people; every picture is decoded once.

    Args:
        folder: of the dataset.
        pictures: the photographs.
        records: of the dataset, None if it has none.

    Raises:
        SceneError: a picture cannot be read.
    """
    lines = picture_remarks(pictures)
    if records is None:
        return lines
    return [*lines, *mask_remarks(folder, records), *lens_remarks(records), *foreign_files(folder, records)]


def mask_remarks(folder: Path, records: CaptureRecords) -> list[str]:
    """A line on masks of several pictures; what is wrong with a mask is said where it is read."""
    several = []
    for path in sorted({folder / mask for mask in records.masks if mask is not None}):
        if path.is_file():
            with suppress(SceneError), open_picture(path) as picture:
                several += [path] if _frames(picture) > 1 else []
    if not several:
        return []
    more = ", ..." if len(several) > 1 else ""
    return [f"{len(several)} masks that are animations or have several pages: the first is kept ({several[0].name}{more})"]


def say_not_kept(source: str, lines: Sequence[str], strict: bool) -> None:
    """Say in one line what of a capture does not go into the file.

    Args:
        source: the capture, for people.
        lines: see `DatasetInputs.not_kept`.
        strict: refuse instead.

    Raises:
        SceneError: there is something, and `strict`.
    """
    if lines and strict:
        raise SceneError(f"{source}: not kept would be: {'; '.join(lines)}: leave out --strict to make the file all the same")
    if lines:
        say(f"{source}: not kept: {'; '.join(lines)}", note=True)


def lens_remarks(records: CaptureRecords) -> list[str]:
    """A line on what pinhole views do not show of distorted photographs; none where all is shown."""
    hidden, views = 0.0, 0
    for lens, count in Counter(lens for lens in records.lenses if lens is not None).items():
        try:
            pinhole = undistorted_pinhole(lens.camera, lens.lens, lens.height, lens.width)
        except ValueError:  # the reader of the scene refuses it
            continue
        moved = distortion_map(lens.camera, lens.lens, pinhole, lens.height, lens.width)
        hidden += count * (1 - float(pinhole_coverage(moved, lens.height, lens.width).float().mean()))
        views += count
    if not views:
        return []
    return [
        f"the rim of {views} photographs with lens distortion that pinhole views do not show ({hidden / views:.1%} of them)"
    ]


def foreign_files(folder: Path, records: CaptureRecords) -> list[str]:
    """A line on files that keys name which the codec does not know: the key is kept, the file is not."""
    named = [(key, value) for frame in (records.scene, *records.frames) for key, value in frame.items()]
    found: dict[str, int] = {}
    for key, value in named:
        if isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value and (folder / value).is_file():
            found[key] = found.get(key, 0) + 1
    return [f"{count} files that the key {key} names" for key, count in found.items()]


def picture_files(folder: Path) -> list[Path]:
    """Pictures below a folder, by their suffix."""
    return [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


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
    file = transforms_file(folder)
    meta = load_transforms(folder)
    records = meta.get("frames")
    frames = [frame for frame in records if isinstance(frame, dict)] if isinstance(records, list) else []

    base = file.parent

    def named(key: str) -> tuple[Path, ...]:
        return tuple(base / frame[key] for frame in frames if isinstance(frame.get(key), str))

    points = meta.get("ply_file_path")
    points = base / points if isinstance(points, str) and points else None
    model: tuple[Path, ...] = ()
    if (place := model_folder(folder)) is not None:
        file, *others = model_files(place)
        model = tuple(others)
    return DatasetInputs(folder, file, named("file_path"), named("depth_file_path"), points, named("mask_path"), model)
