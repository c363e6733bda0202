"""Writing decoded views as a nerfstudio dataset, one at a time, in any order: all of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lmvic_ns._util.output import FolderOutput, writing
from lmvic_ns.capture.masks import nearest
from lmvic_ns.capture.photographs import PhotographData
from lmvic_ns.capture.records import SPLIT_LISTS, LensCamera
from lmvic_ns.capture.sections import FileCapture, pinhole_coverage
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.geometry.resampling import upsample_inverse_depth
from lmvic_ns.geometry.undistortion import PinholeModel, distortion_map, undistort_nearest
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene.colmap import write_model
from lmvic_ns.sparse_points.exact import SparsePoints, write_ply
from lmvic_ns.workflows.layout import DatasetLayout, ViewPaths, dataset_layout

ImageFormat = Literal["png", "jpg", "webp", "original"]
Layout = Literal["nerfstudio", "colmap"]
LensChoice = Literal["pinhole", "original"]
NERFSTUDIO_DEPTH_UNIT = 1e-3
"""nerfstudio's parser multiplies depth files by this unless told otherwise, so files hold depth / 1e-3."""
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {  # with the format: Pillow sees no suffix in names such as `...png`
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95, "method": 4},
}
_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP that a JPEG file can hold
_CAMERA = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_LENS = ("k1", "k2", "k3", "p1", "p2")


@dataclass(frozen=True)
class DatasetFormat:
    """What a dataset's files look like.

    Attributes:
        image: suffix of the pictures; "original" takes that of each photograph.
        depth: write depth files.
        lens: "original" gives views of photographs with lens distortion their distortion and frame back.
        layout: "colmap" writes images/, masks/ and sparse/0/, without depth and without what COLMAP has no place for.
    """

    image: ImageFormat = "png"
    depth: bool = True
    lens: LensChoice = "pinhole"
    layout: Layout = "nerfstudio"


@dataclass(frozen=True)
class _Shown:
    """A view's files, ready to be written: `covered` is False where the picture shows nothing."""

    pixels: UInt8[np.ndarray, "h w 3"]
    inverse_depth: Tensor | None
    covered: UInt8[np.ndarray, "h w"] | None
    camera: dict[str, Any]


class DatasetWriter:
    """A context manager that builds the dataset in its folder, out of sight, and shows it at the end.

    Args:
        folder: the dataset's; see `lmvic_ns._util.output.check_folder`.
        names: of all views that may come, to find file names without collisions.
        format: kinds of files.
        capture: what else the file holds of the capture.
        overwrite: replace the files that this program wrote there before.
        inputs: what is decoded: must not be touched.

    Attributes:
        problems: what of a view could not be written, by what it is.

    Raises:
        LmvicError: the folder is in the way or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        format: DatasetFormat,
        *,
        capture: FileCapture | None = None,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
    ) -> None:
        self.folder, self.format, self.capture = folder, format, capture
        self.problems: dict[str, str] = {}
        records = capture.records if capture is not None else None
        contents = capture.mask_contents() if capture is not None else ()
        self.layout: DatasetLayout = dataset_layout(names, records, format.image, contents)
        if format.layout == "colmap":
            self.layout = self.layout.as_colmap()
        self._points: SparsePoints | None = None
        self._records = records
        self._frames: dict[int, dict[str, Any]] = {}
        self._meta: dict[str, Any] = {}
        self._unit = NERFSTUDIO_DEPTH_UNIT if records is None or records.depth_unit is None else records.depth_unit
        self._output = FolderOutput(folder, inputs=inputs, overwrite=overwrite, last=self.layout.last)

    def add_view(self, view: DecodedView, picture: bytes | None = None) -> None:
        """Write one view's files.

        Args:
            view: decoded.
            picture: a picture file that shows it; written as it is where its format is the one wanted.
        """
        paths = self.layout.views[view.index]
        shown = self._shown(view)
        frame: dict[str, Any] = {
            "file_path": paths.image,
            **shown.camera,
            "transform_matrix": view.camera.to_opengl_camera_to_world()[0].tolist(),
        }
        with writing(self.folder):
            place = self._place(paths.image)
            if picture is not None and self._lens(view.index) is None and _suffix_fits(picture, place.suffix):
                place.write_bytes(picture)
            else:
                self._save(place, shown.pixels, view)
            if self.format.depth and self.format.layout == "nerfstudio" and shown.inverse_depth is not None:
                frame["depth_file_path"] = paths.depth
                inverse = shown.inverse_depth
                depth = torch.where(inverse > 0, 1.0 / (inverse.clamp_min(1e-30) * self._unit), 0.0)
                np.save(self._place(paths.depth), depth.float().numpy())
            self._add_mask(view, paths, shown, frame)
        if self._records is not None and self._records.frames:
            frame.update(self._records.frames[view.index])
        self._frames[view.index] = frame

    def add_points(self, points: SparsePoints) -> None:
        """Write the sparse points."""
        if self.format.layout == "colmap":
            self._points = points
            return
        with writing(self.folder):
            write_ply(self._place(self.layout.points), points)
        self._meta["ply_file_path"] = self.layout.points

    def __enter__(self) -> DatasetWriter:
        self._output.__enter__()
        try:
            self._output.check_free(self.layout.names)
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

    def _shown(self, view: DecodedView) -> _Shown:
        """A view as it is coded, or with the lens distortion of its photograph."""
        height, width = int(view.camera.height[0]), int(view.camera.width[0])
        fx, fy, cx, cy = (float(view.camera.intrinsics[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        image, covered = view.image.cpu().clamp(0, 1), None
        inverse = view.inverse_depth
        if inverse is not None:
            inverse = upsample_inverse_depth(inverse.cpu()[None].double(), height, width)[0]
        lens = self._lens(view.index)
        if lens is not None:
            moved = distortion_map(lens.camera, lens.lens, PinholeModel(fx, fy, cx, cy), lens.height, lens.width)
            inside = pinhole_coverage(moved, height, width)
            image = warp(image[None].float(), moved)[0] * inside
            if inverse is not None:
                inverse = undistort_nearest(inverse, moved) * inside
            covered = inside.numpy().astype(np.uint8) * 255
            c, height, width = lens.camera, lens.height, lens.width
            fx, fy, cx, cy = c.fx, c.fy, c.cx, c.cy
        camera: dict[str, Any] = dict(zip(_CAMERA, (fx, fy, cx, cy, width, height), strict=True))
        if lens is not None:
            camera.update({key: getattr(lens.lens, key) for key in _LENS})
        return _Shown((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), inverse, covered, camera)

    def _lens(self, view: int) -> LensCamera | None:
        if self.format.lens == "pinhole" or self._records is None:
            return None
        return self._records.lenses[view]

    def _add_mask(self, view: DecodedView, paths: ViewPaths, shown: _Shown, frame: dict[str, Any]) -> None:
        mask, path = shown.covered, paths.mask
        if self.capture is not None and self.capture.has_mask(view.index):
            try:
                if self._lens(view.index) is not None:
                    own = self.capture.photograph_mask(view.index)
                    own = None if own is None else nearest(own, *shown.pixels.shape[:2])
                else:
                    own = self.capture.mask(view.index)
            except BitstreamError as error:
                self.problems[f"mask of {view.name}"] = str(error)
            else:
                mask = own if mask is None or own is None else np.where(mask > 0, own, 0).astype(np.uint8)
        if mask is None:
            return
        frame["mask_path"] = path
        if not (self._output.staging / path).exists():  # views may share one
            Image.fromarray(mask).save(self._place(path), "PNG")

    def _save(self, path: Path, pixels: UInt8[np.ndarray, "h w 3"], view: DecodedView) -> None:
        data = self.capture.photograph(view.index) if self.capture is not None else PhotographData()
        suffix = path.suffix.lower()
        options: dict[str, Any] = dict(_SAVE_OPTIONS[suffix])
        too_long = [
            what
            for what, blob in (("EXIF", data.exif), ("XMP", data.xmp))
            if blob is not None and suffix in (".jpg", ".jpeg") and len(blob) > _JPEG_SEGMENT
        ]
        if too_long:
            self.problems[f"{' and '.join(too_long)} of {view.name}"] = "more than a JPEG file holds; use --format png"
        if data.exif is not None and "EXIF" not in too_long:
            options["exif"] = b"Exif\0\0" + data.exif
        if data.icc_profile is not None:
            options["icc_profile"] = data.icc_profile
        if data.xmp is not None and "XMP" not in too_long:
            if suffix == ".png":
                options["pnginfo"] = info = PngInfo()
                info.add_itxt("XML:com.adobe.xmp", data.xmp.decode("utf-8", "replace"))
            else:
                options["xmp"] = data.xmp
        Image.fromarray(pixels).save(path, **options)

    def _place(self, relative: str) -> Path:
        path = self._output.staging / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _finish(self) -> None:
        order = self._records.order if self._records is not None else sorted(self._frames)
        frames = [self._frames[index] for index in order if index in self._frames]
        if not frames:
            raise LmvicError(f"{self.folder}: no view could be decoded, so nothing was written")
        if self.format.layout == "colmap":
            self._write_model(frames)
            return
        meta: dict[str, Any] = {"camera_model": "OPENCV" if any("k1" in frame for frame in frames) else "PINHOLE"}
        # nerfstudio prefers one camera for all: per-frame values only where views differ
        keys = (*_CAMERA, *_LENS)
        if all(frame.get(key) == frames[0].get(key) for frame in frames for key in keys):
            meta.update({key: frames[0][key] for key in keys if key in frames[0]})
            frames = [{key: value for key, value in frame.items() if key not in keys} for frame in frames]
        meta.update(self._meta)
        if any("depth_file_path" in frame for frame in frames):
            meta["depth_unit_scale_factor"] = self._unit
        meta.update(self._scene_keys())
        with writing(self.folder):
            text = json.dumps({**meta, "frames": frames}, indent=1)
            (self._output.staging / "transforms.json").write_text(text, encoding="utf-8")

    def _write_model(self, frames: list[dict[str, Any]]) -> None:
        described = []
        for frame in frames:
            pose = np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0]))
            name = frame["file_path"].removeprefix("images/")
            described.append({**frame, "name": name, "world_to_camera": pose})
        with writing(self.folder):
            model = self._place(self.layout.last).parent
            write_model(model, described, self._points)

    def _scene_keys(self) -> dict[str, Any]:
        """Keys of the scene as they were; lists of pictures with the names that they have now."""
        if self._records is None:
            return {}
        keys = dict(self._records.scene)
        renamed = {path: view.image for path, view in zip(self._records.paths, self.layout.views, strict=True)}
        written = {frame["file_path"] for frame in self._frames.values()}
        for key in SPLIT_LISTS:
            if isinstance(keys.get(key), list):
                names = [renamed.get(name, name) if isinstance(name, str) else name for name in keys[key]]
                lost = {view.image for view in self.layout.views} - written
                keys[key] = [name for name in names if not (isinstance(name, str) and name in lost)]
        return keys


def _suffix_fits(picture: bytes, suffix: str) -> bool:
    """Whether a picture file's first bytes are those of a suffix."""
    marks = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".webp": b"RIFF"}
    return picture.startswith(marks.get(suffix.lower(), b"\0none"))
