"""Loops that numba compiles, for maps on a CPU: one pass over the pixels in place of some thirty.

Every value is computed by the same operations in the same order as in the plain torch code beside each call (numba does not fuse
multiplications with additions unless told to), so the bits are the same; the tests compare them. Without numba the plain code runs.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.bitstream.compiled import CompiledLoop


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
    for i in range(height):
        v = i + 0.5
        row0 = m[0, 1] * v + m[0, 2]
        row1 = m[1, 1] * v + m[1, 2]
        row2 = m[2, 1] * v + m[2, 2]
        for j in range(width):
            u = j + 0.5
            rho = np.float64(inverse_depth[i, j])
            if not (rho > 0.0 and rho < np.inf):
                rho = 0.0
            rho = min(rho, largest)
            q2 = (m[2, 0] * u + row2) + rho * t[2]
            in_front = q2 > nearest_ratio
            ratio = max(q2, nearest_ratio)
            scale = 1.0 / ratio
            x = ((m[0, 0] * u + row0) + rho * t[0]) * scale
            y = ((m[1, 0] * u + row1) + rho * t[1]) * scale
            x = np.rint(min(max(x, -reference_width), 2.0 * reference_width) * 64.0) * (1.0 / 64.0)
            y = np.rint(min(max(y, -reference_height), 2.0 * reference_height) * 64.0) * (1.0 / 64.0)
            disparity[i, j, 0] = np.float32(x - u)
            disparity[i, j, 1] = np.float32(y - v)
            column = int(min(max(np.floor(x + 0.5), 0.0), reference_width))
            row = int(min(max(np.floor(y + 0.5), 0.0), reference_height))
            visible = rho * relative >= np.float64(surfaces[row, column]) * ratio
            inside = x >= -margin and x <= reference_width + margin and y >= -margin and y <= reference_height + margin
            mask[i, j] = in_front and visible and inside
            seen[i, j] = np.float32(rho / ratio) if in_front else np.float32(0.0)


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
    right, below = min(1, source_width - 1), min(1, source_height - 1)
    zero = np.float32(0.0)
    column, row = np.empty(width, np.int64), np.empty(width, np.int64)
    fx, fy = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(height):
        for j in range(width):
            x = min(max(np.float32(j) + disparity[i, j, 0] * per_pixel, zero), last_x)
            y = min(max(np.float32(i) + disparity[i, j, 1] * per_pixel, zero), last_y)
            x0, y0 = min(np.floor(x), low_x), min(np.floor(y), low_y)
            column[j], row[j] = int(x0), int(y0)
            fx[j], fy[j] = x - x0, y - y0
        for c in range(channels):
            plane = planes[c]
            for j in range(width):
                a, b = row[j], column[j]
                first, last = plane[a, b], plane[a + below, b]
                upper = first + (plane[a, b + right] - first) * fx[j]
                lower = last + (plane[a + below, b + right] - last) * fx[j]
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
