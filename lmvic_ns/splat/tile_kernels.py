"""Compiled tile lists for the CPU: gsplat's tiles, less those in which the Gaussian cannot reach 1/255 anywhere.

A Gaussian contributes where sigma <= log(255 opacity): an ellipse. Leaving out tiles that the ellipse misses changes no
pixel, and is the difference between a dozen and two or three tiles for a thin or faint Gaussian.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from lmvic_ns.splat.jit import compiled

# columns of the packed record of a Gaussian, all float32
MEAN_X, MEAN_Y, CONIC_A, CONIC_B, CONIC_C, OPACITY, RED, GREEN, BLUE, DEPTH, HALF_WIDTH, HALF_HEIGHT = range(12)
RECORD = 12


@compiled()
def _row_span(record, level, det, row, first, last, tile_size, height):
    """Tile columns (from, to) of one tile row that the ellipse sigma <= level can touch, within first..last."""
    mean_x, mean_y = np.float64(record[MEAN_X]), np.float64(record[MEAN_Y])
    a, b, c = np.float64(record[CONIC_A]), np.float64(record[CONIC_B]), np.float64(record[CONIC_C])
    half_width, half_height = math.sqrt(2 * level * c / det), math.sqrt(2 * level * a / det)
    low = max(row * tile_size + 0.5 - mean_y, -half_height)
    high = min(min((row + 1) * tile_size, height) - 0.5 - mean_y, half_height)
    if low > high:
        return first, first
    # the ellipse is widest at -+ b / c * half_width; within the band, at the nearest height to that
    v = min(max(-b / c * half_width, low), high)
    right = mean_x + (math.sqrt(max(2 * a * level - det * v * v, 0.0)) - b * v) / a
    v = min(max(b / c * half_width, low), high)
    left = mean_x - (math.sqrt(max(2 * a * level - det * v * v, 0.0)) + b * v) / a
    from_pixel, to_pixel = math.ceil(left - 0.5), math.floor(right - 0.5)
    if from_pixel > to_pixel:
        return first, first
    from_tile = max(first, math.floor(max(from_pixel, 0.0) / tile_size))
    to_tile = min(last, math.floor(max(to_pixel, -1.0) / tile_size) + 1)
    return from_tile, max(from_tile, to_tile)


@compiled(parallel=True)
def count_tiles(records, radii, tile_size, tile_width, tile_height, height, boxes, levels):
    """Fill boxes [m, 4] (tile columns from, to, rows from, to), levels [m, 2] (sigma, determinant), half extents.

    A determinant of 0 says that the conic is not positive definite: no tile of the box is left out then.
    """
    for g in prange(records.shape[0]):
        record = records[g]
        boxes[g, :] = 0
        if radii[g] <= 0:
            continue
        reach = np.float32(radii[g]) / np.float32(tile_size)
        x, y = record[MEAN_X] / np.float32(tile_size), record[MEAN_Y] / np.float32(tile_size)
        x0, x1 = max(math.floor(x - reach), 0.0), min(math.ceil(x + reach), float(tile_width))
        y0, y1 = max(math.floor(y - reach), 0.0), min(math.ceil(y + reach), float(tile_height))
        level = math.log(max(255.0 * record[OPACITY], 1e-30))
        if level < -1e-4 or x0 >= x1 or y0 >= y1:
            continue
        a, b, c = np.float64(record[CONIC_A]), np.float64(record[CONIC_B]), np.float64(record[CONIC_C])
        det = a * c - b * b
        if a > 0 and c > 0 and det > 1e-7 * a * c:
            # room for float32 rounding in the blend kernel, which grows with the cancellation in sigma
            level = max(level, 0.0) + 1e-4 + 4e-6 * max(level, 0.0) * a * c / det
            half_width, half_height = math.sqrt(2 * level * c / det), math.sqrt(2 * level * a / det)
            record[HALF_WIDTH], record[HALF_HEIGHT] = half_width, half_height
            # tile rows and columns that the ellipse's own box touches
            x0 = max(x0, math.floor(max(record[MEAN_X] - half_width - 0.5, 0.0) / tile_size))
            y0 = max(y0, math.floor(max(record[MEAN_Y] - half_height - 0.5, 0.0) / tile_size))
            x1 = min(x1, math.floor(max(record[MEAN_X] + half_width - 0.5, -1.0) / tile_size) + 1)
            y1 = min(y1, math.floor(max(record[MEAN_Y] + half_height - 0.5, -1.0) / tile_size) + 1)
            if x0 >= x1 or y0 >= y1:
                continue
        else:
            det = 0.0
            record[HALF_WIDTH], record[HALF_HEIGHT] = np.float32(1e9), np.float32(1e9)
        boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3] = int(x0), int(x1), int(y0), int(y1)
        levels[g, 0], levels[g, 1] = level, det


@compiled(parallel=True)
def fill_spans(records, boxes, levels, row_begin, tile_size, height, spans, tiles):
    """Fill spans [rows, 2] (tile columns from, to) for every row of every box, and tiles [m], their sum."""
    for g in prange(records.shape[0]):
        total = 0
        x0, x1, y0, y1 = boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3]
        for row in range(y0, y1):
            begin, end = x0, x1
            if levels[g, 1] > 0:
                begin, end = _row_span(records[g], levels[g, 0], levels[g, 1], row, x0, x1, tile_size, height)
            at = row_begin[g] + row - y0
            spans[at, 0] = begin
            spans[at, 1] = end
            total += end - begin
        tiles[g] = total


@compiled(parallel=True)
def count_per_tile(order, camera_ids, boxes, spans, row_begin, tile_width, tile_height, bands, rows, counts):
    """Intersections of every tile; every thread looks at all Gaussians and serves its own band of tile rows."""
    for band in prange(bands):
        low, high = rows * band // bands, rows * (band + 1) // bands
        for i in range(order.shape[0]):
            g = order[i]
            base = camera_ids[g] * tile_height
            y0 = boxes[g, 2]
            for row in range(max(y0, low - base), min(boxes[g, 3], high - base)):
                at = row_begin[g] + row - y0
                for column in range(spans[at, 0], spans[at, 1]):
                    counts[(base + row) * tile_width + column] += 1


@compiled(parallel=True)
def fill_tiles(
    order, camera_ids, boxes, spans, row_begin, slot_begin, tile_width, tile_height, bands, rows, cursor, ids, slots
):
    """Write each tile's Gaussians in the order given, and `slots`: their place in a list sorted by Gaussian."""
    for band in prange(bands):
        low, high = rows * band // bands, rows * (band + 1) // bands
        for i in range(order.shape[0]):
            g = order[i]
            base = camera_ids[g] * tile_height
            y0 = boxes[g, 2]
            slot = slot_begin[g]
            for row in range(y0, min(boxes[g, 3], high - base)):
                at = row_begin[g] + row - y0
                if row + base < low:
                    slot += spans[at, 1] - spans[at, 0]
                    continue
                for column in range(spans[at, 0], spans[at, 1]):
                    tile = (base + row) * tile_width + column
                    ids[cursor[tile]] = g
                    slots[cursor[tile]] = slot
                    cursor[tile] += 1
                    slot += 1
