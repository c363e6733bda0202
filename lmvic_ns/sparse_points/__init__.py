"""Sparse points in a file's sections: exact or compact, with colours from the decoded pictures."""

from __future__ import annotations

from typing import Literal

PointStorage = Literal["exact", "compact", "none"]
"""How points are stored: as they were, to what the views can tell, or not at all."""
