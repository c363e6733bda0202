"""An `.lmvic` file as a sequence of views: `lmvic_ns.open("scene.lmvic")`."""

from __future__ import annotations

import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.sources import Source
from lmvic_ns.capture.photographs import PhotographData
from lmvic_ns.capture.sections import FileCapture
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.planning import file_cameras, find_views, scene_cameras
from lmvic_ns.codec.state import ReferenceState
from lmvic_ns.codec.weights import find_weights
from lmvic_ns.errors import LmvicError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.resampling import upsample_inverse_depth

if TYPE_CHECKING:
    import numpy as np

DEFAULT_CACHE = 512_000_000


def codec_of_file(reader: Reader, weights: str | Path | None = None, device: torch.device | str = "cpu") -> MultiViewCodec:
    """The codec that a file needs.

    Args:
        reader: the file.
        weights: name or path; None takes those that the file names, wherever they are (`find_weights`).
        device: where the networks run.

    Raises:
        WeightsError: they are not installed, or are others than the file's.
    """
    header = reader.header
    found = find_weights(header.weights_hash) if weights is None else weights
    if found is None:
        raise WeightsError(
            f"{reader.path}: needs the weights {header.weights_name!r} (SHA-256 begins {header.weights_hash.hex()}), which "
            "are neither here nor in a folder of LMVIC_WEIGHTS: give their .safetensors file with --weights"
        )
    codec = load_codec(found, device)
    codec.check_weights(header)
    return codec


class FileView:
    """One view of an open file. Nothing is decoded before it is asked for.

    Attributes:
        index: its number in the file.
        name: its name.
        camera: of this view alone, at the picture's size (OpenCV axes, world units of the dataset).
    """

    def __init__(self, file: LmvicFile, index: int) -> None:
        self._file, self.index = file, index
        self.name = file.names[index]
        self.camera: Cameras = file.cameras[index]

    @property
    def tensor(self) -> Float[Tensor, "3 h w"]:
        """RGB, 0..1, on the CPU.

        Raises:
            BitstreamError: the view, or one that it refers to, is damaged.
        """
        return self._file.state(self.index).image[0].float().cpu()

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB in 8 bits, as `lmvic decode` writes it.

        Raises:
            BitstreamError: see `tensor`.
        """
        return to_8_bit(self.tensor)

    @property
    def inverse_depth(self) -> Float[Tensor, "h w"] | None:
        """1 / z in scene units at the picture's size, 0 for infinity; None if the file holds no depth of this view.

        Raises:
            BitstreamError: see `tensor`.
        """
        if not self._file.has_depth(self.index):
            return None
        coded = self._file.state(self.index).inverse_depth.double().cpu()
        height, width = int(self.camera.height[0]), int(self.camera.width[0])
        return (upsample_inverse_depth(coded, height, width)[0] * self._file.inverse_depth_scale).float()

    @property
    def mask(self) -> UInt8[np.ndarray, "h w"] | None:
        """The view's mask at the picture's size, 0 is masked out; None without.

        Raises:
            BitstreamError: it is damaged, or masks are lost.
        """
        self._file.capture.check("MASK")
        return self._file.capture.mask(self.index)

    @property
    def metadata(self) -> dict[str, Any]:
        """Keys of the view's frame in transforms.json that the codec does not use, such as timestamps.

        Raises:
            BitstreamError: they are lost.
        """
        self._file.capture.check("META")
        records = self._file.capture.records
        return dict(records.frames[self.index]) if records is not None and records.frames else {}

    @property
    def photograph(self) -> PhotographData:
        """EXIF, XMP and colour profile of the captured file.

        Raises:
            BitstreamError: they are lost.
        """
        self._file.capture.check("PHOT")
        return self._file.capture.photograph(self.index)

    @property
    def file(self) -> LmvicFile:
        """The file that the view is of."""
        return self._file

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileView) and other.file is self._file and other.index == self.index

    def __hash__(self) -> int:
        return hash((id(self._file), self.index))

    def __repr__(self) -> str:
        return f"FileView({self.index}, {self.name!r}, {int(self.camera.width[0])}x{int(self.camera.height[0])})"


class LmvicFile(Sequence[FileView]):
    """The views of an `.lmvic` file by number or name. Threads may share it; `with` closes it.

    Args:
        source: a path, a binary file that can be sought in, or an address that fsspec can open. Of an address only the
            header, the index, and the units of the views that are asked for and of their ancestors are read.
        weights: name or path; by default those that the file names.
        device: where the networks run.
        cache_bytes: bytes of decoded views that are kept, so that neighbours need not be decoded from the root again.
        max_pixels: refuse files with larger views.

    Raises:
        BitstreamError: it cannot be read, or is no file of ours.
    """

    def __init__(
        self,
        source: Source,
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        *,
        cache_bytes: int = DEFAULT_CACHE,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._reader = Reader(source, max_pixels=max_pixels)
        self._header = self._reader.header
        self._weights, self._device, self._cache_bytes = weights, device, cache_bytes
        self.names = [view.name for view in self._header.views]
        self.cameras = scene_cameras(self._header)
        self._codec: MultiViewCodec | None = None
        self._capture: FileCapture | None = None
        self._lock = threading.RLock()
        self._states: OrderedDict[int, ReferenceState] = OrderedDict()
        self._depth: dict[int, bool] = {}
        self._closed = False

    @property
    def reader(self) -> Reader:
        """The open file."""
        return self._reader

    @property
    def inverse_depth_scale(self) -> float:
        """What 1 of coded inverse depth is, in 1 / scene units."""
        return self._header.inverse_depth_scale

    @property
    def capture(self) -> FileCapture:
        """What else the file holds of its capture: masks, EXIF, names, lenses, other keys."""
        with self._lock:
            self._check_open()
            if self._capture is None:
                self._capture = FileCapture(self._reader)
            return self._capture

    def references(self, view: int | str) -> tuple[int, ...]:
        """Views that are decoded before this one, the root first."""
        return self._reader.ancestors(self._index(view))

    def has_depth(self, view: int | str) -> bool:
        """Whether the file holds depth of a view.

        Raises:
            BitstreamError: its unit is damaged.
        """
        number = self._index(view)
        with self._lock:
            self._check_open()
            if number not in self._depth:
                self._depth[number] = bool(self._reader.unit(number).depth)
            return self._depth[number]

    def load_weights(self) -> None:
        """Load the networks now; else the first view that is decoded does it.

        Raises:
            WeightsError: they are not installed, or are others than the file's.
        """
        with self._lock:
            self._check_open()
            self._loaded_codec()

    def _loaded_codec(self) -> MultiViewCodec:
        if self._codec is None:
            self._codec = codec_of_file(self._reader, self._weights, self._device)
            self._file_cameras = file_cameras(self._header)
        return self._codec

    def state(self, view: int) -> ReferenceState:
        """A decoded view as later ones refer to it (the image in 0..1, inverse depth normalised and at a quarter of the size).

        Raises:
            BitstreamError: it, or one of its ancestors, is damaged.
            WeightsError: the weights are missing.
        """
        with self._lock:
            self._check_open()
            if view in self._states:
                self._states.move_to_end(view)
                return self._states[view]
            codec = self._loaded_codec()
            state = None
            for number in (*self._reader.ancestors(view), view):
                if number in self._states:
                    self._states.move_to_end(number)
                    state = self._states[number]
                    continue
                unit = self._reader.unit(number)
                self._depth[number] = bool(unit.depth)
                state = codec.decode_unit(self._header, self._file_cameras, number, unit.depth, unit.image, state)
                self._states[number] = state
            self._drop_oldest()
            assert state is not None
            return state

    def _drop_oldest(self) -> None:
        while len(self._states) > 1 and sum(map(_bytes, self._states.values())) > self._cache_bytes:
            self._states.popitem(last=False)

    def _index(self, view: int | str) -> int:
        if isinstance(view, str):
            return find_views(self._header, [view])[0]
        number = operator.index(view)  # also numbers of numpy; a float is refused
        if not -len(self) <= number < len(self):
            raise IndexError(f"view {number} of {len(self)}")
        return number % len(self)

    def _check_open(self) -> None:
        if self._closed:
            raise LmvicError(f"{self._reader.path}: is closed")

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, view: int | str) -> FileView: ...
    @overload
    def __getitem__(self, view: slice) -> list[FileView]: ...

    def __getitem__(self, view: int | str | slice) -> FileView | list[FileView]:
        """A view by number or name, or several by a slice.

        Raises:
            IndexError: there is no such number.
            LmvicError: there is no such name.
            TypeError: it is no whole number, name or slice.
        """
        if isinstance(view, slice):
            return [FileView(self, number) for number in range(len(self))[view]]
        return FileView(self, self._index(view))

    def __contains__(self, view: object) -> bool:
        """Whether there is a view of this name, or whether a view is one of this file's."""
        if isinstance(view, FileView):
            return view.file is self
        return view in self.names

    def __iter__(self) -> Iterator[FileView]:
        return (FileView(self, number) for number in range(len(self)))

    def close(self) -> None:
        """Let go of the file and of what is decoded."""
        with self._lock:
            self._closed = True
            self._states.clear()
            self._reader.close()

    def __enter__(self) -> LmvicFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LmvicFile({str(self._reader.path)!r}, {len(self)} views)"


class LmvicDataset(Dataset[dict[str, Any]]):
    """The views of a file for `torch.utils.data.DataLoader`; each worker process opens the file by itself.

    A sample is a dictionary: `image` (float32, [3, h, w], 0..1), `name`, `index`, `intrinsics` ([3, 3], float64),
    `world_to_camera` ([4, 4], float64), and where the file has them `inverse_depth` ([h, w]) and `mask` (uint8, [h, w]).

    Args:
        source: a path or an address.
        options: as of `LmvicFile`.
    """

    def __init__(self, source: str | Path, **options: Any) -> None:
        self._source, self._options = source, options
        self._file: LmvicFile | None = None
        self._process = 0
        with LmvicFile(source, **options) as file:
            self.names = file.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One view.

        Raises:
            BitstreamError: it is damaged.
        """
        if self._file is None or self._process != os.getpid():  # a forked worker would share the place in the file
            self._file, self._process = LmvicFile(self._source, **self._options), os.getpid()
        view = self._file[index]
        sample: dict[str, Any] = {
            "image": view.tensor,
            "name": view.name,
            "index": view.index,
            "intrinsics": view.camera.intrinsics[0],
            "world_to_camera": view.camera.world_to_camera[0],
        }
        depth, mask = view.inverse_depth, view.mask
        if depth is not None:
            sample["inverse_depth"] = depth
        if mask is not None:
            sample["mask"] = torch.from_numpy(mask.copy())
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file does not travel


def _bytes(state: ReferenceState) -> int:
    return state.image.nbytes + state.inverse_depth.nbytes
