"""The cross-view path: what the reference shows costs nothing, what it does not show costs no more than without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from codec_scenes import plane_scene, small_model
from plane_views import SHIFT, SIZE, camera, picture

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.networks.fixed_point import from_fixed, to_fixed
from lmvic_ns.codec.networks.hyper_context import HyperContext
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.pictures.illumination import Illumination, fit_illumination
from lmvic_ns.codec.quality import image_lambda
from lmvic_ns.codec.view_mode import AncestorReference, Mode, ViewMode, read_view_mode
from lmvic_ns.errors import BitstreamError

MEDIUM = Effort.named("medium")


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def bytes_of(parts: tuple) -> int:
    return len(parts[0]) + len(parts[1])


@pytest.mark.parametrize("trained", [False, True])
def test_without_a_difference_the_view_is_the_warped_picture(model: MultiViewModel, trained: bool) -> None:
    """If the decoded latent is that of the warped picture, the synthesis gives that picture, whatever the weights."""
    codec = (model if trained else small_model()).image
    generator = torch.Generator().manual_seed(0)
    aligned, level = torch.rand(1, 3, 64, 128, generator=generator), torch.tensor([30.0])
    mask = torch.ones(1, 1, 64, 128)
    mask[..., :32] = 0
    with torch.no_grad():
        context = codec.context(aligned, mask, level)
        decoded = codec.synthesis(context.latent, level, context)
        alone = codec.synthesis(context.latent, level, None)
    assert torch.allclose(decoded[..., 32:], aligned[..., 32:], atol=1e-5)
    assert torch.allclose(decoded[..., :32], alone[..., :32], atol=1e-5)


def test_the_same_photograph_again_costs_little(model: MultiViewModel) -> None:
    depth = torch.full((1, *SIZE), 0.5)
    first = model.compress(picture(0.0), depth, camera(0.0), None, 32, None, MEDIUM)
    again = model.compress(picture(0.0), depth, camera(0.0), first[2], 32, None, MEDIUM)
    # headers and the loop filter weigh much in so small a picture; on photographs see docs/results/prediction
    assert bytes_of(again) <= 0.35 * bytes_of(first)
    error = (again[2].image - picture(0.0)).square().mean()
    assert error <= 1.1 * (first[2].image - picture(0.0)).square().mean()


@pytest.mark.parametrize("level", [8, 32, 56])
def test_a_reference_that_shows_something_else_costs_nothing(model: MultiViewModel, level: int) -> None:
    depth = torch.full((1, *SIZE), 0.5)
    other = model.compress(1 - picture(40.0).flip(2), depth, camera(SHIFT / 60), None, level, None, MEDIUM)[2]
    alone = model.compress(picture(0.0), depth, camera(0.0), None, level, None, MEDIUM)
    beside = model.compress(picture(0.0), depth, camera(0.0), other, level, None, MEDIUM)

    def cost(parts: tuple) -> float:
        error = float((parts[2].image - picture(0.0)).square().mean())
        return image_lambda(level) * error + 8 * len(parts[1]) / (SIZE[0] * SIZE[1])

    assert cost(beside) <= cost(alone) * (1 + 1e-6)


def test_context_of_the_hyper_latent_is_exact() -> None:
    """Integers, half a row at a time, give what the float pass gives for all positions at once."""
    torch.manual_seed(0)
    context = HyperContext(6, 8)
    torch.nn.init.normal_(context.out.weight, std=0.3)
    z = torch.randn(1, 6, 5, 7).mul(64).round() / 64
    mean, change = context(z)
    fixed = to_fixed(z)
    for row in range(5):
        for odd in (0, 1):
            # what is not decoded yet must not matter
            known = fixed.clone()
            known[..., row + 1 :, :] = 1e5
            known[..., row, odd::2] = 1e5
            if not odd:
                known[..., row, :] = 1e5
            m, c = context.exact(known, row, bool(odd))
            assert (from_fixed(m)[..., 0, :] - mean[..., row, odd::2]).abs().max() < 5e-3
            assert (from_fixed(c)[..., 0, :] - change[..., row, odd::2]).abs().max() < 5e-3


def test_exposure_is_matched_and_decoded(model: MultiViewModel) -> None:
    matched = Illumination((20, -8, 0), (5, 0, -9))
    view = picture(0.0)
    mask = torch.ones(1, 1, *SIZE)
    aligned = view.clone()
    aligned[..., :30] = 0.1  # something stands in front of the reference
    found = fit_illumination(matched.apply(view), aligned, mask, 1e-4)
    assert found is not None
    for a, b in zip((*found.gain, *found.offset), (*matched.gain, *matched.offset), strict=True):
        assert abs(a - b) <= 3
    assert fit_illumination(view, view, mask, 1e-4) is None
    assert Illumination.from_bytes(matched.to_bytes(), "x") == matched

    depth = torch.full((1, *SIZE), 0.5)
    reference = model.compress(picture(-SHIFT), depth, camera(SHIFT / 60), None, 40, None, MEDIUM)[2]
    darker = Illumination((-60, -60, -60), (0, 0, 0)).apply(view)
    sizes = {}
    for illumination in (False, True):
        effort = replace(MEDIUM, illumination=illumination, stored=False)
        depth_part, image_part, state = model.compress(darker, depth, camera(0.0), reference, 40, None, effort)
        sizes[illumination] = len(depth_part) + len(image_part)
        decoded = model.decompress(depth_part, image_part, SIZE, camera(0.0), reference, 40)
        assert torch.allclose(decoded.image, state.image, atol=1e-5)
        assert torch.equal(decoded.inverse_depth, state.inverse_depth)
    assert sizes[True] < sizes[False]


def test_modes_are_read_back_and_damage_is_named() -> None:
    matched = Illumination((1, 2, 3), (-4, 5, -6))
    for mode in (ViewMode(Mode.ALONE), ViewMode(Mode.PREDICTED), ViewMode(Mode.PREDICTED, matched), ViewMode(Mode.STORED)):
        assert read_view_mode(mode.to_bytes() + b"rest", True, "view") == (mode, b"rest")
    further = (AncestorReference(1, matched), AncestorReference(3))
    for mode in (ViewMode(Mode.HEVC_ANCESTORS, matched, further), ViewMode(Mode.HEVC_ANCESTORS, None, further[1:])):
        assert read_view_mode(mode.to_bytes() + b"rest", True, "view", generations=3) == (mode, b"rest")
        with pytest.raises(BitstreamError, match="expected an ancestor"):
            read_view_mode(mode.to_bytes() + b"rest", True, "view", generations=2)
    for data, reference, message in (
        (b"", True, "found no bytes"),
        (b"\x06", True, "expected an ancestor, found no bytes"),
        (b"\x06\x22\x02", True, "expected an ancestor 3..3, found 2"),
        (b"\x06\x00", True, "expected an ancestor 1..3, found 0"),
        (b"\x06\x11re", True, "expected 6 bytes"),
        (b"\x07", True, "expected a mode"),
        (b"\x01rest", False, "without a reference"),
        (b"\x10rest", True, "no illumination"),
        (b"\x11re", True, "expected 6 bytes"),
    ):
        with pytest.raises(BitstreamError, match=message):
            read_view_mode(data, reference, "view 3: image part", generations=3)


def test_states_hold_no_features() -> None:
    """Ancestors cost their picture and their depth alone."""
    scene = plane_scene([(64, 64)])
    _, _, state = small_model().compress(
        scene.image(0)[None], scene.inverse_depth(0)[None].double() / 2, scene.cameras[0], None, 30
    )
    floats = sum(value.numel() for value in vars(state).values() if isinstance(value, torch.Tensor))
    assert floats == 3 * 64 * 64 + 16 * 16
