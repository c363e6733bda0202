"""Weights of runs as files that are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lmvic_ns._util.output import check_apart, check_file, resolved_path, whole_file, writing
from lmvic_ns.errors import LmvicError


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors as safetensors, in one step so that no half file remains; makes the folder.

    Raises:
        LmvicError: the file cannot be written.
    """
    with whole_file(path) as partial:
        try:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(partial), metadata=dict(metadata))
        except SafetensorError as error:  # it wraps the system's refusals in words
            raise LmvicError(f"cannot write {path}: {error}; make room or choose another place") from error


def check_weights_output(path: Path, *, inputs: Iterable[Path], overwrite: bool) -> None:
    """Refuse early a weights file that cannot be written, or would replace something else.

    Args:
        path: the file, with the suffix that `--weights` and `--init` take.
        inputs: files that it is made of.
        overwrite: weights that are there may be replaced.

    Raises:
        LmvicError: what is in the way, and what to do.
    """
    if path.suffix != ".safetensors":
        raise LmvicError(f"{path}: weights files end in .safetensors; call it {path.name}.safetensors")
    check_file(path, inputs=inputs, overwrite=overwrite, ours=_is_weights, kind="a weights file of lmvic")


def check_run_folder(folder: Path, inputs: Sequence[Path], *, resume: bool) -> None:
    """Refuse a run's folder that is or holds what the run reads, or that holds another run or files of others.

    Args:
        folder: new, empty, of a run that was stopped before its first checkpoint, or (with `resume`) of any run.
        inputs: files and folders that the run reads.
        resume: go on with what is there.

    Raises:
        LmvicError: what is in the way, and what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise LmvicError(f"{folder}: is a file; give the name of a folder for the run with --output")
    # it may lie in a folder of photographs or of scenes, where it takes no name that is read; --init may be of the run itself
    own = resolved_path(folder)
    others = [
        path for path in inputs if resolved_path(path) not in own.parents and not (resume and resolved_path(path).parent == own)
    ]
    check_apart(folder, others)
    with writing(folder):
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if resume or not names:
        return
    if "last.ckpt" in names:
        raise LmvicError(f"{folder / 'last.ckpt'} exists: add --resume to go on with it, or give another --output")
    if not _is_settings(folder / "settings.json") or names & {"best.safetensors", "last.safetensors"}:
        raise LmvicError(f"{folder}: holds files that are not of such a run; give a new folder with --output")


def _is_settings(path: Path) -> bool:
    """Whether a file is the settings.json that runs write."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("format") == "lmvic-training"
    except (OSError, ValueError, AttributeError):
        return False


def _is_weights(path: Path) -> bool:
    """Whether a file begins as the weights files of this package do, or is empty."""
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or b"lmvic" in head
