"""transforms.json: reading it, and hints where it disagrees with the files beside it."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmvic_ns.errors import SceneError
from lmvic_ns.scene import colmap

_PATHS = {"file_path", "depth_file_path", "mask_path", "ply_file_path"}
_BLENDER = (
    "this is a scene of Blender's kind, not of nerfstudio's: train on it with "
    "`ns-train lmvic-splat --data FOLDER blender-data`, then `lmvic export`"
)


def transforms_file(path: Path) -> Path:
    """The transforms.json of a dataset that is given by its folder or by that file itself."""
    return path if path.suffix == ".json" and not path.is_dir() else path / "transforms.json"


def load_transforms(path: Path) -> dict[str, Any]:
    """A dataset's transforms.json with frames that are objects and name a file; a COLMAP folder as it would be said there.

    Args:
        path: the dataset's folder, or the file.

    Raises:
        SceneError: it is missing, no JSON, or no list of frames; where a refusal can name the way out, it does.
    """
    file = transforms_file(path)
    if not file.is_file():
        if (model := model_folder(path)) is None:
            raise SceneError(_missing(path, file))
        meta: Any = colmap.read_transforms(path, model)
        _check_paths(file, meta, meta["frames"])
        return meta
    try:
        data = file.read_bytes()
        if data.startswith(codecs.BOM_UTF8):
            raise SceneError(f"{file}: begins with a byte order mark, which nerfstudio refuses; save it as UTF-8 without one")
        meta = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{file}: is not valid JSON ({error})") from error
    except OSError as error:
        raise SceneError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not isinstance(meta, dict):
        raise SceneError(f"{file}: is not a nerfstudio transforms.json (a JSON object with 'frames')")
    records = meta.get("frames")
    if not isinstance(records, list) or not records or not all(isinstance(r, dict) for r in records):
        raise SceneError(f"{file}: no frames; a nerfstudio dataset lists its views under 'frames'")
    if not all(isinstance(r.get("file_path"), str) and r["file_path"] for r in records):
        raise SceneError(f"{file}: a frame has no file_path")
    _check_paths(file, meta, records)
    return meta


@contextmanager
def naming_model(dataset: Path) -> Iterator[None]:
    """What is wrong with a COLMAP dataset is said of its model, not of the transforms.json that it does not have."""
    try:
        yield
    except SceneError as error:
        model, file = model_folder(dataset), transforms_file(dataset)
        if model is None:
            raise
        text = str(error).replace(str(file), str(model)).replace(file.name, "the COLMAP model")
        raise SceneError(text) from error


def model_folder(dataset: Path) -> Path | None:
    """Where the COLMAP model of a dataset without transforms.json lies; None if there is none, or a transforms.json."""
    return None if transforms_file(dataset).is_file() or not dataset.is_dir() else colmap.model_folder(dataset)


def _check_paths(file: Path, meta: dict[str, Any], records: list[dict[str, Any]]) -> None:
    for named in (meta, *records):
        for key in _PATHS & named.keys():
            if isinstance(named[key], str) and not _can_be_a_path(named[key]):
                hint = "correct it"
                if "\0" not in named[key] and named[key].isprintable():
                    hint = f"this terminal's encoding, {sys.getfilesystemencoding()}, lacks it: set LC_ALL=C.UTF-8"
                raise SceneError(f"{file}: {key} {named[key]!r} holds what no path can hold; {hint}")


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def check_exists(file: Path, relative: str, what: str = "image") -> None:
    """Refuse a file that transforms.json lists and that is not there.

    Raises:
        SceneError: names the file; says so where only the kind of slash is wrong.
    """
    path = file.parent / relative
    if path.is_file():
        return
    hint = ""
    if "\\" in relative and (file.parent / relative.replace("\\", "/")).is_file():
        hint = ", and it is there with '/': write paths with '/' instead of '\\'"
    elif "camera_angle_x" in _keys(file):
        hint = f"; {_BLENDER}"
    raise SceneError(f"{path}: {what} not found; {file.name} lists it as {relative!r}{hint}")


def check_size(file: Path, image: Path, found: tuple[int, int], declared: tuple[float, float], rotated: bool) -> None:
    """Refuse a picture of another size than its camera's.

    Args:
        file: transforms.json.
        image: the picture.
        found: its stored width and height.
        declared: width and height in `file`.
        rotated: whether the picture's EXIF asks for a rotation.

    Raises:
        SceneError: names both sizes, and the way out where the two are swapped.
    """
    if declared == found:
        return
    hint = ""
    if declared == found[::-1]:
        hint = "; w and h are swapped: correct them, or turn the picture"
        if rotated:
            hint = (
                "; its EXIF rotation is not applied here: rewrite the pictures turned and without it "
                "(`mogrify -auto-orient`, or ns-process-data again)"
            )
    said = f"{declared[0]:g} x {declared[1]:g}"
    raise SceneError(f"{image}: is {found[0]} x {found[1]} pixels, but {file.name} says {said}{hint}")


def _missing(path: Path, file: Path) -> str:
    """Why there is no transforms.json here, and what to do."""
    if path.suffix == ".lmvic":
        return f"{path}: is a coded file, not a dataset; decode it first: `lmvic decode {path} FOLDER`"
    if (file.parent / "transforms_train.json").is_file():
        return f"{file}: not found, but transforms_train.json is: {_BLENDER}"
    if path.is_dir() and (lacking := colmap.incomplete_model(path)):
        return lacking
    return f"{file}: not found; give a nerfstudio dataset (ns-process-data makes one), or a COLMAP one (images/, sparse/0/)"


def _keys(file: Path) -> set[str]:
    try:
        return set(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, OSError, TypeError):
        return set()
