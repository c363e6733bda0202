"""What a view is called, the same for datasets, exports and decoded files.

A picture's path below the folder that holds all pictures, without its suffix: `images/left/0001.png` and
`images/right/0001.png` are `left/0001` and `right/0001`. What is unfit for a file name on some system becomes `_`, and
names that collide then get a number. Nothing of where the pictures lie on this machine goes in.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

UNFIT = frozenset('\\:*?"<>|')
"""Characters beside `/` that some file system takes for something else."""
DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{kind}{i}" for kind in ("COM", "LPT") for i in range(1, 10))})
"""Names that are no files on Windows."""
MAX_NAME_BYTES = 200
"""Of a whole name in UTF-8: the file format's limit is 255, and a file name needs room for a suffix."""


def view_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """A name for each picture.

    Args:
        paths: of all pictures of a scene; absolute ones and ones outside of `folder` too.
        folder: of the dataset.

    Returns:
        Unique names, also for systems that do not tell upper from lower case.
    """
    base = Path(os.path.abspath(folder))
    places = [Path(os.path.abspath(base / path)) for path in paths]
    outside = [place for place in places if not place.is_relative_to(base)]
    away = _common(outside)
    parts = [place.relative_to(base if place.is_relative_to(base) else away).parts for place in places]
    shared = 0
    while len({part[shared] if len(part) > shared + 1 else None for part in parts}) == 1 and len(parts[0]) > shared + 1:
        shared += 1
    return unique_names(["/".join(fitting(part) for part in _without_suffix(p[shared:])) for p in parts])


def unique_names(names: Sequence[str]) -> list[str]:
    """Names that are too long cut, and numbers behind those that occur before (whatever their case)."""
    taken = {_key(name) for name in names}
    seen: set[str] = set()
    result = []
    for name in names:
        chosen, number = _cut(name, MAX_NAME_BYTES), 1
        while _key(chosen) in seen or (number > 1 and _key(chosen) in taken):
            number += 1
            tail = f"-{number}"
            chosen = _cut(name, MAX_NAME_BYTES - len(tail)) + tail
        seen.add(_key(chosen))
        result.append(chosen)
    return result


def _key(name: str) -> str:
    """The same for names that some system takes for one: of other case, or with accents written in another way."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def fitting(part: str) -> str:
    """One part of a path, with `_` for what is unfit for a file name somewhere: `:`, narrow spaces, joined emoji, ..."""
    text = "".join(c if c.isprintable() and c not in UNFIT and c != "/" else "_" for c in part)
    stripped = text.strip(" ")
    text = stripped.rstrip(".") + "_" * (len(stripped) - len(stripped.rstrip(".")))
    return f"_{text}" if _is_device(text) else text or "_"


def _is_device(part: str) -> bool:
    """Whether Windows takes a part of a path for a device, whatever its suffix."""
    return part.split(".")[0].strip().upper() in DEVICES


def unfit(name: str) -> bool:
    """Whether a name could not be written below a folder on every system."""
    parts = name.split("/")
    return (
        not name
        or any(part in ("", ".", "..") or not part.strip() or UNFIT & set(part) or _is_device(part) for part in parts)
        or any(not c.isprintable() for c in name)
    )


def _without_suffix(parts: Sequence[str]) -> list[str]:
    return [*parts[:-1], PurePosixPath(parts[-1]).stem] if parts else ["_"]  # the folder itself: nobody's picture


def _common(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all paths."""
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else Path("/")


def _cut(name: str, size: int) -> str:
    """At most `size` bytes of UTF-8, whole characters; the end stays, which tells pictures apart."""
    data = name.encode("utf-8")
    if len(data) <= size:
        return name
    return data[-size:].decode("utf-8", "ignore").lstrip("/. ") or "_"
