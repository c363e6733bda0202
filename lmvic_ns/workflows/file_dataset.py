"""An `.lmvic` file as a nerfstudio dataset whose pictures, masks and depth are decoded when they are opened."""

from __future__ import annotations

import json
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
import torch
from PIL import Image

from lmvic_ns.bitstream.sources import is_address
from lmvic_ns.capture.records import SPLIT_LISTS
from lmvic_ns.codec.file import LmvicFile
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.report.terminal import progress
from lmvic_ns.sparse_points.exact import write_ply
from lmvic_ns.sparse_points.sections import FilePoints
from lmvic_ns.workflows.dataset import NERFSTUDIO_DEPTH_UNIT
from lmvic_ns.workflows.layout import dataset_layout

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
            k = camera.intrinsics[0]
            frame: dict[str, Any] = {
                "file_path": paths.image,
                "fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]), "cx": float(k[0, 2]), "cy": float(k[1, 2]),
                "w": int(camera.width[0]), "h": int(camera.height[0]),
                "transform_matrix": camera.to_opengl_camera_to_world()[0].tolist(),
            }  # fmt: skip
            if self.masked:
                frame["mask_path"] = paths.mask
            if self.with_depth:
                frame["depth_file_path"] = paths.depth
            frames.append(frame)
        meta: dict[str, Any] = {"camera_model": "PINHOLE", "frames": frames}
        if records is not None:
            renamed = {path: paths.image for path, paths in zip(records.paths, self.layout.views, strict=True)}
            for key, value in records.scene.items():
                meta[key] = [renamed.get(n, n) for n in value] if key in SPLIT_LISTS and isinstance(value, list) else value
        if points and self._write_points():
            meta["ply_file_path"] = self.layout.points
        (self.folder / "transforms.json").write_text(json.dumps(meta), encoding="utf-8")
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
            path.parent.mkdir(parents=True, exist_ok=True)
            self._save(kind, view, path)
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
            Image.fromarray(found.image).save(partial, "PNG", compress_level=1)
        elif kind == "mask":
            mask = found.mask
            if mask is None:  # nerfstudio wants masks of all views or of none
                mask = np.full((int(found.camera.height[0]), int(found.camera.width[0])), 255, dtype=np.uint8)
            Image.fromarray(mask).save(partial, "PNG")
        else:
            inverse = found.inverse_depth
            assert inverse is not None
            depth = torch.where(inverse > 0, 1.0 / (inverse.clamp_min(1e-30) * NERFSTUDIO_DEPTH_UNIT), 0.0)
            with partial.open("wb") as stream:
                np.save(stream, depth.float().numpy())
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
        path = self.folder / self.layout.points
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ply(path, cloud)
        return True
