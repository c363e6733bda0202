"""Writing decoded views as a nerfstudio dataset, one at a time, in any order: all of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from lmvic_ns._util.output import FolderOutput, writing
from lmvic_ns.codec.multiview import DecodedView
from lmvic_ns.errors import LmvicError
from lmvic_ns.geometry.resampling import upsample_inverse_depth
from lmvic_ns.scene.names import fitting, unique_names
from lmvic_ns.sparse_points.exact import SparsePoints, write_ply

ImageFormat = Literal["png", "jpg", "webp"]
NERFSTUDIO_DEPTH_UNIT = 1e-3
"""nerfstudio's parser multiplies depth files by this unless told otherwise, so files hold depth / 1e-3."""
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpg": {"quality": 95, "subsampling": 0},
    "webp": {"quality": 95, "method": 4},
}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class DatasetFormat:
    """What a dataset's files look like."""

    image: ImageFormat = "png"
    depth: bool = True


class DatasetWriter:
    """A context manager that builds the dataset in its folder, out of sight, and shows it at the end.

    Args:
        folder: the dataset's; see `lmvic_ns._util.output.check_folder`.
        names: of all views that may come, to find file names without collisions.
        form: kinds of files.
        overwrite: replace the files that this program wrote there before.
        inputs: what is decoded: must not be touched.

    Raises:
        LmvicError: the folder is in the way or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        form: DatasetFormat,
        *,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
    ) -> None:
        self.folder, self.form = folder, form
        self._stems = file_stems(names)
        self._frames: dict[int, dict[str, Any]] = {}
        self._meta: dict[str, Any] = {"camera_model": "PINHOLE"}
        self._output = FolderOutput(folder, inputs=inputs, overwrite=overwrite)

    def add_view(self, view: DecodedView) -> None:
        """Write one view's files."""
        stem = self._stems[view.name]
        k, height, width = view.camera.intrinsics[0], int(view.camera.height[0]), int(view.camera.width[0])
        frame: dict[str, Any] = {
            "file_path": f"images/{stem}.{self.form.image}",
            "fl_x": float(k[0, 0]),
            "fl_y": float(k[1, 1]),
            "cx": float(k[0, 2]),
            "cy": float(k[1, 2]),
            "w": width,
            "h": height,
            "transform_matrix": view.camera.to_opengl_camera_to_world()[0].tolist(),
        }
        with writing(self.folder):
            pixels = (view.image.cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            path = self._place(frame["file_path"])
            Image.fromarray(pixels).save(path, **_SAVE_OPTIONS[self.form.image])
            if self.form.depth and view.inverse_depth is not None:
                frame["depth_file_path"] = f"depths/{stem}.npy"
                full = upsample_inverse_depth(view.inverse_depth.cpu()[None].double(), height, width)[0]
                depth = torch.where(full > 0, 1.0 / (full.clamp_min(1e-30) * NERFSTUDIO_DEPTH_UNIT), 0.0)
                np.save(self._place(frame["depth_file_path"]), depth.float().numpy())
        self._frames[view.index] = frame

    def add_points(self, points: SparsePoints) -> None:
        """Write the sparse points."""
        with writing(self.folder):
            write_ply(self._output.staging / "sparse_pc.ply", points)
        self._meta["ply_file_path"] = "sparse_pc.ply"

    def __enter__(self) -> DatasetWriter:
        self._output.__enter__()
        try:
            stems = self._stems.values()
            names = [f"images/{stem}.{self.form.image}" for stem in stems] + [f"depths/{stem}.npy" for stem in stems]
            self._output.check_free([*names, "sparse_pc.ply", "transforms.json"])
        except BaseException as error:
            self._output.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._output.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._output.__exit__(kind, error, trace)

    def _place(self, relative: str) -> Path:
        path = self._output.staging / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _finish(self) -> None:
        frames = [self._frames[index] for index in sorted(self._frames)]
        if not frames:
            raise LmvicError(f"{self.folder}: no view could be decoded, so nothing was written")
        if any("depth_file_path" in frame for frame in frames):
            self._meta["depth_unit_scale_factor"] = NERFSTUDIO_DEPTH_UNIT
        # nerfstudio prefers one camera for all: per-frame values only where views differ
        keys = ("fl_x", "fl_y", "cx", "cy", "w", "h")
        if all(frame[key] == frames[0][key] for frame in frames for key in keys):
            self._meta.update({key: frames[0][key] for key in keys})
            frames = [{key: value for key, value in frame.items() if key not in keys} for frame in frames]
        with writing(self.folder):
            text = json.dumps({**self._meta, "frames": frames}, indent=1)
            (self._output.staging / "transforms.json").write_text(text, encoding="utf-8")


def file_stems(names: list[str]) -> dict[str, str]:
    """A file name without suffix for each view: its name, less a picture's suffix where that leaves names unique."""
    stems = [
        str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES else name
        for name in names
    ]
    chosen = stems if len(set(stems)) == len(names) else names
    # files of other programs may hold names that are unfit for this machine, or that differ in case alone
    fit = unique_names(["/".join(fitting(part) for part in name.split("/")) for name in chosen])
    return dict(zip(names, fit, strict=True))
