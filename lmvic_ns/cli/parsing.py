"""Arguments of a command into the dataclass that its function takes; options that few people need in a box of their own.

The options of a command are one flat dataclass. It may inherit its fields from several: those of a base class that is
marked with `HELP_SECTION: ClassVar[str] = "advanced"` stand under "advanced options" in the command's help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Any, get_type_hints

SECTION_ATTRIBUTE = "HELP_SECTION"


def call(function: Callable[..., Any], program: str, args: Sequence[str]) -> Any:
    """Parse the arguments with tyro and call the function.

    Args:
        function: takes one dataclass, whose fields are options without a prefix.
        program: the words of the command, for the help.
        args: what follows them.
    """
    import tyro

    parameters = list(inspect.signature(function).parameters)
    kind = get_type_hints(function).get(parameters[0]) if len(parameters) == 1 else None
    # the sections of a docstring are for programmers
    words = inspect.cleandoc(function.__doc__ or "").split("\n\nRaises:")[0].split("\n\nArgs:")[0]
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return tyro.cli(function, prog=program, args=args, description=words)
    sections = marked_bases(kind)
    if not sections:
        return function(tyro.cli(kind, prog=program, args=args, description=words))
    found = tyro.cli(sectioned(kind, sections), prog=program, args=args, description=words, config=(tyro.conf.OmitArgPrefixes,))
    values = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in sections}
    for name in sections:
        values |= vars(getattr(found, name))
    return function(kind(**values))


def marked_bases(kind: type) -> dict[str, tuple[type, ...]]:
    """The marked base classes of a dataclass, by the name of their section, in the order of the fields."""
    found: dict[str, tuple[type, ...]] = {}
    for base in reversed(kind.__mro__):
        if SECTION_ATTRIBUTE in vars(base):
            found[vars(base)[SECTION_ATTRIBUTE]] = (*found.get(vars(base)[SECTION_ATTRIBUTE], ()), base)
    return found


def sectioned(kind: type, sections: dict[str, tuple[type, ...]]) -> type:
    """A dataclass with the same options, where each section is a nested one.

    Raises:
        TypeError: a class mixes options of its own with those of a section that it inherits.
    """
    marked = tuple(base for bases in sections.values() for base in bases)
    plain = [base for base in kind.__mro__ if is_dataclass(base) and not issubclass(base, marked)]
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    nested = []
    for name, bases in sections.items():
        section = bases[0]
        if len(bases) > 1:
            section = dataclass(frozen=frozen, kw_only=True)(type(name, bases[::-1], {"__doc__": ""}))
        nested.append((name, section, field(default_factory=section)))
    whole = make_dataclass(kind.__name__, nested, bases=tuple(plain), frozen=frozen, kw_only=True)
    options = {f.name for base in (*plain, *marked) for f in fields(base)}
    if foreign := {f.name for f in fields(kind)} - options:
        raise TypeError(f"{kind.__name__}: put {', '.join(sorted(foreign))} into a base class without sections")
    return whole
