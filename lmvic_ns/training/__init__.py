"""Training of the codec: photographs, then chains of views with their geometry.

Importing this package is light. What needs Lightning (`module`, `callbacks`, `runner`) asks for it by
:func:`require_lightning`, so that a plain install gives one clear line. Data, losses and quick rate-distortion looks
need only torch, numpy and Pillow.
"""

from __future__ import annotations

from lmvic_ns.errors import LmvicError


class TrainingError(LmvicError):
    """Training cannot start or go on: missing extra, data, or a checkpoint of something else."""


def require_lightning() -> None:
    """Raise :class:`TrainingError` with what to install where Lightning is missing."""
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise TrainingError(f"training needs Lightning ({error}): pip install 'lmvic-ns[train]'") from error
