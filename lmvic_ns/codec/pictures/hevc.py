"""HEVC P pictures inside a view's image part: a block codec that predicts from the warped reference and from the reference.

The networks predict a whole view from its warped reference; HEVC decides for each block whether to predict at all, from which
of two pictures (the reference warped by the view's depth, or as it is), and moves blocks by vectors of a quarter of a pixel,
which mends what depth leaves. So it needs fewer bits where a reference shows a view in parts. x265 codes and FFmpeg decodes,
both by PyAV. The file holds the slice alone; what comes before it is made from the decoded reference
(`lmvic_ns.codec.pictures.hevc_syntax`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lmvic_ns.codec.pictures.hevc_syntax import BLOCK, START, reference_pictures
from lmvic_ns.errors import BitstreamError

MOST_PIXELS = 40_000_000
_LEAST_SIDE = 64  # a coding tree block of x265
_TRAILING = (0, 1)  # NAL unit types of ordinary pictures: TRAIL_N, TRAIL_R
_LOWEST_QP, _HIGHEST_QP = 1, 51
_REFERENCE_QP = 10  # of the references inside the encoder: near what the decoder has exactly
_FIXED = (
    "bframes=0:keyint=-1:min-keyint=1000:scenecut=0:rc-lookahead=0:aq-mode=0:cutree=0:ipratio=1:temporal-mvp=0:weightp=0"
    ":ctu=64:min-cu-size=8:max-tu-size=32:tu-intra-depth=1:tu-inter-depth=1:amp=0:sao=1:strong-intra-smoothing=1:signhide=1"
    ":tskip=0:constrained-intra=0:log2-max-poc-lsb=8:opt-qp-pps=0:opt-ref-list-length-pps=0:repeat-headers=1:info=0"
    ":rd=6:rdoq-level=2:pools=none:wpp=0:frame-threads=1:log-level=none"
)
"""x265's options: what the slice's syntax depends on, one thread, nothing that looks ahead, decisions by rate and distortion
(`rd=6` costs 2.5 % less than the preset's 4, for 40 % more time)."""
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True)
class HevcSearch:
    """How hard the encoder works on HEVC pictures.

    Attributes:
        preset: x265's, from `ultrafast` to `placebo`.
        neighbours: whether quantizers one and two beside the usual one are tried.
        ancestors: how many of the views above its reference a view may refer to as well.
    """

    preset: str = "slow"
    neighbours: bool = False
    ancestors: int = 2


@dataclass(frozen=True)
class HevcPicture:
    """A coded picture.

    Attributes:
        data: NAL unit of the slice, without a start code.
        image: what a decoder gets, 0..1.
        cost: lambda times the mean squared error, plus bits per pixel.
    """

    data: bytes
    image: Float[Tensor, "1 3 h w"]
    cost: float


@cache
def _pyav() -> Any | None:
    try:
        import av
    except ImportError:
        return None
    av.logging.set_level(av.logging.PANIC)
    return av


@cache
def hevc_available() -> bool:
    """Whether this machine can code HEVC pictures: PyAV is installed and has x265."""
    av = _pyav()
    return av is not None and {"libx265", "hevc"} <= set(av.codecs_available)


def to_samples(image: Float[Tensor, "1 3 h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "3 H W"]:
    """Y'CbCr of 8 bits, 4:4:4, full range (BT.601, as in JPEG), on a canvas of `size` padded to multiples of 32.

    A picture that is larger is cut, a smaller one repeats its last row and column.
    """
    high, wide = (n + -n % BLOCK for n in size)
    picture = image.detach().float().cpu()[..., :high, :wide]
    padding = (0, wide - picture.shape[-1], 0, high - picture.shape[-2])
    picture = F.pad(picture, padding, mode="replicate")[0]
    samples = torch.einsum("ij,jhw->ihw", torch.tensor(_TO_YCBCR), picture) * 255
    samples[1:] += 128
    return samples.round().clamp(0, 255).byte().numpy()


def from_samples(samples: UInt8[np.ndarray, "3 H W"], size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """The picture, 0..1, of samples as `to_samples` makes them."""
    planes = torch.from_numpy(np.ascontiguousarray(samples[:, : size[0], : size[1]])).float()
    planes[1:] -= 128
    return (torch.einsum("ij,jhw->ihw", torch.tensor(_TO_RGB), planes) / 255).clamp(0, 1)[None]


def read_hevc_picture(
    data: bytes, references: Sequence[UInt8[np.ndarray, "3 H W"]], size: tuple[int, int], name: str
) -> Float[Tensor, "1 3 h w"]:
    """The picture, 0..1.

    Args:
        data: as `HevcPicture.data`.
        references: samples of the pictures that it refers to, see `to_samples`; the last is the first of its list.
        size: height and width of the picture.
        name: of the part, for messages.

    Raises:
        BitstreamError: the data are damaged, or PyAV is missing.
    """
    if (av := _pyav()) is None or "hevc" not in av.codecs_available:
        raise BitstreamError(f"{name}: HEVC picture: reading it needs PyAV with an HEVC decoder: pip install av")
    return _read(data, reference_pictures(references), references[0].shape, size, name)


def _read(
    data: bytes, before: Sequence[bytes], shape: tuple[int, ...], size: tuple[int, int], name: str
) -> Float[Tensor, "1 3 h w"]:
    """`read_hevc_picture` with the coded reference pictures at hand, whose samples have this shape."""
    av = _pyav()
    assert av is not None
    # one slice and nothing else: parameter sets of its own could ask for any size
    if len(data) < 3 or data[0] >> 1 not in _TRAILING or START[1:] in data:
        raise BitstreamError(f"{name}: HEVC picture: expected one slice, found {len(data)} bytes that are none")
    decoder = av.CodecContext.create("hevc", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}
    try:
        units = [*before, START + data]
        frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit))] + decoder.decode(None)
        found = [frame.to_ndarray() for frame in frames]
    except (av.error.FFmpegError, ValueError) as error:
        raise BitstreamError(f"{name}: HEVC picture: expected a slice that can be read ({error})") from None
    if len(found) != len(units) or found[-1].shape != shape:
        raise BitstreamError(f"{name}: HEVC picture: expected one picture, found {len(found) - len(before)}")
    return from_samples(found[-1], size)


def hevc_picture(
    image: Float[Tensor, "1 3 h w"], references: Sequence[UInt8[np.ndarray, "3 H W"]], weight: float, search: HevcSearch
) -> HevcPicture | None:
    """The P picture that costs least among those tried; None where there is none.

    Args:
        image: what is coded, 0..1.
        references: samples of the pictures that it may be predicted from, the most promising last.
        weight: lambda.
        search: how hard to look.
    """
    height, width = image.shape[-2:]
    if height * width > MOST_PIXELS or min(height, width) < _LEAST_SIDE or not hevc_available():
        return None
    target, shown = to_samples(image, (height, width)), image.detach().float().cpu()
    before = reference_pictures(references)
    tried: dict[int, HevcPicture] = {}

    def cost(quantizer: int) -> float:
        if quantizer not in tried:
            data = _encode(target, references, quantizer, search.preset)
            picture = _read(data, before, target.shape, (height, width), "view")
            error = (picture - shown).square().mean().item()
            tried[quantizer] = HevcPicture(data, picture, weight * error + 8 * len(data) / (height * width))
        return tried[quantizer].cost

    try:
        best = _usual_quantizer(weight)
        cost(best)
        if search.neighbours:
            for step in (2, -2, 1, -1):
                while _LOWEST_QP <= best + step <= _HIGHEST_QP and cost(best + step) < cost(best):
                    best += step
    except (OSError, ValueError, RuntimeError, BitstreamError):  # what this x265 does not take
        return None
    return tried[best]


def _usual_quantizer(weight: float) -> int:
    """The quantizer that is best at this lambda on most pictures: its step is that of `step_of_lambda` in 8 bits."""
    step = math.sqrt(12 * 3 / (2 * math.log(2) * max(weight, 1e-6))) * 255 / math.sqrt(3)
    return min(max(round(6 * math.log2(step) + 4), _LOWEST_QP), _HIGHEST_QP)


def _encode(
    target: UInt8[np.ndarray, "3 H W"], references: Sequence[UInt8[np.ndarray, "3 H W"]], quantizer: int, preset: str
) -> bytes:
    """The slice of the target as a NAL unit.

    Raises:
        ValueError: x265 gave something else than one slice for it.
    """
    av = _pyav()
    assert av is not None
    encoder = av.CodecContext.create("libx265", "w")
    encoder.height, encoder.width = target.shape[1:]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv444p", Fraction(1, 25), Fraction(25, 1)
    zones = f"zones=0,{len(references)},q={_REFERENCE_QP}"
    parameters = f"qp={quantizer}:ref={len(references)}:{zones}:{_FIXED}"
    encoder.options = {"preset": preset, "tune": "psnr", "x265-params": parameters}
    packets = []
    for number, samples in enumerate([*references, target]):
        frame = av.VideoFrame.from_ndarray(samples, format="yuv444p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    units = [unit for unit in bytes(packets[-1]).split(START[1:]) if unit.strip(b"\x00")]
    slices = [unit for unit in units if unit[0] >> 1 in _TRAILING]
    if len(packets) != len(references) + 1 or len(slices) != 1 or len(units) != 1:
        raise ValueError("x265 did not give one slice")
    return slices[0]
