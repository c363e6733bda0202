"""The command line `lmvic COMMAND ...`: a table of commands, each imported only when it is called.

To add a command, write a function that takes one dataclass of options, and add a line to `COMMANDS`. A name of two words
(`eval rd`) makes a group. The function returns None or an exit status.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmvic_ns import __version__
from lmvic_ns._util.exit_status import run_cleanly
from lmvic_ns._util.libraries import libraries_quiet
from lmvic_ns.cli.parsing import call
from lmvic_ns.errors import LmvicError


@dataclass(frozen=True)
class Command:
    """A command: its function (`package.module:function`) and its line in `lmvic --help`."""

    target: str
    summary: str

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS: Mapping[str, Command] = {
    "demo": Command("lmvic_ns.cli.demo:demo", "Train, encode and decode a small synthetic scene in minutes."),
    "export": Command("lmvic_ns.cli.nerfstudio_export:export", "Encode the photographs of a trained lmvic-splat."),
    "encode": Command("lmvic_ns.cli.encode:encode", "Encode a dataset into one file, or many, each into its own."),
    "estimate": Command("lmvic_ns.cli.encode:estimate", "Estimate size and quality of a dataset at each named quality."),
    "decode": Command("lmvic_ns.cli.decode:decode", "Decode a file into a nerfstudio or COLMAP dataset."),
    "info": Command("lmvic_ns.cli.inspect:info", "Show what is in a file, without decoding it."),
    "verify": Command("lmvic_ns.cli.inspect:verify", "Check the checksums of a file, without decoding it."),
    "view": Command("lmvic_ns.cli.view:view", "Show a file in a browser, beside the originals."),
    "prepare": Command("lmvic_ns.workflows.prepare:prepare", "Write datasets with depth, to train the codec on."),
    "train photos": Command("lmvic_ns.cli.training:train_photos", "Train intra coding on photographs."),
    "train scenes": Command("lmvic_ns.cli.training:train_scenes", "Train cross-view coding on chains of views."),
    "train depth": Command("lmvic_ns.training.depth:train_depth", "Train the learned depth codec, in minutes."),
    "train curves": Command("lmvic_ns.training.curves:train_curves", "Plot learning curves and extrapolate them."),
    "train grow": Command("lmvic_ns.training.growth:train_grow", "Initialize a larger preset from a trained smaller one."),
    "train publish": Command("lmvic_ns.training.publish:publish", "Make a weights file for the codec from a training run."),
    "train pack": Command("lmvic_ns.cli.training:train_pack", "Pack training data into one file."),
    "eval rd": Command("lmvic_ns.cli.evaluation:rate_distortion", "Rate-distortion curves and BD-rates, also of other codecs."),
    "eval alignment": Command("lmvic_ns.cli.evaluation_scenes:alignment", "Alignment of consecutive views (Table 2)."),
    "eval ablation": Command("lmvic_ns.cli.evaluation_scenes:ablation", "Ablation study (Figure 7)."),
    "eval downstream": Command("lmvic_ns.cli.evaluation_downstream:downstream", "What coding costs a splat trained on it."),
    "eval speed": Command("lmvic_ns.cli.evaluation_scenes:speed", "Coding time by stage, memory, operations, parameters."),
}


EXTRAS: Mapping[str, frozenset[str]] = {
    "nerfstudio": frozenset({"nerfstudio", "gsplat", "torchvision", "torchmetrics", "yaml", "skimage"}),
    "viewer": frozenset({"viser", "plotly"}),
    "train": frozenset({"lightning", "tensorboard", "pytorch_msssim"}),
    "eval": frozenset({"bjontegaard", "pillow_heif", "imagecodecs", "matplotlib", "cv2"}),
    "paper": frozenset({"compressai"}),
    "cluster": frozenset({"distributed", "dask"}),
    "http": frozenset({"aiohttp"}),
}
"""Packages that each extra of this package brings (pyproject.toml)."""


VERBOSE = "--verbose"
"""Option of every command: also show warnings and notes of the libraries."""


def match_command(args: Sequence[str], commands: Mapping[str, Command] = COMMANDS) -> tuple[str, list[str]] | None:
    """The command that `args` begins with, and the arguments left for it; None if there is no such command."""
    for words in (2, 1):
        name = " ".join(args[:words])
        if len(args) >= words and name in commands:
            return name, list(args[words:])
    return None


_RESEARCH = ("prepare", "train", "eval")
_HINTS = (
    "`lmvic COMMAND --help` shows a command's options.",
    f"`lmvic COMMAND ... {VERBOSE}` also shows warnings and notes of the libraries.",
)


def usage(commands: Mapping[str, Command] = COMMANDS, group: str = "") -> str:
    """The text of `lmvic --help`, or of `lmvic GROUP --help`."""
    listed = {name: command for name, command in commands.items() if not group or name.startswith(group + " ")}
    width = max((len(name) for name in listed), default=0)
    lines = [f"usage: lmvic {group + ' ' if group else ''}COMMAND [options]"]
    for title, research in (("commands:", False), ("commands to train and evaluate the codec:", True)):
        chosen = [(name, command.summary) for name, command in listed.items() if (name.split()[0] in _RESEARCH) == research]
        if chosen:
            lines += ["", title, *(f"  {name:<{width}}  {summary}" for name, summary in chosen)]
    return "\n".join([*lines, "", *_HINTS, ""])


def missing_package(error: ImportError, program: str) -> Exception:
    """An error that says what to install. If the cause is our own code, the error itself."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if isinstance(error, ModuleNotFoundError) and extra is not None:
        return LmvicError(f"{program} needs {package}, which is not installed: pip install 'lmvic-ns[{extra}]'")
    if package in ("", "lmvic_ns"):
        return error
    state = "which is not installed" if isinstance(error, ModuleNotFoundError) else f"which cannot be loaded ({error})"
    return LmvicError(f"{program} needs {package}, {state}: install it anew, with a version that fits, by pip install")


def versions() -> str:
    """The text of `lmvic --version`: package, file format, shipped weights."""
    import hashlib
    from importlib import resources

    from lmvic_ns.bitstream.layout import MAJOR, MINOR

    folder = resources.files("lmvic_ns") / "codec" / "weights"  # importing lmvic_ns.codec would import torch
    weights = sorted((item for item in folder.iterdir() if item.name.endswith(".safetensors")), key=lambda item: item.name)
    named = [
        f"{item.name.removesuffix('.safetensors')} {hashlib.sha256(item.read_bytes()).hexdigest()[:16]}" for item in weights
    ]
    return f"lmvic {__version__}, file format {MAJOR}.{MINOR}, weights {', '.join(named) or 'none'}"


def run(args: Sequence[str], commands: Mapping[str, Command] = COMMANDS) -> int:
    """Import the command, parse its options, call it, and return the exit status."""
    if not args or args[0] in ("-h", "--help"):
        print(usage(commands))
        return 0 if args else 2
    if args[0] == "--version":
        print(versions())
        return 0
    matched = match_command(args, commands)
    if matched is None:
        return _complain(args, commands)
    name, rest = matched
    verbose = VERBOSE in rest
    try:
        with libraries_quiet(not verbose):
            words = [with_home(word) for word in rest if word != VERBOSE]
            status = call(commands[name].load(), f"lmvic {name}", words)
    except ImportError as error:
        raise missing_package(error, f"lmvic {name}") from error
    return status if isinstance(status, int) else 0


def with_home(word: str) -> str:
    """An argument with the home folder in place of a leading `~`, which shells leave where it is quoted or follows `=`."""
    option, sign, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    is_home = value == "~" or value.startswith("~/")
    return option + sign + os.path.expanduser(value) if is_home and not os.path.lexists(value) else word


def _complain(args: Sequence[str], commands: Mapping[str, Command]) -> int:
    """Print the help of a group, or an error for an unknown command with the closest known one."""
    if any(name.startswith(args[0] + " ") for name in commands):
        if len(args) > 1 and args[1] in ("-h", "--help"):
            print(usage(commands, args[0]))
            return 0
        print(usage(commands, args[0]), file=sys.stderr)
        return 2
    near = difflib.get_close_matches(" ".join(args[:2]), list(commands), n=1) or difflib.get_close_matches(
        args[0], list(commands), n=1
    )
    hint = f"did you mean `lmvic {near[0]}`?" if near else "`lmvic --help` lists the commands."
    print(f"lmvic: no command '{args[0]}'; {hint}", file=sys.stderr)
    return 2


def entrypoint() -> None:
    """The console script. A user error is one line on stderr and exit status 2; Ctrl-C is 130 (see `_util.exit_status`)."""
    sys.exit(run_cleanly("lmvic", lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    entrypoint()
