"""Joins two training packs: python benchmarks/merge_packs.py A B OUTPUT

Photographs that stay held out are those of the first. For machines that take less at once than a pack holds.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from lmvic_ns.training.pack import Pack


def main() -> int:
    first, second, output = map(Path, sys.argv[1:])
    facts = Pack(first).facts
    facts["views"] = {**facts["views"], **Pack(second).facts["views"]}
    seen = {"pack.json"}
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as joined:
        for path in (first, second):
            with zipfile.ZipFile(path) as pack:
                for name in pack.namelist():
                    if name not in seen:
                        seen.add(name)
                        joined.writestr(name, pack.read(name))
        facts["photos"] = sum(name.startswith("photos/") for name in seen)
        joined.writestr("pack.json", json.dumps(facts))
    print(f"{output}: {facts['photos']} photographs, {sum(facts['views'].values())} views")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
