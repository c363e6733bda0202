"""Mode of a view, the first byte of its image part, with the illumination correction of its reference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from lmvic_ns.codec.pictures.illumination import BYTES, Illumination
from lmvic_ns.errors import BitstreamError

_ILLUMINATION = 0x10


class Mode(IntEnum):
    """How a view is coded."""

    ALONE = 0
    """By the networks, without a reference (also where the tree has one that does not pay)."""
    PREDICTED = 1
    """By the networks, as the difference from its warped reference."""
    STORED = 2
    """As an ordinary picture (`lmvic_ns.codec.pictures.stored`)."""
    AV1 = 3
    """As an AV1 picture, without a reference (`lmvic_ns.codec.pictures.av1`)."""
    AV1_DIFFERENCE = 4
    """As an AV1 picture of the difference from its warped reference."""
    HEVC = 5
    """As an HEVC P picture that refers to its reference, warped and as it is (`lmvic_ns.codec.pictures.hevc`)."""

    @property
    def uses_reference(self) -> bool:
        """Whether the warped reference is part of the decoded view."""
        return self in (Mode.PREDICTED, Mode.AV1_DIFFERENCE, Mode.HEVC)


@dataclass(frozen=True)
class ViewMode:
    """What an image part begins with.

    Attributes:
        mode: how the view is coded.
        illumination: correction of the reference's picture; only where the mode uses the reference.
    """

    mode: Mode
    illumination: Illumination | None = None

    def to_bytes(self) -> bytes:
        """One byte, or seven with an illumination."""
        if self.illumination is None:
            return bytes([self.mode])
        return bytes([self.mode | _ILLUMINATION]) + self.illumination.to_bytes()


def read_view_mode(data: bytes, has_reference: bool, name: str) -> tuple[ViewMode, bytes]:
    """The mode at the start of an image part, and what follows it.

    Args:
        data: the image part.
        has_reference: whether the tree gives the view a reference.
        name: of the part, for messages.

    Raises:
        BitstreamError: the part is damaged.
    """
    if not data:
        raise BitstreamError(f"{name}: expected a mode, found no bytes")
    value, rest = data[0] & ~_ILLUMINATION, data[1:]
    if value not in set(Mode):
        raise BitstreamError(f"{name}: expected a mode 0..{max(Mode)}, found {data[0]}")
    mode = Mode(value)
    if mode.uses_reference and not has_reference:
        raise BitstreamError(f"{name}: expected a view without a reference, found one that is predicted")
    if not data[0] & _ILLUMINATION:
        return ViewMode(mode), rest
    if not mode.uses_reference:
        raise BitstreamError(f"{name}: expected no illumination without a prediction, found mode {data[0]:#x}")
    return ViewMode(mode, Illumination.from_bytes(rest, name)), rest[BYTES:]
