"""A training pack: photographs and scenes with depth in one file that trains without nerfstudio.

The file is a zip archive (stored, its members are compressed already), so that any tool can look into it:

    pack.json                     format, what it holds, and how it was made
    photos/NAME.jpg               photographs, JPEG 4:4:4
    scenes/SCENE/cameras.json     intrinsics (at the pictures' sizes), world_to_camera in normalised units
    scenes/SCENE/VIEW.jpg         pictures, JPEG 4:4:4
    scenes/SCENE/VIEW.png         16-bit normalised inverse depth in steps of 1/65535, coarser than the picture

Translations are in units in which depth is 1 / normalised inverse depth, as the codec takes them. Reading needs numpy,
Pillow and torch alone.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmvic_ns._util.output import whole_file
from lmvic_ns._util.picture_files import picture_of_bytes
from lmvic_ns.training import TrainingError
from lmvic_ns.training.photos import PhotoSet
from lmvic_ns.training.scenes import TrainingScene, training_scene

FORMAT = "lmvic-training-pack-1"


@dataclass(frozen=True)
class PackConfig:
    """Size and content of a pack."""

    megabytes: float = 40.0
    """Largest size of the file, in 1e6 bytes."""
    scene_share: float = 0.45
    """Share of the size that scenes may take; photographs get the rest."""
    quality: int = 92
    """JPEG quality of photographs and pictures."""
    photo_side: int = 448
    """Side of the square centre crop of each photograph, in pixels."""
    halve_above: int = 1000
    """Photographs with a longer side than this are first reduced to half their size, which also removes JPEG artefacts."""
    scene_side: int = 640
    """Longer side of the pictures of scenes, in pixels."""
    depth_factor: int = 4
    """Depth is stored this many times smaller than the pictures. The codec needs 4."""
    validation_photos: int = 16
    """Photographs held out of training: the same ones as in a run on the folder."""


def write_pack(path: Path, photos: PhotoSet, scenes: Sequence[TrainingScene], config: PackConfig) -> dict[str, Any]:
    """Write a pack; photographs and views are left out evenly where they do not fit.

    Returns:
        what `pack.json` says.

    Raises:
        TrainingError: nothing fits.
        LmvicError: the file cannot be written.
    """
    limit = int(config.megabytes * 1e6)
    members: list[tuple[str, bytes]] = []
    scene_limit = int(limit * config.scene_share) if len(photos) else limit
    kept_views: dict[str, int] = {}
    if scenes:
        packed = {scene.name: [_pack_view(scene, v, config) for v in range(len(scene))] for scene in scenes}
        keep = _views_that_fit(packed, scene_limit)
        for scene in scenes:
            views = keep[scene.name]
            kept_views[scene.name] = len(views)
            members += _scene_members(scene, views, [packed[scene.name][v] for v in views], config)
    used = _size(members)
    kept_photos = 0
    held_out = set(photos.split_validation(min(config.validation_photos, len(photos) // 2))[1].names)
    chosen = sorted(_spread(len(photos)), key=lambda i: photos.names[i] not in held_out)  # those come first
    for index in chosen:
        member = (f"photos/{_photo_name(photos.names[index])}", _photo(photos.images[index], config))
        if used + _size([member]) > limit - 4096:
            break
        members.append(member)
        used += _size([member])
        kept_photos += 1
    if not members:
        raise TrainingError(f"nothing fits into a pack of {config.megabytes:g} MB: allow more")
    facts = {
        "format": FORMAT,
        "photos": kept_photos,
        "held_out": sorted(_photo_name(name) for name in held_out),
        "views": kept_views,
        "quality": config.quality,
    }
    with whole_file(path) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in [("pack.json", json.dumps(facts).encode()), *sorted(members)]:
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)  # the same input, the same bytes
        size = partial.stat().st_size
        if size > limit:
            raise TrainingError(f"the pack came out at {size / 1e6:.1f} MB of {config.megabytes:g}: lower --scene-share")
    return facts | {"megabytes": size / 1e6}


class Pack:
    """A training pack opened for reading.

    Raises:
        TrainingError: the file is no pack, or is damaged.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self.facts = json.loads(archive.read("pack.json"))
                self._names = archive.namelist()
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{path} is not a training pack ({error}): make one with `lmvic train pack`") from error
        if self.facts.get("format") != FORMAT:
            raise TrainingError(f"{path} has format {self.facts.get('format')!r}, this version reads {FORMAT!r}")

    def _read(self, names: Sequence[str]) -> Iterator[bytes]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name in names:
                    yield archive.read(name)  # checks the member's CRC
        except (KeyError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{self.path} is damaged ({error}): make it again with `lmvic train pack`") from error

    def _picture(self, name: str, content: bytes, mode: str | None = None) -> np.ndarray:
        with picture_of_bytes(content, f"{self.path}: {name}") as picture:
            return np.asarray(picture if mode is None else picture.convert(mode))

    def photos(self) -> PhotoSet:
        """All photographs, decoded.

        Raises:
            TrainingError: the pack has none, or a member is damaged.
        """
        names = [name for name in self._names if name.startswith("photos/")]
        if not names:
            raise TrainingError(f"{self.path} holds no photographs")
        images = tuple(self._picture(name, content, "RGB") for name, content in zip(names, self._read(names), strict=True))
        return PhotoSet(tuple(Path(name).name for name in names), images, tuple(self.facts.get("held_out", ())))

    def scenes(self) -> list[TrainingScene]:
        """All scenes, in memory.

        Raises:
            TrainingError: the pack has none, or a member is damaged.
        """
        names = [name for name in self._names if name.endswith("/cameras.json")]
        if not names:
            raise TrainingError(f"{self.path} holds no scenes")
        return [self._scene(name.split("/")[1], json.loads(text)) for name, text in zip(names, self._read(names), strict=True)]

    def _scene(self, name: str, cameras: dict[str, Any]) -> TrainingScene:
        views = cameras["views"]
        members = [f"scenes/{name}/{view}" for view in views]
        images = [self._picture(m, c, "RGB") for m, c in zip(members, self._read([f"{m}.jpg" for m in members]), strict=True)]
        depths = [self._picture(m, c) for m, c in zip(members, self._read([f"{m}.png" for m in members]), strict=True)]
        depths = [depth.astype(np.uint16) for depth in depths]
        return training_scene(name, images, depths, np.array(cameras["intrinsics"]), np.array(cameras["world_to_camera"]))


def is_pack(path: Path) -> bool:
    """Whether a file is a training pack, or empty."""
    if not path.stat().st_size:
        return True
    try:
        Pack(path)
    except TrainingError:
        return False
    return True


def _photo_name(name: str) -> str:
    return f"{Path(name).stem}.jpg"


def _size(members: Sequence[tuple[str, bytes]]) -> int:
    """Bytes in the archive: content, and two headers with the name."""
    return sum(len(content) + 2 * len(name.encode()) + 30 + 46 for name, content in members)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return stream.getvalue()


def _photo(image: np.ndarray, config: PackConfig) -> bytes:
    height, width = image.shape[:2]
    if max(height, width) > config.halve_above:
        image = np.asarray(Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.LANCZOS))
        height, width = image.shape[:2]
    high, wide = min(height, config.photo_side), min(width, config.photo_side)
    y0, x0 = (height - high) // 2, (width - wide) // 2
    return _jpeg(image[y0 : y0 + high, x0 : x0 + wide], config.quality)


def _pack_view(scene: TrainingScene, view: int, config: PackConfig) -> tuple[bytes, bytes, tuple[int, int]]:
    """(picture, depth, (height, width)) of one view."""
    image, depth = scene.images[view], scene.inverse_depths[view]
    height, width = image.shape[:2]
    scale = min(1.0, config.scene_side / max(height, width))
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    if scale < 1:
        image = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.LANCZOS))
    rows, columns = (
        np.minimum(((np.arange(-(-n // config.depth_factor)) + 0.5) * config.depth_factor * (d / n)).astype(int), d - 1)
        for n, d in ((high, depth.shape[0]), (wide, depth.shape[1]))
    )
    stream = io.BytesIO()
    Image.fromarray(depth[rows[:, None], columns]).save(stream, "PNG", optimize=True)
    return _jpeg(image, config.quality), stream.getvalue(), (high, wide)


def _scene_members(
    scene: TrainingScene, views: Sequence[int], packed: Sequence[tuple[bytes, bytes, tuple[int, int]]], config: PackConfig
) -> list[tuple[str, bytes]]:
    names = [f"{view:04d}" for view in views]
    intrinsics = []
    for view, (_, _, (high, wide)) in zip(views, packed, strict=True):
        height, width = scene.images[view].shape[:2]
        intrinsics.append((np.diag([wide / width, high / height, 1.0]) @ scene.intrinsics[view]).tolist())
    cameras = {"views": names, "intrinsics": intrinsics, "world_to_camera": scene.world_to_camera[list(views)].tolist()}
    members = [(f"scenes/{scene.name}/cameras.json", json.dumps(cameras).encode())]
    for name, (picture, depth, _) in zip(names, packed, strict=True):
        members += [(f"scenes/{scene.name}/{name}.jpg", picture), (f"scenes/{scene.name}/{name}.png", depth)]
    return members


def _views_that_fit(packed: dict[str, list[tuple[bytes, bytes, tuple[int, int]]]], limit: int) -> dict[str, list[int]]:
    """The views of each scene to keep: the scene that takes most bytes gives up every so many views, until all fit."""
    keep = {name: list(range(len(views))) for name, views in packed.items()}

    def size(name: str) -> int:
        return sum(len(packed[name][v][0]) + len(packed[name][v][1]) + 1000 for v in keep[name])

    while sum(size(name) for name in keep) > limit:
        largest = max(keep, key=size)
        views = keep[largest]
        if len(views) <= 4:
            raise TrainingError("the scenes do not fit into the pack's share: raise --scene-share or --megabytes")
        dropped = max(1, len(views) // 8)  # a run at the end: neighbours stay neighbours
        keep[largest] = views[:-dropped]
    return keep


def _spread(count: int) -> list[int]:
    """All indices in an order whose every beginning is spread evenly over the whole."""
    return sorted(range(count), key=lambda i: (i * 0.6180339887498949) % 1.0)
