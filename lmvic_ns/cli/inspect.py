"""`lmvic info` and `lmvic verify`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lmvic_ns.cli.common import JsonOutputOptions, ReadingLimits


@dataclass(kw_only=True)
class InspectedFile:
    """What is looked into."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .lmvic file."""


@dataclass(kw_only=True)
class FileConfig(ReadingLimits, JsonOutputOptions, InspectedFile):
    """An .lmvic file."""


def info(config: FileConfig) -> int:
    """Show what is in an .lmvic file: views, reference tree, sizes, required weights and damage. Works without the weights."""
    from lmvic_ns.report.inspection import info_data, print_info
    from lmvic_ns.report.terminal import print_json

    if not config.json:
        return print_info(config.file, config.max_pixels)
    data = info_data(config.file, config.max_pixels)
    print_json(data)
    return int(bool(data["problems"] or any(view["damage"] for view in data["views"])))


def verify(config: FileConfig) -> int:
    """Check every checksum of an .lmvic file without decoding. If it is damaged, list the lost views (exit status 1)."""
    from lmvic_ns.report.inspection import check_file
    from lmvic_ns.report.terminal import print_json, quiet, say

    problems, lost, views = check_file(config.file, config.max_pixels)
    if config.json:
        print_json({"file": str(config.file), "intact": not problems, "views": views, "problems": problems, "lost": lost})
        return int(bool(problems))
    with quiet(config.quiet):
        if not problems:
            say(f"{config.file}: intact, {views} views")
            return 0
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems[0].startswith("unfinished"):
        return 1
    print(f"{config.file}: damaged; {len(lost)} of {views} views are lost" + "".join(f"\n  {name}" for name in lost))
    return 1
