"""Poses as the file holds them: a float32 unit quaternion and a float32 centre relative to a float64 origin.

A float32 quaternion is off by 1e-7 rad at most: 0.001 pixel at a focal length of 10,000. Centres relative to the
middle of the cameras keep that precision for scenes in geographic coordinates too. 28 bytes a view.
"""

from __future__ import annotations

import numpy as np

from lmvic_ns.errors import SceneError

PINHOLE_ZEROS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])  # entries that a pinhole fixes
PINHOLE_ONES = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # and what they are
_MOST_MOVED = 1e-4  # of the cameras' typical distance
TOLERANCE = 1e-3  # of a rotation's orthonormality: text files with few digits pass, scaled or mirrored ones do not


def round_to_stored(world_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """What the file will hold of these motions.

    Args:
        world_to_camera: float64 [v, 4, 4].

    Returns:
        Quaternions [v, 4] (w, x, y, z; w >= 0) and centres [v, 3], float64 arrays of float32 values, and the origin.

    Raises:
        SceneError: a motion is not finite or not rigid, or one camera is so far away that the others would move.
    """
    rotations, translations = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    for number, motion in enumerate(world_to_camera):
        r = motion[:3, :3]
        if not np.isfinite(motion).all() or not np.array_equal(motion[3], [0, 0, 0, 1]):
            raise SceneError(f"view {number}: expected a finite 4x4 rigid motion as its pose")
        if np.abs(r @ r.T - np.eye(3)).max() > TOLERANCE or np.linalg.det(r) < 0:
            raise SceneError(f"view {number}: expected a rotation as its pose, found one that scales, shears or mirrors")
    centres = -np.einsum("vji,vj->vi", rotations, translations)
    origin = centres.mean(axis=0) if len(centres) else np.zeros(3)
    quaternions = np.stack([_quaternion(r) for r in rotations])
    with np.errstate(over="ignore"):
        relative = (centres - origin).astype(np.float32).astype(np.float64)
    _check_near(centres, relative + origin)
    return (
        quaternions.astype(np.float32).astype(np.float64),
        relative,
        (origin[0].item(), origin[1].item(), origin[2].item()),
    )


def _check_near(centres: np.ndarray, stored: np.ndarray) -> None:
    """Refuse what single precision would move visibly: one lost camera far away spoils the others' distances.

    Raises:
        SceneError: names the camera that is farthest away.
    """
    away = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
    apart = away[away > 0]
    moved = float(np.abs(stored - centres).max()) if len(centres) else 0.0
    if apart.size and not moved <= _MOST_MOVED * float(np.median(apart)):
        far = int(away.argmax())
        raise SceneError(
            f"view {far}: its camera is {away[far]:.3g} units from the others, which are {np.median(apart):.3g} apart: the "
            "format would move them; take it out, or correct its pose"
        )


def world_to_camera(quaternions: np.ndarray, centres: np.ndarray, origin: tuple[float, float, float]) -> np.ndarray:
    """float64 [v, 4, 4] from stored values, with elementwise operations in a fixed order: the same bits everywhere."""
    w, x, y, z = np.asarray(quaternions, dtype=np.float64).T
    norm = np.sqrt(((w * w + x * x) + y * y) + z * z)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    cx, cy, cz = (centres[:, i] + origin[i] for i in range(3))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    motions = np.zeros((len(centres), 4, 4))
    for i, (a, b, c) in enumerate(rows):
        motions[:, i, 0], motions[:, i, 1], motions[:, i, 2] = a, b, c
        motions[:, i, 3] = -((a * cx + b * cy) + c * cz)
    motions[:, 3, 3] = 1.0
    return motions


def _quaternion(r: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z), w >= 0, of the rotation nearest to `r` (Bar-Itzhack 2000: an eigenvector)."""
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return -q if q[0] < 0 else q
