"""CRC-32C (Castagnoli; RFC 3720 appendix B.4), vectorized over lanes with numpy.

A CRC is linear over GF(2): lanes of 64 bytes are taken side by side, then joined pairwise by the operator that runs a
register over 64, 128, 256, ... zero bytes. `zlib.crc32` is another polynomial.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
LANE = 64  # bytes
LANE_LEVEL = 6  # log2(LANE)
PIECE = 1 << 20  # bytes handled at once: bounds the memory
SHORT = 4096  # up to here a plain loop is faster


def crc32c(data: bytes | memoryview, previous: int = 0) -> int:
    """CRC-32C of `data`, continuing from the CRC of what came before it (`previous`)."""
    view = memoryview(data).cast("B")
    register = previous ^ 0xFFFFFFFF
    for begin in range(0, len(view), PIECE):
        piece = view[begin : begin + PIECE]
        register = _short(piece, register) if len(piece) <= SHORT else _lanes(piece, register)
    return register ^ 0xFFFFFFFF


def _short(piece: memoryview, register: int) -> int:
    table = _byte_table()
    for byte in piece:
        register = (register >> 8) ^ table[(register ^ byte) & 255]
    return register


def _lanes(piece: memoryview, register: int) -> int:
    lanes = 1 << (-(-len(piece) // LANE) - 1).bit_length()
    padded = np.zeros(lanes * LANE, dtype=np.uint8)  # zeros in front leave a zero register as it is
    padded[-len(piece) :] = np.frombuffer(piece, dtype=np.uint8)
    padded[padded.size - len(piece) :][:4] ^= np.frombuffer(register.to_bytes(4, "little"), dtype=np.uint8)
    words = np.ascontiguousarray(padded.view("<u4").reshape(lanes, LANE // 4).T).astype(np.uint32, copy=False)
    state = np.zeros(lanes, dtype=np.uint32)
    for column in words:
        state = _run_zeros(state ^ column, 2)
    level = LANE_LEVEL
    while state.size > 1:
        state = _run_zeros(state[0::2], level) ^ state[1::2]
        level += 1
    return int(state[0])


def _run_zeros(registers: np.ndarray, level: int) -> np.ndarray:
    """The registers after 2**level further zero bytes."""
    t = _operator(level)
    r = registers
    return t[0][r & 255] ^ t[1][(r >> 8) & 255] ^ t[2][(r >> 16) & 255] ^ t[3][r >> 24]


@lru_cache(maxsize=1)
def _byte_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


@lru_cache(maxsize=64)
def _operator(level: int) -> np.ndarray:
    """uint32 [4, 256]: what each byte of a register becomes after 2**level zero bytes."""
    units = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    if level == 0:
        images = (units >> 8) ^ np.array(_byte_table(), dtype=np.uint32)[units & 255]
    else:
        images = _run_zeros(_run_zeros(units, level - 1), level - 1)
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.stack([np.bitwise_xor.reduce(np.where(bits, images[8 * k : 8 * k + 8], 0), axis=1) for k in range(4)]).astype(
        np.uint32
    )
