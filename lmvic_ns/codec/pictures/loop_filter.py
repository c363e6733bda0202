"""A small filter for each decoded picture, fitted by the encoder: what one network for all pictures leaves in this one.

As the adaptive loop filter of VVC it is linear in its coefficients, so the best ones solve normal equations; here they are
integers of few bits, found by rate and distortion together. The filter sees the decoded picture (a 5x5 diamond, as
differences from the centre, once as they are and once clipped to the coding noise), its three colours, and the warped
reference, weighted by how well it agrees. All of it is continuous, so an error of one ulp stays one. Filtered pictures are what
later views refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.quality import coding_noise, image_lambda
from lmvic_ns.errors import BitstreamError

STEP = 1 / 64
"""What one unit of a coefficient stands for."""
LARGEST = 2**15 - 1
"""Coefficients are at most so many steps."""

Tap = Callable[[slice], Tensor]
"""Values of a tap over some rows of the picture."""

_R2, _R3, _R6 = 2**-0.5, 3**-0.5, 6**-0.5
_OPPONENT = ((_R3, _R3, _R3), (_R2, 0.0, -_R2), (_R6, -2 * _R6, _R6))
"""Orthonormal colours (grey, red-blue, magenta-green): squared errors add up, so each is fitted alone."""
_REACH = 2
_DIAMOND = ((0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0))
"""Half of the 5x5 diamond (down, right); a tap takes both ends."""
_SQUARE = ((0, 1), (1, -1), (1, 0), (1, 1))
_CLIP = 1.7  # in standard deviations of the coding noise
_TOLERANCE = 4.0  # a reference that differs by so many times the coding noise counts a quarter
_ROWS = 128  # strips bound memory
_FITTED_ROWS, _FITTED_PIXELS = 16, 1 << 19  # a filter is fitted to so many pixels of a large picture, in strips of its rows
_ROUNDS = 60
_ERROR_WINDOW = 5


@dataclass(frozen=True)
class LoopFilter:
    """Coefficients in steps of 1/64: for each of three colours the taps of `taps_of`, in their order."""

    coefficients: tuple[tuple[int, ...], ...]

    def to_bits(self) -> str:
        """One bit, then signed Exp-Golomb codes (as H.264's se(v)), as a string of 0 and 1."""
        return "1" + "".join(_exp_golomb(value) for colour in self.coefficients for value in colour)


@dataclass(frozen=True)
class WarpedReference:
    """What a view's reference shows of it.

    Attributes:
        image: the reference's reconstruction, warped.
        mask: 1 where the correspondence holds, else 0.
    """

    image: Float[Tensor, "1 3 h w"]
    mask: Float[Tensor, "1 1 h w"]


def taps_of(colour: int, warped: bool) -> int:
    """How many taps a colour has, with or without a reference."""
    own = 2 * len(_DIAMOND) + 2
    return own + (len(_SQUARE) + 1 if colour else 0) + (len(_SQUARE) + 1 if warped else 0)


@torch.no_grad()
def fit_loop_filter(
    picture: Float[Tensor, "1 3 h w"], decoded: Float[Tensor, "1 3 h w"], level: int, reference: WarpedReference | None
) -> LoopFilter | None:
    """The filter that lowers lambda times the mean squared error plus bits per pixel most, or None if none does.

    Args:
        picture: what was coded, 0..1.
        decoded: its reconstruction, 0..1.
        level: quality level of the view.
        reference: what its reference shows, if it has one.
    """
    if not torch.isfinite(decoded).all():  # weights gone wrong; no filter mends that
        return None
    # cost in bits, of squared errors summed over pixels; the mean is over three colours
    weight = image_lambda(level) / 3
    counts = [taps_of(colour, reference is not None) for colour in range(3)]
    grams = [torch.zeros(count, count, dtype=torch.float64) for count in counts]
    projections = [torch.zeros(count, dtype=torch.float64) for count in counts]
    height, width = decoded.shape[-2:]
    every = max(1, round(height * width / _FITTED_PIXELS))
    seen = 0
    for planes, rows, strip in _strips(decoded, level, reference, _FITTED_ROWS if every > 1 else _ROWS, every):
        wanted = _opponent(picture[..., strip, :].float()) - planes.colours[:, rows]
        for colour in range(3):
            values = torch.stack([tap(rows) for tap in planes.taps(colour)]).flatten(1)
            grams[colour] += (values @ values.T).double().cpu()
            projections[colour] += (values @ wanted[colour].flatten()).double().cpu()
        seen += strip.stop - strip.start
    share = seen / height
    fitted = [
        _cheapest(gram.numpy() * (weight * STEP**2 / share), projection.numpy() * (weight * STEP / share))
        for gram, projection in zip(grams, projections, strict=True)
    ]
    found = LoopFilter(tuple(fitted))
    before = (decoded.float() - picture).square().sum().item()
    after = (apply_loop_filter(decoded, found, level, reference) - picture).square().sum().item()
    return found if weight * after + len(found.to_bits()) < weight * before else None


def apply_loop_filter(
    decoded: Float[Tensor, "1 3 h w"], loop_filter: LoopFilter, level: int, reference: WarpedReference | None
) -> Float[Tensor, "1 3 h w"]:
    """The filtered picture, clamped to 0..1.

    Args:
        decoded: 0..1.
        loop_filter: what the file holds.
        level: quality level of the view.
        reference: what its reference shows, if it has one.
    """
    with torch.autocast(decoded.device.type, enabled=False):
        result = torch.empty_like(decoded)
        matrix = torch.tensor(_OPPONENT, dtype=torch.float32, device=decoded.device)
        for planes, rows, strip in _strips(decoded, level, reference, _ROWS):
            colours = []
            for colour, coefficients in enumerate(loop_filter.coefficients):
                filtered = planes.colours[colour, rows]
                for value, tap in zip(coefficients, planes.taps(colour), strict=True):
                    if value:
                        filtered = filtered + (value * STEP) * tap(rows)
                colours.append(filtered)
            result[0, :, strip] = torch.einsum("ji,jhw->ihw", matrix, torch.stack(colours)).clamp(0, 1)
        return result


def write_loop_filter(loop_filter: LoopFilter | None) -> bytes:
    """What stands before a view's symbols: one zero byte without a filter."""
    bits = "0" if loop_filter is None else loop_filter.to_bits()
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def read_loop_filter(data: bytes, warped: bool, name: str) -> tuple[LoopFilter | None, bytes]:
    """The filter at the start of an image part, and what follows it.

    Args:
        data: the image part.
        warped: whether the view has a reference.
        name: of the part, for messages.

    Raises:
        BitstreamError: the part is damaged.
    """
    if not data:
        raise BitstreamError(f"{name}: loop filter: expected at least one byte, found none")
    if not data[0] & 0x80:
        if data[0]:
            raise BitstreamError(f"{name}: loop filter: expected padding of zeros, found {data[0]:#x}")
        return None, data[1:]
    counts = [taps_of(colour, warped) for colour in range(3)]
    longest = -(-(1 + sum(counts) * len(_exp_golomb(-LARGEST))) // 8)
    head = data[:longest]
    bits = bin(int.from_bytes(head, "big"))[2:]
    position, coefficients = 1, []
    for count in counts:
        values = []
        for _ in range(count):
            value, position = _read_exp_golomb(bits, position, name)
            values.append(value)
        coefficients.append(tuple(values))
    end = -(-position // 8)
    if "1" in bits[position : 8 * end]:
        raise BitstreamError(f"{name}: loop filter: expected padding of zeros, found ones")
    return LoopFilter(tuple(coefficients)), data[end:]


def _strips(
    decoded: Tensor, level: int, reference: WarpedReference | None, height: int, every: int = 1
) -> Iterator[tuple[_Planes, slice, slice]]:
    """Strips of rows, or one of so many, so that memory is bounded.

    Yields:
        planes of the strip and the rows around it; the strip's rows in those; its rows in the picture.
    """
    rows = decoded.shape[-2]
    means = _means(decoded)
    halo = _REACH + _ERROR_WINDOW // 2
    for top in range(0, rows, height * every):
        bottom = min(top + height, rows)
        around = slice(max(top - halo, 0), min(bottom + halo, rows))
        warped = None
        if reference is not None:
            warped = WarpedReference(reference.image[..., around, :], reference.mask[..., around, :])
        planes = _Planes(decoded[..., around, :], level, warped, means)
        yield planes, slice(top - around.start, bottom - around.start), slice(top, bottom)


def _means(decoded: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "3"]:
    """Mean of each colour over the whole picture."""
    height, width = decoded.shape[-2:]
    total = torch.zeros(3, dtype=torch.float64, device=decoded.device)
    for top in range(0, height, _ROWS):
        total += _opponent(decoded[..., top : top + _ROWS, :].float()).double().sum((1, 2))
    return (total / (height * width)).float()


class _Planes:
    """Rows of the decoded picture and of its warped reference as planes, and the taps over them."""

    def __init__(self, decoded: Tensor, level: int, reference: WarpedReference | None, means: Tensor):
        noise = coding_noise(level)
        self.colours = _opponent(decoded.float())
        self.means = means
        self.padded = F.pad(self.colours[None], (_REACH,) * 4, mode="replicate")[0]
        self.clip = _CLIP * noise**0.5
        self.warped = None
        if reference is not None:
            difference = (reference.image.float() - decoded.float()) * reference.mask.float()
            error = F.avg_pool2d(difference.square().mean(1, keepdim=True), _ERROR_WINDOW, 1, _ERROR_WINDOW // 2)
            weighted = difference / (1 + error / (_TOLERANCE * noise)).square()
            self.warped = F.pad(_opponent(weighted)[None], (_REACH,) * 4, mode="replicate")[0]

    def taps(self, colour: int) -> list[Tap]:
        """The taps of a colour, in the order of their coefficients."""
        own, grey, other = self.padded[colour], self.padded[0], 3 - colour

        def differences(shift: tuple[int, int], limit: float) -> Tap:
            return lambda rows: _sum((e - self.colours[colour, rows]).clamp(-limit, limit) for e in _ends(own, rows, shift))

        def curvature(plane: Tensor, shift: tuple[int, int]) -> Tap:
            return lambda rows: _sum(_ends(plane, rows, shift)) - 2 * _shifted(plane, rows, 0, 0)

        taps = [differences(shift, limit) for limit in (float("inf"), self.clip) for shift in _DIAMOND]
        taps += [
            lambda rows: self.colours[colour, rows] - self.means[colour],
            lambda rows: torch.ones_like(self.colours[colour, rows]),
        ]
        if colour:
            taps += [curvature(grey, shift) for shift in _SQUARE]
            taps.append(lambda rows: self.colours[other, rows] - self.means[other])
        if self.warped is not None:
            warped = self.warped[colour]
            taps += [curvature(warped, shift) for shift in _SQUARE]
            taps.append(lambda rows: _shifted(warped, rows, 0, 0))
        return taps


def _opponent(image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "3 h w"]:
    return torch.einsum("ij,jhw->ihw", image.new_tensor(_OPPONENT), image[0])


def _shifted(padded: Tensor, rows: slice, down: int, right: int) -> Tensor:
    width = padded.shape[1] - 2 * _REACH
    return padded[rows.start + _REACH + down : rows.stop + _REACH + down, _REACH + right : _REACH + right + width]


def _sum(pair: Iterable[Tensor]) -> Tensor:
    first, second = pair
    return first + second


def _ends(padded: Tensor, rows: slice, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    down, right = shift
    return _shifted(padded, rows, down, right), _shifted(padded, rows, -down, -right)


def _cheapest(gram: np.ndarray, projection: np.ndarray) -> tuple[int, ...]:
    """Integers w that make w' G w - 2 p' w, plus their bits, small: coordinate descent from zero and from least squares."""
    regular = gram + np.eye(len(gram)) * (1e-9 * np.trace(gram) + 1e-12)
    best: tuple[float, np.ndarray] | None = None
    for start in (np.zeros(len(gram)), np.round(np.linalg.solve(regular, projection))):
        values = start.clip(-LARGEST, LARGEST)
        for _ in range(_ROUNDS):
            changed = False
            for k in range(len(gram)):
                rest = projection[k] - gram[k] @ values + gram[k, k] * values[k]
                optimum = float(np.clip(rest / max(gram[k, k], 1e-12), -LARGEST, LARGEST))
                choices = {0.0, float(np.floor(optimum)), float(np.ceil(optimum)), float(values[k])}
                value = min(sorted(choices), key=lambda v: gram[k, k] * v * v - 2 * rest * v + _exp_golomb_length(int(v)))
                changed |= value != values[k]
                values[k] = value
            if not changed:
                break
        cost = values @ gram @ values - 2 * projection @ values + sum(_exp_golomb_length(int(v)) for v in values)
        if best is None or cost < best[0]:
            best = cost, values
    assert best is not None
    return tuple(int(value) for value in best[1])


def _code_number(value: int) -> int:
    return 2 * value if value > 0 else 1 - 2 * value


def _exp_golomb_length(value: int) -> int:
    return 2 * _code_number(value).bit_length() - 1


def _exp_golomb(value: int) -> str:
    bits = bin(_code_number(value))[2:]
    return "0" * (len(bits) - 1) + bits


def _read_exp_golomb(bits: str, position: int, name: str) -> tuple[int, int]:
    start = bits.find("1", position)
    zeros = start - position
    end = start + zeros + 1
    if start < 0 or end > len(bits):
        raise BitstreamError(f"{name}: loop filter: expected a whole coefficient, found the end of the part")
    number = int(bits[start:end], 2)
    value = number // 2 if number % 2 == 0 else -(number // 2)
    if abs(value) > LARGEST:
        raise BitstreamError(f"{name}: loop filter: expected a coefficient of at most {LARGEST}, found {value}")
    return value, end
