"""report.html and report.json: which files are ours, and what may be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmvic_ns._util.output import check_file, resolved_path
from lmvic_ns.errors import SceneError

GENERATOR = "lmvic-ns report"
"""Stands near the beginning of every report, so that no other file of that name is taken for one."""
PAGE, DATA = "report.html", "report.json"


def check_report(folder: Path, overwrite: bool, inputs: Sequence[Path] = (), output: Path | None = None) -> None:
    """Refuse early a folder into which no report can be written.

    Args:
        folder: of report.html and report.json.
        overwrite: reports that are there may be replaced.
        inputs: files and folders that are read.
        output: the file that the report is on.

    Raises:
        LmvicError: what is in the way.
    """
    if output is not None:
        file, place = resolved_path(output), resolved_path(folder)
        if file in (place, *place.parents, place / PAGE, place / DATA):
            raise SceneError(f"{folder}: a report there would take the place of {output}; choose another folder for it")
    for name in (PAGE, DATA):
        check_file(folder / name, inputs=inputs, overwrite=overwrite, ours=is_report, kind="a report that lmvic wrote")


def is_report(path: Path) -> bool:
    """Whether a file begins as our reports do."""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(400)
