"""Mode of a view, the first byte of its image part, with the illumination correction of its reference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from lmvic_ns.codec.pictures.illumination import BYTES, Illumination
from lmvic_ns.errors import BitstreamError

_ILLUMINATION = 0x10
_ANOTHER = 0x20  # a further ancestor follows


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
    HEVC_ANCESTORS = 6
    """The same, with warped ancestors of its reference as further reference pictures."""

    @property
    def uses_reference(self) -> bool:
        """Whether the warped reference is part of the decoded view."""
        return self in (Mode.PREDICTED, Mode.AV1_DIFFERENCE, Mode.HEVC, Mode.HEVC_ANCESTORS)


@dataclass(frozen=True)
class AncestorReference:
    """A further reference picture of a view.

    Attributes:
        generation: 1 is the reference's own reference, 2 the reference of that, and so on.
        illumination: correction of its picture.
    """

    generation: int
    illumination: Illumination | None = None


@dataclass(frozen=True)
class ViewMode:
    """What an image part begins with.

    Attributes:
        mode: how the view is coded.
        illumination: correction of the reference's picture; only where the mode uses the reference.
        ancestors: further reference pictures, nearest generation first; only where the mode has them.
    """

    mode: Mode
    illumination: Illumination | None = None
    ancestors: tuple[AncestorReference, ...] = ()

    def to_bytes(self) -> bytes:
        """One byte, or seven with an illumination; then the same for each ancestor."""
        parts = [_with_illumination(self.mode, self.illumination)]
        for place, ancestor in enumerate(self.ancestors):
            another = _ANOTHER if place + 1 < len(self.ancestors) else 0
            parts.append(_with_illumination(ancestor.generation | another, ancestor.illumination))
        return b"".join(parts)


def _with_illumination(value: int, illumination: Illumination | None) -> bytes:
    return bytes([value]) if illumination is None else bytes([value | _ILLUMINATION]) + illumination.to_bytes()


def read_view_mode(data: bytes, has_reference: bool, name: str, generations: int = 0) -> tuple[ViewMode, bytes]:
    """The mode at the start of an image part, and what follows it.

    Args:
        data: the image part.
        has_reference: whether the tree gives the view a reference.
        name: of the part, for messages.
        generations: ancestors of the reference that are at hand.

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
    illumination = None
    if data[0] & _ILLUMINATION:
        if not mode.uses_reference:
            raise BitstreamError(f"{name}: expected no illumination without a prediction, found mode {data[0]:#x}")
        illumination, rest = Illumination.from_bytes(rest, name), rest[BYTES:]
    if mode is not Mode.HEVC_ANCESTORS:
        return ViewMode(mode, illumination), rest
    ancestors, rest = _read_ancestors(rest, generations, name)
    return ViewMode(mode, illumination, ancestors), rest


def _read_ancestors(data: bytes, generations: int, name: str) -> tuple[tuple[AncestorReference, ...], bytes]:
    found: list[AncestorReference] = []
    another = True
    while another:
        if not data:
            raise BitstreamError(f"{name}: expected an ancestor, found no bytes")
        value, data = data[0], data[1:]
        generation, another = value & ~(_ILLUMINATION | _ANOTHER), bool(value & _ANOTHER)
        first = found[-1].generation + 1 if found else 1
        if not first <= generation <= generations:
            raise BitstreamError(f"{name}: expected an ancestor {first}..{generations}, found {generation}")
        illumination = None
        if value & _ILLUMINATION:
            illumination, data = Illumination.from_bytes(data, name), data[BYTES:]
        found.append(AncestorReference(generation, illumination))
    return tuple(found), data
