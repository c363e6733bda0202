"""Rate-distortion search for the depth quadtree of a view.

The offset of a block is coded relative to the offset of its parent block. Rate and warp error are therefore sums over a tree,
and dynamic programming from the smallest blocks up finds the optimal quadtree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmvic_ns.codec.depth.learned import DEPTH_FACTOR
from lmvic_ns.codec.depth.quadtree import BLOCKS, LARGEST_CHANGE, PROFILES, UNIT, Quadtree, quadtree_tables, write_depth
from lmvic_ns.codec.depth.tree_search import merge_level
from lmvic_ns.codec.quality import image_lambda
from lmvic_ns.geometry import kernels
from lmvic_ns.geometry.cameras import Cameras, relative_projection

LEAF = BLOCKS[-1] * DEPTH_FACTOR
"""Side of the smallest blocks in picture pixels."""


@dataclass(frozen=True)
class DepthSearch:
    """Candidate offsets, and the weights of warp error and depth error.

    Attributes:
        reach: offsets -reach..reach are tried.
        step_pixels: displacement of the view's median pixel by one step, in pixels.
        warp_weight: bits that halving a leaf's warp error saves, for each pixel, at lambda = 1; grows with sqrt(lambda).
        fidelity: bits per leaf and squared step of difference from the scene's depth, at most nine squared steps. It decides
            where there is no texture.
        root_step: step of a view without a prediction, in units of 1/65536.
        root_weight: bits for each leaf and squared step of its error where no children are known, at lambda = 500; grows with
            sqrt(lambda). All views that descend from a root inherit its depth.
        root_worth: weight of a root's errors where its children are known, in children: 1 counts what one of them loses.
        children: cameras of the views that refer to a root.
    """

    reach: int = 32
    step_pixels: float = 0.5
    warp_weight: float = 0.004
    fidelity: float = 0.01
    root_step: int = 256
    root_weight: float = 2.0
    root_worth: float = 2.0
    children: tuple[Cameras, ...] = ()


class WarpCosts:
    """How well a reference, moved along epipolar lines, shows each leaf of a view.

    Args:
        image: the view.
        cameras: of the view.
        reference: the reference's image.
        reference_cameras: of the reference.
        prediction: inverse depth that offsets are added to, in units.
        noise: squared error that does not matter.
    """

    def __init__(
        self,
        image: Float[Tensor, "1 3 h w"],
        cameras: Cameras,
        reference: Float[Tensor, "1 3 hr wr"],
        reference_cameras: Cameras,
        prediction: Int[Tensor, "h4 w4"],
        noise: float,
    ):
        h, w = image.shape[-2:]
        device = image.device
        stride = 2 if h * w < 1 << 20 else 4  # samples a leaf: 16 or 4
        rows, columns = (torch.arange(0, n + -n % LEAF, stride, device=device) + stride // 2 for n in (h, w))
        inside = (rows < h)[:, None] & (columns < w)[None]
        self._samples = LEAF // stride
        self._weight = self._leaves(inside.float()[None, None])
        self._image = F.pad(image.float(), (0, -w % LEAF, 0, -h % LEAF), mode="replicate")[:, :, rows][..., columns]
        self._reference = reference.float()
        u, v = columns.double() + 0.5, rows.double() + 0.5
        homography, offset = relative_projection(cameras, reference_cameras)
        m = homography[0].to(device)
        self._base = [(m[k, 0] * u[None] + m[k, 1] * v[:, None] + m[k, 2]).float() for k in range(3)]
        self._offset = [float(x) for x in offset[0]]
        grid = torch.stack(
            [(u * (2 / w) - 1).float()[None].expand(len(v), -1), (v * (2 / h) - 1).float()[:, None].expand(-1, len(u))], -1
        )
        known = (prediction.double() / UNIT).float()[None, None]
        self._known = F.grid_sample(known, grid[None], padding_mode="border", align_corners=False)[0, 0]
        self._noise = noise
        mean, square = (F.avg_pool2d(self._leaves(x), 2, 2, ceil_mode=True) for x in (self._image, self._image.square()))
        spread = (square - mean.square()).clamp(min=0).mean(1, keepdim=True)
        th, tw = self._weight.shape[-2:]
        # a warp that is worse than the mean of 16 x 16 pixels is as good as none
        self._worst = spread.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :th, :tw]

    def _leaves(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self._samples)

    def _positions(self, change: float) -> tuple[Tensor, Tensor, Tensor]:
        rho = self._known + change
        x, y, z = (b + rho * o for b, o in zip(self._base, self._offset, strict=True))
        scale = 1 / z.clamp(min=1e-6)
        return x * scale, y * scale, z

    def step_of(self, pixels: float) -> int:
        """The step, in units, that moves the median pixel so far."""
        change = 1e-3
        (x0, y0, _), (x1, y1, _) = self._positions(0.0), self._positions(change)
        motion = float(torch.hypot(x1 - x0, y1 - y0).median()) / change
        return int(min(max(round(pixels / max(motion, 1e-3) * UNIT), 1), 65535))

    def __call__(self, change: float) -> Float[Tensor, "rows columns"]:
        """log2(1 + squared error / noise) of each leaf, with this much added to the inverse depth."""
        x, y, z = self._positions(change)
        height, width = self._reference.shape[-2:]
        grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)[None]
        warped = F.grid_sample(self._reference, grid, padding_mode="border", align_corners=False)
        error = (warped - self._image).square().mean(1, keepdim=True)
        seen = (grid.abs() <= 1).all(-1)[:, None] & (z > 1e-6)
        error = self._leaves(torch.where(seen, error, torch.ones_like(error)))
        return torch.log2(1 + torch.minimum(error, self._worst) / self._noise)[0, 0] * self._weight[0, 0]


def predicted_costs(
    warp: WarpCosts,
    step: int,
    target: Float[Tensor, "h4 w4"],
    prediction: Int[Tensor, "h4 w4"],
    search: DepthSearch,
) -> tuple[Float[Tensor, "k rows columns"], Float[Tensor, "k rows columns"]]:
    """Warp costs (without the factor `bits_of_halving`) and fidelity costs of offsets -reach..reach."""
    moves = range(-search.reach, search.reach + 1)
    warped = torch.stack([warp(move * step / UNIT) for move in moves])
    off = (target * UNIT - prediction) / step
    faithful = torch.stack([_leaf_means((off - move).square().clamp(max=9)) for move in moves])
    return warped, search.fidelity * faithful


def root_costs(target: Float[Tensor, "h4 w4"], search: DepthSearch) -> Float[Tensor, "k rows columns"]:
    """Squared error, in steps, of each absolute offset, for a view without a reference."""
    count = UNIT // search.root_step + 1
    off = target * (UNIT / search.root_step)
    return torch.stack([_leaf_means((off - k).square().clamp(max=36)) for k in range(count)])


def root_error_costs(
    target: Float[Tensor, "h4 w4"], search: DepthSearch, errors: Float[Tensor, "k rows columns"]
) -> Float[Tensor, "n rows columns"]:
    """Warp costs (without the factor `bits_of_halving`) of each absolute offset, from those of errors of -6..6 steps."""
    count = UNIT // search.root_step + 1
    h4, w4 = target.shape
    table = errors.repeat_interleave(BLOCKS[-1], 1).repeat_interleave(BLOCKS[-1], 2)[:, :h4, :w4]
    off = target.float() * (UNIT / search.root_step)
    farthest = len(errors) // 2
    costs = []
    for k in range(count):
        place = (k - off).clamp(-farthest, farthest) + farthest
        low = place.floor().clamp(max=2 * farthest - 1)
        index = low.long()[None]
        share = place - low
        costs.append(_leaf_means(table.gather(0, index)[0] * (1 - share) + table.gather(0, index + 1)[0] * share))
    return torch.stack(costs)


def _leaf_means(x: Float[Tensor, "h4 w4"]) -> Float[Tensor, "rows columns"]:
    return F.avg_pool2d(x[None, None].float(), BLOCKS[-1], ceil_mode=True)[0, 0]


def bits_of_halving(level: float, search: DepthSearch) -> float:
    """Bits that halving the warp error of a leaf saves at this level."""
    return search.warp_weight * image_lambda(level) ** 0.5 * LEAF**2


class QuadtreeEncoder:
    """Codes a view's depth as the quadtree with the lowest cost, at any quality level.

    Args:
        target: the view's depth, normalised, at a quarter of its resolution.
        search: what is tried.
        warp: how well the reference shows the view at each offset; None codes the depth for itself.
        prediction: inverse depth that offsets are added to, in units; None exactly where `warp` is.
        errors: of a root whose children are known: what its errors cost (`lmvic_ns.codec.depth.root_costs`).
    """

    def __init__(
        self,
        target: Float[Tensor, "h4 w4"],
        search: DepthSearch,
        warp: WarpCosts | None = None,
        prediction: Int[Tensor, "h4 w4"] | None = None,
        errors: Float[Tensor, "k rows columns"] | None = None,
    ):
        self._size = target.shape[0], target.shape[1]
        self._profile = len(PROFILES) // 2  # levels that follow each other have nearly the same
        self._search, self._prediction = search, prediction
        self.predicted = warp is not None and prediction is not None
        if warp is None or prediction is None:
            self._step, self._first, self._warped = search.root_step, 0, None
            self._faithful = root_costs(target, search)
            if errors is not None:
                self._warped = search.root_worth * root_error_costs(target, search, errors)
                self._faithful = search.fidelity * self._faithful
        else:
            self._step, self._first = warp.step_of(search.step_pixels), -search.reach
            self._warped, self._faithful = predicted_costs(warp, self._step, target, prediction, search)

    def __call__(self, level: float) -> tuple[bytes, Float[Tensor, "1 h4 w4"]]:
        """The depth part for a view of this quality level, and the decoded depth."""
        if self._warped is None:
            costs = self._search.root_weight * (image_lambda(level) / 500) ** 0.5 * self._faithful
        else:
            costs = self._faithful
            costs = costs + bits_of_halving(level, self._search) * self._warped
        tree, self._profile, _ = cheapest_quadtree(costs, self._first, self.predicted, self._profile)
        return write_depth(tree, self._size, self._step, self._profile, self._prediction)


def cheapest_quadtree(
    costs: Float[Tensor, "k rows columns"], first: int, predicted: bool, profile: int = len(PROFILES) // 2
) -> tuple[Quadtree, int, float]:
    """The best tree of the best profile, which is looked for from a first one while it gets cheaper.

    Args:
        costs: bits of each offset in each leaf.
        first: the offset that costs[0] stands for.
        predicted: see `quadtree_tables`.
        profile: the first that is tried.

    Returns:
        tree, profile, and the cost, coded bits and all.
    """
    per_block = BLOCKS[0] // BLOCKS[-1]
    rows, columns = costs.shape[1:]
    costs = F.pad(costs, (0, -columns % per_block, 0, -rows % per_block)).permute(1, 2, 0).contiguous()
    pyramid = [costs]
    for _ in BLOCKS[1:]:
        fine = pyramid[0]
        pyramid.insert(0, fine[0::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 0::2] + fine[1::2, 1::2])
    tree, cost = _best_tree(pyramid, first, predicted, profile)
    for step in (1, -1):
        start = profile
        while 0 <= profile + step < len(PROFILES):
            trial, trial_cost = _best_tree(pyramid, first, predicted, profile + step)
            if trial_cost >= cost:
                break
            tree, cost, profile = trial, trial_cost, profile + step
        if profile != start:
            break
    return tree, profile, cost


def _best_tree(pyramid: list[Tensor], first: int, predicted: bool, profile: int) -> tuple[Quadtree, float]:
    """The cheapest tree of one profile.

    Args:
        pyramid: costs of blocks as leaves, coarse to fine, `[rows, columns, k]`: sums over their leaves.
        first: the offset that the first cost stands for.
        predicted: see `quadtree_tables`.
        profile: one of `PROFILES`.
    """
    tables = quadtree_tables(profile, predicted)
    bits = torch.from_numpy(tables.costs).float()
    count = pyramid[0].shape[-1]
    reach = min(LARGEST_CHANGE, count - 1)
    lowest = pyramid[-1]
    moves: list[Tensor] = []
    better: list[Tensor] = []
    for number in range(len(BLOCKS) - 1, 0, -1):
        change_bits = bits[2 * number, LARGEST_CHANGE - reach : LARGEST_CHANGE + reach + 1]
        whole_bits, split_bits = float(bits[2 * number - 1, 0]), float(bits[2 * number - 1, 1])
        lowest, move, split = merged(lowest, pyramid[number - 1], change_bits, whole_bits, split_bits)
        moves.insert(0, move)
        better.insert(0, split)
    offsets = torch.arange(first, first + count)
    prices = torch.tensor([float(bits[0, k - int(tables.offsets[0])]) for k in offsets.tolist()], device=lowest.device)
    total, index = (lowest + prices).min(-1)
    changes, splits = [index + first], []
    active = torch.ones_like(index, dtype=torch.bool)
    for move, split in zip(moves, better, strict=True):
        splits.append(split.gather(-1, index[..., None])[..., 0] & active)
        active, index = (x.repeat_interleave(2, 0).repeat_interleave(2, 1) for x in (splits[-1], index))
        change = torch.where(active, move.gather(-1, index[..., None])[..., 0].long(), 0)
        changes.append(change)
        index = index + change
    return Quadtree(tuple(changes), tuple(splits)), float(total.sum())


def merged(
    lowest: Float[Tensor, "rows2 columns2 k"],
    above: Float[Tensor, "rows columns k"],
    change_bits: Float[Tensor, "n"],
    whole_bits: float,
    split_bits: float,
) -> tuple[Float[Tensor, "rows columns k"], Int[Tensor, "rows2 columns2 k"], Bool[Tensor, "rows columns k"]]:
    """One level of the tree; a compiled loop where that can be.

    Args:
        lowest: cost of each block with each offset.
        above: cost of each block above as a leaf.
        change_bits: of changes -reach..reach.
        whole_bits: of a block above that is not split.
        split_bits: of one that is.

    Returns:
        cost of each block above; each block's cheapest change for each offset above; whether the block above is split.
    """
    move = torch.zeros(lowest.shape, dtype=torch.int8, device=lowest.device)
    if kernels.usable(lowest):
        result, better = torch.empty_like(above), torch.empty(above.shape, dtype=torch.bool)
        inputs = (kernels.array(x) for x in (lowest, above, change_bits))
        merge_level(*inputs, np.float32(whole_bits), np.float32(split_bits), result.numpy(), move.numpy(), better.numpy())
        return result, move, better
    count, reach = lowest.shape[-1], len(change_bits) // 2
    best = torch.full_like(lowest, torch.inf)
    for change in range(-reach, reach + 1):
        low, high = max(0, -change), min(count, count - change)
        cost = lowest[..., low + change : high + change] + float(change_bits[change + reach])
        cheaper = cost < best[..., low:high]
        best[..., low:high] = torch.where(cheaper, cost, best[..., low:high])
        move[..., low:high].masked_fill_(cheaper, change)
    split = split_bits + best[0::2, 0::2] + best[0::2, 1::2] + best[1::2, 0::2] + best[1::2, 1::2]
    whole = above + whole_bits
    return torch.minimum(split, whole), move, split < whole
