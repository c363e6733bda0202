"""What `lmvic view` can open: a coded file (any view by itself) or a scene folder, behind one interface."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.reader import UnitSize
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.drawing.pair import PictureWithDepth
from lmvic_ns.errors import BitstreamError, LmvicError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.tree.ordering import ReferenceTree, pose_distance, scene_translation_scale
from lmvic_ns.viewer.originals import OriginalImages

_KEPT = 512_000_000  # bytes of decoded views that are kept: a step back or forth is to be no decoding
_REFERENCES = 256_000_000  # of what views that refer to them need
MOST_POINTS = 60_000


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
        has_depth: whether any view has depth.
        trouble: why there are no pictures, None if there are.
        note: what else a person should know of what is shown; empty for nothing.
        originals: the photographs that a file was made of, where they are known.
        inputs: files and folders that are read.
    """

    title: str
    names: list[str]
    cameras: Cameras
    tree: ReferenceTree
    sizes: list[UnitSize | None]
    distances: list[float]
    file_bytes: int = 0
    points_bytes: int = 0
    has_depth: bool = False
    trouble: str | None = None
    note: str = ""
    originals: OriginalImages | None = None
    inputs: tuple[Path, ...] = ()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Event()  # nobody waits for `load`: what is done in advance may go on
        self._idle.set()
        self._kept: dict[int, PictureWithDepth] = {}  # images of 8 bits; the one looked at last stands last

    @abstractmethod
    def _load(self, view: int) -> PictureWithDepth: ...

    @property
    def coded(self) -> bool:
        """Whether this is a file, and not a scene that is still to be coded."""
        return self.file_bytes > 0

    def bits(self, view: int) -> float | None:
        """Bits a pixel of a view, None where it is not coded."""
        size = self.sizes[view]
        return None if size is None else 8 * size.total / self.pixels(view)

    def pixels(self, view: int) -> int:
        """Of one view."""
        height, width = self.cameras[view].size
        return height * width

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file: all its bytes over the pixels of all its views."""
        return 8 * self.file_bytes / sum(map(self.pixels, range(len(self.names))))

    def points(self, most: int = MOST_POINTS) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
        """Sparse points in the scene's world and their colours, at most `most` of them; none where there are none.

        Raises:
            LmvicError: they are damaged.
        """
        cloud = self._points()
        if cloud is None or not len(cloud.positions):
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        every = slice(None, None, -(-len(cloud.positions) // most))
        grey = np.full(cloud.positions.shape, 150, np.uint8)
        return cloud.positions[every], (grey if cloud.colours is None else cloud.colours)[every]

    @abstractmethod
    def _points(self) -> SparsePoints | None: ...

    def kept(self, view: int) -> bool:
        """Whether `load` gives a view at once."""
        return view in self._kept

    def load(self, *views: int) -> list[PictureWithDepth]:
        """Some views, decoded now unless they are kept. Threads may call this; they take turns.

        Raises:
            LmvicError: a view cannot be decoded.
        """
        self._idle.clear()
        try:
            with self._lock:
                return [self._kept_or_loaded(view) for view in views]
        finally:
            self._idle.set()

    def prepare(self, view: int) -> PictureWithDepth:
        """A view that may be wanted later: lets every `load` go first.

        Raises:
            LmvicError: it cannot be decoded.
        """
        self._idle.wait()
        with self._lock:
            return self._kept_or_loaded(view)

    def _kept_or_loaded(self, view: int) -> PictureWithDepth:
        found = self._kept.pop(view, None)
        if found is None:
            loaded = self._load(view)
            found = replace(loaded, image=(loaded.image.clamp(0, 1) * 255).round().to(torch.uint8))
        self._kept[view] = found
        while len(self._kept) > 2 and sum(map(_bytes, self._kept.values())) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return replace(found, image=found.image.float() / 255)

    def close(self) -> None:  # noqa: B027
        """Let go of files, where there are any."""

    def _set_distances(self, scale: float) -> None:
        matrix = pose_distance(self.cameras.world_to_camera, translation_scale=scale)
        self.distances = [
            float(matrix[view, parent]) if parent >= 0 else float("nan") for view, parent in enumerate(self.tree.parent)
        ]


def _bytes(kept: PictureWithDepth) -> int:
    return kept.image.nbytes + (0 if kept.inverse_depth is None else kept.inverse_depth.nbytes)


class FileSource(PageSource):
    """An `.lmvic` file; needs neither the originals nor, for cameras, tree and sizes, the weights.

    Args:
        path: the file.
        weights: name or path of the weights; None takes those that the file names.
        device: where they run.
        max_pixels: refuse files with larger views.
        scene: folder of the dataset that the file was made of, to compare with; None without.

    Raises:
        BitstreamError: it is not a file of ours or its header is damaged.
        SceneError: the scene is not the file's.
    """

    def __init__(
        self,
        path: Path,
        weights: str | None = None,
        device: str | torch.device = "cpu",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        scene: Path | None = None,
    ) -> None:
        super().__init__()
        from lmvic_ns.codec.file import LmvicFile
        from lmvic_ns.report.inspection import byte_split
        from lmvic_ns.sparse_points.sections import FilePoints

        self._file = LmvicFile(path, weights, device, cache_bytes=_REFERENCES, max_pixels=max_pixels)
        reader = self._file.reader
        header = reader.header
        self.title = path.name
        self.names, self.cameras = self._file.names, self._file.cameras
        self.tree = ReferenceTree.from_parents(header.order, [view.parent for view in header.views])
        self.sizes = list(reader.sizes())
        self.has_depth = any(size is not None and size.depth > 0 for size in self.sizes)
        split = byte_split(reader)
        self.file_bytes, self.points_bytes = split.total, split.points
        # a file's depth is not known before it is decoded: the cameras' spread is the unit of length then
        self._set_distances(scene_translation_scale([], self.cameras))
        self._found: FilePoints | None = None
        try:
            self._found = FilePoints(reader)
        except BitstreamError as error:
            self.note = f"the sparse points are lost: {error}"
        self.originals = None if scene is None else OriginalImages(scene, self.names, self.cameras)
        self.inputs = (path,) if scene is None else (path, scene)
        try:
            self._file.load_weights()
        except WeightsError as error:
            self.trouble = f"Pictures need the weights {header.weights_name!r}: {error}"

    def _load(self, view: int) -> PictureWithDepth:
        if self.trouble is not None:
            raise WeightsError(self.trouble)
        state = self._file.state(view)
        depth = state.inverse_depth[0].cpu() * self._file.inverse_depth_scale if self._file.has_depth(view) else None
        image, camera = state.image[0].float().cpu(), self.cameras[view]
        if self._found is not None:
            self._found.add_view(DecodedView(view, self.names[view], image, None, camera))
        return PictureWithDepth(image, depth, camera)

    def _points(self) -> SparsePoints | None:
        """Compact points take their colours from the pictures: grey where those are not decoded yet."""
        return None if self._found is None else self._found.so_far()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
        points = self._scene.sparse_points is not None or self._scene.cloud is not None
        if not self._scene.has_depth and points and len(self._scene) > 1:
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
        self.has_depth = self._scene.has_depth
        self.inputs = (folder,)
        self._set_distances(translation_scale(self._scene) if self.has_depth else scene_translation_scale([], self.cameras))

    def _load(self, view: int) -> PictureWithDepth:
        depth = self._scene.inverse_depth(view) if self.has_depth else None
        return PictureWithDepth(self._scene.image(view), depth, self.cameras[view])

    def _points(self) -> SparsePoints | None:
        return self._scene.points()


def open_source(
    path: Path,
    weights: str | None,
    device: str,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    stereo: bool = False,
    scene: Path | None = None,
) -> PageSource:
    """A file (with the scene that it was made of, where that is given) or a scene folder (or its transforms.json).

    Raises:
        LmvicError: it is neither.
    """
    if not path.exists():
        raise LmvicError(f"{path} does not exist: give an .lmvic file or a folder with transforms.json")
    if path.is_dir() or path.suffix == ".json":
        if scene is not None:
            raise LmvicError(f"--scene goes with an .lmvic file, to compare with; {path} is a scene itself")
        return SceneSource(path, stereo)
    from lmvic_ns.workflows.encoding import pick_device

    return FileSource(path, weights, pick_device(device), max_pixels, scene)
