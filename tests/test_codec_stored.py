"""Pictures that networks fail on: never worse than an ordinary picture, never silent, better as the level rises."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from plane_views import camera
from torch import Tensor

from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.pictures.stored import cheaper_picture, read_stored_picture
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.cameras import Cameras

FAST = Effort.named("fast")


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def unusual(kind: str, height: int, width: int) -> Tensor:
    """A picture that no camera takes, 0..1."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    slope = columns / max(width - 1, 1)
    if kind == "dither":
        grey = (rng.random((height, width)) < slope).astype(float)
    elif kind == "checker":
        grey = (rows + columns) % 2.0
    elif kind == "stripes":
        grey = columns % 2.0
    elif kind == "halftone":
        grey = (np.sin(rows * 1.9) * np.sin(columns * 1.9) > slope * 2 - 1).astype(float)
    elif kind == "noise":
        return torch.from_numpy((rng.random((3, height, width)) * 255).round() / 255)[None].float()
    else:  # a patch of dither in something smooth
        grey = 0.3 + 0.4 * slope
        grey[:64, :64] = rng.random(grey[:64, :64].shape) < 0.5
    return torch.from_numpy(np.round(grey * 255) / 255)[None, None].expand(1, 3, -1, -1).float().contiguous()


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-12))


def jpeg_bytes(picture: Tensor, quality: float) -> int:
    """The smallest JPEG (4:4:4) of at least this PSNR."""
    values = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
    for setting in range(1, 101):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "JPEG", quality=setting, subsampling=0, optimize=True)
        decoded = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)[None] / 255
        if psnr(decoded, picture) >= quality:
            return stream.tell()
    return 10**9


def small_camera(height: int, width: int) -> Cameras:
    one = camera(0.0)
    return Cameras(one.intrinsics, one.world_to_camera, torch.tensor([height]), torch.tensor([width]))


@pytest.mark.parametrize("kind", ["dither", "checker", "stripes", "halftone", "noise", "patch"])
@pytest.mark.parametrize("size", [(96, 128), (17, 31)])
def test_unusual_pictures(model: MultiViewModel, kind: str, size: tuple[int, int]) -> None:
    view, last = unusual(kind, *size), -math.inf
    for level in (0, 12, 32, 63):
        _, data, state = model.compress(view, None, small_camera(*size), None, level, None, FAST)
        decoded = model.decompress(b"", data, size, small_camera(*size), None, level)
        assert torch.isfinite(decoded.image).all() and torch.allclose(decoded.image, state.image, atol=1e-5)
        quality = psnr(decoded.image, view)
        # a JPEG at one level and the networks at the next need not lie on one curve, to a fifth of a decibel
        assert quality >= last - 0.2, f"level {level}"
        assert len(data) <= jpeg_bytes(view, quality) + 4
        last = quality
    assert last >= 30


def test_networks_that_fail_are_never_used() -> None:
    broken = load_codec("tiny").model
    view = unusual("patch", 96, 128)
    with torch.no_grad():
        assert broken.image.synthesis_out.bias is not None
        broken.image.synthesis_out.bias[0] = float("nan")
    _, data, state = broken.compress(view, None, camera(0.0), None, 32, None, FAST)
    assert data[0] in (Mode.STORED, Mode.AV1) and torch.isfinite(state.image).all()
    decoded = broken.decompress(b"", data, (96, 128), camera(0.0), None, 32)
    assert torch.equal(decoded.image, state.image)


def test_a_stored_picture_beats_what_costs_more() -> None:
    view = unusual("checker", 40, 40)
    found = cheaper_picture(view, 500.0, math.inf, math.inf, 10**9)
    assert found is not None and torch.allclose(read_stored_picture(found.data, (40, 40), "x"), found.image)
    assert cheaper_picture(view, 500.0, 0.0, 0.0, 1) is None


def test_damaged_pictures_are_named() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "PNG")
    data = stream.getvalue()
    assert read_stored_picture(data, (6, 8), "x").shape == (1, 3, 6, 8)
    for damaged, message in ((data, "expected 9x6"), (data[:30], "one that can be read"), (b"", "one that can be read")):
        with pytest.raises(BitstreamError, match=message):
            read_stored_picture(damaged, (6, 9), "x")


def test_flat_and_smooth_pictures(model: MultiViewModel) -> None:
    grey = torch.full((1, 3, 256, 384), 0.5)
    _, data, state = model.compress(grey, None, small_camera(256, 384), None, 32, None, FAST)
    assert psnr(state.image, grey) >= 45 and len(data) <= 300
    x = torch.linspace(0, 1, 384)[None].expand(256, -1)
    sky = (torch.stack([0.35 + 0.2 * x, 0.55 + 0.2 * x, 0.8 + 0.1 * x])[None] * 255).round() / 255
    _, _, state = model.compress(sky, None, small_camera(256, 384), None, 24, None, FAST)
    assert float((state.image - sky).abs().max()) * 255 <= 6
