"""What an evaluation runs on: the views of a scene, or a folder of photographs, as 8-bit RGB pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, UInt8

from lmvic_ns._util.pictures import opaque_rgb
from lmvic_ns.errors import SceneError
from lmvic_ns.scene.transforms import load_transforms

if TYPE_CHECKING:
    from torch import Tensor

    from lmvic_ns.scene import MultiViewScene

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class ImageSet:
    """Pictures in file order.

    Attributes:
        name: Name of the folder.
        kind: "scene" (views of one place, with cameras) or "photos" (unrelated pictures).
        folder: Where it lies.
        files: The pictures' files.
        pinhole: Views are undistorted first, as our codec takes them; otherwise they are as stored.
    """

    name: str
    kind: Literal["scene", "photos"]
    folder: Path
    files: tuple[Path, ...]
    pinhole: bool = False

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def pictures(self) -> list[UInt8[np.ndarray, "h w 3"]]:
        """All pictures, read once, RGB."""
        if not self.pinhole:
            return [read_picture(path) for path in self.files]
        from lmvic_ns._util.eight_bits import to_8_bit

        scene = self.scene
        return [to_8_bit(scene.image(index)) for index in range(len(self.files))]

    @cached_property
    def scene(self) -> MultiViewScene:
        """The views as pinhole views with cameras, in the order of `files`.

        Raises:
            SceneError: The set is a folder of photographs, or its dataset is not usable.
        """
        from lmvic_ns.scene import MultiViewScene

        if self.kind != "scene":
            raise SceneError(f"{self.name} is a folder of photographs: there are no cameras")
        return MultiViewScene.from_dataset(self.folder).select(range(len(self.files)))

    @property
    def pixels(self) -> int:
        """Pixels of all pictures together."""
        return sum(p.shape[0] * p.shape[1] for p in self.pictures)

    @property
    def one_size(self) -> bool:
        """Whether the pictures could be the frames of a video."""
        return len({p.shape for p in self.pictures}) == 1

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over sizes and pixels, in file order: the identity that cached results hang on."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(str(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).data)
        return digest.hexdigest()


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB; EXIF rotation is not applied (cameras belong to the stored pixels).

    Raises:
        SceneError: Not a readable picture, or one of more than 8 bits a channel, or with transparent pixels.
    """
    from lmvic_ns._util.picture_files import open_picture

    with open_picture(path) as image:
        return np.asarray(opaque_rgb(path, image))


def write_picture(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a picture in the format that the name says (JPEG at quality 90); folders are made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=90)


def load_image_set(path: Path, *, pinhole: bool = False, limit: int | None = None) -> ImageSet:
    """A nerfstudio dataset folder (with `transforms.json`) or a plain folder of pictures.

    Args:
        path: The folder.
        pinhole: Take a scene's views undistorted.
        limit: Keep the first so many pictures by file name.

    Raises:
        SceneError: No such folder, or no pictures in it, or a limit that leaves none.
    """
    if limit is not None and limit < 1:
        raise SceneError(f"--limit must be at least 1, not {limit}")
    path = Path(path)
    if not path.is_dir():
        raise SceneError(f"{path} is not a folder; give a dataset with transforms.json or a folder of pictures")
    transforms = path / "transforms.json"
    if transforms.is_file():
        frames = load_transforms(path)["frames"]
        files = sorted(path / frame["file_path"] for frame in frames)
        kind: Literal["scene", "photos"] = "scene"
    else:
        files = sorted((f for f in path.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and f.name[0] != "."), key=_natural)
        kind = "photos"
    if not files:
        raise SceneError(f"no pictures in {path}")
    resolved = path.resolve()
    name = resolved.name if resolved.name not in ("test", "train", "images") else f"{resolved.parent.name}-{resolved.name}"
    return ImageSet(name, kind, path, tuple(files[:limit]), pinhole and kind == "scene")


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.stem), path.stem) if path.stem.isdecimal() else (1 << 30, path.stem)


def our_order(images: ImageSet) -> list[int]:
    """Views in the paper's order: the greedy chain over pose distances (8), from the view nearest to all others.

    It needs cameras only; the translations' unit is the cameras' spread. For codecs that take frames one after another.

    Raises:
        SceneError: The set is a folder of photographs, or its poses are no numbers.
    """
    import torch

    return pose_chain(torch.linalg.inv(torch.from_numpy(camera_to_world(images))))


def pose_chain(world_to_camera: Float[Tensor, "v 4 4"]) -> list[int]:
    """The greedy chain over pose distances (8) from the view nearest to all others; the cameras' spread is a unit of length."""
    from lmvic_ns.tree.ordering import greedy_chain, pose_distance

    centers = -(world_to_camera[:, :3, :3].transpose(1, 2) @ world_to_camera[:, :3, 3:])[..., 0]
    spread = float((centers - centers.mean(0)).square().sum(1).mean().sqrt())
    distances = pose_distance(world_to_camera, translation_scale=spread if spread > 0 else 1.0)
    return list(greedy_chain(distances, int(distances.sum(1).argmin())).order)


def camera_to_world(images: ImageSet) -> Float[np.ndarray, "v 4 4"]:
    """Poses of a scene as `transforms.json` has them (OpenGL axes), in the order of `files`.

    Raises:
        SceneError: The set is a folder of photographs, or its poses are no numbers.
    """
    if images.kind != "scene":
        raise SceneError(f"{images.name} is a folder of photographs: there are no cameras")
    from lmvic_ns.scene.reader import read_pose

    file = images.folder / "transforms.json"
    frames = {images.folder / frame["file_path"]: frame for frame in load_transforms(file)["frames"]}
    return np.stack([read_pose(file, path.name, frames[path].get("transform_matrix")) for path in images.files])


def check_pictures(decoded: Sequence[np.ndarray], images: ImageSet, codec: str) -> None:
    """A decoder has to return every picture at its own size.

    Raises:
        SceneError: It did not.
    """
    shapes = [p.shape for p in decoded]
    if shapes != [p.shape for p in images.pictures]:
        raise SceneError(
            f"{codec}, {images.name}: {len(shapes)} pictures of {sorted(set(shapes))} came back, other than went in"
        )
