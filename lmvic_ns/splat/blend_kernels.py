"""Compiled blending on the CPU: forward with median, and backward, each one pass over the tiles' lists.

Contribution rule and derivatives: gsplat 1.4.0, `rasterize_to_pixels_fwd.cu` and `rasterize_to_pixels_bwd.cu`.
A tile's pixels live in one small float32 array of planes, and the innermost loop always runs over 8 neighbouring
pixels without a branch, so that LLVM turns it into vector instructions. Every thread takes every n-th tile of a list
sorted by length; backward writes one row for each intersection, so no two threads ever add to the same number and
gradients have the same bits in every run.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from lmvic_ns.splat.jit import compiled
from lmvic_ns.splat.tile_kernels import (
    BLUE,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    DEPTH,
    GREEN,
    HALF_HEIGHT,
    HALF_WIDTH,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
)

LANES = 8
MAX_TILE_SIZE = 32
# distance between planes; not a power of two, so that planes do not compete for the same cache lines
PLANE = MAX_TILE_SIZE * MAX_TILE_SIZE + 16
VECTOR = {"contract", "nsz"}

F32 = np.float32
ZERO, ONE, HALF = F32(0), F32(1), F32(0.5)
MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE = F32(0.999), F32(1.0 / 255.0), F32(1e-4)
LOG2_E, SIGMA_LIMIT = F32(1.4426950408889634), F32(80.0)
# 2^f on [-1/2, 1/2] (Cephes exp2f)
P0, P1, P2, P3, P4, P5 = (
    F32(v) for v in (1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2,
                     2.402264791363012e-1, 6.931472028550421e-1)
)  # fmt: skip

# columns of a row of gradients, one row for each intersection
G_X, G_Y, G_ABS_X, G_ABS_Y, G_A, G_B, G_C, G_OPACITY, G_RED, G_GREEN, G_BLUE, G_DEPTH = range(12)
GRADIENTS = 12


@njit(inline="always", fastmath=VECTOR)
def _exp_negative(s):
    """exp(-s) for 0 <= s <= 80 in float32, relative error below 5e-7 up to s = 6; vectorises."""
    t = -s * LOG2_E
    n = F32(np.floor(t + HALF))
    f = t - n
    p = ((((P0 * f + P1) * f + P2) * f + P3) * f + P4) * f + P5
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * f + ONE) * scale


@njit(inline="always", fastmath=VECTOR)
def _alpha(dx, dy, a, b, c, opacity):
    """The unclamped alpha of a Gaussian at a pixel; 0 where sigma is negative."""
    sigma = HALF * (a * dx * dx + c * dy * dy) + b * dx * dy
    value = opacity * _exp_negative(min(max(sigma, ZERO), SIGMA_LIMIT))
    return value if sigma >= ZERO else ZERO


@njit(inline="always")
def _touched(centre, reach, origin, size):
    """First and one past the last pixel of a tile's side within `reach` of `centre`."""
    begin = np.int64(np.ceil(max(centre - reach - HALF - origin, ZERO)))
    end = np.int64(np.floor(min(centre + reach - HALF - origin, F32(size - 1)))) + 1
    return begin, end


@compiled(parallel=True, fastmath=VECTOR)
def blend_forward(
    tile_order, offsets, ids, records, tile_width, tile_height, tile_size, threads,
    rgb, depth, transmittance, last, median,
):  # fmt: skip
    """Blend every tile. Outputs: rgb [c,h,w,3], depth [c,h,w], transmittance [c,h,w], last [c,h,w] (position in the
    tile's list of the last Gaussian that was drawn, -1: none), median [c,h,w] (index of the median Gaussian, -1: none).
    """
    height, width = depth.shape[1], depth.shape[2]
    blocks = (tile_size + LANES - 1) // LANES
    stride = blocks * LANES
    for thread in prange(threads):
        planes = np.empty(7 * PLANE, np.float32)  # T (negative: finished), red, green, blue, depth, last, median
        for turn in range(thread, tile_order.shape[0], threads):
            tile = tile_order[turn]
            camera = tile // (tile_width * tile_height)
            top = (tile // tile_width % tile_height) * tile_size
            left = (tile % tile_width) * tile_size
            rows, columns = min(tile_size, height - top), min(tile_size, width - left)
            for i in range(stride * tile_size):
                planes[i] = ONE if (i // stride < rows and i % stride < columns) else -ONE
                for plane in range(1, 5):
                    planes[plane * PLANE + i] = ZERO
                planes[5 * PLANE + i] = -ONE
                planes[6 * PLANE + i] = -ONE
            begin = offsets[tile]
            for position in range(offsets[tile + 1] - begin):
                if position % 16 == 15:
                    alive = False
                    for i in range(stride * tile_size):
                        alive |= planes[i] > ZERO
                    if not alive:
                        break
                record = records[ids[begin + position]]
                mean_x, mean_y, opacity = record[MEAN_X], record[MEAN_Y], record[OPACITY]
                a, b, c = record[CONIC_A], record[CONIC_B], record[CONIC_C]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                row0, row1 = _touched(mean_y, record[HALF_HEIGHT], F32(top), rows)
                column0, column1 = _touched(mean_x, record[HALF_WIDTH], F32(left), columns)
                index = F32(position)
                for block in range(column0 // LANES, (column1 + LANES - 1) // LANES):
                    dx0 = mean_x - (F32(left + block * LANES) + HALF)
                    for row in range(row0, row1):
                        dy = mean_y - (F32(top + row) + HALF)
                        base = np.uint64(row * stride + block * LANES)
                        for lane in range(LANES):
                            i = base + np.uint64(lane)
                            alpha = min(MAX_ALPHA, _alpha(dx0 - F32(lane), dy, a, b, c, opacity))
                            t = planes[i]
                            after = t * (ONE - alpha)
                            hit = (alpha >= MIN_ALPHA) & (t > ZERO)
                            drawn = hit & (after > MIN_TRANSMITTANCE)
                            weight = alpha * t if drawn else ZERO
                            planes[i] = after if drawn else (-t if hit else t)
                            planes[i + np.uint64(PLANE)] += weight * red
                            planes[i + np.uint64(2 * PLANE)] += weight * green
                            planes[i + np.uint64(3 * PLANE)] += weight * blue
                            planes[i + np.uint64(4 * PLANE)] += weight * z
                            old = planes[i + np.uint64(5 * PLANE)]
                            planes[i + np.uint64(5 * PLANE)] = index if drawn else old
                            old = planes[i + np.uint64(6 * PLANE)]
                            planes[i + np.uint64(6 * PLANE)] = index if (drawn & (t >= HALF) & (after < HALF)) else old
            for row in range(rows):
                for column in range(columns):
                    i = row * stride + column
                    y, x = top + row, left + column
                    rgb[camera, y, x, 0] = planes[PLANE + i]
                    rgb[camera, y, x, 1] = planes[2 * PLANE + i]
                    rgb[camera, y, x, 2] = planes[3 * PLANE + i]
                    depth[camera, y, x] = planes[4 * PLANE + i]
                    transmittance[camera, y, x] = abs(planes[i])
                    last[camera, y, x] = np.int32(planes[5 * PLANE + i])
                    position = np.int64(planes[6 * PLANE + i])
                    median[camera, y, x] = ids[begin + position] if position >= 0 else -1


@compiled(parallel=True, fastmath=VECTOR)
def blend_backward(
    tile_order, offsets, ids, slots, records, tile_width, tile_height, tile_size, threads, absolute,
    transmittance, last, grad_rgb, grad_depth, grad_transmittance, out
):  # fmt: skip
    """Fill out [intersections, 12] with each intersection's gradients, in the columns G_*, at its slot.

    From back to front: T is divided by (1 - alpha), and `behind` is the part of the loss that lies behind a Gaussian.
    """
    height, width = transmittance.shape[1], transmittance.shape[2]
    blocks = (tile_size + LANES - 1) // LANES
    stride = blocks * LANES
    for thread in prange(threads):
        # T, behind, gradients of red, green, blue, depth, last, and of the Gaussian at hand: s = dL/dsigma, alpha T
        planes = np.empty(9 * PLANE, np.float32)
        # for 8 columns, sums over rows: s, s dy, s dy^2, red, green, blue, depth, |s (a dx + b dy)|, |s (b dx + c dy)|
        sums = np.empty(9 * LANES, np.float32)
        for turn in range(thread, tile_order.shape[0], threads):
            tile = tile_order[turn]
            camera = tile // (tile_width * tile_height)
            top = (tile // tile_width % tile_height) * tile_size
            left = (tile % tile_width) * tile_size
            rows, columns = min(tile_size, height - top), min(tile_size, width - left)
            deepest = -1
            for row in range(rows):
                for column in range(stride):
                    i = row * stride + column
                    if column >= columns:
                        planes[i] = ONE
                        for plane in range(1, 6):
                            planes[plane * PLANE + i] = ZERO
                        planes[6 * PLANE + i] = -ONE
                        continue
                    y, x = top + row, left + column
                    t = transmittance[camera, y, x]
                    planes[i] = t
                    planes[PLANE + i] = t * grad_transmittance[camera, y, x]
                    planes[2 * PLANE + i] = grad_rgb[camera, y, x, 0]
                    planes[3 * PLANE + i] = grad_rgb[camera, y, x, 1]
                    planes[4 * PLANE + i] = grad_rgb[camera, y, x, 2]
                    planes[5 * PLANE + i] = grad_depth[camera, y, x]
                    planes[6 * PLANE + i] = F32(last[camera, y, x])
                    deepest = max(deepest, last[camera, y, x])
            begin = offsets[tile]
            for position in range(deepest + 1, offsets[tile + 1] - begin):
                out[slots[begin + position], :] = ZERO
            for position in range(deepest, -1, -1):
                record = records[ids[begin + position]]
                gradient = out[slots[begin + position]]
                gradient[:] = ZERO
                mean_x, mean_y, opacity = record[MEAN_X], record[MEAN_Y], record[OPACITY]
                a, b, c = record[CONIC_A], record[CONIC_B], record[CONIC_C]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                row0, row1 = _touched(mean_y, record[HALF_HEIGHT], F32(top), rows)
                column0, column1 = _touched(mean_x, record[HALF_WIDTH], F32(left), columns)
                index = F32(position)
                s00, s10, s01, s20, s11, s02 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO  # sums of s dx^i dy^j
                for block in range(column0 // LANES, (column1 + LANES - 1) // LANES):
                    dx0 = mean_x - (F32(left + block * LANES) + HALF)
                    for lane in range(9 * LANES):
                        sums[lane] = ZERO
                    for row in range(row0, row1):
                        dy = mean_y - (F32(top + row) + HALF)
                        base = np.uint64(row * stride + block * LANES)
                        for lane in range(LANES):
                            i = base + np.uint64(lane)
                            raw = _alpha(dx0 - F32(lane), dy, a, b, c, opacity)
                            alpha = min(MAX_ALPHA, raw)
                            drawn = (alpha >= MIN_ALPHA) & (index <= planes[i + np.uint64(6 * PLANE)])
                            share = ONE / (ONE - alpha)
                            grad_red = planes[i + np.uint64(2 * PLANE)]
                            grad_green = planes[i + np.uint64(3 * PLANE)]
                            grad_blue = planes[i + np.uint64(4 * PLANE)]
                            grad_z = planes[i + np.uint64(5 * PLANE)]
                            t = planes[i]
                            before = t * share
                            value = red * grad_red + green * grad_green + blue * grad_blue + z * grad_z
                            behind = planes[i + np.uint64(PLANE)]
                            weight = alpha * before if drawn else ZERO
                            grad_alpha = before * value - share * behind
                            s = -raw * grad_alpha if (drawn & (raw <= MAX_ALPHA)) else ZERO
                            planes[i] = before if drawn else t
                            planes[i + np.uint64(PLANE)] = behind + weight * value
                            planes[i + np.uint64(7 * PLANE)] = s
                            planes[i + np.uint64(8 * PLANE)] = weight
                        # a loop of its own: LLVM vectorises each when it has one set of addresses to tell apart
                        for lane in range(LANES):
                            u = np.uint64(lane)
                            i = base + u
                            s, weight = planes[i + np.uint64(7 * PLANE)], planes[i + np.uint64(8 * PLANE)]
                            sums[u] += s
                            sums[u + np.uint64(LANES)] += s * dy
                            sums[u + np.uint64(2 * LANES)] += s * dy * dy
                            sums[u + np.uint64(3 * LANES)] += weight * planes[i + np.uint64(2 * PLANE)]
                            sums[u + np.uint64(4 * LANES)] += weight * planes[i + np.uint64(3 * PLANE)]
                            sums[u + np.uint64(5 * LANES)] += weight * planes[i + np.uint64(4 * PLANE)]
                            sums[u + np.uint64(6 * LANES)] += weight * planes[i + np.uint64(5 * PLANE)]
                        if absolute:
                            for lane in range(LANES):
                                u = np.uint64(lane)
                                s = planes[base + u + np.uint64(7 * PLANE)]
                                dx = dx0 - F32(lane)
                                sums[u + np.uint64(7 * LANES)] += abs(s * (a * dx + b * dy))
                                sums[u + np.uint64(8 * LANES)] += abs(s * (b * dx + c * dy))
                    for lane in range(LANES):
                        dx = dx0 - F32(lane)
                        s00 += sums[lane]
                        s10 += sums[lane] * dx
                        s20 += sums[lane] * dx * dx
                        s01 += sums[LANES + lane]
                        s11 += sums[LANES + lane] * dx
                        s02 += sums[2 * LANES + lane]
                        gradient[G_RED] += sums[3 * LANES + lane]
                        gradient[G_GREEN] += sums[4 * LANES + lane]
                        gradient[G_BLUE] += sums[5 * LANES + lane]
                        gradient[G_DEPTH] += sums[6 * LANES + lane]
                        gradient[G_ABS_X] += sums[7 * LANES + lane]
                        gradient[G_ABS_Y] += sums[8 * LANES + lane]
                gradient[G_X] = a * s10 + b * s01
                gradient[G_Y] = b * s10 + c * s01
                gradient[G_A] = HALF * s20
                gradient[G_B] = s11
                gradient[G_C] = HALF * s02
                gradient[G_OPACITY] = -s00 / opacity


@compiled(parallel=True)
def sum_by_gaussian(rows, slot_begin, tiles, out):
    """Sum each Gaussian's rows [intersections, 12], which lie together, into out [m, 12]; in float64, in order."""
    for g in prange(out.shape[0]):
        total = np.zeros(GRADIENTS, np.float64)
        for slot in range(slot_begin[g], slot_begin[g] + tiles[g]):
            for k in range(GRADIENTS):
                total[k] += rows[slot, k]
        for k in range(GRADIENTS):
            out[g, k] = np.float32(total[k])
