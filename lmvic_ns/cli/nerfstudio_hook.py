"""Our subcommand of nerfstudio's `ns-export`, which has no plugin mechanism.

Plugins are loaded while `nerfstudio.scripts.exporter` is half executed (it imports eval_utils, which loads them). At that
moment the module's global `tyro` is bound and its `Commands` is not yet. So only that module's `tyro` is replaced by an
object that forwards everything, and whose `cli` adds our subcommand when it is given that module's `Commands`. No file is
changed and no other program is touched: where the module is not loaded or looks different, nothing is done.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any, Union, get_args, get_origin

EXPORTER = "nerfstudio.scripts.exporter"
SUBCOMMAND = "lmvic-codec"


class ForwardingTyro:
    """Stands for the module tyro in one namespace.

    Args:
        tyro: the real module.
        namespace: of the exporter's module, which will get its `Commands` later.
    """

    def __init__(self, tyro: Any, namespace: Mapping[str, Any]) -> None:
        self._tyro, self._namespace = tyro, namespace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tyro, name)

    def cli(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        """As `tyro.cli`; the exporter's own commands get one more."""
        if f is not None and f is self._namespace.get("Commands"):
            f = with_our_command(f, self._tyro)
        return self._tyro.cli(f, *args, **kwargs)


def with_our_command(commands: Any, tyro: Any) -> Any:
    """`Commands` (a union, perhaps annotated) with our subcommand; as it was if it is nothing of the kind."""
    union, annotations = commands, ()
    if get_origin(commands) is Annotated:
        union, *annotations = get_args(commands)
    members = get_args(union)
    if get_origin(union) is not Union or not members:
        return commands
    from lmvic_ns.cli.nerfstudio_export import ExportLmvicCodec

    ours = Annotated[ExportLmvicCodec, tyro.conf.subcommand(name=SUBCOMMAND)]
    extended = Union[(*members, ours)]
    for annotation in annotations:
        extended = Annotated[extended, annotation]
    return extended


def install() -> bool:
    """Put the forwarding object into the exporter's module if it is being loaded now; whether it is there.

    Never raises: the other ns-* commands must not depend on this.
    """
    try:
        module = _exporter()
        tyro = getattr(module, "tyro", None)
        if module is None or not hasattr(tyro, "cli"):
            return False
        if not isinstance(tyro, ForwardingTyro):
            module.tyro = ForwardingTyro(tyro, vars(module))  # type: ignore[attr-defined]
        return True
    except Exception:  # pragma: no cover - a broken hook must not break ns-train
        return False


def _exporter() -> ModuleType | None:
    """The exporter's module: under its name, or as the main program (`python -m nerfstudio.scripts.exporter`)."""
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) == EXPORTER:
        return main
    return sys.modules.get(EXPORTER)
