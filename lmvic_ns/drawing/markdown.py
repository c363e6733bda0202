"""Text for viser's markdown elements. viser renders MDX, which runs what stands in braces and angle brackets as program."""

from __future__ import annotations

import re

_SIGNS = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:=-])")


def literal(text: str) -> str:
    """Text that comes from files or errors, shown as it is: on one line, every sign of markdown and MDX escaped."""
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))
