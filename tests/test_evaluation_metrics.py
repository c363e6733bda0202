from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmvic_ns._util.metrics import ms_ssim, psnr
from lmvic_ns.evaluation.bdrate import CurveError, bd_rate, ms_ssim_to_db


def pictures(seed: int = 0, size: tuple[int, int] = (203, 177)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(*size, 3)), 0), 1)
    picture = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    noisy = np.clip(picture + rng.normal(scale=9, size=picture.shape), 0, 255).astype(np.uint8)
    return picture, noisy


def test_psnr_is_that_of_the_definition():
    a = np.zeros((4, 5, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 30  # one of 60 samples is off by 30: MSE 15
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 15))
    assert psnr(a, a) == math.inf


def test_psnr_looks_only_where_the_mask_is():
    a, b = pictures()
    mask = np.zeros(a.shape[:2], bool)
    mask[20:40, 30:90] = True
    assert psnr(a, b, mask) == pytest.approx(psnr(a[20:40, 30:90], b[20:40, 30:90]))
    assert math.isnan(psnr(a, b, np.zeros_like(mask)))


@pytest.mark.parametrize("size", [(203, 177), (256, 192)])
def test_ms_ssim_agrees_with_pytorch_msssim(size):
    from pytorch_msssim import ms_ssim as theirs

    a, b = pictures(size=size)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None].float() for p in (a, b))
    expected = float(theirs(x, y, data_range=255))
    assert expected < 0.99
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-5)
    assert ms_ssim(a, b, np.ones(a.shape[:2], bool)) == pytest.approx(expected, abs=1e-5)


def test_masked_ms_ssim_forgets_what_is_far_outside_the_mask():
    a, b = pictures(size=(400, 400))
    mask = np.zeros((400, 400), bool)
    mask[:, :100] = True
    damaged = b.copy()
    damaged[:, 300:] = 0  # five scales of an 11-pixel window reach 5 * 16 = 80 pixels
    assert ms_ssim(a, damaged, mask) == pytest.approx(ms_ssim(a, b, mask), abs=1e-6)
    assert ms_ssim(a, damaged) < ms_ssim(a, b) - 0.05


def test_small_pictures_have_no_ms_ssim():
    assert math.isnan(ms_ssim(np.zeros((160, 400, 3), np.uint8), np.zeros((160, 400, 3), np.uint8)))


def test_pictures_of_different_shape_or_type_are_refused():
    a, b = pictures()
    with pytest.raises(ValueError, match="must both be"):
        psnr(a, b[:-1])
    with pytest.raises(ValueError, match="8-bit"):
        ms_ssim(a, b.astype(np.float32))  # type: ignore[arg-type]


# Rates and PSNR of JCTVC-E137 (5th JCT-VC meeting, Geneva 2011). The BD-rates are those that Netflix's VMAF and the Android
# compatibility tests (com.android.media.videoquality.bdrate) publish for these curves.
PUBLISHED = [
    (
        [108048.8736, 61279.976, 33905.6656, 18883.6928],
        [43.6471, 40.3953, 37.247, 34.2911],
        [108061.2784, 61299.9936, 33928.7472, 18910.912],
        [43.6768, 40.4232, 37.2761, 34.3147],
        -0.465215420752807,
    ),
    (
        [40433.8848, 7622.7456, 2394.488, 1017.6184],
        [37.5761, 35.3756, 33.8977, 32.0603],
        [40370.12, 7587.0024, 2390.0944, 1017.0984],
        [37.5982, 35.4025, 33.9194, 32.0822],
        -1.8779823450567612,
    ),
]


@pytest.mark.parametrize("method", ["akima", "pchip"])
@pytest.mark.parametrize(("rate0", "psnr0", "rate1", "psnr1", "published"), PUBLISHED)
def test_bd_rate_agrees_with_published_examples(method, rate0, psnr0, rate1, psnr1, published):
    assert bd_rate(rate0, psnr0, rate1, psnr1, method=method).percent == pytest.approx(published, abs=0.1)


def test_bd_rate_of_half_the_bits_is_minus_fifty_whatever_the_curve():
    rate, quality = [0.1, 0.25, 0.6, 1.1, 2.0], [27.0, 30.5, 33.0, 35.5, 38.0]
    result = bd_rate(rate, quality, [r / 2 for r in rate], quality)
    assert result.percent == pytest.approx(-50.0, abs=1e-6)
    assert result.overlap == pytest.approx(1.0)


def test_bd_rate_takes_unsorted_curves_of_different_lengths_and_drops_useless_points():
    rate, quality = [0.1, 0.25, 0.6, 1.1], [27.0, 30.5, 33.0, 35.5]
    more = ([1.1, 0.1, 0.25, 0.7, 0.6], [35.5, 27.0, 30.5, 32.9, 33.0])  # 0.7 costs more than 0.6 and is worse
    assert bd_rate(rate, quality, *more).percent == pytest.approx(0.0, abs=1e-9)


def test_curves_that_do_not_overlap_or_are_too_short_are_refused():
    rate = [0.1, 0.2, 0.4, 0.8]
    with pytest.raises(CurveError, match="share too little"):
        bd_rate(rate, [30.0, 31.0, 32.0, 33.0], rate, [33.5, 34.0, 35.0, 36.0])
    with pytest.raises(CurveError, match="3 usable points"):
        bd_rate(rate, [30.0, 31.0, 32.0, 33.0], rate[:3], [30.0, 31.0, 32.0])


def test_ms_ssim_in_decibels():
    assert ms_ssim_to_db(0.99) == pytest.approx(20.0)
    assert ms_ssim_to_db(1.0) == math.inf
