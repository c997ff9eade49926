"""How evenly and how fast does ``mammoflow stratify`` split, beside the package iterative-stratification?

    python benchmarks/stratification.py [--write docs/benchmarks.md]

Evenness: VinDr-Mammo's 5,000 exams, drawn with the exact counts of the paper's Tables 3 to 5 (Nguyen et al., Sci Data
2023), split 80/20; the table's 19 rows are compared with the share of the exams. Speed: sparse counts of 44 columns, as
many as a pool of archives has. Both programs get the same counts; iterative-stratification sees them as yes or no.
"""

import argparse
import ast
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from document import write_section
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit

from mammoflow.balance import attainable_deviation
from mammoflow.phantom.vindr_mammo import annotation_tables
from mammoflow.stratify import stratified_folds, stratify

SEEDS = range(10)
TEST = 0.2
GROUPS = [1_000, 12_000, 100_000, 1_000_000]
FOLDS = 5
COLUMNS = 44

Splitter = Callable[[np.ndarray, int], np.ndarray]


def ours(counts: np.ndarray, seed: int) -> np.ndarray:
    """(n_groups,) bool: the test set."""
    return stratify(counts, {"train": 1 - TEST, "test": TEST}, seed) == "test"


def iterative_stratification(counts: np.ndarray, seed: int) -> np.ndarray:
    """(n_groups,) bool: the test set of MultilabelStratifiedShuffleSplit."""
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=TEST, random_state=seed)
    _, chosen = next(splitter.split(np.zeros(len(counts)), (counts > 0).astype(int)))
    test = np.zeros(len(counts), dtype=bool)
    test[chosen] = True
    return test


def vindr_counts(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """(what is balanced, the paper's 19 rows, the published test set), one row per exam.

    Balanced are breasts by BI-RADS and by density, and findings by category, and by category and BI-RADS.
    """
    breasts, findings = annotation_tables(seed)
    sides = breasts.drop_duplicates(["study_id", "laterality"])
    marked = findings.assign(category=findings["finding_categories"].map(ast.literal_eval)).explode("category")
    marked = marked[marked["category"] != "No Finding"]
    graded = marked["category"] + " " + marked["finding_birads"].astype("string").fillna("")
    globals_ = [pd.crosstab(sides["study_id"], sides[name]) for name in ("breast_birads", "breast_density")]
    exams = globals_[0].index
    tables = {
        name: pd.crosstab(marked["study_id"], by) for name, by in (("graded", graded), ("plain", marked["category"]))
    }
    graded, plain = (tables[name].reindex(exams, fill_value=0) for name in ("graded", "plain"))
    balanced = pd.concat([*globals_, plain, graded], axis=1)
    rows = pd.concat([*globals_, plain], axis=1)
    published = (sides.groupby("study_id")["split"].first().loc[exams] == "test").to_numpy()
    return balanced, rows, published


def points(rows: pd.DataFrame, chosen: np.ndarray, share: float) -> np.ndarray:
    """Deviation of each row's share in the chosen groups from ``share``, in percentage points."""
    return 100 * (rows[chosen].sum() / rows.sum() - share).abs().to_numpy()


def fold_points(rows: pd.DataFrame, folds: np.ndarray) -> np.ndarray:
    """(FOLDS, n_rows) deviations of each fold."""
    return np.stack([points(rows, folds == fold, 1 / FOLDS) for fold in range(FOLDS)])


def folds_of_other(counts: np.ndarray, seed: int) -> np.ndarray:
    """(n_groups,) fold of MultilabelStratifiedKFold."""
    splitter = MultilabelStratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    folds = np.empty(len(counts), dtype=int)
    for fold, (_, chosen) in enumerate(splitter.split(np.zeros(len(counts)), (counts > 0).astype(int))):
        folds[chosen] = fold
    return folds


def evenness() -> str:
    balanced, rows, published = vindr_counts()
    bound = max(100 * attainable_deviation(rows[name].to_numpy(), TEST) for name in rows)
    lines = [
        "| split of 5,000 exams, 80/20 | worst of 19 rows | mean | exams in test | seconds |",
        "|---|---|---|---|---|",
    ]

    def line(name: str, splits: list[np.ndarray], seconds: float | None) -> None:
        found = np.array([points(rows, test, TEST) for test in splits])
        sizes = sorted({int(test.sum()) for test in splits})
        size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        worst = found.max(axis=1)
        spread = f"{np.median(worst):.2f}" + (f" ({worst.min():.2f} to {worst.max():.2f})" if len(splits) > 1 else "")
        took = "" if seconds is None else f"{seconds:.2f}"
        lines.append(f"| {name} | {spread} | {np.median(found.mean(axis=1)):.2f} | {size} | {took} |")

    line("published (counts of the paper)", [published], None)
    counts = balanced.to_numpy()
    for name, splitter in (("iterative-stratification, shuffle split", iterative_stratification), ("mammoflow", ours)):
        start = time.process_time()
        splits = [splitter(counts, seed) for seed in SEEDS]
        line(name, splits, (time.process_time() - start) / len(SEEDS))
    dealt = []
    for name, dealer in (
        ("iterative-stratification", folds_of_other),
        ("mammoflow", lambda counts, seed: stratified_folds(counts, FOLDS, seed)),
    ):
        found = [fold_points(rows, dealer(counts, seed)) for seed in SEEDS]
        worst, mean = np.median([one.max() for one in found]), np.median([one.mean() for one in found])
        dealt.append(f"{name} {worst:.2f} at worst and {mean:.2f} on average")
    note = (
        f"Percentage points; median over {len(SEEDS)} seeds (smallest to largest). {balanced.shape[1]} columns are "
        f"balanced. No split of whole exams can be below {bound:.2f}: 3 or 4 of 18 skin retractions. "
        f"{FOLDS} folds of the same exams, over all folds: {'; '.join(dealt)}."
    )
    return "\n".join([*lines, "", note])


def sparse_counts(groups: int) -> np.ndarray:
    """(groups, COLUMNS) counts whose rates run from 0.002 to 0.6 per group."""
    rng = np.random.default_rng(1)
    return rng.poisson(np.exp(rng.uniform(np.log(2e-3), np.log(0.6), COLUMNS)), (groups, COLUMNS))


def speed() -> str:
    lines = ["| groups | mammoflow: s | worst row | iterative-stratification: s | worst row |", "|---|---|---|---|---|"]
    for groups in GROUPS:
        counts = sparse_counts(groups)
        cells = []
        for splitter in (ours, iterative_stratification):
            start = time.process_time()
            test = splitter(counts, 0)
            seconds = time.process_time() - start
            cells += [f"{seconds:.1f}", f"{points(pd.DataFrame(counts), test, TEST).max():.2f}"]
        print(f"{groups}: {cells}", flush=True)
        lines.append(f"| {groups:,} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"{COLUMNS} sparse columns of counts, 80/20, one seed. Worst row in percentage points."]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the tables into the file's own section")
    args = parser.parse_args()
    even = evenness()
    print(even, flush=True)
    where = (
        f"`python benchmarks/stratification.py`; iterative-stratification {version('iterative-stratification')}, numpy "
        f"{version('numpy')}, Python {platform.python_version()}, CPU seconds."
    )
    section = f"{where}\n\n{even}\n\n{speed()}"
    if args.write:
        write_section(args.write, "Stratification", section)


if __name__ == "__main__":
    main()
