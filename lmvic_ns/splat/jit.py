"""numba as the rasterizer uses it: compiled once, cached on disk where possible, with torch's number of threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# numba then takes another threading layer, which is all that matters to whoever reads the terminal
warnings.filterwarnings("ignore", message="The TBB threading layer requires TBB version")


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: `numba.njit`, releasing the GIL, with the machine code cached beside the source.

    numba falls back to the user's cache folder where the package is read-only; where neither can be written, the
    function is compiled anew in every process instead of failing at import.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return numba.njit(nogil=True, **options)(function)

    return decorate


# some of numba's threading layers break when two Python threads launch kernels at once (a viewer beside a training)
_launch = threading.Lock()


@contextmanager
def launching() -> Iterator[int]:
    """Hold the one right to run parallel kernels; yields the number of threads, which is torch's setting."""
    with _launch:
        threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # pyright: ignore
        numba.set_num_threads(threads)
        yield threads


def as_numpy(tensor: Tensor, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Detached, contiguous values in `dtype`, without a copy where there is nothing to change."""
    return tensor.detach().to(dtype).contiguous().numpy()
