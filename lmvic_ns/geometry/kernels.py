"""Loops that numba compiles, for maps on a CPU: one pass over the pixels in place of some thirty.

Every value is computed by the same operations in the same order as in the plain torch code beside each call (numba does
not fuse multiplications with additions by default), so the bits are the same; the tests compare them. Without numba
the plain code runs.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from lmvic_ns._util.compiled import CompiledLoop


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled loops take these tensors: numba is there, all lie on the CPU in float32, none needs a gradient."""
    wanted = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return wanted and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)) and _has_numba()


def array(tensor: Tensor) -> np.ndarray:
    """The values as a contiguous array, shared with the tensor where that is contiguous."""
    return tensor.detach().contiguous().numpy()


@CompiledLoop
def disparity_loop(
    inverse_depth,  # float32 [h, w]
    m,  # float64 [3, 3]
    t,  # float64 [3]
    surfaces,  # float32 [hr + 1, wr + 1]
    relative,  # 1 + tau
    nearby,  # squared pixel margin
    margin,
    nearest_ratio,
    largest,
    disparity,  # float32 [h, w, 2], result
    mask,  # bool [h, w], result
    seen,  # float32 [h, w], result
):
    """Equations (3) and (4); see `disparity_to_surfaces`."""
    height, width = inverse_depth.shape
    reference_height, reference_width = surfaces.shape[0] - 1.0, surfaces.shape[1] - 1.0
    rho, ratio = np.empty(width), np.empty(width)
    x, y = np.empty(width), np.empty(width)
    for i in range(height):
        v = i + 0.5
        row0 = m[0, 1] * v + m[0, 2]
        row1 = m[1, 1] * v + m[1, 2]
        row2 = m[2, 1] * v + m[2, 2]
        for j in range(width):  # without branches or gathers: vector instructions
            u = j + 0.5
            r = np.float64(inverse_depth[i, j])
            r = r if r > 0.0 else 0.0
            r = r if r < np.inf else 0.0
            r = r if r < largest else largest
            q2 = (m[2, 0] * u + row2) + r * t[2]
            q2 = q2 if q2 > nearest_ratio else nearest_ratio
            scale = 1.0 / q2
            px = ((m[0, 0] * u + row0) + r * t[0]) * scale
            py = ((m[1, 0] * u + row1) + r * t[1]) * scale
            px = px if px > -reference_width else -reference_width
            py = py if py > -reference_height else -reference_height
            px = px if px < 2.0 * reference_width else 2.0 * reference_width
            py = py if py < 2.0 * reference_height else 2.0 * reference_height
            x[j] = np.rint(px * 64.0) * (1.0 / 64.0)
            y[j] = np.rint(py * 64.0) * (1.0 / 64.0)
            rho[j], ratio[j] = r, q2
            # q2 stops at nearest_ratio for points behind the reference: they are never that ratio otherwise
            seen[i, j] = np.float32(r / q2 if q2 > nearest_ratio else 0.0)
        for j in range(width):
            px, py = x[j], y[j]
            disparity[i, j, 0] = np.float32(px - (j + 0.5))
            disparity[i, j, 1] = np.float32(py - v)
            column = np.floor(px + 0.5)
            row = np.floor(py + 0.5)
            column = column if column > 0.0 else 0.0
            row = row if row > 0.0 else 0.0
            column = column if column < reference_width else reference_width
            row = row if row < reference_height else reference_height
            surface = np.float64(surfaces[np.uint64(row), np.uint64(column)]) * ratio[j]
            dx = (t[0] - px * t[2]) / ratio[j]
            dy = (t[1] - py * t[2]) / ratio[j]
            change = rho[j] - surface
            mask[i, j] = (
                (ratio[j] > nearest_ratio)
                & ((rho[j] * relative >= surface) | ((dx * dx + dy * dy) * (change * change) < nearby))
                & (px >= -margin)
                & (px <= reference_width + margin)
                & (py >= -margin)
                & (py <= reference_height + margin)
            )


@CompiledLoop
def warp_loop(
    planes,  # float32 [c, hr, wr]
    disparity,  # float32 [h, w, 2]
    per_pixel,  # float32, 1 / scale
    result,  # float32 [c, h, w]
):
    """Bilinear samples; see `warp`."""
    channels, source_height, source_width = planes.shape
    height, width = disparity.shape[:2]
    last_x, last_y = np.float32(source_width - 1), np.float32(source_height - 1)
    low_x, low_y = np.float32(max(source_width - 2, 0)), np.float32(max(source_height - 2, 0))
    right, below = np.uint64(min(1, source_width - 1)), np.uint64(min(1, source_height - 1) * source_width)
    zero = np.float32(0.0)
    flat = planes.reshape(channels, source_height * source_width)
    index = np.empty(width, np.uint64)
    fx, fy = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(height):
        for j in range(width):
            x = np.float32(j) + disparity[i, j, 0] * per_pixel
            y = np.float32(i) + disparity[i, j, 1] * per_pixel
            x = x if x > zero else zero
            y = y if y > zero else zero
            x = x if x < last_x else last_x
            y = y if y < last_y else last_y
            x0, y0 = np.floor(x), np.floor(y)
            x0 = x0 if x0 < low_x else low_x
            y0 = y0 if y0 < low_y else low_y
            index[j] = np.uint64(np.int64(y0) * source_width + np.int64(x0))
            fx[j], fy[j] = x - x0, y - y0
        for c in range(channels):
            plane = flat[c]
            for j in range(width):
                at = index[j]
                first, last = plane[at], plane[at + below]
                upper = first + (plane[at + right] - first) * fx[j]
                lower = last + (plane[at + below + right] - last) * fx[j]
                result[c, i, j] = upper + (lower - upper) * fy[j]


@CompiledLoop
def upsample_loop(
    coarse,  # float64 [h, w], clean
    smooth,  # bool [h, w]
    row,  # int64 [H]
    fy,  # float64 [H]
    column,  # int64 [W]
    fx,  # float64 [W]
    result,  # float32 [H, W]
):
    """Bilinear inside surfaces, nearest across edges; see `upsample_inverse_depth`."""
    rows, columns = coarse.shape
    for i in range(result.shape[0]):
        a, down = row[i], fy[i]
        b = min(a + 1, rows - 1)
        nearest_row = a if down < 0.5 else b
        for j in range(result.shape[1]):
            c, along = column[j], fx[j]
            d = min(c + 1, columns - 1)
            if smooth[a, c]:
                left = coarse[a, c] * (1.0 - down) + coarse[b, c] * down
                right = coarse[a, d] * (1.0 - down) + coarse[b, d] * down
                result[i, j] = np.float32(max(left * (1.0 - along) + right * along, 0.0))
            else:
                result[i, j] = np.float32(coarse[nearest_row, c if along < 0.5 else d])
