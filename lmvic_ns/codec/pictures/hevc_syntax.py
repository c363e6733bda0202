"""The HEVC stream around a P slice: parameter sets, and exact reference pictures that the file does not hold.

A decoder has the reference pictures already (the decoded reference of a view, warped and as it is). A library decoder takes
them only as coded pictures, so they are written here as lossless I pictures, in memory, and put before the slice. Their size
does not matter; that every sample comes back as it was does. Names are those of the standard, Rec. ITU-T H.265.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from lmvic_ns.codec.pictures.hevc_loops import INITIAL, bins_of_row, code_bins

START = b"\x00\x00\x00\x01"
BLOCK = 32
"""Pictures are padded to multiples of this."""
_TRAIL_R, _IDR_N_LP, _VPS, _SPS, _PPS = 1, 20, 32, 33, 34
_LEVEL = 186  # 6.2, the highest
_BINS_PER_SAMPLE = 26
_LOSSLESS_PPS = 1
_LOSSLESS_QP = 26


class _Bits:
    """Syntax elements one after another."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def u(self, count: int, value: int) -> _Bits:
        """Unsigned, `count` bits."""
        self._text.append(f"{value:0{count}b}" if count else "")
        return self

    def ue(self, *values: int) -> _Bits:
        """Unsigned Exp-Golomb codes."""
        for value in values:
            text = f"{value + 1:b}"
            self._text.append("0" * (len(text) - 1) + text)
        return self

    def ending(self) -> bytes:
        """All of them, a one, and zeros up to a byte."""
        text = "".join(self._text) + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _unit(kind: int, payload: bytes) -> bytes:
    """A NAL unit with its start code; no three bytes of it look like one (section 7.4.2)."""
    safe = re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", payload)
    return START + bytes([kind << 1, 1]) + safe


def _profile(bits: _Bits) -> None:
    """profile_tier_level() of format range extensions, 4:4:4 in 8 bits."""
    bits.u(2, 0).u(1, 0).u(5, 4).u(32, 0x08000000).u(48, 0x9E0800000000).u(8, _LEVEL)


def parameter_sets(height: int, width: int, references: int) -> bytes:
    """Video, sequence and picture parameter sets: picture parameter set 0 is the P slice's, 1 that of lossless pictures.

    Args:
        height: of the padded picture, a multiple of 32.
        width: likewise.
        references: pictures that the P slice refers to.
    """
    video = _Bits().u(4, 0).u(2, 3).u(6, 0).u(3, 0).u(1, 1).u(16, 0xFFFF)
    _profile(video)
    video.u(1, 1).ue(references, 0, 1).u(6, 0).ue(0).u(1, 0).u(1, 0)
    sequence = _Bits().u(4, 0).u(3, 0).u(1, 1)
    _profile(sequence)
    sequence.ue(0, 3).u(1, 0).ue(width, height).u(1, 0).ue(0, 0, 4).u(1, 1).ue(references, 0, 1)
    sequence.ue(0, 3, 0, 3, 0, 0)  # coding blocks of 8 to 64, transforms of 4 to 32, no deeper trees
    sequence.u(1, 0).u(1, 0).u(1, 1).u(1, 0)  # scaling lists, asymmetric partitions, SAO, PCM
    sequence.ue(0).u(1, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 0)  # reference sets, long-term, temporal motion, smoothing, VUI
    pictures = []
    for number in (0, _LOSSLESS_PPS):
        lossless = number == _LOSSLESS_PPS
        picture = _Bits().ue(number, 0).u(1, 0).u(1, 0).u(3, 0).u(1, 1).u(1, 0).ue(0, 0, 0)
        picture.u(1, 0).u(1, 0).u(1, 0).ue(0, 0).u(1, 0).u(1, 0).u(1, 0)
        picture.u(1, lossless).u(1, 0).u(1, 0).u(1, not lossless)  # lossless, tiles, wavefronts, filters across slices
        picture.u(1, lossless)
        if lossless:
            picture.u(1, 0).u(1, 1)  # no override, no deblocking
        pictures.append(picture.u(1, 0).u(1, 0).ue(0).u(1, 0).u(1, 0))
    units = [_unit(_VPS, video.ending()), _unit(_SPS, sequence.ending())]
    return b"".join([*units, *(_unit(_PPS, picture.ending()) for picture in pictures)])


def lossless_picture(planes: UInt8[np.ndarray, "3 h w"], number: int) -> bytes:
    """A picture of Y'CbCr samples as a coded I picture.

    Args:
        planes: sides multiples of 32.
        number: picture order count; 0 begins the sequence.
    """
    header = _Bits().u(1, 1)
    if number == 0:
        header.u(1, 0)
    header.ue(_LOSSLESS_PPS, 2)
    if number:
        header.u(8, number).u(1, 0).ue(number, 0)
        for _ in range(number):
            header.ue(0).u(1, 1)  # the picture before is kept
    header.u(1, 0).u(1, 0).ue(0)  # SAO of luma and chroma, QP
    _, height, width = planes.shape
    values = np.array(INITIAL, dtype=np.int64)
    offset = ((values & 15) << 3) - 16
    start = np.clip(((((values >> 4) * 5 - 45) * _LOSSLESS_QP) >> 4) + offset, 1, 126)
    states = np.where(start >= 64, 2 * (start - 64) + 1, 2 * (63 - start))
    engine = np.array([0, 510, 23, 0, 0xFF], dtype=np.int64)
    samples = np.ascontiguousarray(planes)
    bins = np.empty((3 * 64 * (width + 64) * _BINS_PER_SAMPLE, 2), dtype=np.uint8)
    parts = []
    for top in range(0, height, 64):
        count = bins_of_row(samples, top, bins)
        out = np.empty(count + 64, dtype=np.uint8)
        size = code_bins(bins, count, states, engine, out, top + 64 >= height)
        parts.append(out[:size].tobytes())
    return _unit(_IDR_N_LP if number == 0 else _TRAIL_R, header.ending() + b"".join(parts))


def reference_pictures(references: Sequence[UInt8[np.ndarray, "3 h w"]]) -> list[bytes]:
    """What a decoder takes before the P slice, picture by picture.

    Args:
        references: all of one size, sides multiples of 32; the last is the first of the slice's list.
    """
    _, height, width = references[0].shape
    pictures = [lossless_picture(planes, number) for number, planes in enumerate(references)]
    return [parameter_sets(height, width, len(references)) + pictures[0], *pictures[1:]]
