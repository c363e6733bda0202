"""The depth quadtree: what is written is read, the search finds the optimum, depth is exact, damage is reported."""

from __future__ import annotations

import itertools

import pytest
import torch
from plane_views import SHIFT, SIZE, camera, picture

from lmvic_ns.codec.depth.quadtree import (
    BLOCKS,
    PROFILES,
    QUADTREE,
    UNIT,
    Quadtree,
    code_offsets,
    depth_of_offsets,
    integer_prediction,
    quadtree_tables,
    read_depth,
    write_depth,
)
from lmvic_ns.codec.depth.search import DepthSearch, WarpCosts, cheapest_quadtree, merged, root_costs
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.quality import coding_noise
from lmvic_ns.codec.symbols import SymbolWriter
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry import kernels
from lmvic_ns.geometry.cameras import Cameras


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return load_codec("tiny").model


def random_tree(rows: int, columns: int, seed: int) -> Quadtree:
    """Splits and changes of any kind, zero where a block is not there."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.ones(rows, columns, dtype=torch.bool)
    changes, splits = [], []
    for number in range(len(BLOCKS)):
        values = torch.randint(0 if number == 0 else -9, 10, active.shape, generator=generator)
        changes.append(torch.where(active, values, 0))
        if number + 1 < len(BLOCKS):
            splits.append((torch.rand(active.shape, generator=generator) < 0.6) & active)
            active = splits[-1].repeat_interleave(2, 0).repeat_interleave(2, 1)
    return Quadtree(tuple(changes), tuple(splits))


@pytest.mark.parametrize("predicted", [True, False])
def test_written_depth_is_read(predicted: bool) -> None:
    size = 77, 130
    prediction = torch.randint(0, UNIT, size) if predicted else None
    for profile in range(len(PROFILES)):
        tree = random_tree(2, 3, profile)
        data, depth = write_depth(tree, size, 300, profile, prediction)
        again = read_depth(data, size, prediction, "depth")
        assert torch.equal(depth, again)
        assert depth.shape == (1, *size) and depth.min() >= 0 and depth.max() <= 1 and depth.std() > 0
        assert torch.equal(depth * UNIT, (depth * UNIT).round())


def test_the_compiled_loop_merges_as_plain_torch_does(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(2)
    lowest, above = torch.rand(6, 8, 31, generator=generator), 3 * torch.rand(3, 4, 31, generator=generator)
    change_bits = torch.rand(21, generator=generator)
    assert kernels.usable(lowest)
    compiled = merged(lowest, above, change_bits, 0.25, 0.5)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    plain = merged(lowest, above, change_bits, 0.25, 0.5)
    assert torch.allclose(compiled[0], plain[0])
    assert torch.equal(compiled[1], plain[1]) and torch.equal(compiled[2], plain[2])
    assert plain[2].any() and not plain[2].all()


def test_the_search_finds_the_cheapest_tree() -> None:
    """Against all offsets of a whole block, and against trees that differ in one leaf; its cost is the bits it takes."""
    generator = torch.Generator().manual_seed(1)
    costs = 40 * torch.rand(5, 32, 32, generator=generator)
    costs[:, :16] *= 0.05
    tree, profile, cost = cheapest_quadtree(costs, -2, True)
    tables = quadtree_tables(profile, True)

    def price(tree: Quadtree) -> float:
        writer = SymbolWriter(tables)
        offsets = code_offsets(writer, (64, 64), tree)[::2, ::2]
        return 8 * len(writer.finish()) + float(costs.gather(0, (offsets + 2)[None]).sum())

    assert abs(price(tree) - cost) < 0.01 * cost + 64
    assert tree.splits[0].any()
    quiet = [torch.zeros_like(s) for s in tree.splits]
    for offset in range(-2, 3):
        flat = [torch.full((1, 1), offset), *(torch.zeros_like(c) for c in tree.changes[1:])]
        assert price(Quadtree(tuple(flat), tuple(quiet))) > price(tree)
    leaves = tree.changes[-1].clone()
    leaf = tree.splits[-1].nonzero()[0] * 2
    for change in range(-2, 3):
        leaves[leaf[0], leaf[1]] = change
        offsets = code_offsets(SymbolWriter(tables), (64, 64), Quadtree((*tree.changes[:-1], leaves), tree.splits))
        if offsets.abs().max() <= 2:
            assert price(Quadtree((*tree.changes[:-1], leaves), tree.splits)) >= price(tree) - 16


def test_roots_keep_surfaces_smooth_and_edges_sharp() -> None:
    slope = torch.linspace(0.3, 0.5, 128)[None].expand(128, -1).clone()
    slope[:, 64:] += 0.3
    search = DepthSearch()
    tree, profile, _ = cheapest_quadtree(search.root_weight * root_costs(slope, search), 0, predicted=False)
    data, depth = write_depth(tree, (128, 128), search.root_step, profile, None)
    assert len(data) < 700
    error = (depth[0].float() - slope).abs()
    assert error.mean() < 0.5 * search.root_step / UNIT and error.max() < 2 * search.root_step / UNIT


def test_a_view_finds_the_right_depth_and_decoders_have_it(model: MultiViewModel) -> None:
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    right = torch.full((1, *SIZE), 0.5)
    root = model.compress(picture(-SHIFT), right, first, None, 40, None, Effort.named("fast"))
    assert root[0][0] == QUADTREE
    wrong = right + 0.06  # half a pixel off, and the scene says so: the photograph knows better
    depth, image, state = model.compress(picture(0.0), wrong, second, root[2], 40, None, Effort.named("medium"))
    assert depth[0] == QUADTREE
    seen = state.inverse_depth[..., :-5]
    assert (seen - 0.5).abs().mean() < 0.03
    decoded = model.decompress(depth, image, SIZE, second, root[2], 40)
    assert torch.equal(decoded.inverse_depth, state.inverse_depth)
    assert torch.allclose(decoded.image, state.image, atol=1e-5)
    learned = model.compress(picture(0.0), wrong, second, root[2], 40, None, Effort())
    assert learned[0][0] < QUADTREE and len(depth) < len(learned[0])


def test_training_sees_the_depth_of_files(model: MultiViewModel) -> None:
    """A batch of two chains, one without its reference: depth and its bits are those that files get."""
    search = Effort.named("fast").depth_search
    first, second = camera(SHIFT / (120.0 * 0.5)), camera(0.0)
    right = torch.full((1, *SIZE), 0.5)
    level = torch.tensor([40.0, 10.0])
    pictures = [picture(shift).expand(2, -1, -1, -1) for shift in (-SHIFT, 0.0)]
    with torch.no_grad():
        both = Cameras.cat([first, first]), Cameras.cat([second, second])
        deep = (right + 0.06).expand(2, -1, -1)
        root = model.forward_view(pictures[0], right.expand(2, -1, -1), both[0], None, level, depth_search=search)
        keep = torch.tensor([True, False])
        view = model.forward_view(pictures[1], deep, both[1], root.state, level, keep, depth_search=search)
    assert root.state is not None and view.inverse_depth is not None
    for sample, reference in enumerate((root.state.sample(0), None)):
        depth, _, state = model.compress(
            picture(0.0), right + 0.06, second, reference, int(level[sample]), None, Effort.named("fast")
        )
        assert torch.equal(view.inverse_depth[sample], state.inverse_depth[0].float())
        assert view.depth_bits[sample] == 8 * len(depth)
    # the second sample's image ignores its reference, whatever its depth is
    alone = model.forward_photo(picture(0.0), level[1:])
    assert torch.allclose(view.image[1:], alone.image, atol=1e-5)


def test_costs_are_least_where_the_pictures_agree() -> None:
    prediction = torch.full((SIZE[0] // 4, SIZE[1] // 4), UNIT // 2)
    reference = camera(SHIFT / (120.0 * 0.5))
    costs = WarpCosts(picture(0.0), camera(0.0), picture(-SHIFT), reference, prediction, coding_noise(40))
    step = costs.step_of(1.0)
    assert step == pytest.approx(UNIT * 0.5 / SHIFT, rel=0.02)
    volume = torch.stack([costs(k * step / UNIT) for k in range(-3, 4)])
    assert (volume[:, :, :-4].argmin(0) == 3).float().mean() > 0.95


def test_no_prediction_and_holes() -> None:
    mask = torch.zeros(1, 40, 50, dtype=torch.bool)
    mask[:, :, 25:] = True
    value = torch.where(mask, 0.25, 0.9)
    assert (integer_prediction(value, mask) == UNIT // 4).all()
    assert (depth_of_offsets(torch.full((40, 50), -9), 60000, torch.full((40, 50), UNIT // 4)) == 0).all()


def test_damage_is_reported_or_harmless() -> None:
    prediction = torch.randint(0, UNIT, (64, 128))
    data, _ = write_depth(random_tree(1, 2, 5), (64, 128), 300, 4, prediction)
    for wrong in (b"", data[:2], bytes([len(PROFILES)]) + data[1:], data[:1] + b"\0\0" + data[3:], data[:-3], data + b"xy"):
        with pytest.raises(BitstreamError):
            read_depth(wrong, (64, 128), prediction, "view 3: depth part")
    for position, bit in itertools.product(range(3, len(data), 7), (1, 64)):
        broken = bytearray(data)
        broken[position] ^= bit
        try:
            depth = read_depth(bytes(broken), (64, 128), prediction, "view 3: depth part")
        except BitstreamError:
            continue
        assert depth.min() >= 0 and depth.max() <= 1
