"""Inverse depth on the codec's coarse grid: exact on planes, no mixing across edges, the same bits always."""

from __future__ import annotations

import pytest
import torch
from analytic_scene import VIEW, AnalyticScene
from torch.testing import assert_close

from lmvic_ns.geometry.disparity import downsample_inverse_depth, upsample_inverse_depth

SIZES = [(64, 96), (61, 83), (62, 97), (9, 13), (8, 5)]


def _plane(height: int, width: int, step: float = 1.0) -> torch.Tensor:
    """Inverse depth of a plane, at the centres of a grid of step x step pixels."""
    x = (torch.arange(width, dtype=torch.float64) + 0.5) * step
    y = (torch.arange(height, dtype=torch.float64)[:, None] + 0.5) * step
    return 0.3 + 0.0009 * x - 0.0006 * y


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_planes_are_exact_both_ways(size: tuple[int, int], factor: int) -> None:
    """Also in blocks that reach beyond the picture: the plane goes on there."""
    height, width = size
    full = _plane(height, width)
    rows, columns = -(-height // factor), -(-width // factor)
    coarse = downsample_inverse_depth(full[None], factor)
    if height > factor and width > factor:
        assert_close(coarse[0].double(), _plane(rows, columns, factor), rtol=1e-6, atol=0)
    assert_close(upsample_inverse_depth(_plane(rows, columns, factor)[None], height, width, factor=factor)[0].double()
                 if rows > 1 and columns > 1 else full, full, rtol=1e-6, atol=0)  # fmt: skip


def test_edges_are_not_mixed() -> None:
    full = torch.full((1, 32, 40), 0.1)
    full[:, :, 18:] = 0.8
    full[:, 20:] = 0.0
    coarse = downsample_inverse_depth(full, 4)
    assert set(coarse.unique().tolist()) <= set(full.unique().tolist())
    again = upsample_inverse_depth(coarse, 32, 40)
    assert set(again.unique().tolist()) <= set(full.unique().tolist())
    assert torch.equal(again[:, :16, :16], full[:, :16, :16]) and torch.equal(again[:, 22:], full[:, 22:])
    wrong = (again != full).any(1)[0].nonzero().flatten()
    assert wrong.min() >= 15 and wrong.max() < 21  # the edge at 18 moved by less than a coarse pixel


def test_a_block_takes_the_surface_that_covers_more_of_it() -> None:
    block = torch.zeros(1, 4, 8)
    block[0, :3, :4] = 0.5  # 12 of 16: finite
    block[0, :1, 4:] = 0.5  # 4 of 16: infinity
    assert downsample_inverse_depth(block, 4).tolist() == [[[0.5, 0.0]]]


def test_quarter_resolution_keeps_the_surfaces_of_the_closed_form_scene() -> None:
    view = AnalyticScene().render(VIEW)
    coarse = downsample_inverse_depth(view.inverse_depth[None], 4)
    assert coarse.shape == (1, 45, 60)
    again = upsample_inverse_depth(coarse, 180, 240)[0]
    relative = (again / view.inverse_depth - 1).abs()
    away = ~view.near_edges(4)
    assert float(relative[away & (view.surface != 1) & (view.surface != 2)].max()) < 0.06  # planes: nearest where steep
    assert float(relative[away].median()) < 1e-4
    assert float((relative < 0.02)[away].double().mean()) > 0.97


@pytest.mark.parametrize("size", SIZES)
def test_same_bits_split_and_finite(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(3, *size, generator=generator) ** 3
    maps[:, ::3, ::2] = maps[:, :1, :1]
    for bad, value in enumerate((float("nan"), float("inf"), -0.5)):
        maps[bad, -1, -1] = value
    coarse = downsample_inverse_depth(maps, 4)
    fine = upsample_inverse_depth(coarse, *size)
    assert coarse.shape[1:] == (-(-size[0] // 4), -(-size[1] // 4)) and fine.shape == maps.shape
    for result in (coarse, fine):
        assert bool(torch.isfinite(result).all()) and float(result.min()) >= 0
    for i in (2, 0, 1):
        assert torch.equal(downsample_inverse_depth(maps[i : i + 1], 4)[0], coarse[i])
        assert torch.equal(upsample_inverse_depth(coarse[i : i + 1].contiguous(), *size)[0], fine[i])


def test_upsampling_in_scalar_arithmetic() -> None:
    """Bits of the formula in Python floats, one operation after the other."""
    generator = torch.Generator().manual_seed(2)
    coarse = 0.5 + 0.04 * torch.rand(1, 6, 7, generator=generator)  # one surface everywhere: max - min <= 10 %
    fine = upsample_inverse_depth(coarse, 22, 27)
    for i in range(22):
        for j in range(27):
            row, column = min(max((2 * i + 1 - 4) // 8, 0), 4), min(max((2 * j + 1 - 4) // 8, 0), 5)
            fy, fx = (2 * i + 1 - 4 - row * 8) / 8, (2 * j + 1 - 4 - column * 8) / 8
            a, b, c, d = (float(coarse[0, row + r, column + s]) for r in (0, 1) for s in (0, 1))
            left, right = a * (1 - fy) + c * fy, b * (1 - fy) + d * fy
            expected = torch.tensor(left * (1 - fx) + right * fx, dtype=torch.float64).float()
            assert float(fine[0, i, j]) == float(expected)


def test_sizes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ceil\(size / factor\)"):
        upsample_inverse_depth(torch.zeros(1, 10, 10), 64, 96)
    with pytest.raises(ValueError, match="factor 4"):
        upsample_inverse_depth(torch.zeros(1, 32, 48), 64, 96, factor=4)
