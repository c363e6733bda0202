"""What is decoded does not depend on the device, the thread count, the number type or the memory layout."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from codec_scenes import NetworkCodec, plane_scene, small_codec, small_model

from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.networks.entropy_networks import STEPS, step_masks, step_places
from lmvic_ns.codec.networks.fixed_point import FixedPointConv2d, fill_holes, from_fixed, to_fixed
from lmvic_ns.codec.weights import load_weights, save_weights, untrained_weights


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 12)])
def test_exact_convolution_is_the_float_one_on_a_grid(kernel: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = FixedPointConv2d(12, 12, kernel, groups)
    x = torch.randn(2, 12, 9, 7)
    found = from_fixed(conv.exact(to_fixed(x)))
    assert (found - conv(x).double()).abs().max() < 5e-3
    assert torch.equal(found * 4096, (found * 4096).round())


def test_exact_convolution_is_the_same_in_any_order_of_summation() -> None:
    torch.manual_seed(1)
    conv = FixedPointConv2d(300, 20)
    x = to_fixed(torch.randn(1, 300, 5, 6) * 30)
    order = torch.randperm(300)
    other = FixedPointConv2d(300, 20)
    other.load_state_dict(conv.state_dict())
    other.weight.data = conv.weight.data[:, order]
    assert torch.equal(conv.exact(x), other.exact(x[:, order]))
    assert torch.equal(conv.exact(x)[..., 2:4, 1:3], conv.exact(x[..., 2:4, 1:3]))


def test_holes_are_filled_from_around_and_known_values_stay() -> None:
    x = torch.arange(35, dtype=torch.float64).reshape(1, 1, 5, 7)
    mask = torch.ones_like(x)
    mask[..., 1:3, 2:5] = 0
    filled = fill_holes(x, mask)
    assert torch.equal(filled[mask > 0], x[mask > 0])
    assert filled.min() >= 0 and filled.max() <= 34 and (filled[mask == 0] > 0).all()
    assert torch.equal(fill_holes(x, torch.zeros_like(x)), torch.zeros_like(x))


def test_steps_code_every_symbol_once() -> None:
    masks = step_masks(12, 6, 8)
    assert masks.shape[0] == STEPS and torch.equal(masks.sum(0), torch.ones(12, 6, 8, dtype=torch.long))
    # in every step each position has the same number of channels, so a step folds to a dense tensor
    assert all((mask.sum(0) == 3).all() for mask in masks)
    for step in range(STEPS):  # and its slices are the same positions
        found = torch.zeros(12, 6, 8, dtype=torch.bool)
        for channels, (rows, columns) in step_places(step, 12):
            found[channels, rows, columns] = True
        assert torch.equal(found, masks[step])


VARIANTS = {
    "float64": lambda m: m.double(),
    "channels last": lambda m: m.to(memory_format=torch.channels_last),
    "two threads": lambda m: m,
    "no oneDNN": lambda m: m,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_machine_decodes_the_same(tmp_path, variant: str) -> None:
    codec, scene = small_codec(), plane_scene([(70, 90)] * 3)
    codec.encode(scene, tmp_path / "a.lmvic", quality=40)
    expected = {view.index: view for view in codec.decode(tmp_path / "a.lmvic")}
    other = MultiViewCodec(untrained_weights(small_model(), "small"))
    VARIANTS[variant](other.model)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if variant == "two threads" else 1)
    try:
        with torch.backends.mkldnn.flags(enabled=variant != "no oneDNN"):
            found = list(other.decode(tmp_path / "a.lmvic"))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 3
    for view in found:
        depth, reference = view.inverse_depth, expected[view.index].inverse_depth
        assert depth is not None and reference is not None and torch.equal(depth, reference)
        assert (view.image - expected[view.index].image).abs().max() * 255 < 1e-3


def test_another_process_decodes_the_same(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(40, 50)] * 2)
    save_weights(small_model(), tmp_path / "small.safetensors", {"name": "small"})
    codec = NetworkCodec(load_weights(tmp_path / "small.safetensors"))
    codec.encode(scene, tmp_path / "a.lmvic", quality=30)
    program = (
        "import sys, json, torch; torch.set_num_threads(2)\n"
        "from lmvic_ns.codec import load_codec\n"
        "codec = load_codec(sys.argv[1])\n"
        "print(json.dumps([[v.index, v.image.double().sum().item(), v.inverse_depth.sum().item()]"
        " for v in codec.decode(sys.argv[2])]))"
    )
    arguments = [str(tmp_path / "small.safetensors"), str(tmp_path / "a.lmvic")]
    out = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True).stdout
    found = {index: (image, depth) for index, image, depth in json.loads(out)}
    for view in codec.decode(tmp_path / "a.lmvic"):
        image, depth = found[view.index]
        assert view.inverse_depth is not None and depth == view.inverse_depth.sum().item()
        assert abs(image - view.image.double().sum().item()) / view.image.numel() * 255 < 1e-3
