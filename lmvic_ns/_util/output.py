"""Safe output files and folders: inputs are never overwritten, and only files of this program are replaced.

A folder that this program filled holds a list of what it wrote (`.lmvic-files.json`: names and checksums). Overwriting
removes the files of that list and nothing else; a listed file that was changed since is its owner's, and is refused.
A folder is filled in place, so `.`, mounts and links to folders work: everything is written below a hidden folder in it,
and moved at the end, the file that makes it a dataset last. What goes wrong before that leaves the folder as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType

from lmvic_ns._util.exit_status import is_disk_full, make_folder
from lmvic_ns.errors import LmvicError, SceneError

LIST_NAME = ".lmvic-files.json"
STAGING_PREFIX = ".lmvic-partial-"
_PIECE = 1 << 20


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusals while something is written to `path` into one clear line.

    Raises:
        LmvicError: the disk is full, the folder is not writable, ...
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise LmvicError(f"cannot write {path}: the disk is full; make room or choose another place") from error
        raise LmvicError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def resolved_path(path: Path) -> Path:
    """The absolute path that a path stands for, links followed; its end need not exist.

    Raises:
        SceneError: links that lead in a circle or to nowhere, a name that is too long, ...
    """
    path = Path(path)
    try:
        place = path.resolve()
        dangling = path.is_symlink() and not place.exists()
    except RuntimeError:
        raise SceneError(f"{path}: is a link that leads in a circle; choose another place") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be used: {error.strerror or error}; choose another place") from None
    except ValueError as error:
        raise SceneError(f"{str(path)!r}: cannot be used: {error}; choose another place") from None
    if dangling:
        raise SceneError(f"{path}: is a link to {place}, which is not there; choose another place")
    return place


def check_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is an input, contains one, or lies inside a folder that is one.

    Args:
        output: a file or folder to write.
        inputs: files and folders that the same command reads.

    Raises:
        SceneError: says which input is in danger.
    """
    place = resolved_path(output)
    exists = place.exists()
    for given in inputs:
        source = _real(given)
        if place == source or (exists and source.exists() and place.samefile(source)):
            raise SceneError(f"{output}: is what this command reads; choose another place for the result")
        if place in source.parents:
            raise SceneError(f"{output}: holds {given}, which this command reads; choose another place for the result")
        if source in place.parents and source.is_dir():
            raise SceneError(f"{output}: lies inside {given}, which this command reads; choose a place outside of it")


def check_plain(path: Path) -> None:
    """Refuse a device, a pipe or a socket as output: renaming a file to its name would remove it (also /dev/null).

    Raises:
        SceneError: it is one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SceneError(f"{path}: is a device or a pipe, not a file; give the name of a file")


def _real(given: Path) -> Path:
    try:
        return Path(os.path.realpath(given))
    except (OSError, ValueError) as error:  # ValueError: what no path can hold
        raise SceneError(f"{str(given)!r}: cannot be used as a path: {error}") from None


def check_file(
    path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False, ours: Callable[[Path], bool], kind: str
) -> None:
    """Refuse early a file that cannot be written in the end, or that is not ours to replace. Makes its folder
    (which goes again with the program if nothing comes into it).

    Args:
        path: the file.
        inputs: see `check_apart`.
        overwrite: a file that `ours` accepts may be replaced.
        ours: whether a file that is there is of the kind that this program writes.
        kind: what such a file is called, for the message.

    Raises:
        LmvicError: what is in the way, and what to do.
    """
    place = resolved_path(path)
    check_apart(path, inputs)
    if place.is_dir():
        raise SceneError(f"{path}: is a folder; give the name of a file, such as {path / 'scene.lmvic'}")
    check_plain(path)
    if place.exists() and not overwrite:
        raise SceneError(f"{path}: exists already; choose another name, or replace it with --overwrite")
    with writing(path):
        if place.exists() and not ours(place):
            raise SceneError(f"{path}: is not {kind}, so --overwrite will not replace it; choose another name")
        make_folder(place.parent)
        tempfile.TemporaryFile(prefix=".lmvic-", dir=place.parent).close()


def check_new(path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Refuse early a file that is there already, or that `check_file` refuses.

    Raises:
        LmvicError: what is in the way, and what to do.
    """
    if resolved_path(path).exists():
        raise SceneError(f"{path}: exists already; choose another name, or move it away")
    check_file(path, inputs=inputs, ours=lambda _: False, kind="new")


def check_folder(folder: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuse early a folder that cannot be filled: it is, holds or lies among inputs, or holds what is not ours.

    Args:
        folder: new, empty, or (with `overwrite`) filled by this program before.
        inputs: see `check_apart`.
        overwrite: files that the folder's own list names may be replaced.

    Raises:
        SceneError: what is in the way, and what to do.
    """
    place = resolved_path(folder)
    if place.exists() and not place.is_dir():
        raise SceneError(f"{folder}: is a file; give the name of a folder for the dataset")
    check_apart(folder, inputs)
    if not place.exists():
        return
    with writing(folder):
        names = {entry.name for entry in place.iterdir() if not entry.name.startswith(STAGING_PREFIX)} - {LIST_NAME}
    if not names:
        return
    if not overwrite:
        raise SceneError(
            f"{folder}: already exists and is not empty; choose another folder, or replace what lmvic wrote there with "
            "--overwrite"
        )
    listed = read_list(place)
    if listed is None:
        raise SceneError(
            f"{folder}: is not a dataset that lmvic wrote (it has no {LIST_NAME}), so --overwrite will not remove it; choose "
            "another folder"
        )
    check_unchanged(folder, listed)


def read_list(folder: Path, name: str = LIST_NAME) -> dict[str, str] | None:
    """Checksum by name of the files that this program wrote into a folder; None if it has no such list.

    Args:
        folder: where they are.
        name: of the list.

    Raises:
        SceneError: the list is damaged, or names files outside of the folder.
    """
    file = folder / name
    if not file.is_file():
        return None
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["files"]
        for entry in listed:
            parts = PurePosixPath(entry).parts
            if not parts or PurePosixPath(entry).is_absolute() or ".." in parts:
                raise ValueError(entry)
        return {str(entry): str(checksum) for entry, checksum in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise SceneError(f"{file}: is damaged: remove by hand what you do not need, or choose another folder") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file at: it gets its name when all is there, so nobody, and no failure, sees half of it.

    Links are followed, and the folder is made. What may be replaced is for `check_file` to say, before.

    Yields:
        A path beside it, with the same suffix, at which nothing is yet.

    Raises:
        LmvicError: the disk is full, the folder is not writable, ...
    """
    place = resolved_path(path)
    check_plain(path)
    partial = place.with_name(f"{STAGING_PREFIX}{os.getpid()}-{place.name}")
    with writing(path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, place)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step, see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_list(folder: Path, listed: dict[str, str], name: str = LIST_NAME) -> None:
    """Put the list of files into a folder, in one step."""
    write_whole(folder / name, json.dumps({"files": dict(sorted(listed.items()))}, indent=1))


def check_unchanged(folder: Path, listed: dict[str, str]) -> None:
    """Refuse a folder in which a listed file is no longer what this program wrote.

    Raises:
        SceneError: names the first such file.
    """
    place = folder.resolve()
    for name, expected in listed.items():
        path = place / name
        if not os.path.lexists(path):
            continue
        inside = path.resolve() == path
        with writing(folder):
            if not inside or not path.is_file() or checksum(path) != expected:
                raise SceneError(
                    f"{folder}: {name} was changed since lmvic wrote it, so --overwrite will not remove it; move it away or "
                    "choose another folder"
                )


def checksum(path: Path) -> str:
    """BLAKE2b of a file, 16 bytes in hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def files_below(folder: Path) -> list[str]:
    """Names of all files below a folder, sorted, relative to it with `/`."""
    found: list[str] = []
    for root, _, names in os.walk(folder):
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def remove_listed(folder: Path) -> None:
    """Remove the files that the folder's list names, the folders that this leaves empty, and the list.

    Raises:
        SceneError: one was changed since (nothing is removed then).
        LmvicError: the system refuses.
    """
    listed = read_list(folder) or {}
    check_unchanged(folder, listed)
    with writing(folder):
        for name in listed:
            (folder / name).unlink(missing_ok=True)
        _remove_empty(folder, listed)
        (folder / LIST_NAME).unlink(missing_ok=True)


class FolderOutput:
    """A context manager that fills a folder: write below `staging`; all of it appears at the end, or nothing.

    Args:
        folder: see `check_folder`; it is made if need be.
        inputs: see `check_apart`.
        overwrite: replace what the folder's own list names.
        last: the file that is moved to its place after all others.

    Attributes:
        folder: as given.
        staging: where files are written to, with the names that they will have in the folder.

    Raises:
        LmvicError: the folder is in the way or cannot be written.
    """

    def __init__(
        self, folder: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False, last: str = "transforms.json"
    ) -> None:
        check_folder(folder, inputs=inputs, overwrite=overwrite)
        self.folder, self._last = folder, last
        self._place = resolved_path(folder)
        self._old = read_list(self._place) or {}
        self._made = [path for path in (self._place, *self._place.parents) if not path.exists()]
        try:
            with writing(folder):
                self._place.mkdir(parents=True, exist_ok=True)
                remove_abandoned(self._place)
                self.staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self._place))
                self._held = lock_folder(self.staging)
        except BaseException:
            self._remove_made()
            raise

    def check_free(self, names: Iterable[str]) -> None:
        """Refuse names under which the folder holds files that are not ours.

        Raises:
            SceneError: names the first one.
        """
        for name in names:
            path = self._place / name
            if os.path.lexists(path) and name not in self._old:
                raise SceneError(f"{path}: lmvic did not write this file and will not replace it; move it away")
            for parent in path.relative_to(self._place).parents:
                between = self._place / parent
                if os.path.lexists(between) and (between.is_symlink() or not between.is_dir()) and between != self._place:
                    raise SceneError(f"{between}: is in the way of a folder; move it away")

    def __enter__(self) -> FolderOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with writing(self.folder):
                    self._commit()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
            if self._held is not None:
                os.close(self._held)
            self._remove_made()

    def _commit(self) -> None:
        """Move the old files away and the new ones in; on any failure, move everything back."""
        new = {name: checksum(self.staging / name) for name in files_below(self.staging)}
        self.check_free(new)
        check_unchanged(self._place, self._old)
        old_place = self.staging / ".old"
        moved: list[tuple[Path, Path]] = []

        def move(source: Path, target: Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            moved.append((source, target))  # before the move: an interruption may come right after it
            os.replace(source, target)

        listed = False
        try:
            # what makes it a dataset goes first and comes last: a half-moved one never looks whole
            for name in sorted(self._old, key=lambda name: name != self._last):
                if os.path.lexists(self._place / name):
                    move(self._place / name, old_place / name)
            if (self._place / LIST_NAME).exists():
                move(self._place / LIST_NAME, old_place / LIST_NAME)
            listed = True
            write_list(self._place, new)  # before the files: whatever happens, they are known to be ours
            for name in sorted(new, key=lambda name: name == self._last):
                move(self.staging / name, self._place / name)
        except BaseException:
            if listed:
                with suppress(OSError):
                    (self._place / LIST_NAME).unlink(missing_ok=True)
            for source, target in reversed(moved):
                if os.path.lexists(target) and not os.path.lexists(source):
                    source.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(target, source)
            _remove_empty(self._place, new)
            raise
        _remove_empty(self._place, self._old)

    def _remove_made(self) -> None:
        """Folders that were made for this and hold nothing."""
        for path in self._made:
            with suppress(OSError):
                path.rmdir()


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends; None if another process has locked it, or
    if the system has no such locks.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        os.close(descriptor)
        return None


def remove_abandoned(place: Path) -> None:
    """Remove what killed runs have left behind in a folder."""
    for path in place.glob(STAGING_PREFIX + "*"):
        descriptor = lock_folder(path) if path.is_dir() and not path.is_symlink() else None
        if descriptor is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def _remove_empty(folder: Path, names: Iterable[str]) -> None:
    """Remove the folders of these names that hold nothing (any more)."""
    parents = {parent for name in names for parent in PurePosixPath(name).parents} - {PurePosixPath(".")}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            (folder / parent).rmdir()
