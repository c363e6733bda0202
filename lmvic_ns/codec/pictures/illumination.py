"""Gain and offset of each colour between a view and its reference: exposure and white balance change from view to view.

Six bytes a view, where they pay. The reference's picture is corrected before it is warped, in the encoder's depth search as
in the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.errors import BitstreamError

GAIN_STEP = 1 / 256
OFFSET_STEP = 1 / 512
BYTES = 6
_ROUNDS = 8


@dataclass(frozen=True)
class Illumination:
    """Corrected = (1 + gain / 256) * reference + offset / 512, for red, green and blue on a scale of 0..1.

    Attributes:
        gain: three integers, -128..127.
        offset: three integers, -128..127.
    """

    gain: tuple[int, int, int]
    offset: tuple[int, int, int]

    def apply(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The corrected picture, clamped to 0..1."""
        gain = 1 + image.new_tensor(self.gain)[None, :, None, None] * GAIN_STEP
        offset = image.new_tensor(self.offset)[None, :, None, None] * OFFSET_STEP
        return (image * gain + offset).clamp(0, 1)

    def to_bytes(self) -> bytes:
        """Six signed bytes: gains, then offsets."""
        return np.array([*self.gain, *self.offset], dtype=np.int8).tobytes()

    @staticmethod
    def from_bytes(data: bytes, name: str) -> Illumination:
        """What `to_bytes` wrote.

        Raises:
            BitstreamError: there are fewer than six bytes.
        """
        if len(data) < BYTES:
            raise BitstreamError(f"{name}: illumination: expected {BYTES} bytes, found {len(data)}")
        values = [int(v) for v in np.frombuffer(data[:BYTES], dtype=np.int8)]
        return Illumination((values[0], values[1], values[2]), (values[3], values[4], values[5]))


@torch.no_grad()
def fit_illumination(
    image: Float[Tensor, "1 3 h w"], aligned: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "1 1 h w"], noise: float
) -> Illumination | None:
    """Robust gains and offsets, or None where they do not make the prediction better.

    Pixels count by 1 / (1 + (error / spread)^2): those that show something else, or are badly aligned, hardly pull.

    Args:
        image: the view, 0..1.
        aligned: the reference, warped by some depth, 0..1.
        mask: 1 where the correspondence holds.
        noise: squared error that does not matter.
    """
    seen = mask[0, 0] > 0
    if int(seen.sum()) < 256:
        return None
    target, source = image[0][:, seen].double(), aligned[0][:, seen].double()
    stride = max(1, target.shape[1] // 60_000)
    target, source = target[:, ::stride], source[:, ::stride]
    gains, offsets = [], []
    for t, s in zip(target, source, strict=True):
        gain, offset = 1.0, 0.0
        for _ in range(_ROUNDS):
            error = t - (gain * s + offset)
            spread = 1.5 * float(error.abs().median()) + 1e-3
            weight = 1 / (1 + (error / spread).square())
            total = weight.sum()
            ms, mt = (weight * s).sum() / total, (weight * t).sum() / total
            variance = (weight * (s - ms).square()).sum() / total
            # the gain cannot be estimated from a flat picture
            gain = float(((weight * (s - ms) * (t - mt)).sum() / total + 1e-4) / (variance + 1e-4))
            gain = min(max(gain, 0.5), 1.49)
            offset = float(mt - gain * ms)
        gains.append(int(np.clip(round((gain - 1) / GAIN_STEP), -128, 127)))
        offsets.append(int(np.clip(round(offset / OFFSET_STEP), -128, 127)))
    found = Illumination((gains[0], gains[1], gains[2]), (offsets[0], offsets[1], offsets[2]))

    def bits(prediction: Tensor) -> float:
        return float(torch.log2(1 + (target - prediction).square() / noise).mean())

    before, after = bits(source), bits(found.apply(source[None, :, :, None])[0, ..., 0])
    # a tenth of the bits that the smaller error suggests is what the latent saves at least
    saving = 0.1 * (before - after) * int(seen.sum())
    return found if saving > 8 * BYTES else None
