"""Swap refinement: exchange groups between subsets until each subset's share of every column is as fair as it gets.

A greedy split cannot take back an early choice. Swapping two groups keeps the subset sizes exact and lowers the sum
over columns and subsets of the fourth power of (share of the column in the subset - share of the groups in it): the
fourth power makes the worst column count most. Groups with equal counts are interchangeable, so the search works on
distinct count profiles and on how many groups of each profile a subset holds.
"""

from itertools import combinations

import numpy as np

POOL = 2048  # profiles drawn per side and step: bounds the cost of a step whatever the number of groups
CANDIDATES = 96  # profiles per side whose pairs are evaluated exactly
SWAPS_PER_STEP = 16  # of one evaluation, as long as they still help
MAX_STEPS = 2000
PATIENCE = 3  # fruitless steps in a row, per pair of subsets, before the search ends
MIN_GAIN = 1e-6  # of the objective's part that a swap can change; below it a step counts as fruitless

_BINOMIAL = np.array([4.0, 6.0, 4.0, 1.0])
_SIGNS = np.array([-1.0, 1.0, -1.0, 1.0])


def refine(profiles: np.ndarray, holdings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Improve a split by swaps.

    profiles: (n_profiles, n_columns) counts of each distinct kind of group.
    holdings: (n_profiles, n_subsets) int, how many groups of that kind each subset holds.
    Returns new holdings with the same row and column sums.
    """
    totals = holdings.sum(axis=1) @ profiles
    shares = profiles[:, totals > 0] / totals[totals > 0]
    holdings = holdings.copy()
    deviations = holdings.T @ shares - (holdings.sum(axis=0) / holdings.sum())[:, None]  # (n_subsets, n_columns)

    pairs = list(combinations(range(holdings.shape[1]), 2))
    fruitless = 0
    for step in range(MAX_STEPS if pairs else 0):
        left, right = pairs[step % len(pairs)]
        before = _objective(deviations)
        swapped = _step(shares, holdings, deviations, left, right, rng)
        gained = before - _objective(deviations)
        fruitless = 0 if swapped and gained > MIN_GAIN * before else fruitless + 1
        if fruitless >= PATIENCE * len(pairs):
            break
    return holdings


def _objective(deviations: np.ndarray) -> float:
    return float((deviations**4).sum())


def _step(shares, holdings, deviations, left, right, rng) -> int:
    """Evaluate swaps between two subsets and carry out the best ones. Changes holdings and deviations in place."""
    gap = deviations[[left, right]]
    going = _candidates(shares, holdings[:, left], gap[0], gap[1], rng)
    coming = _candidates(shares, holdings[:, right], gap[1], gap[0], rng)
    if not len(going) or not len(coming):
        return 0
    costs = _swap_costs(shares[going], shares[coming], gap[0], gap[1])
    best = np.argpartition(costs, min(4 * SWAPS_PER_STEP, costs.size - 1), axis=None)[: 4 * SWAPS_PER_STEP]
    best = best[np.argsort(costs.ravel()[best], kind="stable")]
    swapped = 0
    for row, column in zip(*np.unravel_index(best, costs.shape), strict=True):
        if costs[row, column] >= 0 or swapped == SWAPS_PER_STEP:
            break
        out, into = going[row], coming[column]
        if holdings[out, left] == 0 or holdings[into, right] == 0:
            continue
        moved = shares[into] - shares[out]
        new = np.stack([deviations[left] + moved, deviations[right] - moved])
        # Earlier swaps of this step changed the ground: ask again, exactly.
        if (new**4 - deviations[[left, right]] ** 4).sum() >= 0:
            continue
        deviations[[left, right]] = new
        holdings[out, [left, right]] += [-1, 1]
        holdings[into, [left, right]] += [1, -1]
        swapped += 1
    return swapped


def _candidates(shares, held, here, there, rng) -> np.ndarray:
    """Profiles held here: half of them those whose move from here to there costs least, half drawn at random."""
    pool = np.flatnonzero(held)
    if len(pool) > POOL:
        pool = rng.choice(pool, POOL, replace=False, shuffle=False)
    if len(pool) <= CANDIDATES:
        return pool
    moved = shares[pool]
    coefficients = [here**3 * -1 + there**3, here**2 + there**2, there - here]
    cost = 4 * moved @ coefficients[0] + 6 * moved**2 @ coefficients[1] + 4 * moved**3 @ coefficients[2]
    cost += 2 * (moved**4).sum(axis=1)
    cheapest = np.argpartition(cost, CANDIDATES // 2)[: CANDIDATES // 2]
    random = rng.choice(len(pool), CANDIDATES // 2, replace=False, shuffle=False)
    return pool[np.union1d(cheapest, random)]


def _swap_costs(going: np.ndarray, coming: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Change of the objective for every pair, (n_going, n_coming), by one matrix product.

    With g going and c coming, (left - g + c)^4 + (right + g - c)^4 is a polynomial in c whose coefficients depend on g
    alone (binomial theorem).
    """
    near, far = left - going, right + going
    constant = (near**4 - left**4 + far**4 - right**4).sum(axis=1)
    powers = np.concatenate([coming, coming**2, coming**3, coming**4], axis=1)
    coefficients = [
        binomial * (near ** (3 - index) + sign * far ** (3 - index))
        for index, (binomial, sign) in enumerate(zip(_BINOMIAL, _SIGNS, strict=True))
    ]
    return constant[:, None] + np.concatenate(coefficients, axis=1) @ powers.T
