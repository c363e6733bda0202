"""CompressAI's integer tables in our bounds-checked rANS coder.

CompressAI's own decoder reads past the end of a damaged stream; `lmvic_ns.bitstream.rans` cannot. The tables are those
that `EntropyBottleneck.update` and `GaussianConditional.update` made, whose layout is the same: the last symbol of a row
is the escape.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from compressai.entropy_models import EntropyModel
from torch import Tensor

from lmvic_ns.bitstream.rans import Decoder, Encoder
from lmvic_ns.bitstream.tables import TOTAL, CdfTables
from lmvic_ns.errors import WeightsError


class SymbolCoder(Protocol):
    """The same call writes symbols or reads them, so that encoder and decoder run one procedure."""

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Codes integers under these table indexes; returns them as float32, as the decoder sees them."""
        ...


class SymbolWriter:
    """Writes to one stream."""

    def __init__(self, tables: CdfTables) -> None:
        self._encoder = Encoder(tables)

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Writes; what does not fit 16 bits is clamped to them."""
        if symbols is None:
            raise ValueError("a writer needs the symbols")
        symbols = symbols.nan_to_num().clamp(-32768, 32767)
        self._encoder.encode(symbols.to(torch.int16).cpu().numpy(), indexes.to(torch.uint8).cpu().numpy())
        return symbols.float()

    def finish(self) -> bytes:
        """The stream."""
        return self._encoder.finish()


class SymbolReader:
    """Reads from one stream.

    Raises:
        BitstreamError: the stream is damaged (also from `code` and `finish`).
    """

    def __init__(self, data: bytes, tables: CdfTables, name: str) -> None:
        self._decoder = Decoder(data, tables, name=name)

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Reads; `symbols` must be None."""
        if symbols is not None:
            raise ValueError("a reader is given no symbols")
        values = self._decoder.decode(indexes.to(torch.uint8).cpu().numpy())
        return torch.from_numpy(values.astype(np.float32)).to(indexes.device)

    def finish(self) -> None:
        """Checks that the stream was read to its end."""
        self._decoder.finish()


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
