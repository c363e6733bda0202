"""Writing decoded views as a nerfstudio or COLMAP dataset, one at a time, in any order: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns._util.output import FolderOutput, writing
from lmvic_ns.capture.masks import nearest
from lmvic_ns.capture.photographs import PhotographData
from lmvic_ns.capture.records import LensCamera
from lmvic_ns.capture.sections import FileCapture, pinhole_coverage
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.geometry.resampling import upsample_inverse_depth
from lmvic_ns.geometry.undistortion import PinholeModel, distortion_map, undistort_nearest
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene.colmap import write_model
from lmvic_ns.scene.ply import write_ply
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.scene.writer import (
    LENS_KEYS,
    NERFSTUDIO_DEPTH_UNIT,
    PINHOLE_KEYS,
    camera_values,
    place,
    write_depth,
    write_picture,
    write_transforms,
)
from lmvic_ns.workflows.layout import DatasetLayout, ViewPaths, dataset_layout, scene_keys

ImageFormat = Literal["png", "jpg", "webp", "original"]
Layout = Literal["nerfstudio", "colmap"]
LensChoice = Literal["pinhole", "original"]
_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP that a JPEG file can hold


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
class _DatasetView:
    """What a view's files hold: `covered` is 0 where the picture shows nothing, `camera` its values in transforms.json."""

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
        self._points_file: str | None = None
        self._unit = NERFSTUDIO_DEPTH_UNIT if records is None or records.depth_unit is None else records.depth_unit
        self._output = FolderOutput(folder, inputs=inputs, overwrite=overwrite, last=self.layout.last)

    def add_view(self, view: DecodedView, picture: bytes | None = None) -> None:
        """Write one view's files.

        Args:
            view: decoded.
            picture: a picture file that shows it; written as it is where its format is the one wanted.
        """
        paths = self.layout.views[view.index]
        content = self._dataset_view(view)
        frame: dict[str, Any] = {
            "file_path": paths.image,
            **content.camera,
            "transform_matrix": view.camera.to_opengl_camera_to_world()[0].tolist(),
        }
        with writing(self.folder):
            file = self._place(paths.image)
            if picture is not None and self._lens(view.index) is None and _suffix_fits(picture, file.suffix):
                file.write_bytes(picture)
            else:
                write_picture(file, content.pixels, **self._metadata(view, file.suffix))
            if self.format.depth and self.format.layout == "nerfstudio" and content.inverse_depth is not None:
                frame["depth_file_path"] = paths.depth
                write_depth(self._place(paths.depth), content.inverse_depth, self._unit, view.name)
            self._add_mask(view, paths, content, frame)
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
        self._points_file = self.layout.points

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

    def _dataset_view(self, view: DecodedView) -> _DatasetView:
        """A view as it is coded, or with the lens distortion of its photograph."""
        height, width = int(view.camera.height[0]), int(view.camera.width[0])
        camera, covered = camera_values(view.camera), None
        image = view.image.cpu().clamp(0, 1)
        inverse = view.inverse_depth
        if inverse is not None:
            inverse = upsample_inverse_depth(inverse.cpu()[None].double(), height, width)[0]
        lens = self._lens(view.index)
        if lens is not None:
            moved = distortion_map(
                lens.camera, lens.lens, PinholeModel(*(camera[key] for key in PINHOLE_KEYS[:4])), lens.height, lens.width
            )
            inside = pinhole_coverage(moved, height, width)
            image = warp(image[None].float(), moved)[0] * inside
            if inverse is not None:
                inverse = undistort_nearest(inverse, moved) * inside
            covered = inside.numpy().astype(np.uint8) * 255
            c = lens.camera
            camera = dict(zip(PINHOLE_KEYS, (c.fx, c.fy, c.cx, c.cy, lens.width, lens.height), strict=True))
            camera |= {key: getattr(lens.lens, key) for key in LENS_KEYS}
        return _DatasetView(to_8_bit(image), inverse, covered, camera)

    def _lens(self, view: int) -> LensCamera | None:
        if self.format.lens == "pinhole" or self._records is None:
            return None
        return self._records.lenses[view]

    def _add_mask(self, view: DecodedView, paths: ViewPaths, content: _DatasetView, frame: dict[str, Any]) -> None:
        mask, path = content.covered, paths.mask
        if self.capture is not None and self.capture.has_mask(view.index):
            try:
                if self._lens(view.index) is not None:
                    own = self.capture.photograph_mask(view.index)
                    own = None if own is None else nearest(own, *content.pixels.shape[:2])
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
            write_picture(self._place(path), mask)

    def _metadata(self, view: DecodedView, suffix: str) -> dict[str, Any]:
        """EXIF, XMP and colour profile of a view's picture, as Pillow takes them."""
        data = self.capture.photograph(view.index) if self.capture is not None else PhotographData()
        suffix = suffix.lower()
        options: dict[str, Any] = {}
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
        return options

    def _place(self, relative: str) -> Path:
        return place(self._output.staging, relative)

    def _finish(self) -> None:
        order = self._records.order if self._records is not None else sorted(self._frames)
        frames = [self._frames[index] for index in order if index in self._frames]
        if not frames:
            raise LmvicError(f"{self.folder}: no view could be decoded, so nothing was written")
        if self.format.layout == "colmap":
            self._write_model(frames)
            return
        lost = {view.image for view in self.layout.views} - {frame["file_path"] for frame in self._frames.values()}
        with writing(self.folder):
            write_transforms(
                self._output.staging,
                frames,
                points=self._points_file,
                depth_unit=self._unit,
                keys=scene_keys(self._records, self.layout, lost),
            )

    def _write_model(self, frames: list[dict[str, Any]]) -> None:
        described = []
        for frame in frames:
            pose = np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0]))
            name = frame["file_path"].removeprefix("images/")
            described.append({**frame, "name": name, "world_to_camera": pose})
        with writing(self.folder):
            model = self._place(self.layout.last).parent
            write_model(model, described, self._points)


def _suffix_fits(picture: bytes, suffix: str) -> bool:
    """Whether a picture file's first bytes are those of a suffix."""
    magic = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".webp": b"RIFF"}
    return picture.startswith(magic.get(suffix.lower(), b"\0none"))
