"""Split groups so that every subset gets its fair share of every attribute.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, ECML PKDD 2011), on
*counts* instead of yes/no labels as the VinDr-Mammo authors did (a patient with three masses weighs three), followed
by swap refinement (:mod:`mammoflow.refine`). Subset sizes are exact, and nothing but the groups, the counts and the
seed decides: hand over groups sorted by id and the order of the table's rows does not matter.
"""

import math

import numpy as np

from mammoflow.errors import UserError
from mammoflow.refine import refine

SUM_TOLERANCE = 0.01  # three thirds are often written 0.33 each


def stratify(counts: np.ndarray, ratios: dict[str, float], seed: int | list[int]) -> np.ndarray:
    """Deal groups into subsets.

    counts: (n_groups, n_columns) non-negative integers, what each group holds of each attribute value.
    ratios: subset name -> share of the groups; the shares sum to 1.
    Returns (n_groups,) subset names. Raises UserError where the ratios or the number of groups do not allow it.
    """
    counts = np.asarray(counts)
    sizes = subset_sizes(len(counts), ratios)
    rng = np.random.default_rng(seed)
    profiles, kind = np.unique(counts, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    dealt = _deal(counts, sizes, rng)
    holdings = np.zeros((len(profiles), len(sizes)), dtype=np.int64)
    np.add.at(holdings, (kind, dealt), 1)
    holdings = refine(profiles, holdings, rng)
    # Groups of one profile are interchangeable: which of them goes where is drawn, since ids may carry meaning.
    order = np.lexsort((rng.permutation(len(counts)), kind))
    subsets = np.empty(len(counts), dtype=np.int64)
    subsets[order] = np.repeat(np.tile(np.arange(len(sizes)), len(profiles)), holdings.ravel())
    return np.array(list(ratios), dtype=object)[subsets]


def stratified_folds(counts: np.ndarray, n_folds: int, seed: int | list[int]) -> np.ndarray:
    """Deal groups into folds 0..n_folds-1 of equal size (within one). Returns (n_groups,) int64."""
    return stratify(counts, {str(fold): 1 / n_folds for fold in range(n_folds)}, seed).astype(np.int64)


def subset_sizes(n_groups: int, ratios: dict[str, float]) -> list[int]:
    """Whole numbers that sum to n_groups, by largest remainder; no subset is left empty."""
    total = math.fsum(ratios.values())
    if any(not ratio > 0 for ratio in ratios.values()) or abs(total - 1) > SUM_TOLERANCE + 1e-9:
        given = ", ".join(f"{name}={ratio:g}" for name, ratio in ratios.items())
        raise UserError(f"the ratios {given} sum to {total:g}: give positive shares that sum to 1")
    if n_groups < len(ratios):
        raise UserError(f"{n_groups} group(s) cannot be split into {len(ratios)} subsets ({', '.join(ratios)})")
    exact = [n_groups * ratio / total for ratio in ratios.values()]
    sizes = [math.floor(round(value, 9)) for value in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: round(sizes[index] - exact[index], 9))
    for index in by_remainder[: n_groups - sum(sizes)]:
        sizes[index] += 1
    while 0 in sizes:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes


def _deal(counts: np.ndarray, sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Iterative stratification: the rarest column first, each group to the subset that lacks most of that column.

    Ties go to the subset with most places left, then to chance. Returns (n_groups,) subset indices. Plain lists: a
    group has few non-zero counts, and numpy calls for each group would cost more than the arithmetic.
    """
    n_groups, n_columns = counts.shape
    order = rng.permutation(n_groups)
    rows, columns = np.nonzero(counts[order])
    values = counts[order[rows], columns].tolist()
    starts = np.searchsorted(rows, np.arange(n_groups + 1)).tolist()
    by_column = np.argsort(columns, kind="stable")
    left = np.bincount(columns, minlength=n_columns)  # groups not dealt yet that have any of the column
    members = [part.tolist() for part in np.split(rows[by_column], np.cumsum(left)[:-1])]
    columns, left = columns.tolist(), left.tolist()
    lacking = (counts.sum(axis=0)[:, None] * (np.array(sizes) / n_groups)).tolist()  # [column][subset]
    places = list(sizes)
    subsets = range(len(sizes))
    chance = rng.integers(len(sizes), size=n_groups).tolist()
    dealt = [-1] * n_groups

    def deal(group: int, wanted: list[float]) -> None:
        shift = chance[group]
        subset = max(
            (index for index in subsets if places[index]),
            key=lambda index: (wanted[index], places[index], (index + shift) % len(sizes)),
        )
        dealt[group] = subset
        places[subset] -= 1
        for entry in range(starts[group], starts[group + 1]):
            column = columns[entry]
            lacking[column][subset] -= values[entry]
            left[column] -= 1

    waiting = set(range(n_columns))
    while waiting:
        rarest = min(waiting, key=lambda column: (left[column], column))
        waiting.discard(rarest)
        for group in members[rarest]:
            if dealt[group] < 0:
                deal(group, lacking[rarest])
    for group in range(n_groups):
        if dealt[group] < 0:  # nothing to balance
            deal(group, places)
    result = np.empty(n_groups, dtype=np.int64)
    result[order] = dealt
    return result
