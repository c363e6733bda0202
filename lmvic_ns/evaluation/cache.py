"""Results kept on disk, so that asking again is instant: one small JSON file for each thing measured."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmvic_ns._util.output import write_whole
from lmvic_ns.errors import LmvicError


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/lmvic-ns/evaluation`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lmvic-ns" / "evaluation"


@dataclass(frozen=True)
class ResultCache:
    """JSON results by what they depend on (pictures, codec, version, setting). `folder` None keeps nothing."""

    folder: Path | None

    def get(self, identity: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """The stored result of `identity`, else what `compute` gives; and whether it was there."""
        if self.folder is None:
            return compute(), False
        text = json.dumps(identity, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["identity"] == json.loads(text):
                return stored["result"], True
        except (OSError, ValueError, KeyError):
            pass  # absent or damaged: measured again
        result = compute()
        try:
            write_whole(path, json.dumps({"identity": identity, "result": result}))
        except LmvicError as error:  # what is measured is worth more than its copy
            print(f"lmvic: this result is not kept: {error}", file=sys.stderr)
        return result, False
