"""Output of tables, curves and other results into a folder, without overwriting files of others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lmvic_ns._util.output import (
    STAGING_PREFIX,
    check_apart,
    checksum,
    files_below,
    lock_folder,
    read_list,
    remove_abandoned,
    resolved_path,
    write_list,
    writing,
)
from lmvic_ns.errors import SceneError

RESULTS_LIST = ".lmvic-results.json"
"""Names and checksums of the results that this program wrote into a folder: those may be replaced by newer ones."""


class ResultsOutput:
    """A context manager that adds results to a folder: write below `staging`; they appear with `keep`, or at the end.

    Args:
        folder: any that is no input; it is made if need be. Files of others may lie in it.
        names: of files that will be written, as far as they are known, so that trouble is found before anything slow.
        inputs: see `lmvic_ns._util.output.check_apart`.

    Attributes:
        folder: as given.
        staging: where files are written to, with the names that they will have in the folder.

    Raises:
        LmvicError: the folder is an input, cannot be written, or holds such a file that is not ours.
    """

    def __init__(self, folder: Path, *, names: Iterable[str] = (), inputs: Iterable[Path] = ()) -> None:
        self.folder, self._place = folder, resolved_path(folder)
        if self._place.exists() and not self._place.is_dir():
            raise SceneError(f"{folder}: is a file; give the name of a folder for the results")
        check_apart(folder, inputs)
        self._check_ours(names)
        self._made = [path for path in (self._place, *self._place.parents) if not path.exists()]
        with writing(folder):
            self._place.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self._place)
            self.staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self._place))
            self._held = lock_folder(self.staging)

    def keep(self) -> list[Path]:
        """Move what is written so far to its place; returns the files.

        Raises:
            LmvicError: a file of somebody else is in the way, or the disk fails.
        """
        with writing(self.folder):
            new = {name: checksum(self.staging / name) for name in files_below(self.staging)}
            self._check_ours(new)
            if new:  # before the files: whatever happens, they are known to be ours
                write_list(self._place, {**self._listed(), **new}, RESULTS_LIST)
            for name in new:
                (self._place / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.staging / name, self._place / name)
        return [self.folder / name for name in new]

    def __enter__(self) -> ResultsOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.keep()
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is not kept yet."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None
        for path in self._made:
            with suppress(OSError):
                path.rmdir()

    def _listed(self) -> dict[str, str]:
        return read_list(self._place, RESULTS_LIST) or {}

    def _check_ours(self, names: Iterable[str]) -> None:
        listed = self._listed()
        for name in names:
            path = self._place / name
            if not os.path.lexists(path):
                continue
            with writing(self.folder):
                ours = path.resolve() == path and path.is_file() and listed.get(name) == checksum(path)
            if not ours:
                raise SceneError(
                    f"{self.folder / name}: was not written by lmvic, or was changed since, and is not replaced: move it away, "
                    "or choose another folder with --output"
                )
