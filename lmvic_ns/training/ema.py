"""Exponential moving average of weights: what is validated, saved and shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """Moving average of a module's floating point parameters; buffers are copied.

    The decay grows as (1 + t) / (10 + t) up to `decay`, so the first steps are forgotten soon.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(module.named_parameters())
        names = list(self.average)
        torch._foreach_lerp_([self.average[n] for n in names], [parameters[n].detach() for n in names], 1 - decay)

    def swap(self, module: nn.Module) -> None:
        """Exchange the module's weights and the average; call again to undo."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                held = parameter.detach().clone()
                parameter.copy_(self.average[name])
                self.average[name] = held

    def state_dict(self) -> dict:
        """What a checkpoint needs to go on."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`; a KeyError names a weight that is not in it."""
        self.updates = int(state["updates"])
        loaded: dict[str, Tensor] = state["average"]
        self.average = {n: loaded[n].to(p.device).clone() for n, p in self.average.items()}

    def to(self, device: torch.device) -> None:
        """Move the average to `device`."""
        self.average = {name: tensor.to(device) for name, tensor in self.average.items()}
