"""AV1 pictures in place of symbols: alone and as a difference from the reference, exact, damaged, and where Pillow has none."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plane_views import SIZE, camera, picture
from torch import Tensor

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.pictures import av1 as av1_picture
from lmvic_ns.codec.pictures.av1 import Av1Search, best_av1_picture, read_av1_picture
from lmvic_ns.codec.quality import image_lambda
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.cameras import Cameras

MEDIUM = replace(Effort.named("medium"), hevc=None)


def photograph(height: int, width: int) -> Tensor:
    """Something with edges, slopes and texture, 0..1 in 8 bits."""
    rng = np.random.default_rng(1)
    small = rng.random((3, height // 8 + 2, width // 8 + 2)).astype(np.float32)
    rough = torch.nn.functional.interpolate(torch.from_numpy(small)[None], (height, width), mode="bicubic")
    rough[..., : height // 2, width // 3 :] = 0.25 + 0.5 * (torch.arange(width - width // 3) % 7 < 3)
    return (rough.clamp(0, 1) * 255).round() / 255


def best(picture: Tensor, level: int = 32) -> av1_picture.Av1Picture:
    search, weight = Av1Search(), image_lambda(level)
    found = best_av1_picture(picture, weight, search, lambda y: (y - picture).square().mean().item(), float("inf"))
    assert found is not None
    return found


@pytest.mark.parametrize("chroma", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (64, 200)])
def test_the_boxes_are_put_back(size: tuple[int, int], chroma: int) -> None:
    values = (photograph(72, 208)[0, :, : size[0], : size[1]] * 255).byte().permute(1, 2, 0).numpy()
    picture, stream = Image.fromarray(np.ascontiguousarray(values)), io.BytesIO()
    options = {"subsampling": ("4:2:0", "4:4:4")[chroma], "speed": 8, "max_threads": 1, "advanced": {"tune": "psnr"}}
    picture.save(stream, "AVIF", quality=60, **options)
    data = bytes([chroma]) + av1_picture._media_data(stream.getvalue())
    assert len(data) < len(stream.getvalue()) - 200
    expected = torch.from_numpy(np.asarray(Image.open(stream).convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    assert torch.equal(read_av1_picture(data, size, "x"), expected)


def test_the_best_is_near_a_full_search() -> None:
    view = photograph(96, 160)
    image = Image.fromarray((view[0] * 255).byte().permute(1, 2, 0).numpy())
    for level in (10, 30, 50):
        weight, pixels = image_lambda(level), 96 * 160
        costs = []
        for quality in range(1, 99, 3):
            data = av1_picture._encode(image, quality, 1, 7)
            error = (read_av1_picture(data, (96, 160), "x") - view).square().mean().item()
            costs.append(weight * error + 8 * len(data) / pixels)
        assert best(view, level).cost <= 1.05 * min(costs)


def test_a_view_alone_and_as_a_difference() -> None:
    codec, effort = load_codec("tiny").model, replace(MEDIUM, stored=False)
    near, depth = camera(0.0), torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    first = (picture(0.0) * 255).round() / 255
    part, image, state = codec.compress(first, depth, near, None, 40, None, effort)
    reference = codec.decompress(part, image, SIZE, near, None, 40)
    assert torch.allclose(reference.image, state.image, atol=1e-5)
    modes = [Mode(image[0] & 15)]
    # the same place with sharp new things on it, of which the networks know little
    second = first.clone()
    second[..., 16:60, 30:100] = photograph(44, 70)
    for view in (second, photograph(*SIZE)):
        part, image, state = codec.compress(view, depth, near, reference, 40, None, effort)
        decoded = codec.decompress(part, image, SIZE, near, reference, 40)
        assert torch.allclose(decoded.image, state.image, atol=1e-5)
        modes.append(Mode(image[0] & 15))
    assert Mode.AV1_DIFFERENCE in modes and Mode.AV1 in modes, modes


def test_differences_come_back() -> None:
    view, other = photograph(40, 56), photograph(40, 56).flip(-1)
    mask = (torch.arange(56) > 9).float().expand(1, 1, 40, 56)
    prediction = av1_picture.difference_prediction(other, mask)
    assert (prediction[..., :10] * 255 == 128).all()
    again = av1_picture.from_difference(av1_picture.to_difference(view, prediction), prediction)
    small = (view - prediction).abs() < 0.49
    assert torch.allclose(again[small], view[small], atol=1e-6)


def test_damaged_data_are_named() -> None:
    data = best(photograph(48, 64)).data
    cases = (
        (b"", "found 0 bytes"),
        (b"\x07" + data[1:], "expected a subsampling"),
        (data[:1] + b"\0" * 40, "found no still picture"),
        (data[:20] + b"\0" * 40, "expected one that can be read"),
        (data[: len(data) // 2], "expected one that can be read"),
    )
    for damaged, message in cases:
        with pytest.raises(BitstreamError, match=f"view 3: AV1 picture: .*{message}"):
            read_av1_picture(damaged, (48, 64), "view 3")
    with pytest.raises(BitstreamError, match="expected 72x48 pixels, found 64x48"):
        read_av1_picture(data, (48, 72), "view 3")


def test_without_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    view, codec = photograph(64, 64), load_codec("tiny").model
    data = best(view).data
    monkeypatch.setattr(av1_picture, "av1_available", lambda: False)
    with pytest.raises(BitstreamError, match=r"Pillow of 11\.3"):
        read_av1_picture(data, (64, 64), "view 3")
    _, image, _ = codec.compress(view, None, camera(0.0), None, 40, None, MEDIUM)
    assert image[0] not in (Mode.AV1, Mode.AV1_DIFFERENCE)


@pytest.mark.data
def test_a_photograph_seen_twice_costs_next_to_nothing(data_root: Path) -> None:
    with Image.open(data_root / "photos" / "test" / "7.png") as picture:
        values = np.asarray(picture.convert("RGB"))[:384, :512]
    view = torch.from_numpy(values.copy()).permute(2, 0, 1)
    intrinsics = torch.tensor([[[500.0, 0, 256], [0, 500.0, 192], [0, 0, 1]]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)[None]
    codec, depth = load_codec("tiny").model, torch.full((1, 384, 512), 0.5, dtype=torch.float64)
    cameras = Cameras(intrinsics, pose, torch.tensor([384]), torch.tensor([512]))
    view = view[None].float() / 255
    first_depth, first, reference = codec.compress(view, depth, cameras, None, 40, None, MEDIUM)
    again_depth, again, state = codec.compress(view, depth, cameras, reference, 40, None, MEDIUM)
    assert len(again_depth) + len(again) <= 0.02 * (len(first_depth) + len(first))
    assert (state.image - view).square().mean() <= (reference.image - view).square().mean()
