"""Counts of parameters and multiply-accumulates (MAC) of any `nn.Module`.

Counted: Conv2d, ConvTranspose2d, Linear (bias additions and activations are free) and GDN as a 1x1 convolution, which is
how the published totals count. A layer with an exact-integer twin, a method `exact` that is called in place of the
module, is counted whichever of the two runs. A module of another kind has itself counted by a method
`macs(inputs, output) -> int`, `inputs` being the tuple of its positional arguments; its children are then left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def parameters(modules: nn.Module | Iterable[nn.Module]) -> int:
    """Number of parameters of one or several modules, each parameter once."""
    modules = [modules] if isinstance(modules, nn.Module) else modules
    unique = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(unique.values())


@dataclass
class MacCount:
    """Multiply-accumulates so far, by module.

    Attributes:
        of: MACs of every module that ran, by the module itself; containers are not in it.
    """

    of: dict[nn.Module, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of all modules."""
        return sum(self.of.values())

    def within(self, modules: nn.Module | Iterable[nn.Module]) -> int:
        """Of these modules and what they contain, each once."""
        modules = [modules] if isinstance(modules, nn.Module) else modules
        inside = {part for module in modules for part in module.modules()}
        return sum(count for part, count in self.of.items() if part in inside)


@contextmanager
def count_macs(module: nn.Module) -> Iterator[MacCount]:
    """Counts what runs inside the `with` block, in `module` and its parts.

    Example:
        >>> with count_macs(codec) as count:
        ...     codec(x)
        >>> count.total
    """
    count = MacCount()
    handles = []
    exact: list[nn.Module] = []

    def visit(part: nn.Module) -> None:
        rule = _rule(part)
        if rule is None:
            for child in part.children():
                visit(child)
            return

        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            count.of[part] = count.of.get(part, 0) + int(rule(part, inputs, output))

        handles.append(part.register_forward_hook(hook))
        plain = getattr(part, "exact", None)
        if callable(plain) and "exact" not in vars(part):

            def counted(*inputs: Any) -> Any:
                output = plain(*inputs)
                hook(part, inputs, output)
                return output

            object.__setattr__(part, "exact", counted)  # hooks see calls of the module alone
            exact.append(part)

    visit(module)
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
        for part in exact:
            object.__delattr__(part, "exact")


def macs_per_pixel(
    call: Callable[[], Any],
    module: nn.Module,
    pixels: int,
    *,
    within: nn.Module | Iterable[nn.Module] | None = None,
) -> float:
    """Multiply-accumulates a pixel of what `call` runs in `module`.

    Args:
        call: runs the module, e.g. `lambda: codec(image)`; runs once, without gradients.
        module: whose parts are counted.
        pixels: of the picture that `call` codes (a size without padding, so that padding is not counted against it).
        within: counts only these parts and what they contain.
    """
    with torch.no_grad(), count_macs(module) as count:
        call()
    return (count.total if within is None else count.within(within)) / pixels


_Rule = Callable[[Any, tuple[Any, ...], Any], int]


def _rule(module: nn.Module) -> _Rule | None:
    if callable(getattr(module, "macs", None)):
        return lambda part, inputs, output: part.macs(inputs, output)
    if isinstance(module, nn.Conv2d):
        return _convolution
    if isinstance(module, nn.ConvTranspose2d):
        return _transposed_convolution
    if isinstance(module, nn.Linear):
        return _linear
    if type(module).__name__ in ("GDN", "GDN1"):  # by name: this module does not need CompressAI
        return _gdn
    return None


def _convolution(module: nn.Conv2d, inputs: tuple[Any, ...], output: Tensor) -> int:
    return output.numel() * module.weight[0].numel()


def _transposed_convolution(module: nn.ConvTranspose2d, inputs: tuple[Any, ...], output: Tensor) -> int:
    return inputs[0].numel() * module.weight[0].numel()


def _linear(module: nn.Linear, inputs: tuple[Any, ...], output: Tensor) -> int:
    return output.numel() * module.in_features


def _gdn(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> int:
    return output.numel() * output.shape[1]
