"""File names of a decoded dataset: those of the capture if they are safe, otherwise the names of the views."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lmvic_ns.capture.records import SPLIT_LISTS, CaptureRecords
from lmvic_ns.scene.names import fitting, unique_names
from lmvic_ns.scene.writer import POINTS_FILE

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
_WRITABLE = {".png", ".jpg", ".jpeg", ".webp"}
COLMAP_MODEL = "sparse/0"
_PART_BYTES = 251  # of one part of a path: systems take 255, and COLMAP's masks have .png behind the picture's name
_PATH_BYTES = 1500  # below the dataset's folder
_OURS = ("transforms.json", ".lmvic-files.json")


@dataclass(frozen=True)
class ViewPaths:
    """Files of one view, relative to the dataset's folder."""

    image: str
    depth: str
    mask: str


@dataclass(frozen=True)
class DatasetLayout:
    """Files of a dataset, relative to its folder.

    Attributes:
        views: of each view.
        points: of the sparse points.
        last: the file that makes it a dataset.
    """

    views: list[ViewPaths]
    points: str = POINTS_FILE
    last: str = "transforms.json"

    @property
    def names(self) -> list[str]:
        """Every file that may be written."""
        views = {path for view in self.views for path in (view.image, view.depth, view.mask)}
        model = [f"{COLMAP_MODEL}/cameras.bin"] if self.last != "transforms.json" else []
        return [*sorted(views), self.points, *model, self.last]

    def as_colmap(self) -> DatasetLayout:
        """The same as COLMAP has it: pictures below images/, masks called as they are with .png behind, a model in sparse/0."""
        below = all(view.image.startswith("images/") for view in self.views)
        names = [view.image.removeprefix("images/") if below else view.image for view in self.views]
        views = [
            ViewPaths(f"images/{name}", view.depth, f"masks/{name}.png") for name, view in zip(names, self.views, strict=True)
        ]
        return DatasetLayout(views, f"{COLMAP_MODEL}/points3D.bin", f"{COLMAP_MODEL}/images.bin")


def dataset_layout(
    names: Sequence[str], records: CaptureRecords | None, image_format: str, shared_masks: Sequence[object] = ()
) -> DatasetLayout:
    """File names of a decoded dataset.

    Args:
        names: of the views.
        records: what the file says of the captured files; taken where no path leaves the folder and none collide.
        image_format: suffix of the pictures, or "original": that of each photograph, png where it cannot be written.
        shared_masks: stands for the contents of each view's mask; only equal ones may share a file.
    """
    stems = list(file_stems(list(names)).values())
    suffixes = ["." + image_format] * len(names)
    if image_format == "original":
        suffixes = [".png"] * len(names)
        if records is not None:
            found = [PurePosixPath(path).suffix for path in records.paths]
            suffixes = [suffix if suffix.lower() in _WRITABLE else ".png" for suffix in found]
    plain = DatasetLayout(
        [
            ViewPaths(f"images/{s}{suffix}", f"depths/{s}.npy", f"masks/{s}.png")
            for s, suffix in zip(stems, suffixes, strict=True)
        ]
    )
    if records is None:
        return plain
    views = []
    for path, mask, suffix, other in zip(records.paths, _masks(records, shared_masks), suffixes, plain.views, strict=True):
        safe = safe_path(path)
        if safe is None:
            return plain
        views.append(ViewPaths(_without_suffix(safe) + suffix, other.depth, mask or other.mask))
    points = safe_path(records.points) if records.points is not None else None
    points = points if points is not None and points.lower().endswith(".ply") else POINTS_FILE
    layout = DatasetLayout(views, points)
    return layout if _is_free(layout) else plain


def scene_keys(records: CaptureRecords | None, layout: DatasetLayout, lost: Collection[str] = ()) -> dict[str, Any]:
    """Keys of the scene as they were captured; lists of pictures have the names that these have in the dataset.

    Args:
        records: what the file says of the captured files.
        layout: of the dataset.
        lost: pictures that are not in it, to be left out of the lists.
    """
    if records is None:
        return {}
    keys = dict(records.scene)
    renamed = {path: view.image for path, view in zip(records.paths, layout.views, strict=True)}
    for key in SPLIT_LISTS:
        if isinstance(keys.get(key), list):
            names = [renamed.get(name, name) if isinstance(name, str) else name for name in keys[key]]
            keys[key] = [name for name in names if not (isinstance(name, str) and name in lost)]
    return keys


def safe_path(path: str) -> str | None:
    """A path below the dataset's folder, without `.`; None if it leaves the folder or is unfit for some system."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or any(part == ".." or fitting(part) != part for part in parts):
        return None
    return "/".join(parts)


def file_stems(names: list[str]) -> dict[str, str]:
    """A file name without suffix for each view: its name, less a picture's suffix where that leaves names unique."""
    stems = [_without_suffix(name) for name in names]
    chosen = stems if len(set(stems)) == len(names) else names
    # files of other programs may hold names that are unfit for this machine, or that differ in case alone
    fit = unique_names(["/".join(fitting(part) for part in name.split("/")) for name in chosen])
    return dict(zip(names, fit, strict=True))


def _without_suffix(path: str) -> str:
    place = PurePosixPath(path)
    return str(place.with_suffix("")) if place.suffix.lower() in IMAGE_SUFFIXES else path


def _masks(records: CaptureRecords, contents: Sequence[object]) -> list[str | None]:
    """Each mask's own path as PNG; None where it is unsafe, or where it stands for masks that differ."""
    paths = [None if mask is None else safe_path(mask) for mask in records.masks] or [None] * len(records.paths)
    paths = [None if path is None else _without_suffix(path) + ".png" for path in paths]
    shown: dict[str, set[object]] = {}
    for path, content in zip(paths, contents or paths, strict=True):
        if path is not None:
            shown.setdefault(path, set()).add(content)
    return [path if path is not None and len(shown[path]) == 1 else None for path in paths]


def _is_free(layout: DatasetLayout) -> bool:
    """Whether no two files have one name, none has the name of a folder, and none is too long, on any system."""
    images = [view.image for view in layout.views]
    files = [*images, *{view.mask for view in layout.views}, *{view.depth for view in layout.views}, layout.points, *_OURS]
    keys = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in files]
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    lengths = [[len(part.encode("utf-8", "surrogatepass")) for part in name.split("/")] for name in files]
    short = all(max(parts) <= _PART_BYTES and sum(parts) + len(parts) <= _PATH_BYTES for parts in lengths)
    return short and len(set(keys)) == len(keys) and not folders & set(keys)
