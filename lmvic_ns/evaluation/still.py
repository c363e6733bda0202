"""Picture codecs: each picture is a file of its own. 4:4:4 wherever the format has it (WebP has not)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmvic_ns._util.picture_files import LONGEST_SIDE
from lmvic_ns.evaluation.image_set import ImageSet, read_picture
from lmvic_ns.evaluation.peers import Encoded, MissingCodecError, NotApplicableError, Picture


class StillCodec(ABC):
    """Base: a file a picture; subclasses write and read one."""

    name = ""
    suffix = ""
    setting_name = "quality"
    settings: Sequence[float] = ()
    uses_views_together = False

    @abstractmethod
    def version(self) -> str:
        """Version of the library, with the options that change results."""

    @abstractmethod
    def write(self, picture: Picture, setting: float, path: Path) -> None:
        """Encode one picture into a file."""

    def read(self, path: Path) -> Picture:
        """Decode one file."""
        return read_picture(path)

    def encode(self, images: ImageSet, order: Sequence[int], setting: float, folder: Path) -> Encoded:
        """One file for each picture; the order does not matter."""
        files = tuple(folder / f"{index:04d}{self.suffix}" for index in range(len(images)))
        for picture in images.pictures:
            longest = LONGEST_SIDE.get(self.suffix[1:], max(picture.shape))
            if max(picture.shape) > longest:
                raise NotApplicableError(
                    f"{self.name} holds at most {longest} pixels in each direction, {images.name} has more"
                )
        for picture, path in zip(images.pictures, files, strict=True):
            self.write(picture, setting, path)
        return Encoded(files, tuple(path.stat().st_size for path in files))

    def decode(self, encoded: Encoded, order: Sequence[int]) -> list[Picture]:
        """Read the files back."""
        return [self.read(path) for path in encoded.files]


class _PillowCodec(StillCodec):
    feature = ""
    pillow_format = ""
    described = ""

    @abstractmethod
    def options(self, setting: float) -> dict[str, Any]:
        """Arguments of `PIL.Image.save`."""

    def version(self) -> str:
        import PIL
        from PIL import features

        if not features.check(self.feature):
            raise MissingCodecError(f"Pillow {PIL.__version__} was built without {self.feature}: install one of PyPI's wheels")
        return f"Pillow {PIL.__version__} {self.feature} {features.version(self.feature)} {self.described}"

    def write(self, picture: Picture, setting: float, path: Path) -> None:
        from PIL import Image

        Image.fromarray(picture).save(path, self.pillow_format, **self.options(setting))


class Jpeg(_PillowCodec):
    """Baseline JPEG, 4:4:4, optimized Huffman tables (libjpeg-turbo through Pillow)."""

    name, suffix, feature, pillow_format = "jpeg", ".jpg", "jpg", "JPEG"
    described = "4:4:4 optimize"
    settings = (10, 25, 50, 75, 90)

    def options(self, setting: float) -> dict[str, Any]:
        """4:4:4 and optimized."""
        return {"quality": int(setting), "subsampling": 0, "optimize": True}


class WebP(_PillowCodec):
    """Lossy WebP, method 6 (libwebp through Pillow); the format is always 4:2:0."""

    name, suffix, feature, pillow_format = "webp", ".webp", "webp", "WEBP"
    described = "method 6, 4:2:0"
    settings = (5, 25, 50, 75, 90)

    def options(self, setting: float) -> dict[str, Any]:
        """Slowest method."""
        return {"quality": int(setting), "method": 6}


class Avif(_PillowCodec):
    """AVIF, 4:4:4 (libavif with libaom through Pillow), speed 6, one thread."""

    name, suffix, feature, pillow_format = "avif", ".avif", "avif", "AVIF"
    described = "4:4:4 speed 6 aom"
    settings = (15, 30, 45, 60, 75)

    def options(self, setting: float) -> dict[str, Any]:
        """4:4:4, libaom, one thread (shared machines)."""
        return {"quality": int(setting), "subsampling": "4:4:4", "speed": 6, "codec": "aom", "max_threads": 1}


class JpegXl(StillCodec):
    """JPEG XL, lossy VarDCT in XYB, effort 7 (libjxl through imagecodecs)."""

    name, suffix, setting_name = "jxl", ".jxl", "distance"
    settings = (10.0, 5.0, 2.5, 1.2, 0.6)

    def _library(self) -> Any:
        try:
            import imagecodecs
        except ImportError as error:
            raise MissingCodecError("JPEG XL needs imagecodecs: pip install 'lmvic-ns[eval]'") from error
        if not imagecodecs.JPEGXL.available:
            raise MissingCodecError("this build of imagecodecs has no JPEG XL: install one of PyPI's wheels")
        return imagecodecs

    def version(self) -> str:
        """Version of libjxl and of its binding."""
        library = self._library()
        return f"imagecodecs {library.__version__} {library.jpegxl_version()} effort 7"

    def write(self, picture: Picture, setting: float, path: Path) -> None:
        """Distance is Butteraugli's: 1 is visually lossless."""
        path.write_bytes(self._library().jpegxl_encode(picture, distance=float(setting), effort=7, numthreads=1))

    def read(self, path: Path) -> Picture:
        """8-bit RGB."""
        return np.asarray(self._library().jpegxl_decode(path.read_bytes(), numthreads=1))
