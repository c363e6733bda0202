"""An `.lmvic` file as a nerfstudio dataset whose pictures, masks and depth are decoded when they are opened."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmvic_ns.bitstream.sources import is_address
from lmvic_ns.codec.file import LmvicFile
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.report.terminal import progress
from lmvic_ns.scene.ply import write_ply
from lmvic_ns.scene.writer import NERFSTUDIO_DEPTH_UNIT, camera_values, place, write_depth, write_picture, write_transforms
from lmvic_ns.sparse_points.sections import FilePoints
from lmvic_ns.workflows.layout import dataset_layout, scene_keys

Kind = Literal["image", "mask", "depth"]
DEFAULT_CACHE = 4_000_000_000
_KEPT_FILES = 64  # at least so many stay, so that nobody loses a file between asking for it and opening it


class FileDataset:
    """A folder with a transforms.json, and files in it that come to be when they are asked for.

    Args:
        source: path or address of the file.
        weights: name or path; by default those that the file names.
        device: where the networks run.
        cache_bytes: bytes of decoded files that are kept; older ones go, and are decoded again if need be.
        folder: of another process's dataset of the same file, which that process removes; by default one of its own.

    Attributes:
        folder: of the dataset, removed at the end of the program that it belongs to.
        paths: number and kind of each file that can be asked for, by its path relative to `folder`.

    Raises:
        BitstreamError: it is no file of ours, or damaged.
    """

    def __init__(
        self,
        source: str | Path,
        weights: str | None = None,
        device: str = "cpu",
        cache_bytes: int = DEFAULT_CACHE,
        folder: Path | None = None,
    ) -> None:
        self.file = LmvicFile(source if is_address(source) else Path(source), weights, device)
        self.folder = folder or Path(tempfile.mkdtemp(prefix="lmvic-data-"))
        self._cleanup = weakref.finalize(self, shutil.rmtree, self.folder, True) if folder is None else None
        self._cache_bytes = cache_bytes
        self._made: OrderedDict[tuple[Kind, int], int] = OrderedDict()
        self._lock = threading.RLock()
        capture = self.file.capture
        for problem in (*self.file.reader.problems, *(f"lost: {what}: {why}" for what, why in capture.problems.items())):
            print(f"lmvic: {source}: {problem}", file=sys.stderr)
        self.layout = dataset_layout(self.file.names, capture.records, "png", capture.mask_contents())
        self.masked = any(capture.has_mask(view) for view in range(len(self.file)))
        self.with_depth = all(self.file.has_depth(view) for view in range(len(self.file)))
        self.paths: dict[str, tuple[Kind, int]] = {}
        for view, paths in enumerate(self.layout.views):
            self.paths[paths.image] = "image", view
            if self.masked:
                self.paths.setdefault(paths.mask, ("mask", view))
            if self.with_depth:
                self.paths[paths.depth] = "depth", view

    def write(self, points: bool = True) -> Path:
        """Writes transforms.json, and the sparse points if they are wanted; returns the folder.

        Colours of compact points come from the pictures, so that wanting them decodes every view once.

        Raises:
            BitstreamError: the file is damaged.
        """
        records = self.file.capture.records
        frames = []
        for view in records.order if records is not None else range(len(self.file)):
            camera, paths = self.file.cameras[view], self.layout.views[view]
            frame: dict[str, Any] = {
                "file_path": paths.image,
                **camera_values(camera),
                "transform_matrix": camera.to_opengl_camera_to_world()[0].tolist(),
            }
            if self.masked:
                frame["mask_path"] = paths.mask
            if self.with_depth:
                frame["depth_file_path"] = paths.depth
            frames.append(frame)
        file = self.layout.points if points and self._write_points() else None
        write_transforms(self.folder, frames, points=file, keys=scene_keys(records, self.layout))
        return self.folder

    def make(self, name: str) -> Path:
        """The file of this name, decoded now if it is not there. Threads may call this.

        Raises:
            BitstreamError: the view is damaged.
        """
        kind, view = self.paths[name]
        path = self.folder / name
        with self._lock:
            if (kind, view) in self._made and path.exists():
                self._made.move_to_end((kind, view))
                return path
            self._save(kind, view, place(self.folder, name))
            self._made[kind, view] = path.stat().st_size
            while len(self._made) > _KEPT_FILES and sum(self._made.values()) > self._cache_bytes:
                (old_kind, old_view), _ = self._made.popitem(last=False)
                (self.folder / getattr(self.layout.views[old_view], old_kind)).unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Let go of the file and remove the folder."""
        self.file.close()
        if self._cleanup is not None:
            self._cleanup()

    def _save(self, kind: Kind, view: int, path: Path) -> None:
        found = self.file[view]
        partial = path.with_name(f".{os.getpid()}-{kind}-{view}")  # not longer than any name
        if kind == "image":
            write_picture(partial, found.image, suffix=".png", compress_level=1)
        elif kind == "mask":
            mask = found.mask
            if mask is None:  # nerfstudio wants masks of all views or of none
                mask = np.full((int(found.camera.height[0]), int(found.camera.width[0])), 255, dtype=np.uint8)
            write_picture(partial, mask, suffix=".png")
        else:
            inverse = found.inverse_depth
            assert inverse is not None
            write_depth(partial, inverse, NERFSTUDIO_DEPTH_UNIT, self.file.names[view])
        os.replace(partial, path)

    def _write_points(self) -> bool:
        found = FilePoints(self.file.reader)
        if found.needs_views:
            with progress("decoding for the points' colours", len(self.file)) as step:
                for view in self.file.reader.header.order:
                    state = self.file.state(view)
                    camera = self.file.cameras[view]
                    found.add_view(DecodedView(view, self.file.names[view], state.image[0].cpu(), None, camera))
                    self.make(self.layout.views[view].image)
                    step(self.file.names[view])
        cloud = found.finish()
        if cloud is None:
            return False
        write_ply(place(self.folder, self.layout.points), cloud)
        return True
