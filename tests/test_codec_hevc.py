"""HEVC P pictures in place of symbols: exact reference pictures, views that come back, damage, and a machine without PyAV."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from plane_views import SIZE, camera, picture
from torch import Tensor

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.pictures import hevc, hevc_loops
from lmvic_ns.codec.pictures.hevc import HevcSearch, from_samples, hevc_picture, read_hevc_picture, to_samples
from lmvic_ns.codec.pictures.hevc_syntax import lossless_picture, parameter_sets
from lmvic_ns.codec.quality import image_lambda
from lmvic_ns.codec.state import MOST_ANCESTORS, ReferenceState
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.errors import BitstreamError

av = pytest.importorskip("av")

ONLY_HEVC = replace(Effort.named("fast"), stored=False, av1=None, hevc=HevcSearch("fast"))


def samples(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    match kind:
        case "flat":
            return np.full((3, height, width), 130, np.uint8)
        case "noise":
            return random.integers(0, 256, (3, height, width), dtype=np.uint8)
        case "extremes":
            return (255 * random.integers(0, 2, (3, height, width))).astype(np.uint8)
        case "dots":
            return np.where(random.random((3, height, width)) < 0.01, 200, 128).astype(np.uint8)
        case _:
            walk = np.cumsum(random.integers(-2, 3, (3, height, width)), 2) + 128
            return np.clip(walk, 0, 255).astype(np.uint8)


def decoded(units: list[bytes]) -> list[np.ndarray]:
    decoder = av.CodecContext.create("hevc", "r")
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit))] + decoder.decode(None)
    return [frame.to_ndarray() for frame in frames]


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 160), (224, 96)])
@pytest.mark.parametrize("kind", ["flat", "noise", "extremes", "dots", "walk"])
def test_reference_pictures_are_exact(kind: str, size: tuple[int, int]) -> None:
    pictures = [samples(kind, *size, seed=number) for number in range(2)]
    units = [lossless_picture(planes, number) for number, planes in enumerate(pictures)]
    found = decoded([parameter_sets(*size, 2) + units[0], units[1]])
    assert len(found) == 2
    for planes, back in zip(pictures, found, strict=True):
        assert np.array_equal(planes, back)


@pytest.mark.parametrize("kind", ["noise", "dots"])
def test_compiled_loops_agree_with_the_plain_ones(kind: str) -> None:
    planes = samples(kind, 64, 96)
    results = []
    for compiled in (True, False):
        count_bins = hevc_loops.bins_of_row if compiled else hevc_loops.bins_of_row.python
        code = hevc_loops.code_bins if compiled else hevc_loops.code_bins.python
        bins = np.zeros((3 * 64 * 160 * 26, 2), np.uint8)
        count = count_bins(planes, 0, bins)
        bins = bins.astype(np.int64) if not compiled else bins  # numpy's bytes would wrap around outside of the compiler
        states, engine = np.full(len(hevc_loops.INITIAL), 40), np.array([0, 510, 23, 0, 0xFF])
        out = np.empty(count + 64, np.uint8)
        size = code(bins, count, states, engine, out, True)
        results.append((count, out[:size].tobytes()))
    assert results[0] == results[1]


def test_samples_and_back() -> None:
    view = (picture(0.0) * 255).round() / 255
    canvas = to_samples(view, SIZE)
    assert canvas.shape == (3, 96, 128) and (from_samples(canvas, SIZE) - view).abs().max() < 1.5 / 255
    assert to_samples(view, (33, 40)).shape == (3, 64, 64)
    larger = to_samples(view, (100, 200))
    assert larger.shape == (3, 128, 224) and np.array_equal(larger[:, :96, :128], canvas)
    assert (larger[:, 96:, :128] == canvas[:, -1:]).all() and (larger[:, :, 128:] == larger[:, :, 127:128]).all()


def changed(view: Tensor) -> Tensor:
    """The view with a part that its reference does not show."""
    view = view.clone()
    random = torch.Generator().manual_seed(5)
    rough = torch.rand(1, 3, 14, 18, generator=random)
    view[..., 16:72, 30:102] = torch.nn.functional.interpolate(rough, (56, 72), mode="bicubic").clamp(0, 1)
    return (view * 255).round() / 255


def test_a_view_comes_back() -> None:
    codec, depth = load_codec("tiny").model, torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    first = (picture(0.0) * 255).round() / 255
    part, image, _ = codec.compress(first, depth, camera(0.0), None, 40, None, ONLY_HEVC)
    assert image[0] & 15 == Mode.ALONE  # without a reference there is nothing to predict from
    reference = codec.decompress(part, image, SIZE, camera(0.0), None, 40)
    view = changed(picture(9.0))
    without = codec.compress(view, depth, camera(0.3), reference, 40, None, replace(ONLY_HEVC, hevc=None))
    part, image, state = codec.compress(view, depth, camera(0.3), reference, 40, None, ONLY_HEVC)
    assert image[0] & 15 == Mode.HEVC
    back = codec.decompress(part, image, SIZE, camera(0.3), reference, 40)
    assert torch.allclose(back.image, state.image, atol=1e-5) and torch.equal(back.inverse_depth, state.inverse_depth)

    def cost(parts: tuple) -> float:
        bits = 8 * (len(parts[0]) + len(parts[1])) / (SIZE[0] * SIZE[1])
        return image_lambda(40) * (parts[2].image - view).square().mean().item() + bits

    assert cost((part, image, state)) < cost(without)


def test_illumination_goes_along() -> None:
    codec, depth = load_codec("tiny").model, torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    first = (picture(0.0) * 255).round() / 255
    _, _, reference = codec.compress(first, depth, camera(0.0), None, 48, None, ONLY_HEVC)
    view = changed((0.7 * picture(9.0) + 0.1).clamp(0, 1))
    part, image, state = codec.compress(view, depth, camera(0.3), reference, 48, None, ONLY_HEVC)
    assert image[0] == Mode.HEVC | 16
    back = codec.decompress(part, image, SIZE, camera(0.3), reference, 48)
    assert torch.allclose(back.image, state.image, atol=1e-5)


def hidden(view: Tensor, left: int, seed: int) -> Tensor:
    """The view with something in front of a part of it."""
    rough = torch.rand(1, 3, 16, 10, generator=torch.Generator().manual_seed(seed))
    view = view.clone()
    view[..., 12:84, left : left + 40] = torch.nn.functional.interpolate(rough, (72, 40), mode="bicubic").clamp(0, 1)
    return (view * 255).round() / 255


def test_what_the_reference_hides_comes_from_its_own_reference() -> None:
    codec, depth = load_codec("tiny").model, torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    views = [(picture(0.0) * 255).round() / 255, hidden(picture(3.0), 20, 1), hidden(picture(6.0), 70, 2), picture(9.0)]
    reference: ReferenceState | None = None
    sizes: dict[int, int] = {}
    for number, view in enumerate(views):
        here = camera(0.1 * number)
        for ancestors in (0, 2):
            effort = replace(ONLY_HEVC, hevc=HevcSearch("fast", ancestors=ancestors))
            part, image, state = codec.compress(view, depth, here, reference, 40, None, effort)
            sizes[ancestors] = len(part) + len(image)
            back = codec.decompress(part, image, SIZE, here, reference, 40)
            assert torch.allclose(back.image, state.image, atol=1e-5)
            assert len(back.ancestors) == len(state.ancestors) == min(number, MOST_ANCESTORS)
        reference = back
    assert image[0] & 15 == Mode.HEVC_ANCESTORS and sizes[2] < 0.9 * sizes[0]
    # without its ancestors the view cannot be read
    assert reference is not None
    alone = replace(reference, ancestors=())
    with pytest.raises(BitstreamError, match="expected an ancestor"):
        codec.decompress(part, image, SIZE, here, alone, 40)


def test_a_long_chain_keeps_few_ancestors_in_8_bits() -> None:
    state = ReferenceState(picture(0.0), torch.zeros(1, 24, 32), camera(0.0))
    for number in range(6):
        state = ReferenceState(picture(float(number)), torch.zeros(1, 24, 32), camera(0.1 * number)).below(state)
    assert [ancestor.image.dtype for ancestor in state.ancestors] == [torch.uint8] * MOST_ANCESTORS
    assert torch.equal(state.ancestors[0].image, (picture(4.0) * 255).round().byte())


@pytest.mark.parametrize("level", [12, 40])
def test_the_usual_quantizer_is_near_the_best(level: int) -> None:
    view = changed(picture(0.0))
    references = [to_samples(shown, SIZE) for shown in (picture(9.0), picture(0.5))]
    usual, best = (
        hevc_picture(view, references, image_lambda(level), HevcSearch("fast", neighbours)) for neighbours in (False, True)
    )
    assert usual is not None and best is not None
    assert best.cost <= usual.cost <= 1.05 * best.cost
    assert math.isfinite(usual.cost)


def test_damaged_data_are_named() -> None:
    view = changed(picture(0.0))
    references = [to_samples(picture(0.5), SIZE)]
    found = hevc_picture(view, references, image_lambda(40), HevcSearch("fast"))
    assert found is not None
    data = found.data
    assert torch.equal(read_hevc_picture(data, references, SIZE, "x"), found.image)
    sets = parameter_sets(96, 128, 1)
    # (a slice that is cut off decodes in part: FFmpeg does not tell; the unit's checksum does)
    for damaged in (b"", b"\x02", b"\x40\x01" + data[2:], data + sets, data[:2] + b"\0" * 40):
        with pytest.raises(BitstreamError, match="view 3: HEVC picture: expected"):
            read_hevc_picture(damaged, references, SIZE, "view 3")


def test_small_views_and_machines_without_x265(monkeypatch: pytest.MonkeyPatch) -> None:
    small = picture(0.0)[..., :40, :50]
    assert hevc_picture(small, [to_samples(small, (40, 50))], 100.0, HevcSearch()) is None
    view, references = changed(picture(0.0)), [to_samples(picture(0.5), SIZE)]
    found = hevc_picture(view, references, 100.0, HevcSearch("fast"))
    assert found is not None
    monkeypatch.setitem(sys.modules, "av", None)
    for function in (hevc._pyav, hevc.hevc_available):
        function.cache_clear()
    try:
        assert hevc_picture(view, references, 100.0, HevcSearch("fast")) is None
        with pytest.raises(BitstreamError, match="pip install av"):
            read_hevc_picture(found.data, references, SIZE, "view 3")
    finally:
        for function in (hevc._pyav, hevc.hevc_available):
            function.cache_clear()
