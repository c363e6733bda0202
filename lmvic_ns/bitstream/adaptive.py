"""Binary decisions with adaptive probabilities, coded by the rANS of `rans.py`: integers only, so the same on every machine.

A symbol of `width` bits is coded bit by bit, the highest first. Each bit has a context: the base of its place plus the bits of
the symbol so far (with a 1 in front, so 1 .. 2^width - 1). A context holds the probability of a 0 and how often it was used; it
learns from each bit as it is coded. A negative base stands for even odds that learn nothing. The stream's bytes are those of
`rans.py`: state, then words. See docs/file-format.md, section 7.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Int

from lmvic_ns._util.compiled import CompiledLoop
from lmvic_ns.bitstream.limits import MAX_SYMBOLS
from lmvic_ns.bitstream.rans import INITIAL_STATE, check_end, open_stream, stream_bytes
from lmvic_ns.errors import BitstreamError

EVEN = 1 << 21  # probability of a 0, in 1 / 2^22
RAW = -(1 << 20)  # base of bits that have even odds


@CompiledLoop
def _model(symbols, bases, probabilities, counts, bits, chances):
    """Writes each bit and the 16-bit probability of a 0 that it is coded with, and lets the contexts learn."""
    width = bases.shape[1]
    k = 0
    for i in range(symbols.size):
        node = 1
        for place in range(width):
            bit = (symbols[i] >> (width - 1 - place)) & 1
            context = bases[i, place]
            chance = 32768
            if context >= 0:
                context += node
                chance = probabilities[context] >> 6
                if chance < 128:
                    chance = 128
                elif chance > 65408:
                    chance = 65408
                target = 0 if bit else 4194304
                probabilities[context] += (target - probabilities[context]) // (counts[context] + 2)
                if counts[context] < 160:
                    counts[context] += 1
            bits[k] = bit
            chances[k] = chance
            k += 1
            node = 2 * node + bit


@CompiledLoop
def _push(bits, chances, state, words):
    """Codes bits, the last first. Returns the state and the number of words written."""
    x = state
    count = 0
    for i in range(bits.size - 1, -1, -1):
        start = 0
        frequency = int(chances[i])
        if bits[i]:
            start = frequency
            frequency = 65536 - frequency
        if x >= (frequency << 32):
            words[count] = x & 65535
            count += 1
            x >>= 16
        quotient = x // frequency
        x = (quotient << 16) + (x - quotient * frequency) + start
    return x, count


@CompiledLoop
def _pop(bases, probabilities, counts, state, words, position, symbols):
    """Reads symbols. Returns the state, the words read so far, and how many symbols are good (all, unless damaged)."""
    width = bases.shape[1]
    available = words.size
    x = state
    for i in range(symbols.size):
        node = 1
        for place in range(width):
            context = bases[i, place]
            chance = 32768
            if context >= 0:
                context += node
                chance = probabilities[context] >> 6
                if chance < 128:
                    chance = 128
                elif chance > 65408:
                    chance = 65408
            slot = x & 65535
            bit = 0
            if slot < chance:
                x = chance * (x >> 16) + slot
            else:
                bit = 1
                x = (65536 - chance) * (x >> 16) + slot - chance
            if x < 4294967296:
                if position < available:
                    x = (x << 16) | int(words[position])
                    position += 1
                elif x == 0:
                    return x, position, i
            if context >= 0:
                target = 0 if bit else 4194304
                probabilities[context] += (target - probabilities[context]) // (counts[context] + 2)
                if counts[context] < 160:
                    counts[context] += 1
            node = 2 * node + bit
        symbols[i] = node - (1 << width)
    return x, position, symbols.size


class Contexts:
    """Adaptive probabilities by number.

    Args:
        size: how many; every base plus 2^width of what is coded must stay below.
    """

    def __init__(self, size: int) -> None:
        self.probabilities = np.full(size, EVEN, dtype=np.int64)
        self.counts = np.zeros(size, dtype=np.int64)

    def inherit(self, source: slice, target: slice, weight: int) -> None:
        """The target begins with what the source learned, as if from `weight` bits at most."""
        self.probabilities[target] = self.probabilities[source]
        self.counts[target] = np.minimum(self.counts[source], weight)


class SymbolCoder(Protocol):
    """What an encoder and a decoder have in common, so that one walk over the data serves both."""

    contexts: Contexts

    def code(self, symbols: Int[np.ndarray, "n"] | None, bases: Int[np.ndarray, "n width"]) -> Int[np.ndarray, "n"]:
        """Codes symbols 0 .. 2^width - 1 (encoder) or reads them (decoder, which gets none); returns them either way."""
        ...


class AdaptiveEncoder:
    """Collects symbols and writes them as one stream."""

    def __init__(self, contexts: Contexts) -> None:
        self.contexts = contexts
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []

    def code(self, symbols: Int[np.ndarray, "n"] | None, bases: Int[np.ndarray, "n width"]) -> Int[np.ndarray, "n"]:
        """See `SymbolCoder`."""
        assert symbols is not None
        symbols = np.ascontiguousarray(symbols, dtype=np.int64)
        bases = np.ascontiguousarray(bases, dtype=np.int64)
        bits, chances = np.empty(bases.size, dtype=np.uint8), np.empty(bases.size, dtype=np.uint16)
        _model(symbols, bases, self.contexts.probabilities, self.contexts.counts, bits, chances)
        self._chunks.append((bits, chances))
        return symbols

    def finish(self) -> bytes:
        """The whole stream."""
        state, written = INITIAL_STATE, []
        for bits, chances in reversed(self._chunks):
            scratch = np.empty(bits.size, dtype=np.uint16)  # at most a word a bit
            state, count = _push(bits, chances, state, scratch)
            written.append(scratch[:count][::-1].astype("<u2").tobytes())
        return stream_bytes(int(state), written)


class AdaptiveDecoder:
    """Reads what `AdaptiveEncoder` wrote, with the same contexts and bases.

    Args:
        data: one whole stream.
        contexts: fresh ones.
        name: what the stream is called in error messages.

    Raises:
        BitstreamError: the stream's first bytes are no state of a coder.
    """

    def __init__(self, data: bytes, contexts: Contexts, *, name: str = "stream") -> None:
        self.contexts, self._name = contexts, name
        self._state, self._words = open_stream(data, name)
        self._position = self._count = 0

    def code(self, symbols: Int[np.ndarray, "n"] | None, bases: Int[np.ndarray, "n width"]) -> Int[np.ndarray, "n"]:
        """See `SymbolCoder`.

        Raises:
            BitstreamError: the stream ends early.
        """
        assert symbols is None
        bases = np.ascontiguousarray(bases, dtype=np.int64)
        if self._count + len(bases) > MAX_SYMBOLS:
            raise BitstreamError(f"{self._name}: expected at most {MAX_SYMBOLS} symbols in a stream")
        found = np.empty(len(bases), dtype=np.int64)
        contexts = self.contexts
        self._state, self._position, good = _pop(
            bases, contexts.probabilities, contexts.counts, self._state, self._words, self._position, found
        )
        if good != len(bases):
            raise BitstreamError(f"{self._name}: damaged at symbol {self._count + good}: not what an encoder writes")
        self._state, self._position = int(self._state), int(self._position)
        self._count += len(bases)
        return found

    def finish(self) -> None:
        """Check that the stream was read to its very end.

        Raises:
            BitstreamError: words are left over or the state is not the one that encoding began with.
        """
        check_end(self._state, self._words.size - self._position, self._count, self._name)
