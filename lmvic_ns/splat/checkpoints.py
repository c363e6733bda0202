"""Let torch.load read nerfstudio's checkpoints with weights_only, which is its default since 2.6."""

from __future__ import annotations

import numpy as np
import torch


def allow_numpy_scalars() -> None:
    """Register what nerfstudio's schedulers leave in a checkpoint: a learning rate that is a numpy float64.

    Only the scalar's constructor and its dtype become loadable; weights_only stays on.
    """
    register = getattr(torch.serialization, "add_safe_globals", None)
    if register is None:  # torch before 2.4 has no such list and needs none
        return
    # by value: numpy 1 and 2 keep the constructor in modules of different names
    constructor = np.float64(0).__reduce__()[0]
    register([constructor, np.dtype, type(np.dtype(np.float64))])
