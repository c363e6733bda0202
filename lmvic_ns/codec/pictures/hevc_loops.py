"""Compiled loops of `lmvic_ns.codec.pictures.hevc_syntax`: a picture as bins without loss, and arithmetic coding of bins.

Names and section numbers are those of the HEVC standard, Rec. ITU-T H.265.
"""

from __future__ import annotations

import numpy as np

from lmvic_ns._util.compiled import CompiledLoop

BYPASS, TERMINATE = 254, 255
"""Contexts of bins that have none: equally probable ones, and the end of a slice."""

SPLIT, LOSSLESS, MOST_PROBABLE, CHROMA_MODE, CBF_LUMA, CBF_CHROMA, LAST_X, LAST_Y, GROUP, SIGNIFICANT, GREATER1, GREATER2 = (
    0,
    3,
    4,
    5,
    6,
    8,
    13,
    31,
    49,
    53,
    95,
    119,
)
"""First context of each syntax element."""

INITIAL = (
    (139, 141, 157)  # split_cu_flag
    + (154,)  # cu_transquant_bypass_flag
    + (184,)  # prev_intra_luma_pred_flag
    + (63,)  # intra_chroma_pred_mode
    + (111, 141)  # cbf_luma
    + (94, 138, 182, 154, 154)  # cbf_cb, cbf_cr
    + 2 * (110, 110, 124, 125, 140, 153, 125, 127, 140, 109, 111, 143, 127, 111, 79, 108, 123, 63)  # last_sig_coeff_x, y
    + (91, 171, 134, 141)  # coded_sub_block_flag
    + (111, 111, 125, 110, 110, 94, 124, 108, 124, 107, 125, 141, 179, 153, 125, 107, 125, 141, 179, 153, 125)
    + (107, 125, 141, 179, 153, 125, 140, 139, 182, 182, 152, 136, 152, 136, 153, 136, 139, 111, 136, 139, 111)
    + (140, 92, 137, 138, 140, 152, 138, 139, 153, 74, 149, 92, 139, 107, 122, 152, 140, 179, 166, 182, 140, 227, 122, 197)
    + (138, 153, 136, 167, 152, 152)  # coeff_abs_level_greater2_flag
)
"""initValue of each context in an I slice (section 9.3.2.2)."""

RANGE_LPS = np.array(
    [
    128, 176, 208, 240, 128, 167, 197, 227, 128, 158, 187, 216, 123, 150, 178, 205, 116, 142, 169, 195, 111, 135, 160, 185,
    105, 128, 152, 175, 100, 122, 144, 166, 95, 116, 137, 158, 90, 110, 130, 150, 85, 104, 123, 142, 81, 99, 117, 135, 77,
    94, 111, 128, 73, 89, 105, 122, 69, 85, 100, 116, 66, 80, 95, 110, 62, 76, 90, 104, 59, 72, 86, 99, 56, 69, 81, 94, 53,
    65, 77, 89, 51, 62, 73, 85, 48, 59, 69, 80, 46, 56, 66, 76, 43, 53, 63, 72, 41, 50, 59, 69, 39, 48, 56, 65, 37, 45, 54,
    62, 35, 43, 51, 59, 33, 41, 48, 56, 32, 39, 46, 53, 30, 37, 43, 50, 29, 35, 41, 48, 27, 33, 39, 45, 26, 31, 37, 43, 24,
    30, 35, 41, 23, 28, 33, 39, 22, 27, 32, 37, 21, 26, 30, 35, 20, 24, 29, 33, 19, 23, 27, 31, 18, 22, 26, 30, 17, 21, 25,
    28, 16, 20, 23, 27, 15, 19, 22, 25, 14, 18, 21, 24, 14, 17, 20, 23, 13, 16, 19, 22, 12, 15, 18, 21, 12, 14, 17, 20, 11,
    14, 16, 19, 11, 13, 15, 18, 10, 12, 15, 17, 10, 12, 14, 16, 9, 11, 13, 15, 9, 11, 12, 14, 8, 10, 12, 14, 8, 9, 11, 13,
    7, 9, 11, 12, 7, 9, 10, 12, 7, 8, 10, 11, 6, 8, 9, 11, 6, 7, 9, 10, 6, 7, 8, 9, 2, 2, 2, 2,
    ],
    dtype=np.int64,
).reshape(64, 4)  # fmt: skip
"""rangeTabLps (table 9-46)."""
NEXT_LPS = np.array(
    [
    0, 0, 1, 2, 2, 4, 4, 5, 6, 7, 8, 9, 9, 11, 11, 12, 13, 13, 15, 15, 16, 16, 18, 18, 19, 19, 21, 21, 22, 22, 23, 24, 24,
    25, 26, 26, 27, 27, 28, 29, 29, 30, 30, 30, 31, 32, 32, 33, 33, 33, 34, 34, 35, 35, 35, 36, 36, 36, 37, 37, 37, 38, 38,
    63,
    ],
    dtype=np.int64,
)  # fmt: skip
"""transIdxLps (table 9-47)."""


def diagonal(side: int) -> np.ndarray:
    """Positions (x, y) of a square in up-right diagonal order (section 6.5.3), `int64[side * side, 2]`."""
    order = [(x, total - x) for total in range(2 * side - 1) for x in range(side) if 0 <= total - x < side]
    return np.array(order, dtype=np.int64)


SCAN, GROUPS = diagonal(4), diagonal(8)
"""Order of the samples of a 4x4 group, and of the groups of a 32x32 block."""


@CompiledLoop
def bins_of_row(
    planes,  # uint8 [3, h, w], sides multiples of 32
    top,  # first row of these coding tree blocks of 64x64
    bins,  # uint8 [n, 2], out: context and value
):
    """The bins of a row of coding tree blocks; returns how many.

    Every coding unit is 32x32, lossless, and predicted by the mean of its neighbours (intra DC).
    """

    def put(n, context, value):
        bins[n, 0], bins[n, 1] = context, value
        return n + 1

    def put_ones(n, context, count):
        for _ in range(count):
            bins[n, 0], bins[n, 1] = context, 1
            n += 1
        return n

    def put_bits(n, value, count):
        for i in range(count - 1, -1, -1):
            bins[n, 0], bins[n, 1] = BYPASS, (value >> i) & 1
            n += 1
        return n

    height, width = planes.shape[1:]
    n = 0
    residual = np.empty((32, 32), np.int64)
    coded = np.zeros((8, 8), np.int64)
    levels = np.empty(16, np.int64)
    last_row = top + 64 >= height
    for left in range(0, width, 64):
        if left + 64 <= width and top + 64 <= height:  # else the block is split without saying so
            n = put(n, SPLIT + (left > 0) + (top > 0), 1)
        for part in range(4):
            x0, y0 = left + 32 * (part % 2), top + 32 * (part // 2)
            if x0 >= width or y0 >= height:
                continue
            n = put(n, SPLIT, 0)
            n = put(n, LOSSLESS, 1)
            n = put(n, MOST_PROBABLE, 1)
            n = put_bits(n, 2, 2)  # the second of the most probable modes, which is DC
            n = put(n, CHROMA_MODE, 0)  # as luma
            flags = n
            n += 3  # coded block flags, which come first
            for c in range(3):
                chroma = 1 if c > 0 else 0
                total, sides = 0, 0
                if x0 > 0:
                    for i in range(32):
                        total += planes[c, y0 + i, x0 - 1]
                    sides += 1
                if y0 > 0:
                    for i in range(32):
                        total += planes[c, y0 - 1, x0 + i]
                    sides += 1
                if sides == 0:
                    mean = 128
                else:
                    if sides == 1:  # the missing side repeats the nearest sample of the other
                        total += 32 * int(planes[c, y0, x0 - 1] if x0 > 0 else planes[c, y0 - 1, x0])
                    mean = (total + 32) >> 6
                last = -1
                for y in range(32):
                    for x in range(32):
                        residual[y, x] = int(planes[c, y0 + y, x0 + x]) - mean
                for g in range(64):
                    gx, gy = GROUPS[g, 0], GROUPS[g, 1]
                    any_coded = 0
                    for k in range(16):
                        if residual[4 * gy + SCAN[k, 1], 4 * gx + SCAN[k, 0]] != 0:
                            any_coded = 1
                            last = 16 * g + k
                    coded[gy, gx] = any_coded
                # order of the flags: cbf_cb, cbf_cr, cbf_luma
                put(flags + (c + 2) % 3, CBF_CHROMA if chroma else CBF_LUMA + 1, last >= 0)
                if last < 0:
                    continue
                last_group = last // 16
                last_x = 4 * GROUPS[last_group, 0] + SCAN[last % 16, 0]
                last_y = 4 * GROUPS[last_group, 1] + SCAN[last % 16, 1]
                offset, shift = (15, 3) if chroma else (10, 1)
                suffixes = np.empty(2, np.int64)
                for axis in range(2):
                    position = last_y if axis else last_x
                    context = (LAST_Y if axis else LAST_X) + offset
                    prefix, suffixes[axis] = position, 0
                    if position > 3:
                        size = 2
                        while (position >> size) > 1:
                            size += 1
                        prefix, suffixes[axis] = 2 * size + ((position >> (size - 1)) & 1), size - 1
                    for i in range(prefix):
                        n = put(n, context + (i >> shift), 1)
                    if prefix < 9:
                        n = put(n, context + (prefix >> shift), 0)
                n = put_bits(n, last_x, suffixes[0])
                n = put_bits(n, last_y, suffixes[1])
                greater_context = 1
                for g in range(last_group, -1, -1):
                    gx, gy = GROUPS[g, 0], GROUPS[g, 1]
                    right = coded[gy, gx + 1] if gx < 7 else 0
                    below = coded[gy + 1, gx] if gy < 7 else 0
                    explicit = 0 < g < last_group
                    if explicit:
                        n = put(n, GROUP + 2 * chroma + (1 if right + below > 0 else 0), coded[gy, gx])
                        if coded[gy, gx] == 0:
                            continue
                    count, first = 0, 15
                    if g == last_group:
                        first = last % 16 - 1
                        levels[0] = residual[last_y, last_x]
                        count = 1
                    for k in range(first, -1, -1):
                        px, py = SCAN[k, 0], SCAN[k, 1]
                        level = residual[4 * gy + py, 4 * gx + px]
                        if k > 0 or count > 0 or not explicit:  # else it is known that this one is not zero
                            if g == 0 and k == 0:
                                context = 0
                            else:
                                if right and below:
                                    context = 2
                                elif right or below:
                                    context = max(2 - (py if right else px), 0)
                                else:
                                    context = 2 if px + py == 0 else (1 if px + py < 3 else 0)
                                context += 12 if chroma else 21 + (3 if g > 0 else 0)
                            n = put(n, SIGNIFICANT + 27 * chroma + context, level != 0)
                        if level != 0:
                            levels[count] = level
                            count += 1
                    if count == 0:
                        continue
                    context = (2 if g > 0 and not chroma else 0) + (1 if greater_context == 0 else 0)
                    greater_context, first_greater = 1, -1
                    for i in range(min(count, 8)):
                        greater = abs(levels[i]) > 1
                        n = put(n, GREATER1 + 16 * chroma + 4 * context + greater_context, greater)
                        if greater:
                            greater_context = 0
                            if first_greater < 0:
                                first_greater = i
                        elif 0 < greater_context < 3:
                            greater_context += 1
                    if first_greater >= 0:
                        n = put(n, GREATER2 + 4 * chroma + context, abs(levels[first_greater]) > 2)
                    for i in range(count):
                        n = put(n, BYPASS, levels[i] < 0)
                    rice, expected = 0, 3
                    for i in range(count):
                        size = abs(levels[i])
                        base = expected if i < 8 else 1
                        if size >= base:
                            rest = size - base
                            ones, length = rest >> rice, rice
                            if ones >= 3:
                                rest -= 3 << rice
                                while rest >= (1 << length):
                                    rest -= 1 << length
                                    length += 1
                                ones = 3 + length - rice
                            n = put_ones(n, BYPASS, ones)
                            n = put(n, BYPASS, 0)
                            n = put_bits(n, rest, length)
                            if size > (3 << rice):
                                rice = min(rice + 1, 4)
                        if size >= 2:
                            expected = 2
        n = put(n, TERMINATE, last_row and left + 64 >= width)
    return n


@CompiledLoop
def code_bins(
    bins,  # uint8 [n, 2]
    count,  # of them that are coded
    states,  # int64 [contexts], in and out: 2 * pStateIdx + valMps
    engine,  # int64 [5], in and out: low, range, bits left, buffered bytes, buffered byte
    out,  # uint8 [m], out
    final,  # whether the slice ends here
):
    """Arithmetic coding (section 9.3.4.3, as an encoder); returns how many bytes were written."""
    low, width, left, buffered, byte = engine[0], engine[1], engine[2], engine[3], engine[4]
    written = 0
    for i in range(count):
        context, value = bins[i, 0], bins[i, 1]
        if context == BYPASS:
            low <<= 1
            if value:
                low += width
            left -= 1
        elif context == TERMINATE:
            width -= 2
            if value:
                low += width
                low <<= 7
                width = 2 << 7
                left -= 7
            elif width < 256:
                low <<= 1
                width <<= 1
                left -= 1
        else:
            state = states[context] >> 1
            most = states[context] & 1
            least = RANGE_LPS[state, (width >> 6) & 3]
            width -= least
            if value != most:
                low += width
                width = least
                if state == 0:
                    most = 1 - most
                states[context] = 2 * NEXT_LPS[state] + most
            else:
                states[context] = 2 * min(state + 1, 62) + most
            while width < 256:
                low <<= 1
                width <<= 1
                left -= 1
        if left < 12:
            lead = low >> (24 - left)
            left += 8
            low &= 0xFFFFFFFF >> left
            if lead == 0xFF:
                buffered += 1
            elif buffered > 0:
                carry = lead >> 8
                out[written] = (byte + carry) & 0xFF
                written += 1
                while buffered > 1:
                    out[written] = (0xFF + carry) & 0xFF
                    written += 1
                    buffered -= 1
                byte = lead & 0xFF
            else:
                buffered = 1
                byte = lead
    if final:
        carry = low >> (32 - left)
        low -= carry << (32 - left)
        if buffered > 0:
            out[written] = (byte + carry) & 0xFF
            written += 1
        while buffered > 1:
            out[written] = (0xFF + carry) & 0xFF
            written += 1
            buffered -= 1
        # what is left of the interval, the bit that ends the slice data, and zeros up to a byte
        rest, size = ((low >> 8) << 1) | 1, 24 - left + 1
        while size % 8:
            rest <<= 1
            size += 1
        while size:
            size -= 8
            out[written] = (rest >> size) & 0xFF
            written += 1
    engine[0], engine[1], engine[2], engine[3], engine[4] = low, width, left, buffered, byte
    return written
