"""Symbols to and from an rANS stream. One method writes or reads, so that encoder and decoder run the same code."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.bitstream.rans import Decoder, Encoder
from lmvic_ns.bitstream.tables import CdfTables


class SymbolCoder(Protocol):
    """The same call writes symbols or reads them, so that encoder and decoder run one procedure."""

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Codes float64 integers under these table indexes and returns them as the decoder will see them."""
        ...


class SymbolWriter:
    """Writes symbols to an rANS stream."""

    def __init__(self, tables: CdfTables):
        self._encoder = Encoder(tables)

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Writes and returns the symbols, clamped to 16 bits; NaN counts as 0."""
        assert symbols is not None, "a writer needs the symbols"
        symbols = symbols.double().nan_to_num().clamp(-32768, 32767)
        self._encoder.encode(symbols.cpu().numpy().astype(np.int16).ravel(), indexes.cpu().numpy().astype(np.uint8).ravel())
        return symbols

    def finish(self) -> bytes:
        """The stream."""
        return self._encoder.finish()


class SymbolReader:
    """Reads symbols from an rANS stream."""

    def __init__(self, data: bytes, tables: CdfTables, name: str):
        self._decoder = Decoder(data, tables, name=name)

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        """Reads the symbols of these indexes."""
        values = self._decoder.decode(indexes.cpu().numpy().astype(np.uint8).ravel())
        return torch.from_numpy(values.astype(np.float64)).reshape(indexes.shape).to(indexes.device)

    def finish(self) -> None:
        """Checks that the stream ended where it should.

        Raises:
            BitstreamError: the stream is damaged.
        """
        self._decoder.finish()
