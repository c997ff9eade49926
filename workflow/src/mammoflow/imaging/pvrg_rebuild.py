"""From coded differences back to pixels, by the prediction of PVRG's lossless JPEG (see :mod:`mammoflow.imaging.pvrg`).

Each function takes the differences, uint16 (lines, samples), and the value m of the missing line above the image, and
returns the pixels, uint16 of the same shape. In the notation of T.81: a left, b above, c above left. The first pixel of
a row is predicted by b. uint16 arithmetic wraps modulo 2**16, as PVRG's does; halved sums and differences need the
signed values.
"""

import numpy as np
from numpy.typing import NDArray


def _rebuild_left(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 1: a."""
    x = d.copy()
    x[:1, 0] += np.uint16(m)
    np.cumsum(x[:, 0], out=x[:, 0], dtype=np.uint16)
    return np.cumsum(x, axis=1, dtype=np.uint16)


def _rebuild_above(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 2: b."""
    x = d.copy()
    x[0] += np.uint16(m)
    return np.cumsum(x, axis=0, dtype=np.uint16)


def _rebuild_above_left(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 3: c."""
    x = d.copy()
    x[0] += np.uint16(m)
    for row in range(1, len(x)):
        x[row, :1] += x[row - 1, :1]
        x[row, 1:] += x[row - 1, :-1]
    return x


def _rebuild_plane(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 4: a + b - c, so the differences are the mixed second differences of the image."""
    x = np.cumsum(np.cumsum(d, axis=1, dtype=np.uint16), axis=0, dtype=np.uint16)
    x += np.uint16(m)
    return x


def _rebuild_left_slope(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 5: a + (b - c) / 2. Given the row above, a row is a running sum."""
    x = np.empty_like(d)
    above = np.full(d.shape[1], m, dtype=np.int32)
    for row in range(len(d)):
        steps = d[row].astype(np.int32)
        steps[0] += above[0]
        steps[1:] += np.diff(above) >> 1
        above = np.cumsum(steps, dtype=np.int32) & 0xFFFF
        x[row] = above
    return x


def _rebuild_above_slope(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 6: b + (a - c) / 2. Given the column to the left, a column is a running sum from m."""
    steps = np.ascontiguousarray(d.T).astype(np.int32)
    x = np.empty(steps.shape, dtype=np.uint16)
    left = np.full(len(d), m, dtype=np.int32)
    for column in range(len(steps)):
        # a - c along the column is the difference of the left column, whose missing pixel above is m; the first
        # column has no left neighbour and is predicted by b alone.
        if column:
            steps[column] += np.diff(left, prepend=m) >> 1
        steps[column, 0] += m
        left = np.cumsum(steps[column], dtype=np.int32) & 0xFFFF
        x[column] = left
    return np.ascontiguousarray(x.T)


def _rebuild_mean(d: NDArray[np.uint16], m: int) -> NDArray[np.uint16]:
    """Predictor 7: (a + b) / 2. The pixels of an anti-diagonal depend only on the one before it."""
    lines, samples = d.shape
    if samples == 1:
        return _rebuild_above(d, m)
    x = d.copy()
    flat, step = x.reshape(-1), samples - 1
    # before[r + 1] is the pixel of row r on the previous anti-diagonal: the a of row r and the b of row r + 1.
    before = np.full(lines + 1, m, dtype=np.int32)
    for diagonal in range(lines + samples - 1):
        first, last = max(0, diagonal - step), min(lines - 1, diagonal)
        if diagonal < lines:
            before[diagonal + 1] = before[diagonal]  # the first pixel of a row has no a: b stands for both
        pixels = flat[diagonal + first * step : diagonal + last * step + 1 : step]
        pixels += ((before[first : last + 1] + before[first + 1 : last + 2]) >> 1).astype(np.uint16)
        before[first + 1 : last + 2] = pixels
    return x


REBUILD = {
    1: _rebuild_left,
    2: _rebuild_above,
    3: _rebuild_above_left,
    4: _rebuild_plane,
    5: _rebuild_left_slope,
    6: _rebuild_above_slope,
    7: _rebuild_mean,
}
