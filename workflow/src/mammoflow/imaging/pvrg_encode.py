"""Encoder for PVRG lossless JPEG streams, so that synthetic DDSM cases carry the real archive's peculiar format.

The counterpart of :mod:`mammoflow.imaging.pvrg`, after ``JpegLosslessEncodeScan`` and ``LosslessEncodeDC`` of PVRG
codec 1.2: one component, one Huffman table made for the image, no restart intervals.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.pvrg import CATEGORY

_DUMMY = 256
_BLOCK = 1 << 19  # pixels packed at a time: the 64-bit intermediates of a whole film take more than a gigabyte


def encode(pixels: NDArray[np.uint16], precision: int = 12, predictor: int = 7, transposed: bool = False) -> bytes:
    """Encode ``pixels`` (rows, columns), uint16 below ``2 ** precision``, as PVRG would.

    ``transposed`` swaps lines and samples in the header and runs the same samples through that shape, as many streams
    of DDSM do. Raises ValueError for what the format cannot hold.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint16 or not 0 < max(pixels.shape) < 1 << 16 or not pixels.size:
        raise ValueError("a PVRG stream holds one two-dimensional uint16 image of at most 65535 rows and columns")
    if not 2 <= precision <= 16 or int(pixels.max()) >> precision:
        raise ValueError(f"the pixels need more than {precision} bits")
    image = pixels.reshape(pixels.shape[::-1]) if transposed else pixels
    differences = predict(image, predictor, 1 << (precision - 1))
    categories = CATEGORY[differences]
    lengths = _code_lengths(np.bincount(categories.reshape(-1), minlength=17))
    frame = bytes([precision, *_two(image.shape[0]), *_two(image.shape[1]), 1, 1, 0x11, 0])
    # T.81 B.2.4.2: how many codes of each length, then the categories by length.
    order = sorted((length, category) for category, length in enumerate(lengths) if length)
    counts = np.bincount([length for length, _ in order], minlength=17)[1:].astype(np.uint8)
    table = bytes([0]) + counts.tobytes() + bytes(category for _, category in order)
    scan = bytes([1, 1, 0, predictor, 0, 0])
    return b"".join(
        [
            b"\xff\xd8",
            *(bytes([0xFF, marker, *_two(len(body) + 2)]) + body for marker, body in
              [(0xC3, frame), (0xC4, table), (0xDA, scan)]),
            _pack(differences, categories, order).replace(b"\xff", b"\xff\x00"),
            b"\xff\xd9",
        ]
    )  # fmt: skip


def predict(image: NDArray[np.uint16], predictor: int, missing: int) -> NDArray[np.uint16]:
    """Differences modulo 2**16 between ``image`` and PVRG's prediction; ``missing`` stands for the line above it."""
    signed = image.astype(np.int32)
    framed = np.pad(signed, ((1, 0), (0, 0)), constant_values=missing)
    b = framed[:-1]
    # The first pixel of a row is predicted by the one above it: with a = c = b there, every predictor says b.
    a = np.concatenate([b[:, :1], signed[:, :-1]], axis=1)
    c = np.concatenate([b[:, :1], b[:, :-1]], axis=1)
    match predictor:
        case 1:
            expected = a
        case 2:
            expected = b
        case 3:
            expected = c
        case 4:
            expected = a + b - c
        case 5:
            expected = a + ((b - c) >> 1)
        case 6:
            expected = b + ((a - c) >> 1)
        case 7:
            expected = (a + b) >> 1
        case _:
            raise ValueError(f"predictor {predictor} is not one of 1 to 7")
    return ((signed - expected) & 0xFFFF).astype(np.uint16)


def _two(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _code_lengths(frequencies: NDArray[np.int64]) -> list[int]:
    """Huffman code lengths of 1 to 16 bits, 0 for absent symbols, with the tie-breaks of T.81 K.2 (as in PVRG)."""
    # K.2 adds a symbol of weight 1, so that no real one gets the code of all ones.
    weights = {int(symbol): int(frequencies[symbol]) for symbol in np.flatnonzero(frequencies)} | {_DUMMY: 1}
    while True:
        lengths = dict.fromkeys(weights, 0)
        heap = [(weight, -symbol, [symbol]) for symbol, weight in weights.items()]
        heapq.heapify(heap)
        while len(heap) > 1:
            (first, index, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left + right:
                lengths[symbol] += 1
            heapq.heappush(heap, (first + second, index, left + right))
        if max(lengths.values()) <= 16:
            # The code of all ones is the last of the longest: should a real symbol be the longest, they swap.
            longest = max(lengths, key=lambda symbol: (lengths[symbol], symbol))
            lengths[longest], lengths[_DUMMY] = lengths[_DUMMY], lengths[longest]
            return [lengths.get(symbol, 0) for symbol in range(17)]
        weights = {symbol: (weight + 1) // 2 for symbol, weight in weights.items()}  # flatter counts, shorter codes


def _pack(differences: NDArray[np.uint16], categories: NDArray[np.uint8], order: list[tuple[int, int]]) -> bytes:
    """The entropy-coded bits, padded with ones to whole bytes."""
    codes, code_lengths = np.zeros(17, np.uint64), np.zeros(17, np.uint64)
    code, previous = 0, order[0][0]
    for length, category in order:  # canonical codes, T.81 annex C
        code <<= length - previous
        codes[category], code_lengths[category] = code, length
        code, previous = code + 1, length
    cells, used, rest = [], 0, 0.0  # whole 32-bit cells; bits used of the next one, and its value
    for start in range(0, differences.size, _BLOCK):
        size = categories.reshape(-1)[start : start + _BLOCK]
        value = differences.reshape(-1)[start : start + _BLOCK].astype(np.int64)
        extra_bits = np.where(size < 16, size, 0).astype(np.uint64)
        # A negative difference is coded as its value minus one, in the low bits of its category.
        extra = (value - (value >> 15)).astype(np.uint64) & ((np.uint64(1) << extra_bits) - np.uint64(1))
        block = _cells((codes[size] << extra_bits) | extra, code_lengths[size] + extra_bits, used)
        block[0] += rest
        used += int(code_lengths[size].sum() + extra_bits.sum())
        cells.append(block[: used // 32])
        rest, used = block[used // 32], used % 32
    cells.append(np.array([rest]))
    n_bits = 32 * (sum(map(len, cells)) - 1) + used
    stream = bytearray(np.concatenate(cells).astype(">u4").tobytes()[: -(-n_bits // 8)])
    stream[-1] |= (1 << (-n_bits % 8)) - 1
    return bytes(stream)


def _cells(words: NDArray[np.uint64], widths: NDArray[np.uint64], used: int) -> NDArray[np.float64]:
    """Words of 1 to 32 bits, one behind the other from bit ``used`` on, as the values of 32-bit cells.

    Each word lies in at most two neighbouring cells. The bits of different words never overlap, so a sum is their
    union, and it stays below 2**32, which float64 holds exactly.
    """
    ends = np.cumsum(widths, dtype=np.uint64) + np.uint64(used)
    starts = ends - widths
    shifted = words << (np.uint64(64) - (starts & np.uint64(31)) - widths)
    first = (starts >> np.uint64(5)).astype(np.int64)
    length = int(ends[-1]) // 32 + 2
    high, low = shifted >> np.uint64(32), shifted & np.uint64(0xFFFFFFFF)
    return np.bincount(first, high, length) + np.bincount(first + 1, low, length)
