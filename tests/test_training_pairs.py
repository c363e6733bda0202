"""Second views made of photographs, pictures off the track, and tables that learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_scenes import SMALL, small_model

from lmvic_ns.codec.networks.layers import LevelVector
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.training.losses import log_limited
from lmvic_ns.training.objectives import ChainObjective, LossConfig
from lmvic_ns.training.pairs import PairBatch, PairConfig, make_pairs
from lmvic_ns.training.synthetic import KINDS, synthetic_picture

QUIET = PairConfig(error=0.0, exposure=0.0, noise=0.0, blur=0.0, occluder=0.0, wrong=0.0)


def photographs(count: int = 4, size: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(1)
    fields = torch.from_numpy(rng.random((count, 3, 9, 9))).float()
    return torch.nn.functional.interpolate(fields, (size, size), mode="bicubic", align_corners=True).clamp(0, 1)


class Echo(torch.nn.Module):
    """A codec without loss."""

    def forward_photo(self, image: torch.Tensor, level: torch.Tensor):
        return type("Out", (), {"image": image})


def test_a_quiet_pair_lies_over_its_view() -> None:
    torch.manual_seed(0)
    view = photographs()
    image, aligned, mask = make_pairs(Echo(), view, torch.full((4,), 30.0), 63.0, QUIET)
    assert torch.equal(image, view) and bool((mask == 1).all())
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    assert (aligned[inside] - view[inside]).abs().mean() < 0.02
    exact = make_pairs(Echo(), view, torch.full((4,), 30.0), 63.0, PairConfig(exact=1.0, occluder=0.0, wrong=0.0))
    assert torch.allclose(exact[1], view, atol=1e-6)


def test_pairs_follow_the_generator_and_show_what_was_asked() -> None:
    def pair(config: PairConfig) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(5)
        return make_pairs(Echo(), photographs(), torch.full((4,), 30.0), 63.0, config)

    assert all(torch.equal(a, b) for a, b in zip(pair(PairConfig()), pair(PairConfig()), strict=True))
    wrong = pair(PairConfig(wrong=1.0))
    assert (wrong[1] - photographs()).abs().mean() > 0.1 and bool((wrong[2] == 1).all())


def test_a_step_on_pairs_has_gradients() -> None:
    torch.manual_seed(0)
    model = small_model().train()
    objective = ChainObjective(LossConfig(), lambda level: 100 + 10 * level, lambda level: level + 1, 64)
    batch = PairBatch((photographs(2) * 255).byte(), torch.tensor([10.0, 50.0]))
    result = objective(model, batch)
    result.loss.backward()
    for name in ("image.trust.weight", "image.entropy.reference_gate.weight", "image.entropy.reference_logit.anchors"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and bool(gradient.any()), name


def test_synthetic_pictures_are_of_all_kinds() -> None:
    found = [synthetic_picture(np.random.default_rng(seed), 32) for seed in range(60)]
    assert all(p.shape == (32, 32, 3) and p.dtype == np.uint8 for p in found)
    assert len({p.tobytes() for p in found}) == 60 and KINDS == 8
    assert any(p.std() == 0 or (p == p[0, 0]).all() for p in found) and any(p.std() > 60 for p in found)


def test_a_picture_gone_wrong_does_not_drown_the_others() -> None:
    loss = torch.tensor([0.5, 9.0, 1e6], requires_grad=True)
    out = log_limited(loss)
    assert torch.equal(out[:2], loss[:2]) and out[2] < 200
    out.sum().backward()
    assert loss.grad is not None and loss.grad[0] == 1 and 0 < loss.grad[2] < 1e-3


@pytest.mark.slow
def test_every_table_leaves_its_start() -> None:
    """Scales, gains and shares are in natural units: one learning rate moves them all in a short training."""
    torch.manual_seed(0)
    model = MultiViewModel(SMALL)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    objective = ChainObjective(LossConfig(), lambda level: 100 * 1.1**level, lambda level: level + 1, 64)
    optimizer = torch.optim.AdamW(model.image.parameters(), lr=2e-3)
    for _ in range(40):
        level = torch.tensor([0.0, 20.0, 45.0, 63.0])
        loss = objective(model, PairBatch((photographs() * 255).byte(), level)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, module in model.image.named_modules():
        if isinstance(module, LevelVector):
            moved = (module.anchors - start[f"image.{name}.anchors"]).abs().mean()
            assert moved > 2e-3, name
