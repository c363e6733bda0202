"""Scenes: views with cameras, pictures, depth and sparse points; nerfstudio datasets read and written."""

from __future__ import annotations

from lmvic_ns.scene.scene import MultiViewScene

__all__ = ["MultiViewScene"]
