"""How evenly a split shares every attribute, beside the evenness that is attainable at all."""

import numpy as np
import pandas as pd

from mammoflow.groups import Counts


def balance_table(counts: Counts, subsets: np.ndarray, names: list[str]) -> pd.DataFrame:
    """One row per attribute value.

    counts: the groups' count matrix; subsets: (n_groups,) subset name of each group; names: subsets in column order.
    Columns: ``attribute``, ``value``, ``total``, ``groups`` (that have any), ``share_<name>`` (0..1, of the total),
    ``deviation_points`` (the largest |share - the subset's share of the groups|, in percentage points) and
    ``attainable_points``: no split of these groups can get below it (:func:`attainable_deviation`).
    """
    fair = {name: float((subsets == name).mean()) for name in names}
    rows = []
    for index, (attribute, value) in enumerate(counts.columns):
        column = counts.counts[:, index]
        total = int(column.sum())
        if total == 0:
            continue
        shares = {name: float(column[subsets == name].sum()) / total for name in names}
        rows.append({
            "attribute": attribute,
            "value": value,
            "total": total,
            "groups": int((column > 0).sum()),
            **{f"share_{name}": round(shares[name], 6) for name in names},
            "deviation_points": round(100 * max(abs(shares[name] - fair[name]) for name in names), 4),
            "attainable_points": round(100 * max(attainable_deviation(column, fair[name]) for name in names), 4),
        })  # fmt: skip
    columns = ["attribute", "value", "total", "groups", *(f"share_{name}" for name in names)]
    return pd.DataFrame(rows, columns=[*columns, "deviation_points", "attainable_points"])


def attainable_deviation(column: np.ndarray, fair: float) -> float:
    """Smallest |share - fair| that whole groups allow for one column alone: the indivisibility bound.

    column: (n_groups,) non-negative integer counts with a positive sum. Exact subset sums over the groups' counts; a
    lower bound, since the subset's size and the other columns are left out of account.
    """
    sums = _subset_sums(column)
    total = int(column.sum())
    target = fair * total
    floor = int(np.floor(target))
    below = (sums & ((1 << (floor + 1)) - 1)).bit_length() - 1  # the empty subset: bit 0 is always set
    above = sums >> (floor + 1)
    candidates = [target - below]
    if above:
        candidates.append(floor + 1 + (above & -above).bit_length() - 1 - target)
    return min(candidates) / total


def _subset_sums(column: np.ndarray) -> int:
    """A whole number whose bit s is set where some groups' counts sum to s."""
    sums = 1
    values, multiplicities = np.unique(column[column > 0], return_counts=True)
    for value, multiplicity in zip(values.tolist(), multiplicities.tolist(), strict=True):
        step = 1
        while multiplicity:  # 1, 2, 4, ... copies at a time reach every number of copies
            step = min(step, multiplicity)
            sums |= sums << (value * step)
            multiplicity -= step
            step *= 2
    return sums
