"""`ns-train METHOD lmvic-data --data scene.lmvic`: train straight from a coded file.

nerfstudio's own parser reads a transforms.json that is made of the file. The pictures that it names are paths which are
decoded when a program opens them: `os.fspath` of such a path makes the file.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from lmvic_ns.errors import SceneError
from lmvic_ns.splat.dataparser import NerfstudioWithoutOpen3d
from lmvic_ns.workflows.file_dataset import DEFAULT_CACHE, FileDataset

_datasets: dict[tuple[Any, ...], FileDataset] = {}
_lock = threading.Lock()


def file_dataset(source: str, weights: str | None, device: str, cache_bytes: int, folder: Path | None = None) -> FileDataset:
    """The dataset of a file; one for each process, however many splits and paths ask for it.

    Args:
        source, weights, device, cache_bytes: see `FileDataset`.
        folder: of another process's dataset, for one that has none yet.
    """
    key = (os.getpid(), source, weights, device, cache_bytes)
    with _lock:
        if key not in _datasets:
            _datasets[key] = FileDataset(source, weights, device, cache_bytes, folder)
        return _datasets[key]


class FileViewPath(type(Path())):  # type: ignore[misc]
    """A path of a picture, mask or depth map that is decoded when it is opened; a plain path in all else.

    Programs open files by `os.fspath`, which is where the file is made. Data loaders in other processes get a path that
    opens the coded file by itself and makes files in the same folder: they may be ended at any time, and leave nothing.
    """

    _origin: tuple[str, str | None, str, int, Path] | None = None
    _name = ""

    @classmethod
    def of(cls, dataset: FileDataset, origin: tuple[str, str | None, str, int], name: str) -> FileViewPath:
        """The path of one file of a dataset."""
        return cls._in(dataset.folder, origin, name)

    @classmethod
    def _in(cls, folder: Path, origin: tuple[str, str | None, str, int], name: str) -> FileViewPath:
        path = cls(folder / name)
        path._origin, path._name = (*origin, folder), name
        return path

    def __fspath__(self) -> str:
        if self._origin is not None and not os.path.exists(str(self)):  # a process that made it may be another
            return str(file_dataset(*self._origin).make(self._name))
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            return Path, (str(self),)
        return _path_again, (self._origin, self._name)


def _path_again(origin: tuple[str, str | None, str, int, Path], name: str) -> FileViewPath:
    return FileViewPath._in(origin[4], origin[:4], name)


@dataclass
class LmvicDataParserConfig(NerfstudioDataParserConfig):
    """A coded file (.lmvic): pictures, poses, masks, depth and points come out of it while the data manager asks for them."""

    _target: type = field(default_factory=lambda: LmvicDataParser)
    """target class to instantiate"""
    data: Path = Path("scene.lmvic")
    """The .lmvic file."""
    downscale_factor: int | None = 1
    """Pictures are those of the file; make them smaller with the data manager's camera-res-scale-factor."""
    load_3D_points: bool = True  # noqa: N815
    """Take the file's sparse points as seeds; their colours come from the pictures, so all of them are decoded at the start."""
    weights: str | None = None
    """Weights of the codec, a name or a .safetensors file; by default those that the file names."""
    decode_device: str = "cpu"
    """Where the networks decode: cpu or cuda."""
    cache_gigabytes: float = DEFAULT_CACHE / 1e9
    """Decoded pictures that are kept on the disk, in a folder of the system's for temporary files."""


class LmvicDataParser(NerfstudioWithoutOpen3d):
    """See `LmvicDataParserConfig`.

    Attributes:
        folder: of the dataset that is made of the file.
    """

    config: LmvicDataParserConfig
    folder: Path

    def __init__(self, config: LmvicDataParserConfig) -> None:
        super().__init__(config=config)
        self._checked = True  # the dataset is made by us
        self._written: set[bool] = set()

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        source, points = Path(self.config.data), self.config.load_3D_points
        if self.config.downscale_factor not in (None, 1):
            raise SceneError("lmvic-data has pictures of one size: use --pipeline.datamanager.camera-res-scale-factor")
        origin = (
            str(source.absolute()),
            self.config.weights,
            self.config.decode_device,
            int(self.config.cache_gigabytes * 1e9),
        )
        dataset = file_dataset(*origin)
        if points not in self._written:
            self._written.add(points)
            dataset.write(points)
        self.folder = dataset.folder
        self.config.data, self.config.downscale_factor = dataset.folder, 1
        try:
            outputs = super()._generate_dataparser_outputs(split)
        finally:
            self.config.data = source

        def lazy(path: Path) -> Path:
            return FileViewPath.of(dataset, origin, path.relative_to(dataset.folder).as_posix())

        outputs.image_filenames = [lazy(path) for path in outputs.image_filenames]
        if outputs.mask_filenames is not None:
            outputs.mask_filenames = [lazy(path) for path in outputs.mask_filenames]
        if outputs.metadata.get("depth_filenames"):
            outputs.metadata["depth_filenames"] = [lazy(path) for path in outputs.metadata["depth_filenames"]]
        return outputs


lmvic_data = DataParserSpecification(config=LmvicDataParserConfig(), description="A coded file (.lmvic): `--data scene.lmvic`.")
