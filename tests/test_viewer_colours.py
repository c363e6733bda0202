from __future__ import annotations

import numpy as np
import pytest

from lmvic_ns.drawing import colours


def test_the_wheel_tells_directions_and_lengths_apart():
    right, left, down = ([4.0, 0.0], [-4.0, 0.0], [0.0, 4.0])
    vectors = np.array([[right, left, down, [0.0, 0.0], [2.0, 0.0], [8.0, 0.0]]], dtype=np.float32)
    picture = colours.disparity_colours(vectors, 4.0, legend=False)[0]
    assert picture.shape == (6, 3) and picture.min() >= 0 and picture.max() <= 1
    assert picture[3] == pytest.approx([1, 1, 1])  # nothing moves: white
    assert picture[0] == pytest.approx([1, 0, 0], abs=0.02)  # to the right: red, as in Middlebury's pictures
    assert np.abs(picture[0] - picture[1]).max() > 0.5 and np.abs(picture[0] - picture[2]).max() > 0.4
    assert picture[4] == pytest.approx((picture[0] + picture[3]) / 2)  # half as long: half as saturated
    assert picture[5].max() < picture[0].max()  # beyond the wheel: darkened


def test_legend_and_length_are_drawn_into_the_corner_only():
    flat = np.zeros((120, 160, 2), dtype=np.float32)
    flat[..., 0] = 3.0
    plain = colours.disparity_colours(flat, 6.0, legend=False)
    drawn = colours.disparity_colours(flat, 6.0)
    changed = (plain != drawn).any(-1)
    assert changed[-20:, -20:].mean() > 0.5
    assert not changed[:, :100].any() and not changed[:60].any()
    assert {tuple(c) for c in drawn[80:88, 128:140].reshape(-1, 3).round(3)} >= {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}  # text
    assert np.array_equal(colours.disparity_colours(flat[:8, :8], 6.0), plain[:8, :8])  # too small for a legend


def test_largest_disparity_ignores_what_is_hidden_and_rare_outliers():
    field = np.ones((10, 10, 2), dtype=np.float32) * np.array([3.0, 4.0], dtype=np.float32)
    field[0, 0] = 1000.0
    assert colours.largest_disparity(field) < 30
    field[5:] = 100.0
    mask = np.zeros((10, 10), dtype=bool)
    mask[1:5] = True
    assert colours.largest_disparity(field, mask) == pytest.approx(5.0)


def test_near_is_red_far_is_blue_unknown_is_grey():
    ramp = np.linspace(0.1, 1.0, 50, dtype=np.float32).reshape(5, 10)
    ramp[0, 0] = 0.0
    picture = colours.inverse_depth_colours(ramp)
    far, near = picture[0, 1], picture[4, 9]
    assert near[0] > 2 * near[2] and far[2] > far[0]
    assert picture[0, 0] == pytest.approx([0.5] * 3)
    assert colours.inverse_depth_colours(np.zeros((2, 2), dtype=np.float32)) == pytest.approx(np.full((2, 2, 3), 0.5))


def test_hidden_pixels_are_striped_and_the_others_untouched():
    picture = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    mask = np.zeros((16, 16), dtype=bool)
    mask[:, :8] = True
    shown = colours.mask_overlay(picture, mask)
    assert np.array_equal(shown[:, :8], picture[:, :8])
    stripes = (shown[:, 8:] == colours.HIDDEN).all(-1)
    assert 0.3 < stripes.mean() < 0.7


def test_errors_grow_brighter():
    shades = colours.error_colours(np.array([[0.0, 0.05, 0.12, 0.25, 0.9]], dtype=np.float32))[0].sum(-1)
    assert shades[0] == 0 and (np.diff(shades[:4]) > 0).all() and shades[3] == shades[4] == 3
    grey = colours.error_colours(np.ones((1, 1), dtype=np.float32), np.zeros((1, 1), dtype=bool))
    assert grey[0, 0] == pytest.approx([0.5] * 3)


def test_eight_bits():
    assert colours.to_uint8(np.array([[[-1.0, 0.5, 2.0]]], dtype=np.float32)).tolist() == [[[0, 128, 255]]]
