"""What a reader accepts at most. Each is checked before memory is taken; docs/file-format.md lists them too."""

from __future__ import annotations

MAX_SYMBOLS = 1 << 29  # of one entropy-coded stream
