"""A lesion's outline as the columns of ``findings``: polygon, and the half-open box round it, inside the frame."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mammoflow.tables import to_json

NOWHERE = {"geometry": "none"}


def place(
    points: ArrayLike, width: Any, height: Any, *, extent: int, margin: float = 0, geometry: str = "polygon"
) -> dict[str, Any]:
    """geometry, points, xmin, ymin, xmax, ymax of ``points`` (N, 2) as x, y in pixels of the stored image.

    width, height: of the frame in pixels, NA or None where unknown; then nothing is clipped on that side.  extent: 1
    where points are pixel indices, each a pixel wide; 0 where they are positions.  margin: pixels round the points, for
    marks that have no extent of their own.  Returns ``NOWHERE`` for no points and where nothing lies in the frame.
    """
    points = np.asarray(points)
    if not points.size:
        return NOWHERE
    frame = np.array([np.inf if pd.isna(side) else side for side in (width, height)], dtype=float)
    low = np.clip(points.min(axis=0) - margin, 0, frame)
    high = np.clip(points.max(axis=0) + margin + extent, 0, frame)
    if (high <= low).any():
        return NOWHERE
    # Indices stay whole numbers, in half the text.
    clipped = np.clip(points, 0, frame - extent).astype(points.dtype)
    return {
        "geometry": geometry,
        "points": to_json(clipped.tolist()),
        "xmin": low[0],
        "ymin": low[1],
        "xmax": high[0],
        "ymax": high[1],
    }
