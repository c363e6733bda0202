"""The loop filter: its bits, its taps as docs/file-format.md says them, its fit, and its place in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plane_views import SIZE, camera, picture
from torch import Tensor

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.pictures import loop_filter as module
from lmvic_ns.codec.pictures.loop_filter import (
    LARGEST,
    LoopFilter,
    WarpedReference,
    apply_loop_filter,
    fit_loop_filter,
    read_loop_filter,
    taps_of,
    write_loop_filter,
)
from lmvic_ns.codec.quality import coding_noise, image_lambda
from lmvic_ns.codec.records import EncodeOptions
from lmvic_ns.errors import BitstreamError
from lmvic_ns.evaluation.own_codec import photograph_scene

LEVEL = 30


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def some_filter(warped: bool, seed: int = 0, largest: int = 9) -> LoopFilter:
    rng = np.random.default_rng(seed)
    return LoopFilter(tuple(tuple(rng.integers(-largest, largest + 1, taps_of(c, warped)).tolist()) for c in range(3)))


def noisy(image: Tensor, deviation: float, seed: int = 0) -> Tensor:
    return (image + deviation * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def shown(image: Tensor) -> WarpedReference:
    return WarpedReference(image, torch.ones(1, 1, *image.shape[-2:]))


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize("largest", [0, 1, 40, LARGEST])
def test_what_is_written_is_read(warped: bool, largest: int) -> None:
    for seed in range(5):
        written = some_filter(warped, seed, largest)
        assert read_loop_filter(write_loop_filter(written) + b"rest", warped, "view") == (written, b"rest")
    assert read_loop_filter(write_loop_filter(None) + b"rest", warped, "view") == (None, b"rest")
    assert len(write_loop_filter(None)) == 1


def test_damage_is_named() -> None:
    data = write_loop_filter(some_filter(True))
    for cut in range(len(data)):
        with pytest.raises(BitstreamError, match="view 3: loop filter"):
            read_loop_filter(data[:cut], True, "view 3")
    with pytest.raises(BitstreamError, match="padding"):
        read_loop_filter(b"\x01", True, "view 3")
    with pytest.raises(BitstreamError, match="at most 32767"):
        read_loop_filter(write_loop_filter(LoopFilter(((2**15,), (), ()))) + bytes(40), True, "view 3")
    rng = np.random.default_rng(0)
    for _ in range(500):  # whatever the bytes are: a filter or a named error
        try:
            found, _ = read_loop_filter(rng.bytes(60), bool(rng.integers(2)), "view 3")
        except BitstreamError:
            continue
        if found is not None:
            assert all(abs(value) <= LARGEST for colour in found.coefficients for value in colour)


def by_the_document(decoded: Tensor, loop_filter: LoopFilter, reference: WarpedReference | None) -> np.ndarray:
    """Section 7b of docs/file-format.md, pixel by pixel."""
    matrix = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    noise = coding_noise(LEVEL)
    clip = 1.7 * noise**0.5
    picture_ = decoded[0].double().numpy()
    height, width = picture_.shape[1:]
    colours = np.einsum("ij,jhw->ihw", matrix, picture_)
    means = colours.mean((1, 2))
    weighted = None
    if reference is not None:
        difference = (reference.image[0].double().numpy() - picture_) * reference.mask[0].numpy()
        squared = (difference**2).mean(0)
        weighted = np.zeros_like(difference)
        for y in range(height):
            for x in range(width):
                around = [
                    squared[v, u] if 0 <= v < height and 0 <= u < width else 0.0
                    for v in range(y - 2, y + 3)
                    for u in range(x - 2, x + 3)
                ]
                weighted[:, y, x] = difference[:, y, x] / (1 + np.mean(around) / (4 * noise)) ** 2
        weighted = np.einsum("ij,jhw->ihw", matrix, weighted)

    def at(plane: np.ndarray, y: int, x: int) -> float:
        return plane[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    diamond, square = [(0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0)], [(0, 1), (1, -1), (1, 0), (1, 1)]
    result = colours.copy()
    for c in range(3):
        for y in range(height):
            for x in range(width):
                centre = colours[c, y, x]
                pairs = [[at(colours[c], y + s * d, x + s * r) - centre for s in (1, -1)] for d, r in diamond]
                taps = [a + b for a, b in pairs]
                taps += [float(np.clip(a, -clip, clip) + np.clip(b, -clip, clip)) for a, b in pairs]
                taps += [centre - means[c], 1.0]
                if c:
                    grey = colours[0]
                    taps += [at(grey, y + d, x + r) + at(grey, y - d, x - r) - 2 * grey[y, x] for d, r in square]
                    taps.append(colours[3 - c, y, x] - means[3 - c])
                if weighted is not None:
                    t = weighted[c]
                    taps += [at(t, y + d, x + r) + at(t, y - d, x - r) - 2 * t[y, x] for d, r in square]
                    taps.append(t[y, x])
                result[c, y, x] += sum(k / 64 * tap for k, tap in zip(loop_filter.coefficients[c], taps, strict=True))
    return np.einsum("ji,jhw->ihw", matrix, result).clip(0, 1)


@pytest.mark.parametrize("warped", [False, True])
def test_a_second_filter_from_the_document_agrees(warped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    decoded = torch.rand(1, 3, 11, 13, generator=generator)
    reference = None
    if warped:
        mask = (torch.rand(1, 1, 11, 13, generator=generator) > 0.3).float()
        reference = WarpedReference((decoded + 0.1 * torch.randn(1, 3, 11, 13, generator=generator)).clamp(0, 1), mask)
    monkeypatch.setattr(module, "_ROWS", 4)  # several strips
    found = apply_loop_filter(decoded, some_filter(warped), LEVEL, reference)
    wanted = by_the_document(decoded, some_filter(warped), reference)
    assert np.abs(found[0].numpy() - wanted).max() < 1e-5
    assert np.abs(wanted - decoded[0].numpy()).max() > 0.05


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    original, reference = picture(0.0), shown(noisy(picture(0.0), 0.02, 1))
    decoded = noisy(original, 0.03)
    whole = fit_loop_filter(original, decoded, LEVEL, reference)
    assert whole is not None
    filtered = apply_loop_filter(decoded, whole, LEVEL, reference)
    monkeypatch.setattr(module, "_ROWS", 17)
    assert fit_loop_filter(original, decoded, LEVEL, reference) == whole
    assert torch.allclose(apply_loop_filter(decoded, whole, LEVEL, reference), filtered, atol=1e-6)


def test_the_fit_undoes_what_a_filter_can_undo() -> None:
    original = picture(0.0)
    faded = 0.5 + 0.85 * (original - 0.5)
    fitted = fit_loop_filter(original, faded, LEVEL, None)
    assert fitted is not None
    error = (apply_loop_filter(faded, fitted, LEVEL, None) - original).square().mean()
    assert error < 0.05 * (faded - original).square().mean()
    # a reference of the same coding noise, apart from ours: the mean of both has half of it
    decoded, reference = noisy(original, 0.03, 0), shown(noisy(original, 0.03, 1))
    alone, together = fit_loop_filter(original, decoded, LEVEL, None), fit_loop_filter(original, decoded, LEVEL, reference)
    assert together is not None
    both = (apply_loop_filter(decoded, together, LEVEL, reference) - original).square().mean()
    assert both < 0.65 * (decoded - original).square().mean()
    if alone is not None:
        assert both < 0.8 * (apply_loop_filter(decoded, alone, LEVEL, None) - original).square().mean()
    assert fit_loop_filter(original, original, LEVEL, None) is None
    assert fit_loop_filter(original, decoded * float("nan"), LEVEL, reference) is None


def test_no_other_small_filter_costs_less() -> None:
    """Coordinate descent ends where no single coefficient can be changed to advantage."""
    original = picture(0.0)
    decoded = noisy(original, 0.03)
    fitted = fit_loop_filter(original, decoded, LEVEL, None)
    assert fitted is not None
    weight = image_lambda(LEVEL) / 3

    def cost(candidate: LoopFilter) -> float:
        error = (apply_loop_filter(decoded, candidate, LEVEL, None) - original).square().sum().item()
        return weight * error + len(candidate.to_bits())

    best = cost(fitted)
    for colour in range(3):
        for tap in range(taps_of(colour, False)):
            for step in (-1, 1):
                values = [list(c) for c in fitted.coefficients]
                values[colour][tap] += step
                # what clamping to 0..1 does is not part of the fit
                assert cost(LoopFilter(tuple(map(tuple, values)))) > best - 0.002 * best


def test_shipped_weights_gain_by_it(model: MultiViewModel) -> None:
    """Each effort's views cost less with the filter, and decode to the same bits."""
    effort = Effort.named("fast")
    assert effort.loop_filter
    costs = {}
    for fitted in (False, True):
        chosen = replace(effort, loop_filter=fitted, stored=False)
        first = model.compress(picture(0.0), torch.full((1, *SIZE), 0.5).double(), camera(0.0), None, LEVEL, None, chosen)
        decoded = model.decompress(first[0], first[1], SIZE, camera(0.0), None, LEVEL)
        assert torch.equal(decoded.image, first[2].image)
        error = float((decoded.image - picture(0.0)).square().mean())
        costs[fitted] = image_lambda(LEVEL) * error + 8 * len(first[1]) / (SIZE[0] * SIZE[1])
        assert bool(first[1][1] & 0x80) == fitted  # behind the mode
    assert costs[True] < costs[False]


def test_weights_for_ms_ssim_do_without(tmp_path: Path) -> None:
    scene = photograph_scene((picture(0.0)[0] * 255).byte().permute(1, 2, 0).numpy())
    codec, filtered = load_codec("tiny"), {}
    for metric in ("mse", "ms-ssim"):
        weights = replace(codec.weights, metadata={"run": json.dumps({"metric": metric})})
        MultiViewCodec(weights).encode(scene, tmp_path / metric, options=EncodeOptions(LEVEL))
        with Reader(tmp_path / metric) as reader:
            filtered[metric] = bool(reader.unit(0).image[1] & 0x80)
    assert filtered == {"mse": True, "ms-ssim": False}
