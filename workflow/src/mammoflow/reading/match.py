"""Which findings of two readers are one."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from mammoflow.reading.files import BOX

Finding = dict[str, Any]


def pair_findings(left: list[Finding], right: list[Finding], iou: float) -> list[tuple[Finding | None, Finding | None]]:
    """Pair the findings of one image for the largest total overlap, of at least ``iou``; the others stand alone.

    A finding is a row of Readings.findings.
    """
    shape = len(left), len(right)
    overlap = np.array([[box_iou(a, b) for b in right] for a in left]).reshape(shape)
    # Among boxes that overlap alike, those of one category and grade belong together.
    same = np.array([[spell(a) == spell(b) for b in right] for a in left]).reshape(shape)
    rows, columns = linear_sum_assignment(np.where(overlap >= iou, overlap + same, 0), maximize=True)
    pairs = [(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if overlap[i, j] >= iou]
    alone = [sorted(set(range(size)) - {pair[side] for pair in pairs}) for side, size in enumerate(shape)]
    return [
        *((left[i], right[j]) for i, j in pairs),
        *((left[i], None) for i in alone[0]),
        *((None, right[j]) for j in alone[1]),
    ]


def box_iou(one: Finding, other: Finding) -> float:
    """Intersection over union of two boxes; 0 where a corner is unknown."""
    corners = np.array([[side[name] for name in BOX] for side in (one, other)], dtype=object)
    if pd.isna(corners).any():
        return 0.0
    (x0, y0, x1, y1), (u0, v0, u1, v1) = corners.astype(float)
    shared = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared
    return shared / union if union > 0 else 0.0


def spell(finding: Finding | None) -> str:
    """What must agree, in words."""
    if finding is None:
        return ""
    grade = finding["finding_birads"]
    return f"{finding['finding_categories']} {'' if pd.isna(grade) else grade}".strip()
