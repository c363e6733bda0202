"""A grown model codes as the smaller one did, and all of it can learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from plane_views import SHIFT, SIZE, camera, picture

from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.image import ImageConfig
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.training import TrainingError
from lmvic_ns.training.growth import GrowConfig, check_growth, grow, train_grow

SMALL = ModelConfig(ImageConfig(192, 32, 2, 3, 1, 8, 16, 24))
LARGE = ModelConfig(ImageConfig(208, 32, 4, 5, 2, 8, 24, 40))


def trained(config: ModelConfig, seed: int) -> MultiViewModel:
    """A model whose every weight has moved, as training moves them."""
    torch.manual_seed(seed)
    model = MultiViewModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.update()
    return model


def outputs(model: MultiViewModel) -> list[torch.Tensor]:
    """A root and a view that refers to it."""
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    depth, level = torch.full((1, *SIZE), 0.5), torch.tensor([40.0])
    root = model.forward_view(picture(-SHIFT), depth, first, None, level)
    view = model.forward_view(picture(0.0), depth, second, root.state, level)
    return [root.image, root.image_bits, view.image, view.image_bits]


def test_a_grown_model_codes_as_the_smaller_one() -> None:
    small = trained(SMALL, 0)
    torch.manual_seed(1)
    large = MultiViewModel(LARGE)
    before = outputs(large)
    grow(small, large)
    with torch.no_grad():
        wanted, found = outputs(small), outputs(large)
    for a, b, c in zip(wanted, found, before, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(c, a, rtol=1e-2, atol=1e-2)
    # the tables, too: the same symbols take the same bytes
    files = [model.compress(picture(0.0), None, camera(0.0), None, 20)[1] for model in (small, large)]
    assert abs(len(files[0]) - len(files[1])) <= 0.01 * len(files[0]) + 4


def test_everything_new_can_learn() -> None:
    """After a few steps every weight of the image codec has a gradient: nothing new is cut off."""
    large = MultiViewModel(LARGE)
    grow(trained(SMALL, 0), large)
    optimizer = torch.optim.SGD(large.image.parameters(), lr=1e-6)
    for _ in range(3):
        optimizer.zero_grad()
        _, _, image, bits = outputs(large)
        (100 * (image - picture(0.0)).square().mean() + bits.sum() / 1000).backward()
        optimizer.step()
    for name, value in large.image.named_parameters():
        if "anchors" not in name:
            assert value.grad is not None and value.grad.any(), name
    trust = large.image.trust.weight
    assert trust.grad is not None and (trust.grad != 0).float().mean() > 0.99


def test_presets_that_do_not_fit_are_named() -> None:
    with pytest.raises(TrainingError, match="latent is 32"):
        check_growth(SMALL, dataclasses.replace(LARGE, image=dataclasses.replace(LARGE.image, latent=48)))
    with pytest.raises(TrainingError, match="features is 208"):
        check_growth(LARGE, SMALL)


@pytest.mark.slow
def test_tiny_grows_into_base(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.codec.presets import build_model
    from lmvic_ns.training.runner import load_initial_weights

    tiny = load_codec("tiny").model
    save_file({name: value.contiguous() for name, value in tiny.state_dict().items()}, str(tmp_path / "tiny.safetensors"))
    train_grow(GrowConfig(tmp_path / "tiny.safetensors", tmp_path / "runs" / "base.safetensors"))
    base = build_model("base")
    assert load_initial_weights(base, tmp_path / "runs" / "base.safetensors") == []
    with torch.no_grad():
        for level in (0.0, 30.0, 63.0):
            a, b = (m.forward_photo(picture(0.0), torch.tensor([level])) for m in (tiny, base))
            torch.testing.assert_close(b.image, a.image, rtol=1e-3, atol=2e-3)
            torch.testing.assert_close(b.image_bits, a.image_bits, rtol=2e-3, atol=1.0)


def test_base_fits_into_a_package(tmp_path: Path) -> None:
    """Weights that ship take at most 16 MB a file."""
    from lmvic_ns.codec.presets import build_model
    from lmvic_ns.codec.weights import save_weights

    for preset in ("base", "tiny"):
        save_weights(build_model(preset), tmp_path / "weights.safetensors", {"name": preset, "preset": preset})
        assert (tmp_path / "weights.safetensors").stat().st_size <= 16e6
