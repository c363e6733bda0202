"""LPIPS, built when it is first asked for, and left out on a machine that cannot fetch its weights."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

DOWNLOAD_TIMEOUT = 15.0


class LazyLpips:
    """Stands in for torchmetrics' LPIPS; not an nn.Module, so that its 9 MB stay out of every checkpoint."""

    def __init__(self, *, normalize: bool = True) -> None:
        self._normalize = normalize
        self._metric: nn.Module | None = None
        self._missing = False

    def __call__(self, target: Float[Tensor, "1 3 h w"], picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, ""]:
        """The distance of two pictures in 0..1; NaN where the weights cannot be had."""
        if self._metric is None and not self._missing:
            self._metric = self._build(picture.device)
        if self._metric is None:
            return torch.tensor(math.nan)
        return self._metric(target, picture)

    @property
    def available(self) -> bool:
        """False once an attempt to load the weights has failed, or they are not wanted."""
        return not self._missing

    def leave_out(self) -> None:
        """Do not even try to load the weights: every distance is NaN from now on."""
        self._missing, self._metric = True, None

    def _build(self, device: torch.device) -> nn.Module | None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        # a firewall that swallows packets would otherwise hold up training for minutes
        previous = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        try:
            return LearnedPerceptualImagePatchSimilarity(normalize=self._normalize).to(device)
        except (OSError, ModuleNotFoundError) as error:
            self._missing = True
            print(f"LPIPS is left out of the metrics: its weights could not be loaded ({error}).")
            return None
        finally:
            socket.setdefaulttimeout(previous)


@contextmanager
def lazy_lpips() -> Iterator[None]:
    """Within it, code that builds torchmetrics' LPIPS gets a `LazyLpips` instead (splatfacto does so in its set-up)."""
    from torchmetrics.image import lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = LazyLpips
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original
