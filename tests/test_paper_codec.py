"""The paper preset as a whole: closed loop, sizes, ablations, gradients, state dict."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lmvic_ns.errors import BitstreamError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.paper import image as image_module
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.model import PaperCodec
from lmvic_ns.paper.views import ReferenceState, inverse_of_normalised, normalised_depth

SMALL = PaperConfig(n=8, m=12)


def make_codec(config: PaperConfig = SMALL) -> PaperCodec:
    """Random weights with latents that are worth coding."""
    torch.manual_seed(5)
    codec = PaperCodec(config).eval()
    with torch.no_grad():
        for part in (codec.image, codec.depth):
            part.encoder.last.weight.mul_(40.0)
            scale_bias = part.entropy.parameters_net[-1].bias
            assert isinstance(scale_bias, Tensor)
            scale_bias[: config.m] += 6.0  # wide enough that no symbol lies in the tails
        # mid grey and a depth in the middle: inside the clamps
        dict(codec.image.decoder.named_parameters())["last.1.bias"].add_(0.5)
        dict(codec.depth.decoder.named_parameters())["last.bias"].add_(2.0)
    codec.update()
    return codec


def make_camera(height: int, width: int, shift: float = 0.0, turn: float = 0.0) -> Cameras:
    intrinsics = torch.tensor([[[50.0, 0, width / 2], [0, 50, height / 2], [0, 0, 1]]])
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = math.cos(turn)
    pose[0, 2], pose[2, 0] = math.sin(turn), -math.sin(turn)
    pose[0, 3] = shift
    return Cameras(intrinsics, pose[None], torch.tensor([height]), torch.tensor([width]))


def make_view(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image and inverse depth with a slope, a near block and some infinity."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=generator)
    rho = torch.linspace(0.3, 0.7, width).expand(1, height, width).clone()
    rho[:, height // 3 : height // 2, width // 3 : width // 2] = 1.2
    rho[:, : height // 8] = 0.0
    return image, rho


@pytest.fixture(scope="module")
def codec() -> PaperCodec:
    return make_codec()


@pytest.fixture(scope="module")
def reference(codec: PaperCodec) -> ReferenceState:
    image, rho = make_view(64, 64, seed=1)
    with torch.no_grad():
        return codec.forward_view(image, rho, make_camera(64, 64), None).state


def test_a_chain_of_views_of_all_sizes_decodes_to_the_encoder_s_reconstruction(codec: PaperCodec) -> None:
    sizes = [(70, 53), (33, 90), (64, 64), (1, 1), (40, 130)]
    # the third view looks the other way: no overlap at all
    cameras = [make_camera(*size, shift=0.1 * i, turn=math.pi * (i == 2)) for i, size in enumerate(sizes)]
    encoder_state = decoder_state = None
    for index, ((height, width), camera) in enumerate(zip(sizes, cameras, strict=True)):
        image, rho = make_view(height, width, seed=index)
        depth_bytes, image_bytes, encoder_state = codec.compress_view(image, rho, camera, encoder_state)
        decoded, decoded_rho, decoder_state = codec.decompress_view(
            depth_bytes, image_bytes, height, width, camera, decoder_state
        )
        assert decoded.shape == image.shape and decoded_rho.shape == rho.shape
        assert decoded.min() >= 0 and decoded.max() <= 1 and decoded_rho.min() > 0
        assert torch.equal(decoded, encoder_state.image)
        assert torch.equal(decoded_rho, encoder_state.inverse_depth)
        assert all(torch.equal(a, b) for a, b in zip(encoder_state.features, decoder_state.features, strict=True))


def test_compressai_calls_on_a_chain_and_a_restored_state_dict(codec: PaperCodec) -> None:
    sizes = [(48, 64), (50, 40)]
    views = [make_view(*size, seed=i) for i, size in enumerate(sizes)]
    cameras = Cameras.cat([make_camera(*size, shift=0.1 * i) for i, size in enumerate(sizes)])
    coded = codec.compress([v[0][0] for v in views], [v[1][0] for v in views], cameras, depth_scale=2.0)
    torch.manual_seed(99)
    fresh = PaperCodec(SMALL).eval()
    with pytest.raises(WeightsError, match="update"):
        fresh.decompress(coded["strings"], coded["shape"], cameras, depth_scale=2.0)
    fresh.load_state_dict(codec.state_dict())  # tables included
    decoded = fresh.decompress(coded["strings"], coded["shape"], cameras, depth_scale=2.0)
    state = None
    for index, (image, rho) in enumerate(views):
        _, _, state = codec.compress_view(image, rho, cameras[index], state, depth_scale=2.0)
        assert torch.equal(decoded["x_hat"][index], state.image[0])
        assert torch.equal(decoded["inverse_depth_hat"][index], state.inverse_depth[0])


def test_estimated_bits_are_the_bytes_and_forward_is_what_is_coded(codec: PaperCodec, reference) -> None:
    image, rho = make_view(256, 320, seed=2)
    camera = make_camera(256, 320, shift=0.1)
    with torch.no_grad():
        out = codec.forward_view(image, rho, camera, reference)
    depth_bytes, image_bytes, state = codec.compress_view(image, rho, camera, reference)
    assert 8 * len(image_bytes) == pytest.approx(float(out.image_bits), rel=0.02)
    assert 8 * len(depth_bytes) == pytest.approx(float(out.depth_bits), rel=0.02)
    assert len(image_bytes) > 1000 and len(depth_bytes) > 1000
    assert torch.allclose(out.image_hat, state.image, atol=1e-4)
    assert torch.allclose(out.depth_hat, normalised_depth(state.inverse_depth, 1.0, SMALL.max_depth), rtol=1e-4)


def test_a_damaged_part_is_named(codec: PaperCodec, reference) -> None:
    image, rho = make_view(64, 64, seed=3)
    camera = make_camera(64, 64, shift=0.1)
    depth_bytes, image_bytes, _ = codec.compress_view(image, rho, camera, reference)
    with pytest.raises(BitstreamError, match="depth part"):
        codec.decompress_view(depth_bytes[:-2], image_bytes, 64, 64, camera, reference)
    with pytest.raises(BitstreamError, match="image part"):
        codec.decompress_view(depth_bytes, image_bytes[:-2], 64, 64, camera, reference)


def test_coding_refuses_training_mode_and_batches(codec: PaperCodec) -> None:
    image, rho = make_view(64, 64)
    two = Cameras.cat([make_camera(64, 64)] * 2)
    with pytest.raises(ValueError, match="one view"):
        codec.compress_view(image.repeat(2, 1, 1, 1), rho.repeat(2, 1, 1), two, None)
    with pytest.raises(ValueError, match="one view"):
        codec.decompress_view(b"", b"", 64, 64, two, None)
    with pytest.raises(ValueError, match="eval"):
        PaperCodec(SMALL).compress_view(image, rho, make_camera(64, 64), None)


def test_a_batch_is_its_samples(codec: PaperCodec) -> None:
    views = [make_view(64, 96, seed=i) for i in range(2)]
    cameras = [make_camera(64, 96, shift=0.2 * i) for i in range(2)]
    both = Cameras.cat(cameras)
    scale = torch.tensor([1.0, 2.0])
    with torch.no_grad():
        first = codec.forward_view(
            torch.cat([v[0] for v in views]), torch.cat([v[1] for v in views]), both, None, depth_scale=scale
        )
        second = codec.forward_view(first.image_hat, first.inverse_depth_hat, both[[1, 0]], first.state, depth_scale=scale)
        for i, (image, rho) in enumerate(views):
            alone = codec.forward_view(image, rho, cameras[i], None, depth_scale=float(scale[i]))
            assert torch.allclose(alone.image_bits[0], first.image_bits[i], rtol=1e-3)
            assert torch.allclose(alone.depth_hat[0], first.depth_hat[i], rtol=1e-3, atol=1e-3)
    assert second.image_hat.shape == (2, 3, 64, 96)


# --- ablations ---------------------------------------------------------------------------------------------------------


def ablated(codec: PaperCodec, **switches: bool) -> PaperCodec:
    """The same weights under other switches (mask extractors drop out of the state where there are none)."""
    other = PaperCodec(replace(SMALL, **switches)).eval()
    names = {name for name, _ in other.named_parameters()} | {name for name, _ in other.named_buffers()}
    other.load_state_dict({k: v for k, v in codec.state_dict().items() if k in names})
    return other


def moved(reference: ReferenceState, shift: float) -> ReferenceState:
    return replace(reference, cameras=make_camera(64, 64, shift=shift))


def brighter(reference: ReferenceState) -> ReferenceState:
    return replace(reference, image=1.0 - reference.image)


def run(codec: PaperCodec, reference: ReferenceState | None) -> dict[str, Tensor]:
    image, rho = make_view(64, 64, seed=4)
    with torch.no_grad():
        out = codec.forward_view(image, rho, make_camera(64, 64, shift=0.1), reference)
    return {"image": out.image_hat, "depth": out.depth_hat, "bits": out.image_bits}


def test_the_full_method_depends_on_everything(codec: PaperCodec, reference: ReferenceState) -> None:
    full = run(codec, reference)
    for other in (run(codec, None), run(codec, moved(reference, 0.4))):
        assert not torch.equal(full["image"], other["image"])
        assert not torch.equal(full["depth"], other["depth"])
    assert not torch.equal(full["image"], run(codec, brighter(reference))["image"])


def test_separate_is_independent_of_the_reference(codec: PaperCodec, reference: ReferenceState) -> None:
    separate = ablated(codec, cross_view=False)
    alone, full = run(separate, None), run(separate, reference)
    assert all(torch.equal(alone[key], full[key]) for key in alone)
    # and it is the full method without a reference: the same weights code a first view
    assert all(torch.equal(alone[key], value) for key, value in run(codec, None).items())


def test_concatenation_uses_the_reference_where_it_lies(codec: PaperCodec, reference, monkeypatch) -> None:
    # without masks and depth prediction, the poses have no other way in
    plain = ablated(codec, alignment=False, masks=False, depth_prediction=False)
    assert torch.equal(run(plain, reference)["image"], run(plain, moved(reference, 0.4))["image"])
    assert not torch.equal(run(plain, reference)["image"], run(plain, brighter(reference))["image"])
    aligned = ablated(codec, masks=False, depth_prediction=False)
    assert not torch.equal(run(aligned, reference)["image"], run(aligned, moved(reference, 0.4))["image"])

    def no_warp(*_, **__):
        raise AssertionError("warped")

    monkeypatch.setattr(image_module, "warp", no_warp)
    run(ablated(codec, alignment=False), reference)
    with pytest.raises(AssertionError, match="warped"):
        run(codec, reference)


def test_concatenation_takes_references_of_another_size(codec: PaperCodec, reference: ReferenceState) -> None:
    plain = ablated(codec, alignment=False)
    for size in ((130, 40), (40, 130)):
        image, rho = make_view(*size)
        with torch.no_grad():
            out = plain.forward_view(image, rho, make_camera(*size), reference)
        assert out.image_hat.shape == image.shape


def test_without_masks_a_mask_has_no_effect(codec: PaperCodec, reference: ReferenceState) -> None:
    unmasked = ablated(codec, masks=False)
    assert unmasked.image.mask_extractor is None and unmasked.depth.mask_extractor is None
    image, _ = make_view(64, 64, seed=4)
    disparity = torch.zeros(1, 64, 64, 2)
    results = {}
    for name, model in (("masked", codec), ("unmasked", unmasked)):
        for value in (0.0, 1.0):
            mask = torch.full((1, 1, 64, 64), value)
            with torch.no_grad():
                context = model.image.context(reference.image, reference.features, disparity, mask)
                out = model.image.entropy(model.image.encoder(image, context), context)
                results[name, value] = model.image.decoder(out.latent, context)[0], out.bits
    assert not torch.equal(results["masked", 0.0][0], results["masked", 1.0][0])
    assert torch.equal(results["unmasked", 0.0][0], results["unmasked", 1.0][0])
    assert torch.equal(results["unmasked", 0.0][1], results["unmasked", 1.0][1])


def test_without_depth_prediction_depth_is_coded_alone(codec: PaperCodec, reference: ReferenceState) -> None:
    alone = ablated(codec, depth_prediction=False)
    assert torch.equal(run(alone, reference)["depth"], run(alone, None)["depth"])
    assert not torch.equal(run(alone, reference)["image"], run(alone, None)["image"])


# --- training ----------------------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter() -> None:
    codec = make_codec().train()
    images = torch.rand(1, 2, 3, 64, 64)
    rho = make_view(64, 64)[1][None].expand(1, 2, 64, 64)
    out = codec(images, rho, [make_camera(64, 64), make_camera(64, 64, shift=0.1)])
    assert out["x_hat"].shape == images.shape and out["depth_hat"].shape == rho.shape
    distortion = (out["x_hat"] - images).square().mean() + (out["depth_hat"] - 1.0).square().mean()
    rate = sum(-value.log2().sum() for value in out["likelihoods"].values()) / images[:, :, 0].numel()
    (100 * distortion + rate + codec.aux_loss()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_chain_is_back_propagated_as_one() -> None:
    codec = make_codec().train()
    image, rho = make_view(64, 64)
    image.requires_grad_()
    first = codec.forward_view(image, rho, make_camera(64, 64), None)
    second = codec.forward_view(image.detach(), rho, make_camera(64, 64, shift=0.1), first.state)
    second.image_bits.sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    image.grad = None
    first = codec.forward_view(image, rho, make_camera(64, 64), None)
    second = codec.forward_view(image.detach(), rho, make_camera(64, 64, shift=0.1), first.state.detach())
    second.image_bits.sum().backward()
    assert image.grad is None


def test_the_training_clamp_keeps_values_inside_and_gradients_alive(codec: PaperCodec) -> None:
    x = torch.tensor([-1e6, 0.5, 3.0], requires_grad=True)
    training = PaperCodec(SMALL)
    clamped = training._clamp(x, 0.001, 1.0)
    assert clamped.tolist() == pytest.approx([0.001, 0.5, 1.0])
    clamped.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0, 1.0]
    assert codec._clamp(torch.tensor([float("nan"), float("inf")]), 0.0, 1.0).tolist() == [0.0, 1.0]


# --- depth -------------------------------------------------------------------------------------------------------------


def test_depth_is_normalised_by_the_scene_s_scale_and_bounded() -> None:
    rho = torch.tensor([[[0.5, 0.25, 0.0, -1.0, float("nan"), 1e-9]]])
    depth = normalised_depth(rho, 2.0, 8.0)
    assert depth.flatten().tolist() == pytest.approx([1.0, 2.0, 8.0, 8.0, 8.0, 8.0])
    assert inverse_of_normalised(depth, 2.0)[0, 0, :2].tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("wrong", [{"m": 16}, {"m": 0}, {"n": 193}, {"min_depth": 9.0}])
def test_impossible_sizes_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        PaperConfig(**wrong)
