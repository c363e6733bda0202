"""Depth of a root: exact where its children's pictures need it, cheap where they do not."""

from __future__ import annotations

import pytest
import torch
from plane_views import SIZE, camera, picture

from lmvic_ns.codec.depth.quadtree import UNIT
from lmvic_ns.codec.depth.root_costs import FARTHEST, displacement, error_costs
from lmvic_ns.codec.depth.search import LEAF, DepthSearch, QuadtreeEncoder
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.quality import coding_noise

LEVEL = 30
HEIGHT, WIDTH = SIZE[0] // 4, SIZE[1] // 4


def half_flat() -> torch.Tensor:
    """A picture without texture in its left half."""
    image = picture(0.0)
    image[..., : SIZE[1] // 2] = 0.5
    return image


def uneven_depth() -> torch.Tensor:
    """Inverse depth with a step of 0.05 between small blocks, everywhere."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return 0.4 + 0.05 * ((rows // 4 + columns // 4) % 2).float()


def test_a_camera_aside_moves_points_along_the_row() -> None:
    u, v = torch.meshgrid(torch.arange(5.0).double(), torch.arange(4.0).double(), indexing="xy")
    rho = torch.full_like(u, 0.5)
    moved = displacement(camera(0.0), camera(0.3), u, v, rho, 0.01)
    assert torch.allclose(moved[..., 0], torch.full_like(u, 120.0 * 0.3 * 0.01)) and moved[..., 1].abs().max() < 1e-9


def test_errors_cost_nothing_where_nothing_is_seen() -> None:
    depth = torch.full((HEIGHT, WIDTH), 0.5)
    costs = error_costs(half_flat(), camera(0.0), [camera(0.3)], depth, 800, coding_noise(LEVEL), LEAF)
    assert costs.shape == (2 * FARTHEST + 1, SIZE[0] // LEAF, SIZE[1] // LEAF)
    assert costs[FARTHEST].abs().max() < 1e-3
    flat, rough = costs[..., :6], costs[..., 10:]
    assert flat.abs().max() < 1e-3 and rough[0].mean() > 1 and rough[-1].mean() > 1
    means = rough.mean((1, 2))
    assert (means[FARTHEST + 1 :].diff() > -0.1).all() and means[FARTHEST + 1] < means[-1]


def test_bits_go_where_children_need_them() -> None:
    search = DepthSearch(root_step=800, children=(camera(0.3),))
    depth, image = uneven_depth(), half_flat()
    errors = error_costs(image, camera(0.0), search.children, depth, search.root_step, coding_noise(LEVEL), LEAF)
    part, decoded = QuadtreeEncoder(depth, search, errors=errors)(LEVEL)
    plain, _ = QuadtreeEncoder(depth, search)(LEVEL)
    assert len(part) < 0.8 * len(plain)
    off = (decoded[0] - depth).abs() * UNIT / search.root_step
    assert off[:, 20:].mean() < 1 < off[:, :12].mean()


@pytest.mark.parametrize("children", [1, 9])
def test_a_scene_tells_its_roots_who_refers_to_them(children: int) -> None:
    model = load_codec("tiny").model
    effort = Effort.named("fast")
    depth = torch.nn.functional.interpolate(uneven_depth()[None, None], SIZE)[0].double()
    sizes = []
    for known in (False, True):
        below = [camera(0.03 * (1 + number)) for number in range(children)] if known else []
        part, image, state = model.compress(half_flat(), depth, camera(0.0), None, LEVEL, None, effort.for_root(256, below))
        sizes.append(len(part))
        back = model.decompress(part, image, SIZE, camera(0.0), None, LEVEL)
        assert torch.equal(back.inverse_depth, state.inverse_depth)
    assert sizes[1] < 0.6 * sizes[0]
