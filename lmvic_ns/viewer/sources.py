"""What `lmvic view` can open: a coded file (any view by itself) or a scene folder, behind one interface."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.reader import Reader, UnitSize
from lmvic_ns.drawing.pair import PictureWithDepth
from lmvic_ns.errors import LmvicError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.tree.ordering import ReferenceTree, pose_distance, scene_translation_scale

if TYPE_CHECKING:
    from lmvic_ns.codec.multiview import DecodedView

_KEPT = 512_000_000  # bytes of decoded views that are kept: a view deep in the tree takes a while to decode again


class PageSource(ABC):
    """Cameras, tree and sizes at once; pictures when asked for.

    Attributes:
        title: what is shown, for the page's head.
        names: of the views.
        cameras: in the scene's world and units.
        tree: coding order and references.
        sizes: bytes of every view, None for a view that is not coded or damaged.
        file_bytes: of the whole file, 0 for a scene that is not coded.
        points_bytes: of its sparse points.
        distances: from each view to its reference, equation (8), NaN without one.
        trouble: why there are no pictures, None if there are.
        note: what else a person should know of what is shown; empty for nothing.
    """

    title: str
    names: list[str]
    cameras: Cameras
    tree: ReferenceTree
    sizes: list[UnitSize | None]
    distances: list[float]
    file_bytes: int = 0
    points_bytes: int = 0
    trouble: str | None = None
    note: str = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Event()  # nobody waits for `load`: the stream may go on
        self._idle.set()
        self._kept: dict[int, PictureWithDepth] = {}  # images of 8 bits; the one looked at last stands last

    @abstractmethod
    def _load(self, views: list[int]) -> Iterator[tuple[int, PictureWithDepth]]: ...

    def load(self, *views: int) -> list[PictureWithDepth]:
        """Some views, decoded now unless they were just shown. Threads may call this; they take turns.

        Raises:
            LmvicError: a view cannot be decoded.
        """
        self._idle.clear()
        try:
            with self._lock:
                missing = [view for view in dict.fromkeys(views) if view not in self._kept]
                found = dict(self._load(missing)) if missing else {}
                found |= {view: _shown(self._kept[view]) for view in views if view in self._kept}
                for view in found:
                    self._keep(view, found[view])
                return [found[view] for view in views]
        finally:
            self._idle.set()

    def _keep(self, view: int, picture: PictureWithDepth) -> None:
        self._kept.pop(view, None)
        self._kept[view] = replace(picture, image=(picture.image.clamp(0, 1) * 255).round().to(torch.uint8))
        while len(self._kept) > 2 and sum(map(_bytes, self._kept.values())) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def stream(self) -> Iterator[tuple[int, PictureWithDepth]]:
        """Every view once, in coding order; for thumbnails. Damaged views are left out."""
        for view in self.tree.order:
            self._idle.wait()
            try:
                with self._lock:
                    found = dict(self._load([view]))
            except LmvicError:
                continue
            yield from found.items()

    def close(self) -> None:  # noqa: B027
        """Let go of files, where there are any."""

    def _set_distances(self, scale: float) -> None:
        matrix = pose_distance(self.cameras.world_to_camera, translation_scale=scale)
        self.distances = [
            float(matrix[view, parent]) if parent >= 0 else float("nan") for view, parent in enumerate(self.tree.parent)
        ]


def _shown(kept: PictureWithDepth) -> PictureWithDepth:
    return replace(kept, image=kept.image.float() / 255)


def _bytes(kept: PictureWithDepth) -> int:
    return kept.image.nbytes + (0 if kept.inverse_depth is None else kept.inverse_depth.nbytes)


def _picture(view: DecodedView) -> PictureWithDepth:
    depth = None if view.inverse_depth is None else view.inverse_depth.cpu()
    return PictureWithDepth(view.image.float().cpu(), depth, view.camera.to("cpu"))


class FileSource(PageSource):
    """An `.lmvic` file; needs neither the originals nor, for cameras, tree and sizes, the weights.

    Args:
        path: the file.
        weights: name or path of the weights; None takes those that the file names.
        device: where they run.
        max_pixels: refuse files with larger views.

    Raises:
        BitstreamError: it is not a file of ours or its header is damaged.
    """

    def __init__(
        self,
        path: Path,
        weights: str | None = None,
        device: str | torch.device = "cpu",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        super().__init__()
        from lmvic_ns.codec.multiview import load_codec
        from lmvic_ns.codec.planning import scene_camera
        from lmvic_ns.report.inspection import byte_split

        self._reader = Reader(path, max_pixels=max_pixels)
        header = self._reader.header
        self.title = path.name
        self.names = [view.name for view in header.views]
        self.cameras = Cameras.cat([scene_camera(header, view) for view in range(len(self.names))])
        self.tree = ReferenceTree.from_parents(header.order, [view.parent for view in header.views])
        self.sizes = list(self._reader.sizes())
        split = byte_split(self._reader)
        self.file_bytes, self.points_bytes = split.total, split.points
        # a file's depth is not known before it is decoded: the cameras' spread is the unit of length then
        self._set_distances(scene_translation_scale([], self.cameras))
        self._codec = None
        try:
            codec = load_codec(weights or header.weights_name, device)
            codec.check_weights(header)
            self._codec = codec
        except WeightsError as error:
            self.trouble = f"Pictures need the weights {header.weights_name!r}: {error}"

    def _load(self, views: list[int]) -> Iterator[tuple[int, PictureWithDepth]]:
        if self._codec is None:
            raise WeightsError(self.trouble or "no weights")
        for view in self._codec.decode(self._reader, views):
            yield view.index, _picture(view)

    def stream(self) -> Iterator[tuple[int, PictureWithDepth]]:
        """Every view once, each decoded once: the branches share their ancestors."""
        if self._codec is None:
            return
        views = self._codec.decode(self._reader, None, problems={})
        while True:
            self._idle.wait()
            with self._lock:  # one view at a time, so that a click waits for one view at most
                view = next(views, None)
                if view is not None and view.index not in self._kept:
                    self._keep(view.index, _picture(view))
            if view is None:
                return
            yield view.index, _picture(view)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class SceneSource(PageSource):
    """A data set that is not coded yet, with the tree that `lmvic encode` would give it (where it does not, `note` says so).

    Args:
        folder: of the data set.
        stereo: where there are no depth files, find depth by plane sweep stereo, as `lmvic encode` does; takes a while.

    Raises:
        SceneError: there is no scene, or it is inconsistent.
    """

    def __init__(self, folder: Path, stereo: bool = False) -> None:
        super().__init__()
        from lmvic_ns.codec.planning import translation_scale
        from lmvic_ns.scene import MultiViewScene
        from lmvic_ns.workflows.encoding import build_tree
        from lmvic_ns.workflows.options import CodingOptions
        from lmvic_ns.workflows.sources import dataset_scene

        self._scene = MultiViewScene.from_dataset(folder)
        if not self._scene.has_depth and self._scene.sparse_points is not None and len(self._scene) > 1:
            if stereo:
                self._scene = dataset_scene(folder, "auto")
            else:
                self.note = (
                    "no references are shown, since there are no depth files: lmvic encode finds depth by stereo first, "
                    "and takes a tree that follows from it; --stereo does the same here"
                )
        self.title = folder.resolve().name
        self.names = list(self._scene.names)
        self.cameras = self._scene.cameras
        self.tree = build_tree(self._scene, CodingOptions())
        self.sizes = [None] * len(self.names)
        has_depth = self._scene.has_depth
        self._set_distances(translation_scale(self._scene) if has_depth else scene_translation_scale([], self.cameras))

    def _load(self, views: list[int]) -> Iterator[tuple[int, PictureWithDepth]]:
        for view in views:
            depth = self._scene.inverse_depth(view) if self._scene.has_depth else None
            yield view, PictureWithDepth(self._scene.image(view), depth, self.cameras[view])


def open_source(
    path: Path, weights: str | None, device: str, max_pixels: int = DEFAULT_MAX_PIXELS, stereo: bool = False
) -> PageSource:
    """A file or a scene folder (or its transforms.json).

    Raises:
        LmvicError: it is neither.
    """
    if not path.exists():
        raise LmvicError(f"{path} does not exist: give an .lmvic file or a folder with transforms.json")
    if path.is_dir() or path.suffix == ".json":
        return SceneSource(path, stereo)
    from lmvic_ns.workflows.encoding import pick_device

    return FileSource(path, weights, pick_device(device), max_pixels)
