"""CompressAI's integer tables for our bounds-checked rANS coder.

CompressAI's own decoder reads past the end of a damaged stream; `lmvic_ns.bitstream.rans` cannot. The tables are those
that `EntropyBottleneck.update` and `GaussianConditional.update` made, whose layout is the same: the last symbol of a row
is the escape.
"""

from __future__ import annotations

import numpy as np
from compressai.entropy_models import EntropyModel

from lmvic_ns.bitstream.tables import TOTAL, CdfTables
from lmvic_ns.errors import WeightsError


def tables_of(*models: EntropyModel) -> CdfTables:
    """The quantized tables of CompressAI's entropy models, one after the other.

    Raises:
        WeightsError: `update()` was not run, or what was loaded are no tables.
    """
    parts: list[CdfTables] = []
    for model in models:
        buffers = dict(model.named_buffers(recurse=False))
        if buffers["_quantized_cdf"].numel() == 0:
            raise WeightsError("these weights have no probability tables: run update() before coding, then save them")
        cdf, lengths, offsets = (buffers[f"_{name}"].cpu().numpy() for name in ("quantized_cdf", "cdf_length", "offset"))
        # CompressAI fills up short rows with zeros, we with the total
        beyond = np.arange(cdf.shape[1])[None, :] >= lengths[:, None]
        try:
            parts.append(CdfTables(np.where(beyond, TOTAL, cdf), lengths - 1, offsets))
        except ValueError as error:
            raise WeightsError(f"the probability tables of these weights are damaged: {error}") from error
    return CdfTables.concatenate(parts)
