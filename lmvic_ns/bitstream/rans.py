"""A range asymmetric numeral system (rANS) coder whose every access is in bounds, whatever the bytes say.

Duda, "Asymmetric numeral systems", 2013. The state is a 48-bit integer, 16 bits are moved at a time, probabilities
have 16 bits. Both directions are plain loops over numpy arrays (numba compiles them where it is installed). Nothing
read from a stream is ever used as an address: a symbol is found inside a validated, read-only table, words are read
only while there are any, and the number of symbols is the caller's.

Bytes of a stream: the final state of the encoder in its `k` lowest bytes, little endian, then 16-bit words, little
endian, in the order in which the decoder reads them. With fewer than 7 bytes there are no words and `k` is the length;
otherwise `k` is 5 for odd lengths and 6 for even ones. An empty stream holds nothing but symbols that cost nothing.
See docs/file-format.md.
"""

from __future__ import annotations

import numpy as np

from lmvic_ns._util.compiled import CompiledLoop
from lmvic_ns.bitstream.limits import MAX_SYMBOLS
from lmvic_ns.bitstream.tables import CdfTables
from lmvic_ns.errors import BitstreamError

INITIAL_STATE = 1
LOWER_BOUND = 1 << 32  # the state is never below this while words are left
BLOCK = 1 << 16  # symbols that the encoder handles at a time: bounds its scratch memory


@CompiledLoop
def _encode_block(symbols, indexes, cdf, stride, sizes, offsets, state, words):
    """Push symbols, last first. Returns the state and the number of words written (-1: not codable by its table)."""
    x = state
    count = 0
    for i in range(symbols.size - 1, -1, -1):
        table = int(indexes[i])
        last = int(sizes[table]) - 1
        value = int(symbols[i])
        s = value - int(offsets[table])
        if last == 0:
            if s != 0:
                return x, -1
            continue
        if s < 0 or s >= last:
            if x >= 4294967296:
                words[count] = x & 65535
                count += 1
                x >>= 16
            x = (x << 16) | (value & 65535)
            s = last
        start = int(cdf[table * stride + s])
        frequency = int(cdf[table * stride + s + 1]) - start
        if x >= (frequency << 32):
            words[count] = x & 65535
            count += 1
            x >>= 16
        quotient = x // frequency
        x = (quotient << 16) + (x - quotient * frequency) + start
    return x, count


@CompiledLoop
def _decode_block(indexes, cdf, stride, sizes, offsets, lookup, state, words, position, symbols):
    """Pop symbols. Returns the state, the words read so far, and how many symbols are good (all, unless damaged)."""
    x = state
    available = words.size
    for i in range(indexes.size):
        table = int(indexes[i])
        last = int(sizes[table]) - 1
        if last == 0:
            symbols[i] = offsets[table]
            continue
        slot = x & 65535
        s = int(lookup[table * 256 + (slot >> 8)])
        base = table * stride
        end = int(cdf[base + s + 1])
        while end <= slot:  # a row ends with 65536, which is above every slot
            s += 1
            end = int(cdf[base + s + 1])
        start = int(cdf[base + s])
        x = (end - start) * (x >> 16) + slot - start
        if x < 4294967296:
            if position < available:
                x = (x << 16) | int(words[position])
                position += 1
            elif x == 0:
                return x, position, i
        value = s + int(offsets[table])
        if s == last:
            value = x & 65535
            if value >= 32768:
                value -= 65536
            s = value - int(offsets[table])
            if s >= 0 and s < last:  # an encoder would have used the table
                return x, position, i
            x >>= 16
            if x < 4294967296:
                if position < available:
                    x = (x << 16) | int(words[position])
                    position += 1
                elif x == 0:
                    return x, position, i
        symbols[i] = value
    return x, position, indexes.size


class Encoder:
    """Collects chunks of symbols; `finish` writes them so that a `Decoder` reads the chunks in the order given here."""

    def __init__(self, tables: CdfTables) -> None:
        self._tables = tables
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []

    def encode(self, symbols: np.ndarray, indexes: np.ndarray) -> None:
        """Append symbols (int16, any shape, read in C order) with the index of the table of each (uint8, same shape).

        Raises:
            ValueError: shapes differ, symbols do not fit 16 bits, or an index has no table.
        """
        symbols, indexes = np.asarray(symbols), _check_indexes(indexes, self._tables)
        if symbols.shape != indexes.shape or symbols.dtype.kind not in "iu":
            raise ValueError(f"symbols: expected integers, shape {indexes.shape}; got {symbols.dtype} {symbols.shape}")
        if symbols.dtype != np.int16 and symbols.size and (symbols.min() < -32768 or symbols.max() > 32767):
            raise ValueError("symbols: expected integers of 16 bits")
        # copies: the caller may go on writing to its arrays before `finish`
        self._chunks.append((symbols.astype(np.int16).ravel(), indexes.copy().ravel()))

    def finish(self) -> bytes:
        """The whole stream.

        Raises:
            ValueError: a symbol differs from the only one of its certain table.
        """
        t = self._tables
        cdf, stride = t.cdf.ravel(), t.cdf.shape[1]
        scratch = np.empty(2 * BLOCK, dtype=np.uint16)  # at most two words a symbol: an escape and its raw value
        written: list[bytes] = []
        state = INITIAL_STATE
        for symbols, indexes in reversed(self._chunks):
            for begin in range((symbols.size - 1) // BLOCK * BLOCK, -1, -BLOCK):
                block = slice(begin, begin + BLOCK)
                state, count = _encode_block(symbols[block], indexes[block], cdf, stride, t.sizes, t.offsets, state, scratch)
                if count < 0:
                    raise ValueError("symbols: a certain table codes its own symbol only")
                written.append(scratch[:count][::-1].astype("<u2").tobytes())
        state = int(state)
        return stream_bytes(state, written)


class Decoder:
    """Reads a stream step by step: the indexes of a step may depend on the symbols of those before it.

    Args:
        data: one whole stream.
        tables: those that it was encoded with.
        name: what the stream is called in error messages, e.g. "view 3, depth part".

    Raises:
        BitstreamError: the stream's first bytes are no state of a coder.
    """

    def __init__(self, data: bytes, tables: CdfTables, *, name: str = "stream") -> None:
        self._tables, self._name = tables, name
        self._state, self._words = open_stream(data, name)
        self._position = 0
        self._count = 0

    def decode(self, indexes: np.ndarray) -> np.ndarray:
        """The next symbols, int16, in the shape of `indexes` (uint8, C order).

        Raises:
            BitstreamError: the stream ends early, or holds what no encoder writes.
            ValueError: an index has no table (a caller's mistake: indexes are computed, not read).
        """
        indexes = _check_indexes(indexes, self._tables)
        if self._count + indexes.size > MAX_SYMBOLS:
            raise BitstreamError(f"{self._name}: expected at most {MAX_SYMBOLS} symbols in a stream")
        t = self._tables
        symbols = np.empty(indexes.shape, dtype=np.int16)
        state, position, good = _decode_block(
            indexes.ravel(), t.cdf.ravel(), t.cdf.shape[1], t.sizes, t.offsets, t.lookup.ravel(),
            self._state, self._words, self._position, symbols.reshape(-1),
        )  # fmt: skip
        if good != indexes.size:
            raise BitstreamError(f"{self._name}: damaged at symbol {self._count + good}: not what an encoder writes")
        self._state, self._position = int(state), int(position)
        self._count += indexes.size
        return symbols

    def finish(self) -> None:
        """Check that the stream was read to its very end.

        Raises:
            BitstreamError: words are left over or the state is not the one that encoding began with (damage, or indexes
                that differ from the encoder's).
        """
        check_end(self._state, self._words.size - self._position, self._count, self._name)


def stream_bytes(state: int, written: list[bytes]) -> bytes:
    """A stream: the coder's last state, then the words of its blocks, the block that was coded last first."""
    if state == INITIAL_STATE:  # nothing but certain symbols
        return b""
    return state.to_bytes((state.bit_length() + 7) // 8, "little") + b"".join(reversed(written))


def open_stream(data: bytes, name: str) -> tuple[int, np.ndarray]:
    """State and words (uint16) that a stream begins with.

    Raises:
        BitstreamError: its first bytes are no state of a coder.
    """
    size = len(data)
    head = size if size < 7 else 6 - size % 2
    state = int.from_bytes(data[:head], "little") if size else INITIAL_STATE
    if size and (data[head - 1] == 0 or (size >= 7 and state < LOWER_BOUND) or state == INITIAL_STATE):
        raise BitstreamError(f"{name}: expected an entropy coder's state in the first {head} bytes, found none")
    return state, np.frombuffer(data[head:], dtype="<u2").astype(np.uint16)  # aligned, native


def check_end(state: int, left: int, count: int, name: str) -> None:
    """Check that a stream was read to its very end, with `left` words to go after `count` symbols.

    Raises:
        BitstreamError: it was not.
    """
    if left or state != INITIAL_STATE:
        raise BitstreamError(
            f"{name}: damaged: after {count} symbols expected the coder's initial state "
            f"and no words left, found state {state} and {left} words"
        )


def encode(symbols: np.ndarray, indexes: np.ndarray, tables: CdfTables) -> bytes:
    """One stream of symbols (int16) with the tables that `indexes` (uint8, same shape) names. See `Encoder`."""
    encoder = Encoder(tables)
    encoder.encode(symbols, indexes)
    return encoder.finish()


def decode(data: bytes, indexes: np.ndarray, tables: CdfTables, *, name: str = "stream") -> np.ndarray:
    """The symbols of one stream, int16, checked to its end. See `Decoder`."""
    decoder = Decoder(data, tables, name=name)
    symbols = decoder.decode(indexes)
    decoder.finish()
    return symbols


def _check_indexes(indexes: np.ndarray, tables: CdfTables) -> np.ndarray:
    indexes = np.ascontiguousarray(indexes)
    if indexes.dtype != np.uint8:
        raise ValueError(f"indexes: expected uint8, got {indexes.dtype}")
    if indexes.size and int(indexes.max()) >= len(tables):
        raise ValueError(f"indexes: {int(indexes.max())} has no table, there are {len(tables)}")
    return indexes
