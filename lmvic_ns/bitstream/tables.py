"""Integer probability tables of the entropy coder.

They are made once, in float64, when weights are made, and stored with the weights as integers: decoding never
recomputes a probability (codec-design.md, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

PRECISION = 16  # bits of a probability
TOTAL = 1 << PRECISION
MAX_TABLES = 256  # a table index is one byte
MAX_ALPHABET = 8192  # symbols of one table, its escape included
ESCAPE_BITS = 16  # what follows an escape: the symbol itself, uniformly coded
_SQRT2 = math.sqrt(2.0)


@dataclass(frozen=True, eq=False)
class CdfTables:
    """Cumulative frequencies of up to 256 alphabets, validated on construction and read-only afterwards.

    Table `t` codes the integers `offsets[t] .. offsets[t] + sizes[t] - 2`; its last symbol is the escape, which is
    followed by a raw 16-bit value. A table of size 1 is certain: it codes `offsets[t]` alone, costs nothing, has no
    escape.

    Attributes:
        cdf: int32 [t, n + 1]; row `t` rises strictly from 0 to 65536 over `sizes[t]` steps and stays there.
        sizes: int32 [t]; symbols of each table, its escape included.
        offsets: int32 [t]; the integer that symbol 0 of each table stands for.

    Raises:
        ValueError: the arrays are not such tables.
    """

    cdf: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        for name, dimensions in (("cdf", 2), ("sizes", 1), ("offsets", 1)):
            given = np.asarray(getattr(self, name))
            if given.dtype.kind not in "iu" or given.ndim != dimensions:
                raise ValueError(f"{name}: expected {dimensions}-d integers, got {given.dtype} {given.shape}")
            if given.size and (int(given.min()) < -(1 << 15) or int(given.max()) > TOTAL):
                raise ValueError(f"{name}: values outside -32768..65536")
            array = np.array(given, dtype=np.int32, order="C")  # an own copy that nobody else can write to
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._validate()

    def _validate(self) -> None:
        count, columns = self.cdf.shape
        if not 1 <= count <= MAX_TABLES or self.sizes.shape != (count,) or self.offsets.shape != (count,):
            raise ValueError(f"expected 1..{MAX_TABLES} tables with one size and one offset each, got {count}")
        if not 2 <= columns <= MAX_ALPHABET + 1:
            raise ValueError(f"expected alphabets of 1..{MAX_ALPHABET} symbols, got {columns - 1}")
        if int(self.sizes.min()) < 1 or int(self.sizes.max()) > columns - 1:
            raise ValueError(f"sizes: expected 1..{columns - 1}")
        if int((self.offsets + self.sizes).max()) > 1 << 15:
            raise ValueError("offsets: a table reaches beyond 16-bit symbols")
        steps = np.diff(self.cdf, axis=1)
        inside = np.arange(columns - 1) < self.sizes[:, None]
        if (self.cdf[:, 0] != 0).any() or (self.cdf[:, -1] != TOTAL).any():
            raise ValueError(f"cdf: every row must go from 0 to {TOTAL}")
        if (steps[inside] < 1).any() or (steps[~inside] != 0).any():
            raise ValueError("cdf: every symbol needs a frequency of at least 1, and none beyond the table's size")

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def lookup(self) -> np.ndarray:
        """uint16 [t, 256]: the symbol that holds the first of every 256 slots; decoding searches on from there."""
        lookup = np.empty((len(self), 256), dtype=np.uint16)
        for table, size in enumerate(self.sizes):
            lookup[table] = np.searchsorted(self.cdf[table, 1 : size + 1], np.arange(0, TOTAL, 256), side="right")
        lookup.setflags(write=False)
        return lookup

    @cached_property
    def costs(self) -> np.ndarray:
        """float64 [t, n]: ideal bits of each symbol; the escape includes its raw value. Infinite beyond the table."""
        with np.errstate(divide="ignore"):
            bits = PRECISION - np.log2(np.diff(self.cdf, axis=1))
        escapes = self.sizes > 1
        bits[np.flatnonzero(escapes), self.sizes[escapes] - 1] += ESCAPE_BITS
        return bits

    def ideal_bits(self, symbols: np.ndarray, indexes: np.ndarray) -> float:
        """Bits that these symbols cost under these tables (what an ideal coder would write)."""
        indexes = np.asarray(indexes).ravel()
        positions = np.asarray(symbols).ravel().astype(np.int64) - self.offsets[indexes]
        last = self.sizes[indexes] - 1
        outside = (positions < 0) | (positions >= last)
        if (outside & (last == 0) & (positions != 0)).any():
            return math.inf
        return float(self.costs[indexes, np.where(outside, last, positions)].sum())

    @classmethod
    def from_frequencies(cls, frequencies: Sequence[np.ndarray], offsets: Sequence[int]) -> CdfTables:
        """Tables from integer frequencies, each row summing to 65536 (the escape last)."""
        columns = max(len(row) for row in frequencies) + 1
        cdf = np.full((len(frequencies), columns), TOTAL, dtype=np.int64)
        for table, row in enumerate(frequencies):
            cdf[table, 0] = 0
            cdf[table, 1 : len(row) + 1] = np.cumsum(row)
        return cls(cdf, np.array([len(row) for row in frequencies]), np.array(offsets))

    @classmethod
    def concatenate(cls, parts: Sequence[CdfTables]) -> CdfTables:
        """One set that holds the tables of all parts, in order (a stream mixes tables by index alone)."""
        columns = max(part.cdf.shape[1] for part in parts)
        rows = [np.pad(part.cdf, ((0, 0), (0, columns - part.cdf.shape[1])), constant_values=TOTAL) for part in parts]
        sizes, offsets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "offsets"))
        return cls(np.concatenate(rows), sizes, offsets)


def quantize_frequencies(probabilities: Any) -> np.ndarray:
    """Integer frequencies that sum to exactly 65536, each at least 1, as near to the probabilities as that allows.

    Args:
        probabilities: float64 [n], non-negative, with a positive sum.

    Returns:
        int64 [n].

    Raises:
        ValueError: not a distribution, or more symbols than the coder allows.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not 1 <= p.size <= MAX_ALPHABET or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise ValueError(f"expected 1..{MAX_ALPHABET} finite, non-negative probabilities with a positive sum")
    p = p / p.sum()
    low, high = 0.0, float(TOTAL)  # the largest scale whose floored frequencies still fit
    for _ in range(64):
        middle = (low + high) / 2
        if np.maximum(1, np.floor(p * middle)).sum() <= TOTAL:
            low = middle
        else:
            high = middle
    frequencies = np.maximum(1, np.floor(p * low)).astype(np.int64)
    while (missing := TOTAL - int(frequencies.sum())) > 0:
        gains = p * np.log1p(1.0 / frequencies)  # bits saved by one more count
        best = np.argsort(-gains, kind="stable")[:missing]
        frequencies[best] += 1
    return frequencies


def tables_from_pmfs(pmfs: Sequence[Any], offsets: Sequence[int], *, escape_mass: float = 1e-6) -> CdfTables:
    """Tables from any distributions over `offset, offset + 1, ...`; an escape of the given mass is added to each."""
    rows = [quantize_frequencies(np.append(np.asarray(p) / np.sum(p), escape_mass)) for p in pmfs]
    return CdfTables.from_frequencies(rows, offsets)


def gaussian_tables(
    scales: Sequence[float] | np.ndarray, *, tail_mass: float = 2.0**-17, certain_below: float = 0.0, max_symbol: int = 2047
) -> CdfTables:
    """Tables of zero-mean, symmetric, integrated Gaussians: P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s).

    Args:
        scales: standard deviation of each table, in symbols.
        tail_mass: what both tails together may weigh before they become the escape.
        certain_below: tables of a smaller scale hold the symbol 0 alone and cost nothing (symbols to be skipped).
        max_symbol: no table reaches further out than this.

    Raises:
        ValueError: a scale is not a positive number, or there are more than 256.
    """
    rows: list[np.ndarray] = []
    offsets: list[int] = []
    for scale in scales:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scales: expected positive numbers, got {scale}")
        if scale < certain_below:
            rows.append(np.array([TOTAL]))
            offsets.append(0)
            continue

        def upper_tail(x: float, scale: float = scale) -> float:
            return 0.5 * math.erfc(x / (scale * _SQRT2))

        reach = 1
        while reach < max_symbol and 2 * upper_tail(reach + 0.5) > tail_mass:
            reach += 1
        centre = math.erf(0.5 / (scale * _SQRT2))
        half = [upper_tail(k - 0.5) - upper_tail(k + 0.5) for k in range(1, reach + 1)]
        escape = 2 * upper_tail(reach + 0.5)
        frequencies = quantize_frequencies([*reversed(half), centre, *half, escape])
        rows.append(_symmetric(frequencies, reach))
        offsets.append(-reach)
    return CdfTables.from_frequencies(rows, offsets)


def _symmetric(frequencies: np.ndarray, reach: int) -> np.ndarray:
    """Both sides get the smaller of their two counts, the centre what that leaves over."""
    smaller = np.minimum(frequencies[:reach], frequencies[reach + 1 : 2 * reach + 1][::-1])
    frequencies[:reach] = smaller
    frequencies[reach + 1 : 2 * reach + 1] = smaller[::-1]
    frequencies[reach] += TOTAL - frequencies.sum()
    return frequencies
