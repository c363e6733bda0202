"""Encoder-side refinement of latents: smaller or better views, the same decoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from plane_views import SHIFT, SIZE, camera, picture

from lmvic_ns.codec.effort import Effort, EffortName
from lmvic_ns.codec.latent_refinement import LatentRefinement, relaxed_rounding
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.quality import image_lambda
from lmvic_ns.codec.records import EncodeOptions
from lmvic_ns.codec.state import ReferenceState
from lmvic_ns.errors import SceneError
from lmvic_ns.evaluation.own_codec import photograph_scene
from lmvic_ns.workflows.options import EffortName as EffortOption

FIT = Effort(latent=LatentRefinement(steps=16))


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def cost(parts: tuple[bytes, bytes, ReferenceState], level: int) -> float:
    error = float((parts[2].image - picture(0.0)).square().mean())
    return image_lambda(level) * error + 8 * len(parts[1]) / (SIZE[0] * SIZE[1])


def test_relaxed_rounding_hardens_to_rounding() -> None:
    x = torch.linspace(-2.37, 2.41, 97)  # no ties
    generator = torch.Generator().manual_seed(0)
    soft, hard = relaxed_rounding(0.5, 0.0, generator)(x), relaxed_rounding(0.005, 0.0, generator)(x)
    assert float((hard - x.round()).abs().max()) < 0.01
    assert float((soft - x.round()).abs().max()) > 0.2
    drawn = torch.stack([relaxed_rounding(0.5, 1.0, generator)(x) for _ in range(400)])
    assert bool(((drawn >= x.floor()) & (drawn <= x.floor() + 1)).all())
    assert float((drawn.mean(0) - soft).abs().max()) < 0.15
    moving = x.clone().requires_grad_()
    relaxed_rounding(0.5, 0.0, generator)(moving).sum().backward()
    assert moving.grad is not None and bool((moving.grad > 0).all())


def test_no_temperature_noise_or_step_changes_what_the_relaxed_rate_is(model: MultiViewModel) -> None:
    """With hard rounding in place of the relaxed one, value and rate are those of the training pass."""
    entropy, level = model.image.entropy, torch.tensor([30.0])
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, entropy.config.latent, 4, 8, generator=generator)
    with torch.no_grad():
        scaled, hyper = entropy.start(latent, level, None)
        relaxed = entropy.relaxed(scaled, hyper, level, torch.round)
        trained = entropy(latent, level)
    assert torch.allclose(relaxed.latent, trained.latent, atol=1e-4)
    assert torch.allclose(relaxed.latent_bits, trained.latent_bits, rtol=1e-4)
    assert torch.allclose(relaxed.hyper_bits, trained.hyper_bits, rtol=1e-4)


@pytest.mark.parametrize("level", [12, 44])
def test_a_photograph_costs_less_and_decodes(model: MultiViewModel, level: int) -> None:
    view = camera(0.0)
    plain = model.compress(picture(0.0), None, view, None, level)
    fitted = model.compress(picture(0.0), None, view, None, level, effort=FIT)
    assert fitted[:2] == model.compress(picture(0.0), None, view, None, level, effort=FIT)[:2]  # same input, same bytes
    assert cost(fitted, level) < 0.99 * cost(plain, level)
    decoded = model.decompress(fitted[0], fitted[1], SIZE, view, None, level)
    assert float((decoded.image - fitted[2].image).abs().max()) < 1e-5


def test_a_view_with_a_reference_costs_less_and_decodes(model: MultiViewModel) -> None:
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    depth = torch.full((1, *SIZE), 0.5)
    _, _, reference = model.compress(picture(-SHIFT), depth, first, None, 40)
    plain = model.compress(picture(0.0), depth, second, reference, 40)
    fitted = model.compress(picture(0.0), depth, second, reference, 40, effort=FIT)
    assert fitted[0] == plain[0]  # depth is none of its business
    assert cost(fitted, 40) < 0.99 * cost(plain, 40)
    decoded = model.decompress(fitted[0], fitted[1], SIZE, second, reference, 40)
    assert float((decoded.image - fitted[2].image).abs().max()) < 1e-5


def test_a_search_that_makes_it_worse_is_not_kept(model: MultiViewModel) -> None:
    wild = Effort(latent=dataclasses.replace(LatentRefinement(), steps=2, step_size=3.0))
    plain = model.compress(picture(0.0), None, camera(0.0), None, 30)
    assert model.compress(picture(0.0), None, camera(0.0), None, 30, effort=wild)[:2] == plain[:2]


def test_named_efforts() -> None:
    assert get_args(EffortName) == get_args(EffortOption)
    efforts = [Effort.named(name) for name in get_args(EffortName)]
    assert all(e.depth_search is not None and e.illumination and e.alone and e.stored for e in efforts)
    assert [e.depth_level_stride > 0 for e in efforts] == [False, True, True, True]
    assert [e.latent is not None for e in efforts] == [False, False, True, True]
    learned = [e.with_learned_depth() for e in efforts]
    assert learned[0] == dataclasses.replace(efforts[0], depth_search=None) and all(e.depth_search is None for e in learned)
    with pytest.raises(ValueError, match="slowest"):
        Effort.named("slower")  # type: ignore[arg-type]


def test_weights_for_another_metric_refuse_it(tmp_path: Path) -> None:
    weights = dataclasses.replace(load_codec("tiny").weights, metadata={"run": json.dumps({"metric": "ms-ssim"})})
    scene = photograph_scene((picture(0.0)[0] * 255).byte().permute(1, 2, 0).numpy())
    with pytest.raises(SceneError, match="ms-ssim: use --effort medium"):
        MultiViewCodec(weights).encode(scene, tmp_path / "a.lmvic", options=EncodeOptions(effort=Effort.named("slow")))
    assert list(tmp_path.iterdir()) == []
    assert dataclasses.replace(weights, metadata={"run": "nonsense"}).metric == "mse"
