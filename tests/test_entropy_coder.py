"""The rANS coder: exact, near the ideal rate, indifferent to how it is run, and bounded on any bytes."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from lmvic_ns.bitstream import rans
from lmvic_ns.bitstream.tables import TOTAL, CdfTables, gaussian_tables, quantize_frequencies, tables_from_pmfs
from lmvic_ns.errors import BitstreamError

SCALES = np.exp(np.linspace(math.log(0.02), math.log(64.0), 64))


@pytest.fixture(scope="module")
def tables() -> CdfTables:
    return gaussian_tables(SCALES.tolist(), certain_below=0.05)


def sample(tables: CdfTables, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols drawn from the tables themselves; certain tables give their only symbol."""
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, len(tables), count, dtype=np.uint8)
    symbols = np.rint(rng.normal(0, SCALES[indexes])).astype(np.int16)
    symbols[tables.sizes[indexes] == 1] = 0
    return symbols, indexes


def test_round_trip_is_exact_and_near_the_ideal_rate(tables: CdfTables) -> None:
    symbols, indexes = sample(tables, 300_000)
    data = rans.encode(symbols, indexes, tables)
    assert np.array_equal(rans.decode(data, indexes, tables), symbols)
    ideal = tables.ideal_bits(symbols, indexes) / 8
    assert ideal < len(data) <= ideal * 1.001 + 4

    # the tables themselves are near the entropy of the Gaussians that they stand for
    def tail(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in x])

    coded = tables.sizes[indexes] > 1
    magnitude, scale = np.abs(symbols[coded].astype(float)), SCALES[indexes[coded]]
    entropy = -np.log2(tail((magnitude - 0.5) / scale) - tail((magnitude + 0.5) / scale)).sum() / 8
    assert ideal <= entropy * 1.002


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 60, 1000])
def test_a_short_stream_costs_at_most_four_bytes_more_than_its_information(tables: CdfTables, count: int) -> None:
    for seed in range(40):
        symbols, indexes = sample(tables, count, seed)
        data = rans.encode(symbols, indexes, tables)
        assert np.array_equal(rans.decode(data, indexes, tables), symbols)
        assert len(data) <= tables.ideal_bits(symbols, indexes) / 8 + 4


def test_certain_symbols_cost_nothing(tables: CdfTables) -> None:
    indexes = np.zeros(1000, dtype=np.uint8)
    assert tables.sizes[0] == 1
    assert rans.encode(np.zeros(1000, np.int16), indexes, tables) == b""
    assert not rans.decode(b"", indexes, tables).any()
    with pytest.raises(ValueError, match="certain"):
        rans.encode(np.ones(1000, np.int16), indexes, tables)


def test_escapes_reach_every_16_bit_symbol(tables: CdfTables) -> None:
    symbols = np.array([-32768, 32767, 0, 5, -5, 3000, -3000, 0, 1] * 11, dtype=np.int16)
    for index in (20, 40, 63):
        indexes = np.full(symbols.shape, index, dtype=np.uint8)
        data = rans.encode(symbols, indexes, tables)
        assert np.array_equal(rans.decode(data, indexes, tables), symbols)
        assert len(data) <= tables.ideal_bits(symbols, indexes) / 8 + 4


def test_steps_decode_what_depends_on_earlier_steps(tables: CdfTables) -> None:
    """The indexes of the second step are computed from the symbols of the first, at both ends; shapes are kept."""
    rng = np.random.default_rng(1)
    first = rng.integers(-3, 4, (8, 5, 7)).astype(np.int16)
    first_indexes = np.full(first.shape, 30, dtype=np.uint8)
    second = rng.integers(-9, 10, first.shape).astype(np.int16)
    encoder = rans.Encoder(tables)
    encoder.encode(first, first_indexes)
    encoder.encode(second, (40 + first).astype(np.uint8))
    encoder.encode(np.zeros(0, np.int16), np.zeros(0, np.uint8))
    decoder = rans.Decoder(encoder.finish(), tables)
    decoded = decoder.decode(first_indexes)
    assert decoded.dtype == np.int16 and np.array_equal(decoded, first)
    assert np.array_equal(decoder.decode((40 + decoded).astype(np.uint8)), second)
    decoder.finish()


def test_chunks_longer_than_a_block_join_without_a_seam(tables: CdfTables) -> None:
    symbols, indexes = sample(tables, 2 * rans.BLOCK + 17)
    whole = rans.encode(symbols, indexes, tables)
    encoder = rans.Encoder(tables)
    for part in (slice(0, 1), slice(1, rans.BLOCK + 3), slice(rans.BLOCK + 3, None)):
        encoder.encode(symbols[part], indexes[part])
    assert encoder.finish() == whole


def test_a_known_stream_stays_readable() -> None:
    """Bytes worked out by hand from docs/file-format.md: the format may not drift."""
    tables = CdfTables.from_frequencies([np.array([16384, 32768, 16384])], [0])
    # pushed last first from state 1: symbol 1 -> (1 // 32768 << 16) + 1 + 16384; symbol 0 -> (1 << 16) + 1
    indexes = np.zeros(2, dtype=np.uint8)
    data = rans.encode(np.array([0, 1], dtype=np.int16), indexes, tables)
    assert data == (65537).to_bytes(3, "little")
    assert rans.decode(data, indexes, tables).tolist() == [0, 1]


def test_compiled_and_plain_loops_agree(tables: CdfTables, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, indexes = sample(tables, 3000)
    symbols[::500] = 20000
    indexes[::500] = 50
    compiled = rans.encode(symbols, indexes, tables)
    for name in ("_encode_block", "_decode_block"):
        monkeypatch.setattr(rans, name, getattr(rans, name).python)
    assert rans.encode(symbols, indexes, tables) == compiled
    assert np.array_equal(rans.decode(compiled, indexes, tables), symbols)
    with pytest.raises(BitstreamError):
        rans.decode(compiled[:-10], indexes, tables)


def test_it_works_without_numba() -> None:
    script = """
import sys
sys.modules["numba"] = None
import numpy as np
from lmvic_ns.bitstream import rans
from lmvic_ns.bitstream.tables import gaussian_tables
tables = gaussian_tables([0.3, 4.0])
symbols = np.arange(-20, 20, dtype=np.int16)
indexes = (np.arange(40) % 2).astype(np.uint8)
data = rans.encode(symbols, indexes, tables)
assert np.array_equal(rans.decode(data, indexes, tables), symbols)
assert "torch" not in sys.modules
print(data.hex())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tables = gaussian_tables([0.3, 4.0])
    symbols, indexes = np.arange(-20, 20, dtype=np.int16), (np.arange(40) % 2).astype(np.uint8)
    assert rans.encode(symbols, indexes, tables).hex() == done.stdout.strip()


def test_damage_ends_in_an_error_or_in_symbols_never_elsewhere(tables: CdfTables) -> None:
    """Random bytes, flips and cuts: only BitstreamError may come out, and nearly always does."""
    symbols, indexes = sample(tables, 400)
    data = rans.encode(symbols, indexes, tables)
    rng = np.random.default_rng(2)
    caught = 0
    for case in range(1500):
        kind = case % 4
        damaged = bytearray(data)
        if kind == 0:
            position = rng.integers(len(data))
            damaged[position] ^= 1 << rng.integers(8)
        elif kind == 1:
            damaged = damaged[: rng.integers(len(data))]
        elif kind == 2:
            damaged += rng.bytes(int(rng.integers(1, 20)))
        else:
            damaged = bytearray(rng.bytes(int(rng.integers(0, 2 * len(data)))))
        try:
            assert rans.decode(bytes(damaged), indexes, tables, name="view 3").shape == symbols.shape
        except BitstreamError as error:
            assert str(error).startswith("view 3: ")
            caught += 1
    assert caught >= 1495


def test_hostile_streams_take_bounded_time(tables: CdfTables) -> None:
    """Zeros, ones and tail symbols for a large image: the search inside a table cannot be made slow."""
    indexes = np.full(1_000_000, 63, dtype=np.uint8)
    rans.decode(rans.encode(np.zeros(10, np.int16), indexes[:10], tables), indexes[:10], tables)  # compiled by now
    for data in (b"\xff" * 2_000_001, b"\x00" * 2_000_000 + b"\x01", b"\x01\x00" * 1_000_000, b"\x7f"):
        begin = time.perf_counter()
        with pytest.raises(BitstreamError):
            rans.decode(data, indexes, tables)
        assert time.perf_counter() - begin < 3


def test_an_escaped_symbol_of_the_table_is_refused() -> None:
    tables = CdfTables.from_frequencies([np.array([65535, 1])], [0])
    state = (7 << 16) | 0  # raw value 0, which the table holds
    state = (state << 16) | 65535  # escape: frequency 1, start 65535
    data = state.to_bytes((state.bit_length() + 7) // 8, "little")
    with pytest.raises(BitstreamError, match="symbol 0"):
        rans.decode(data, np.zeros(1, np.uint8), tables)


def test_indexes_without_a_table_are_a_callers_mistake(tables: CdfTables) -> None:
    with pytest.raises(ValueError, match="no table"):
        rans.decode(b"", np.array([200], np.uint8), tables)
    with pytest.raises(ValueError, match="uint8"):
        rans.decode(b"", np.array([2]), tables)
    with pytest.raises(ValueError, match="shape"):
        rans.encode(np.zeros(3, np.int16), np.zeros(2, np.uint8), tables)


@pytest.mark.parametrize(
    ("cdf", "sizes", "offsets"),
    [
        ([[0, 10, 10, TOTAL]], [3], [0]),  # a symbol of frequency 0
        ([[0, 10, 5, TOTAL]], [3], [0]),  # falls
        ([[0, 10, 20, TOTAL - 1]], [3], [0]),  # not the full range
        ([[1, 10, 20, TOTAL]], [3], [0]),
        ([[0, 10, 20, TOTAL]], [4], [0]),  # larger than its row
        ([[0, 10, 20, TOTAL]], [2], [0]),  # mass beyond its size
        ([[0, 10, 20, TOTAL]], [0], [0]),
        ([[0, 10, 20, TOTAL]], [3], [32767]),  # beyond 16 bits
        ([[0, 10, 20, TOTAL]], [3, 3], [0]),
        ([[0.0, 10.0, TOTAL]], [2], [0]),
        ([[0, TOTAL]] * 257, [1] * 257, [0] * 257),  # more than an index can name
        ([[0, 1 << 40, TOTAL]], [2], [0]),
    ],
)
def test_tables_that_are_none_are_refused(cdf: list, sizes: list, offsets: list) -> None:
    with pytest.raises(ValueError):
        CdfTables(np.array(cdf), np.array(sizes), np.array(offsets))


def test_tables_cannot_change_after_validation(tables: CdfTables) -> None:
    given = np.array([[0, 5, TOTAL]], dtype=np.int32)
    held = CdfTables(given, np.array([2]), np.array([0]))
    given[0, 1] = 70000
    assert held.cdf[0, 1] == 5
    with pytest.raises(ValueError):
        tables.cdf[0, 0] = 1


def test_gaussian_tables_are_symmetric_and_complete(tables: CdfTables) -> None:
    for table in range(len(tables)):
        size = tables.sizes[table]
        frequencies = np.diff(tables.cdf[table, : size + 1])
        assert frequencies.sum() == TOTAL and frequencies.min() >= 1
        if size > 1:
            assert np.array_equal(frequencies[:-1], frequencies[:-1][::-1])
            assert tables.offsets[table] == -(size - 2) // 2
    with pytest.raises(ValueError, match="positive"):
        gaussian_tables([1.0, 0.0])


def test_frequencies_follow_any_distribution() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(500, 0.05))
    frequencies = quantize_frequencies(p)
    assert frequencies.sum() == TOTAL and frequencies.min() >= 1
    excess = (p * np.log2(p * TOTAL / frequencies, where=p > 0, out=np.zeros_like(p))).sum()
    assert excess < 0.01  # bits a symbol
    tables = tables_from_pmfs([p, [0.5, 0.5]], [-250, 3])
    both = CdfTables.concatenate([gaussian_tables([1.0]), tables])
    symbols = np.array([0, -240, 4, 3, -1], dtype=np.int16)
    indexes = np.array([0, 1, 2, 2, 0], dtype=np.uint8)
    assert np.array_equal(rans.decode(rans.encode(symbols, indexes, both), indexes, both), symbols)
    with pytest.raises(ValueError):
        quantize_frequencies([0.5, math.nan])
