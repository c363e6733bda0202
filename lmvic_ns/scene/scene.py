"""A multi-view scene: images, pinhole cameras, inverse depth and names in one place, loaded lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene.names import unfit
from lmvic_ns.scene.ply import read_points
from lmvic_ns.scene.points import SparsePoints

ViewSource = Callable[[int], Tensor] | Sequence[Tensor]
"""Something that gives a view's tensor: a function of the index (called at each access), or a sequence."""


class MultiViewScene:
    """Views of one scene.

    Args:
        names: One file-name-like name a view, unique; `/` makes folders. See `lmvic_ns.scene.names`.
        cameras: Pinhole cameras; views may differ in size and intrinsics.
        image: Float[3, h, w] in 0..1 for an index, computed or loaded at each access and never kept here.
        inverse_depth: Float[h, w], 1 / z in scene units, 0 = infinitely far or unknown; None where the scene has no
            depth.
        sparse_points: A .ply file of SfM points in the scene's world, copied along by `write_dataset`. It is read, and
            missed, only when it is used.
        cloud: Such points in memory, where they come from no .ply file.
        original: The captured file of a view, for those who can keep it as it is; None where there is none.

    Raises:
        SceneError: No views; names missing, duplicated or unfit for files; poses or intrinsics not finite or
            impossible.
            Later, at access: a source gives the wrong shape or values that are not finite.
    """

    def __init__(
        self,
        names: Sequence[str],
        cameras: Cameras,
        image: ViewSource,
        inverse_depth: ViewSource | None = None,
        *,
        sparse_points: Path | None = None,
        cloud: SparsePoints | None = None,
        original: Callable[[int], bytes | None] | None = None,
    ) -> None:
        self.names = list(names)
        self.cameras = cameras.to("cpu")
        self.sparse_points, self.cloud = sparse_points, cloud
        self._image, self._inverse_depth, self._original = image, inverse_depth, original
        _check_names(self.names, len(cameras))
        _check_cameras(self.cameras, self.names)
        for what, source in (("images", image), ("inverse depth maps", inverse_depth)):
            if source is not None and not callable(source) and len(source) != len(self.names):
                raise SceneError(f"the scene has {len(self.names)} views but {len(source)} {what}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_depth(self) -> bool:
        """Whether `inverse_depth` can be asked for."""
        return self._inverse_depth is not None

    def image(self, index: int) -> Float[Tensor, "3 h w"]:
        """The photograph of a view, float32 RGB in 0..1, at its camera's size."""
        index = self._index(index)
        value = _fetch(self._image, index).float()
        height, width = self._size(index)
        if tuple(value.shape) != (3, height, width):
            raise SceneError(
                f"image of view {self.names[index]!r} has shape {tuple(value.shape)}, its camera expects {(3, height, width)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise SceneError(f"image of view {self.names[index]!r} holds values that are not finite")
        return value.clamp(0.0, 1.0)

    def original(self, index: int) -> bytes | None:
        """The captured file of a view; None if there is none, or if the view is not what it shows (lens distortion)."""
        return None if self._original is None else self._original(self._index(index))

    def inverse_depth(self, index: int) -> Float[Tensor, "h w"]:
        """1 / z of a view, float32 in the scene's units, at its camera's size; 0 = infinitely far or unknown.

        Raises:
            SceneError: The scene has no depth, or the map has the wrong shape or values that are not finite or
                negative.
        """
        index = self._index(index)
        if self._inverse_depth is None:
            raise SceneError(
                "the scene has no depth: give depth_file_path for every frame of transforms.json, "
                "or export it from a trained model"
            )
        value = _fetch(self._inverse_depth, index).float()
        if tuple(value.shape) != self._size(index):
            raise SceneError(
                f"inverse depth of view {self.names[index]!r} has shape {tuple(value.shape)}, "
                f"its camera expects {self._size(index)}"
            )
        if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
            raise SceneError(
                f"inverse depth of view {self.names[index]!r} holds values that are negative or not finite; use 0 for unknown"
            )
        return value

    def select(self, indices: Iterable[int]) -> MultiViewScene:
        """Some of the views as a scene of their own, still lazy."""
        chosen = [self._index(i) for i in indices]
        return MultiViewScene(
            [self.names[i] for i in chosen],
            self.cameras[chosen],
            lambda i: self.image(chosen[i]),
            (lambda i: self.inverse_depth(chosen[i])) if self.has_depth else None,
            sparse_points=self.sparse_points,
            cloud=self.cloud,
            original=lambda i: self.original(chosen[i]),
        )

    def with_inverse_depth(self, inverse_depth: ViewSource | None) -> MultiViewScene:
        """The same photographs and cameras with other depth."""
        return MultiViewScene(
            self.names,
            self.cameras,
            self._image,
            inverse_depth,
            sparse_points=self.sparse_points,
            cloud=self.cloud,
            original=self._original,
        )

    def points(self) -> SparsePoints | None:
        """The scene's sparse points; None if it has none.

        Raises:
            SceneError: their file is missing or damaged.
        """
        if self.cloud is not None or self.sparse_points is None:
            return self.cloud
        if not self.sparse_points.is_file():
            raise SceneError(
                f"{self.sparse_points}: the scene's points are not there; put them back, remove ply_file_path from "
                "transforms.json, or leave them out with --points none"
            )
        return SparsePoints(*read_points(self.sparse_points))

    @classmethod
    def from_dataset(
        cls, folder: str | Path, *, depth_unit_scale_factor: float | None = None, depth: bool = True
    ) -> MultiViewScene:
        """Read a nerfstudio dataset: a folder with transforms.json (or that file), or a COLMAP one. Distorted
        photographs become pinhole views.

        Args:
            folder: Where transforms.json is.
            depth_unit_scale_factor: Scene units of a depth file's 1; by default the key of that name in
                transforms.json, else
                1e-3 as in nerfstudio.
            depth: Without it, the dataset's depth files are not looked at: the scene has no depth.

        Raises:
            SceneError: Something is missing, inconsistent, not finite or not supported; the message names the frame.
        """
        from lmvic_ns.scene.reader import read_dataset

        found = read_dataset(Path(folder), depth_unit_scale_factor, depth)
        return cls(
            found.names,
            found.cameras,
            found.image,
            found.inverse_depth,
            sparse_points=found.sparse_points,
            cloud=found.cloud,
            original=found.original,
        )

    def write_dataset(
        self,
        folder: str | Path,
        *,
        image_format: Literal["png", "jpg"] = "png",
        depth_format: Literal["npy", "png"] | None = "npy",
        depth_unit_scale_factor: float = 1e-3,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
    ) -> Path:
        """Write a nerfstudio dataset (images/, depths/, transforms.json): all of it, or nothing.

        Args:
            folder: New or empty; one that this program filled before is filled anew with `overwrite`.
            image_format: 8-bit PNG, or JPEG at quality 95 without chroma subsampling.
            depth_format: float32 .npy, or 16-bit .png (nerfstudio's dataparser takes both); None, or a scene without
                depth: no depth.
            depth_unit_scale_factor: Scene units of a depth file's 1. nerfstudio applies its own option of this name,
                1e-3 by default, to
                both formats and does not read it from the file.
            overwrite: Replace the files that this program wrote there before (the folder's own list names them), and
                no others.
            inputs: Files and folders that the scene comes from; a folder that is, holds or lies among them is refused.

        Returns:
            The folder.

        Raises:
            SceneError: The folder is in the way, a view cannot be written in this format, or a source fails.
        """
        from lmvic_ns.scene.writer import write_dataset

        return write_dataset(
            self,
            Path(folder),
            image_format=image_format,
            depth_format=depth_format,
            depth_unit_scale_factor=depth_unit_scale_factor,
            overwrite=overwrite,
            inputs=inputs,
        )

    def _index(self, index: int) -> int:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"view {index} of {len(self)}")
        return index % len(self)

    def _size(self, index: int) -> tuple[int, int]:
        return int(self.cameras.height[index]), int(self.cameras.width[index])


def _fetch(source: ViewSource, index: int) -> Tensor:
    return torch.as_tensor(source(index) if callable(source) else source[index]).detach().cpu()


def _check_names(names: list[str], views: int) -> None:
    if not names:
        raise SceneError("the scene has no views")
    if len(names) != views:
        raise SceneError(f"the scene has {len(names)} names for {views} cameras")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or unfit(name):
            raise SceneError(f"view name {name!r} cannot be a file name; use letters, digits, '-', '_', '.' and '/'")
        if name in seen:
            raise SceneError(f"view name {name!r} occurs twice; names must be unique")
        seen.add(name)


def _check_cameras(cameras: Cameras, names: list[str]) -> None:
    for index, name in enumerate(names):
        k, t = cameras.intrinsics[index], cameras.world_to_camera[index]
        if not bool(torch.isfinite(t).all()):
            raise SceneError(f"pose of view {name!r} is not finite; remove the view or give it a pose")
        if not bool(torch.isfinite(k).all()) or not (float(k[0, 0]) > 0 and float(k[1, 1]) > 0):
            raise SceneError(f"intrinsics of view {name!r} are not finite or a focal length is not positive")
        lower = torch.stack([k[1, 0], k[2, 0], k[2, 1], k[2, 2] - 1.0])
        if bool((lower != 0).any()):
            raise SceneError(
                f"intrinsics of view {name!r} are not those of a pinhole camera (last row 0 0 1, upper triangular)"
            )
        if int(cameras.height[index]) < 1 or int(cameras.width[index]) < 1:
            raise SceneError(f"view {name!r} has no pixels ({int(cameras.height[index])} x {int(cameras.width[index])})")
        rotation = t[:3, :3]
        off = float((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max())
        if off > 1e-4 or float(torch.det(rotation)) < 0 or bool((t[3] != t.new_tensor([0.0, 0.0, 0.0, 1.0])).any()):
            raise SceneError(
                f"pose of view {name!r} is not a rigid motion (rotation off by {off:.1e}); remove scale and shear from it"
            )
