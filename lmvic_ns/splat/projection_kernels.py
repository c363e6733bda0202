"""Compiled projection and spherical harmonics for the CPU, with hand-written derivatives; float64 inside.

The formulas are those of projection.py, one Gaussian at a time. Work is cut into a fixed number of chunks, whatever the
number of threads, so that the sums over Gaussians (the cameras' gradients) have the same bits everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from lmvic_ns.splat.jit import compiled

CHUNKS = 64
LEAST_RATIO = 1e-12
MAX_SH_DEGREE = 3


@compiled()
def _spread(quat, scale, rotation, spread):
    """Fill the rotation of a wxyz quaternion and rotation * diag(scale); returns the quaternion's norm."""
    norm = math.sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3])
    inverse = 1.0 / max(norm, 1e-12)
    w, x, y, z = quat[0] * inverse, quat[1] * inverse, quat[2] * inverse, quat[3] * inverse
    rotation[0, 0], rotation[0, 1], rotation[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    rotation[1, 0], rotation[1, 1], rotation[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    rotation[2, 0], rotation[2, 1], rotation[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for i in range(3):
        for j in range(3):
            spread[i, j] = rotation[i, j] * scale[j]
    return norm


@compiled()
def _spread_gradient(quat, scale, norm, rotation, grad_spread, grad_quat, grad_scale):
    """Add the derivatives of `_spread` to grad_quat and grad_scale; scales grad_spread in place."""
    for k in range(3):
        for i in range(3):
            grad_scale[k] += grad_spread[i, k] * rotation[i, k]
            grad_spread[i, k] *= scale[k]
    g, inverse = grad_spread, 1.0 / max(norm, 1e-12)
    w, x, y, z = quat[0] * inverse, quat[1] * inverse, quat[2] * inverse, quat[3] * inverse
    gw = 2 * (z * (g[1, 0] - g[0, 1]) + y * (g[0, 2] - g[2, 0]) + x * (g[2, 1] - g[1, 2]))
    gx = 2 * (y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) - 2 * x * (g[1, 1] + g[2, 2]) + w * (g[2, 1] - g[1, 2]))
    gy = 2 * (x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) - 2 * y * (g[0, 0] + g[2, 2]) + w * (g[0, 2] - g[2, 0]))
    gz = 2 * (x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) - 2 * z * (g[0, 0] + g[1, 1]) + w * (g[1, 0] - g[0, 1]))
    along = gw * w + gx * x + gy * y + gz * z
    grad_quat[0] += (gw - along * w) * inverse
    grad_quat[1] += (gx - along * x) * inverse
    grad_quat[2] += (gy - along * y) * inverse
    grad_quat[3] += (gz - along * z) * inverse


@compiled()
def _screen(view, intrinsics, width, height, x, y, z, spread, jacobian, turned, rows):
    """Fill the Jacobian, view rotation * spread, and their product; returns whether x / z and y / z are unclamped."""
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    u = min(max(x / z, -cx / fx - margin_x), (width - cx) / fx + margin_x)
    v = min(max(y / z, -cy / fy - margin_y), (height - cy) / fy + margin_y)
    jacobian[0, 0], jacobian[0, 1], jacobian[0, 2] = fx / z, 0.0, -fx * u / z
    jacobian[1, 0], jacobian[1, 1], jacobian[1, 2] = 0.0, fy / z, -fy * v / z
    for j in range(3):
        for i in range(3):
            turned[i, j] = view[i, 0] * spread[0, j] + view[i, 1] * spread[1, j] + view[i, 2] * spread[2, j]
        rows[0, j] = jacobian[0, 0] * turned[0, j] + jacobian[0, 2] * turned[2, j]
        rows[1, j] = jacobian[1, 1] * turned[1, j] + jacobian[1, 2] * turned[2, j]
    return u == x / z, v == y / z


@compiled(parallel=True)
def project_forward(
    means, quats, scales, views, intrinsics, width, height, near, far, eps2d,
    radii, means2d, depths, conics, compensations,
):  # fmt: skip
    """Project n Gaussians into c cameras; culled ones get zeros everywhere."""
    count, cameras = means.shape[0], views.shape[0]
    for chunk in prange(CHUNKS):
        rotation, spread, turned = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
        jacobian, rows = np.empty((2, 3)), np.empty((2, 3))
        for g in range(count * chunk // CHUNKS, count * (chunk + 1) // CHUNKS):
            _spread(quats[g].astype(np.float64), scales[g].astype(np.float64), rotation, spread)
            m0, m1, m2 = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
            for camera in range(cameras):
                radii[camera, g], depths[camera, g], compensations[camera, g] = 0, 0.0, 0.0
                means2d[camera, g, :] = 0.0
                conics[camera, g, :] = 0.0
                view, lens = views[camera], intrinsics[camera]
                z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
                if not near <= z <= far:
                    continue
                x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
                y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
                _screen(view, lens, width, height, x, y, z, spread, jacobian, turned, rows)
                raw_a = rows[0, 0] ** 2 + rows[0, 1] ** 2 + rows[0, 2] ** 2
                raw_c = rows[1, 0] ** 2 + rows[1, 1] ** 2 + rows[1, 2] ** 2
                b = rows[0, 0] * rows[1, 0] + rows[0, 1] * rows[1, 1] + rows[0, 2] * rows[1, 2]
                a, c = raw_a + eps2d, raw_c + eps2d
                det = a * c - b * b
                if not det > 0:
                    continue
                middle = 0.5 * (a + c)
                radius = math.ceil(3 * math.sqrt(middle + math.sqrt(max(middle * middle - det, 0.01))))
                px, py = lens[0, 0] * x / z + lens[0, 2], lens[1, 1] * y / z + lens[1, 2]
                if px + radius <= 0 or px - radius >= width or py + radius <= 0 or py - radius >= height:
                    continue
                radii[camera, g] = np.int32(min(radius, 2.0**30))
                means2d[camera, g, 0], means2d[camera, g, 1] = px, py
                depths[camera, g] = z
                conics[camera, g, 0], conics[camera, g, 1], conics[camera, g, 2] = c / det, -b / det, a / det
                compensations[camera, g] = math.sqrt(max((raw_a * raw_c - b * b) / det, LEAST_RATIO))


@compiled(parallel=True)
def project_backward(
    means, quats, scales, views, intrinsics, width, height, eps2d, radii,
    g_means2d, g_depths, g_conics, g_compensations, out_means, out_quats, out_scales, out_views,
):  # fmt: skip
    """Derivatives of `project_forward`; out_views [chunks, c, 3, 4] is to be summed over the chunks."""
    count, cameras = means.shape[0], views.shape[0]
    for chunk in prange(CHUNKS):
        rotation, spread, turned = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
        jacobian, rows = np.empty((2, 3)), np.empty((2, 3))
        grad_spread, grad_turned, grad_rows = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
        grad_mean, grad_quat, grad_scale = np.empty(3), np.empty(4), np.empty(3)
        point, grad_point = np.empty(3), np.empty(3)
        for g in range(count * chunk // CHUNKS, count * (chunk + 1) // CHUNKS):
            grad_mean[:], grad_quat[:], grad_scale[:] = 0.0, 0.0, 0.0
            seen = False
            for camera in range(cameras):
                seen |= radii[camera, g] > 0
            if seen:
                quat, scale = quats[g].astype(np.float64), scales[g].astype(np.float64)
                norm = _spread(quat, scale, rotation, spread)
                grad_spread[:] = 0.0
                for camera in range(cameras):
                    if radii[camera, g] <= 0:
                        continue
                    view, lens = views[camera], intrinsics[camera]
                    for i in range(3):
                        point[i] = view[i, 3]
                        for j in range(3):
                            point[i] += view[i, j] * means[g, j]
                    x, y, z = point[0], point[1], point[2]
                    free_x, free_y = _screen(view, lens, width, height, x, y, z, spread, jacobian, turned, rows)
                    raw_a = rows[0, 0] ** 2 + rows[0, 1] ** 2 + rows[0, 2] ** 2
                    raw_c = rows[1, 0] ** 2 + rows[1, 1] ** 2 + rows[1, 2] ** 2
                    b = rows[0, 0] * rows[1, 0] + rows[0, 1] * rows[1, 1] + rows[0, 2] * rows[1, 2]
                    a, c = raw_a + eps2d, raw_c + eps2d
                    det = a * c - b * b
                    # the inverse: d(X) = -X d(covariance) X
                    xa, xb, xc = c / det, -b / det, a / det
                    va, vb, vc = g_conics[camera, g, 0], 0.5 * g_conics[camera, g, 1], g_conics[camera, g, 2]
                    ga = -(xa * xa * va + 2 * xa * xb * vb + xb * xb * vc)
                    gb = -2 * (xa * xb * va + (xa * xc + xb * xb) * vb + xb * xc * vc)
                    gc = -(xb * xb * va + 2 * xb * xc * vb + xc * xc * vc)
                    ratio = (raw_a * raw_c - b * b) / det
                    if ratio > LEAST_RATIO:
                        g_ratio = 0.5 * g_compensations[camera, g] / (math.sqrt(ratio) * det)
                        ga += g_ratio * (raw_c - ratio * c)
                        gb += g_ratio * -2 * b * (1 - ratio)
                        gc += g_ratio * (raw_a - ratio * a)
                    for j in range(3):
                        grad_rows[0, j] = 2 * ga * rows[0, j] + gb * rows[1, j]
                        grad_rows[1, j] = 2 * gc * rows[1, j] + gb * rows[0, j]
                    j00, j02, j11, j12 = 0.0, 0.0, 0.0, 0.0
                    for j in range(3):
                        j00 += grad_rows[0, j] * turned[0, j]
                        j02 += grad_rows[0, j] * turned[2, j]
                        j11 += grad_rows[1, j] * turned[1, j]
                        j12 += grad_rows[1, j] * turned[2, j]
                        grad_turned[0, j] = jacobian[0, 0] * grad_rows[0, j]
                        grad_turned[1, j] = jacobian[1, 1] * grad_rows[1, j]
                        grad_turned[2, j] = jacobian[0, 2] * grad_rows[0, j] + jacobian[1, 2] * grad_rows[1, j]
                    fx, fy = lens[0, 0], lens[1, 1]
                    gx, gy = g_means2d[camera, g, 0] * fx, g_means2d[camera, g, 1] * fy
                    grad_point[0], grad_point[1] = gx / z, gy / z
                    grad_point[2] = g_depths[camera, g] - (x * gx + y * gy) / (z * z) - (fx * j00 + fy * j11) / (z * z)
                    grad_point[2] -= (jacobian[0, 2] * j02 + jacobian[1, 2] * j12) / z
                    if free_x:
                        grad_point[0] -= fx * j02 / (z * z)
                        grad_point[2] += fx * j02 * x / (z * z * z)
                    if free_y:
                        grad_point[1] -= fy * j12 / (z * z)
                        grad_point[2] += fy * j12 * y / (z * z * z)
                    for i in range(3):
                        out_views[chunk, camera, i, 3] += grad_point[i]
                        for j in range(3):
                            grad_mean[j] += view[i, j] * grad_point[i]
                            total = grad_point[i] * means[g, j]
                            for k in range(3):
                                total += grad_turned[i, k] * spread[j, k]
                                grad_spread[j, k] += view[i, j] * grad_turned[i, k]
                            out_views[chunk, camera, i, j] += total
                _spread_gradient(quat, scale, norm, rotation, grad_spread, grad_quat, grad_scale)
            for i in range(3):
                out_means[g, i], out_scales[g, i] = grad_mean[i], grad_scale[i]
            for i in range(4):
                out_quats[g, i] = grad_quat[i]


@compiled()
def _sh_basis(degree, x, y, z, basis):
    """projection.sh_basis up to degree 3, for one unit direction."""
    basis[0] = 0.28209479177387814
    if degree >= 1:
        basis[1], basis[2], basis[3] = -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x
    if degree >= 2:
        basis[4], basis[5] = 1.0925484305920792 * x * y, -1.0925484305920792 * y * z
        basis[6] = 0.31539156525252005 * (3 * z * z - 1)
        basis[7], basis[8] = -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)
    if degree >= 3:
        basis[9], basis[10] = -0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z
        basis[11] = -0.4570457994644658 * y * (5 * z * z - 1)
        basis[12] = 0.3731763325901154 * z * (5 * z * z - 3)
        basis[13] = -0.4570457994644658 * x * (5 * z * z - 1)
        basis[14], basis[15] = 1.445305721320277 * z * (x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y)


@compiled()
def _sh_gradient(degree, x, y, z, g):
    """Derivative of sum_k g[k] basis[k] with respect to (x, y, z)."""
    gx, gy, gz = 0.0, 0.0, 0.0
    if degree >= 1:
        gx, gy, gz = -0.4886025119029199 * g[3], -0.4886025119029199 * g[1], 0.4886025119029199 * g[2]
    if degree >= 2:
        a = 1.0925484305920792
        gx += a * (y * g[4] - z * g[7] + x * g[8])
        gy += a * (x * g[4] - z * g[5] - y * g[8])
        gz += -a * (y * g[5] + x * g[7]) + 6 * 0.31539156525252005 * z * g[6]
    if degree >= 3:
        a, b, c = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
        d, e = 0.3731763325901154, 1.445305721320277
        gx += -6 * a * x * y * g[9] + b * y * z * g[10] - c * (5 * z * z - 1) * g[13] + 2 * e * z * x * g[14]
        gx += -3 * a * (x * x - y * y) * g[15]
        gy += -3 * a * (x * x - y * y) * g[9] + b * x * z * g[10] - c * (5 * z * z - 1) * g[11] - 2 * e * z * y * g[14]
        gy += 6 * a * x * y * g[15]
        gz += b * x * y * g[10] - 10 * c * z * (y * g[11] + x * g[13]) + d * (15 * z * z - 3) * g[12]
        gz += e * (x * x - y * y) * g[14]
    return gx, gy, gz


@compiled(parallel=True)
def colors_forward(coefficients, degree, means, centres, colors):
    """colors [c, n, 3] = max(0, basis . coefficients + 1/2)."""
    count = means.shape[0]
    for chunk in prange(CHUNKS):
        basis = np.empty(16)
        for g in range(count * chunk // CHUNKS, count * (chunk + 1) // CHUNKS):
            for camera in range(centres.shape[0]):
                centre = centres[camera]
                x, y, z = means[g, 0] - centre[0], means[g, 1] - centre[1], means[g, 2] - centre[2]
                inverse = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
                _sh_basis(degree, x * inverse, y * inverse, z * inverse, basis)
                for channel in range(3):
                    total = 0.5
                    for k in range((degree + 1) ** 2):
                        total += basis[k] * coefficients[g, k, channel]
                    colors[camera, g, channel] = max(total, 0.0)


@compiled(parallel=True)
def colors_backward(coefficients, degree, means, centres, colors, g_colors, out_coefficients, out_means, out_centres):
    """Derivatives of `colors_forward`; out_centres [chunks, c, 3] is to be summed over the chunks."""
    count, bases = means.shape[0], (degree + 1) ** 2
    for chunk in prange(CHUNKS):
        basis, grad_basis = np.empty(16), np.empty(16)
        for g in range(count * chunk // CHUNKS, count * (chunk + 1) // CHUNKS):
            out_coefficients[g, :, :] = 0.0
            out_means[g, :] = 0.0
            for camera in range(centres.shape[0]):
                used = False
                for channel in range(3):
                    used |= (g_colors[camera, g, channel] != 0) & (colors[camera, g, channel] > 0)
                if not used:
                    continue
                centre = centres[camera]
                x, y, z = means[g, 0] - centre[0], means[g, 1] - centre[1], means[g, 2] - centre[2]
                inverse = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
                x, y, z = x * inverse, y * inverse, z * inverse
                _sh_basis(degree, x, y, z, basis)
                for k in range(bases):
                    grad_basis[k] = 0.0
                    for channel in range(3):
                        if colors[camera, g, channel] > 0:
                            out_coefficients[g, k, channel] += basis[k] * g_colors[camera, g, channel]
                            grad_basis[k] += coefficients[g, k, channel] * g_colors[camera, g, channel]
                gx, gy, gz = _sh_gradient(degree, x, y, z, grad_basis)
                along = gx * x + gy * y + gz * z
                gx, gy, gz = (gx - along * x) * inverse, (gy - along * y) * inverse, (gz - along * z) * inverse
                out_means[g, 0] += gx
                out_means[g, 1] += gy
                out_means[g, 2] += gz
                out_centres[chunk, camera, 0] -= gx
                out_centres[chunk, camera, 1] -= gy
                out_centres[chunk, camera, 2] -= gz
