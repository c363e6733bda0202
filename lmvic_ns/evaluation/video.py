"""Video codecs over the views of a scene: each view a frame, in the order given (photographs are coded alone).

RGB becomes Y'CbCr by BT.601, limited range (FFmpeg's own default for untagged video), at the depth and subsampling that the
codec has: x265 8 bit 4:4:4, SVT-AV1 and VVenC 10 bit 4:2:0 (their encoders have no 4:4:4). The bytes are those of the raw
elementary stream (IVF for AV1, which has no raw form that tells frames apart).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmvic_ns.evaluation.image_set import ImageSet
from lmvic_ns.evaluation.peers import Encoded, MissingCodecError, NotApplicableError, Picture

COLORSPACE, COLOR_RANGE = "ITU601", "MPEG"


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingCodecError("video codecs need PyAV: pip install av") from error
    return av


@dataclass(frozen=True)
class _Stream:
    """How frames become one file."""

    encoder: str
    container: str
    pixel_format: str
    options: dict[str, str]
    suffix: str


class _PyAvCodec(ABC):
    name = ""
    setting_name = "qp"
    settings: Sequence[float] = ()
    uses_views_together = True

    @abstractmethod
    def stream(self, setting: float) -> _Stream:
        """Encoder and options at a setting."""

    def version(self) -> str:
        """PyAV's and FFmpeg's versions with the options (FFmpeg's bindings do not tell the encoder's own version)."""
        av = _av()
        stream = self.stream(0)
        # the setting is no part of the version
        options = str(sorted(stream.options.items())).replace("qp=0:", "").replace("('crf', '0'), ", "")
        if stream.encoder not in av.codecs_available:
            raise MissingCodecError(f"PyAV {av.__version__} was built without {stream.encoder}: install one of PyPI's wheels")
        return f"PyAV {av.__version__} {stream.encoder} {stream.pixel_format} {options} BT.601 limited"

    def encode(self, images: ImageSet, order: Sequence[int], setting: float, folder: Path) -> Encoded:
        """Scene: one stream with the views in `order`. Photographs: a stream each."""
        stream = self.stream(setting)
        if images.kind == "photos":
            if self.uses_views_together:
                raise NotApplicableError(f"{self.name} predicts between views: photographs are not for it")
            files = tuple(folder / f"{index:04d}{stream.suffix}" for index in range(len(images)))
            for picture, path in zip(images.pictures, files, strict=True):
                encode_frames([picture], stream, path)
            return Encoded(files, tuple(path.stat().st_size for path in files))
        if not images.one_size:
            raise NotApplicableError(f"{self.name} needs views of one size, {images.name} has several")
        path = folder / f"views{stream.suffix}"
        frame_bytes = encode_frames([images.pictures[i] for i in order], stream, path)
        frame_bytes[0] += path.stat().st_size - sum(frame_bytes)
        view_bytes = [0] * len(order)
        for view, size in zip(order, frame_bytes, strict=True):
            view_bytes[view] = size
        return Encoded((path,), tuple(view_bytes))

    def decode(self, encoded: Encoded, order: Sequence[int]) -> list[Picture]:
        """All frames, back in file order."""
        frames = [frame for path in encoded.files for frame in decode_frames(path)]
        if len(encoded.files) > 1:
            return frames
        if len(frames) != len(order):
            raise NotApplicableError(f"{self.name}: {len(order)} views went in, {len(frames)} frames came back")
        by_view = dict(zip(order, frames, strict=True))
        return [by_view[view] for view in range(len(order))]


def encode_frames(pictures: Sequence[Picture], stream: _Stream, path: Path) -> list[int]:
    """Encode frames into a file; returns the size of each frame's packet, in presentation order."""
    av = _av()
    av.logging.set_level(av.logging.PANIC)
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints past FFmpeg's log
    sizes: dict[int, int] = {}
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", format=stream.container) as container:
        output = container.add_stream(stream.encoder, rate=25)
        output.width, output.height, output.pix_fmt = width, height, stream.pixel_format
        output.options = dict(stream.options)

        def keep(packets: Sequence[Any]) -> None:
            for packet in packets:
                sizes[packet.pts] = sizes.get(packet.pts, 0) + packet.size
                container.mux(packet)

        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            planar = frame.reformat(format=stream.pixel_format, dst_colorspace=COLORSPACE, dst_color_range=COLOR_RANGE)
            keep(output.encode(planar))
        keep(output.encode())
    return [sizes[pts] for pts in sorted(sizes)]


def decode_frames(path: Path) -> list[Picture]:
    """All frames of a file as RGB."""
    av = _av()
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", src_colorspace=COLORSPACE, src_color_range=COLOR_RANGE).to_ndarray()
            for frame in container.decode(video=0)
        ]


class X265(_PyAvCodec):
    """x265, preset slow, tune psnr, 4:4:4 8 bit, constant QP.

    Low delay P: no B frames, one key frame, no scene cut detection, so that each view is predicted from those before it,
    whatever it shows (as HM's lowdelay_P). Intra: every frame a key frame. As run by hand, x265 writes an SEI message of some
    2.3 kB with its own options into every key frame; `info` False leaves it out, which at low rates is several per cent.
    """

    settings: Sequence[float] = (22, 27, 32, 37, 42)

    def __init__(self, *, intra: bool, info: bool = True) -> None:
        self.name = ("x265-intra" if intra else "x265-ldp") + ("" if info else "-noinfo")
        self._info = int(info)
        self.uses_views_together = not intra
        self._structure = "keyint=1" if intra else "bframes=0:keyint=-1:scenecut=0"

    def stream(self, setting: float) -> _Stream:
        """The raw HEVC stream; two threads at most, one frame at a time (frame threads change results)."""
        parameters = f"qp={int(setting)}:{self._structure}:pools=1:frame-threads=1:info={self._info}:log-level=none"
        options = {"preset": "slow", "tune": "psnr", "x265-params": parameters}
        return _Stream("libx265", "hevc", "yuv444p", options, ".hevc")


class SvtAv1(_PyAvCodec):
    """SVT-AV1, preset 4, low delay, one key frame, constant quality; 4:2:0 10 bit, the only subsampling that it has."""

    name, setting_name = "svtav1", "crf"
    settings: Sequence[float] = (20, 30, 40, 50, 60)

    def stream(self, setting: float) -> _Stream:
        """Low delay prediction structure (1), tune psnr (1)."""
        parameters = "tune=1:pred-struct=1:keyint=-1:scd=0:lp=1"
        options = {"preset": "4", "crf": str(int(setting)), "svtav1-params": parameters}
        return _Stream("libsvtav1", "ivf", "yuv420p10le", options, ".ivf")


class VVenC:
    """VVenC's `vvencapp` from PATH (no Python package has it), preset medium, random access; decoded by FFmpeg.

    Views of an odd size are padded for it and cropped afterwards.
    """

    name, setting_name = "vvenc", "qp"
    settings: Sequence[float] = (22, 27, 32, 37, 42)
    uses_views_together = True

    def __init__(self) -> None:
        self._sizes: dict[Path, tuple[int, int]] = {}  # of the pictures, by coded file: height, width

    def _program(self) -> str:
        program = shutil.which("vvencapp")
        if program is None:
            raise MissingCodecError("vvencapp is not on PATH: build it from Fraunhofer's vvenc")
        return program

    def version(self) -> str:
        """What the program says of itself."""
        answer = subprocess.run([self._program(), "--version"], capture_output=True, text=True, check=False)
        return f"{(answer.stdout or answer.stderr).strip().splitlines()[0]} medium 4:2:0 10 bit BT.601 limited"

    def encode(self, images: ImageSet, order: Sequence[int], setting: float, folder: Path) -> Encoded:
        """Raw 10-bit 4:2:0 frames through a file; only the scene as a whole has a size (packets come reordered)."""
        if images.kind == "photos" or not images.one_size:
            raise NotApplicableError(f"vvenc takes views of one size as a video; {images.name} is not that")
        av = _av()
        raw, path = folder / "views.yuv", folder / "views.266"
        with raw.open("wb") as out:
            for view in order:
                padded = padded_to_even(images.pictures[view])
                frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
                planar = frame.reformat(format="yuv420p10le", dst_colorspace=COLORSPACE, dst_color_range=COLOR_RANGE)
                out.write(planar.to_ndarray().tobytes())
        size = padded.shape[1], padded.shape[0]
        command = [self._program(), "-i", str(raw), "-s", f"{size[0]}x{size[1]}", "-c", "yuv420_10", "-r", "25"]
        command += ["--preset", "medium", "--qp", str(int(setting)), "--qpa", "0", "--threads", "1", "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        finally:
            raw.unlink(missing_ok=True)
        height, width = images.pictures[0].shape[:2]
        self._sizes[path] = height, width
        share, rest = divmod(path.stat().st_size, len(order))
        return Encoded((path,), tuple(share + (rest if index == 0 else 0) for index in range(len(order))))

    def decode(self, encoded: Encoded, order: Sequence[int]) -> list[Picture]:
        """FFmpeg's own VVC decoder."""
        height, width = self._sizes[encoded.files[0]]  # a file's own cropping window would say so; `vvencapp` writes none
        frames = [frame[:height, :width] for frame in decode_frames(encoded.files[0])]
        by_view = dict(zip(order, frames, strict=True))
        return [by_view[view] for view in range(len(order))]


def padded_to_even(picture: Picture) -> Picture:
    """Its last row and column once more where 4:2:0 needs an even size; the bits for them count like all others."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
