"""Muon for 1x1 convolutions: updates that are orthogonal matrices (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon/).

The arithmetic is torch.optim.Muon's with `adjust_lr_fn="match_rms_adamw"`, so AdamW's learning rates fit. That class takes
matrices only and treats them one by one, some 35 kernels each. Here weights keep their four dimensions, and those of one
shape go together, which matters where launching kernels takes the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic polynomial that Newton-Schulz iterates, as torch.optim.Muon has them."""


def is_pointwise(weight: Tensor) -> bool:
    """Whether this is the weight of a 1x1 convolution that mixes channels, `Float[Tensor, "out in 1 1"]`."""
    return weight.ndim == 4 and tuple(weight.shape[2:]) == (1, 1) and min(weight.shape[:2]) > 1


def orthogonalized(matrices: Float[Tensor, "n rows columns"], steps: int = 5) -> Float[Tensor, "n rows columns"]:
    """Each matrix with its singular values brought near 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class PointwiseMuon(torch.optim.Optimizer):
    """Muon over weights of 1x1 convolutions (:func:`is_pointwise`).

    Args:
        params: weights `out in 1 1`, or groups of them.
        lr: learning rate, on AdamW's scale.
        momentum: of the gradients' moving average, looked ahead by one step (Nesterov).
        weight_decay: decoupled.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            if not all(is_pointwise(p) for p in group["params"]):
                raise ValueError("PointwiseMuon takes weights of 1x1 convolutions")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            of_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    of_shape[tuple(p.shape)].append(p)
            for shape, weights in of_shape.items():
                for p in weights:
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                gradients: Any = [p.grad for p in weights]
                buffers = [self.state[p]["momentum_buffer"] for p in weights]
                torch._foreach_lerp_(buffers, gradients, 1 - momentum)
                ahead = torch._foreach_lerp(gradients, buffers, momentum)
                update = orthogonalized(torch.stack([g.flatten(1) for g in ahead]).float())
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
                scale = -rate * 0.2 * max(shape[0], shape[1]) ** 0.5
                torch._foreach_add_(
                    weights, [u[:, :, None, None].to(p.dtype) for u, p in zip(update, weights, strict=True)], alpha=scale
                )
        return loss
