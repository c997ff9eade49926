"""How long do 2,000 patient-clustered bootstrap replicates take, with all ranking metrics, beside a plain loop?

    python benchmarks/bootstrap.py [--write docs/benchmarks.md]

The loop is what evaluation scripts do: draw patients, gather their images, call scikit-learn for AUC and average
precision alone. A few of its replicates are timed and scaled up; both draw from the same patients.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import sklearn
from document import write_section
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from mammoflow.bootstrap import Resampler, summarise
from mammoflow.metrics import RANKING, Ranking

REPLICATES = 2000
SAMPLED = 20  # replicates of the loop that are timed
# A test split; a reading study; all of RSNA's training images.
SIZES = {800: 200, 10_000: 2_500, 54_706: 11_913}


def cohort(images: int, patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, scores, patient numbers) of ``images``, four a patient; one patient in ten has cancer."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, patients, images))
    labels = (rng.random(patients) < 0.1)[groups] & (rng.random(images) < 0.5)
    return labels.astype(int), rng.normal(labels * 1.2), groups


def ours(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """CPU seconds for all replicates, drawing included."""
    start = time.process_time()
    resampler = Resampler.over(groups, REPLICATES, seed=1)
    summarise(Ranking(labels, scores).metrics, resampler, 0.95, int(labels.sum()), int((1 - labels).sum()))
    return time.process_time() - start


def loop(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """CPU seconds that all replicates would take, from ``SAMPLED`` of them."""
    rng = np.random.default_rng(1)
    names = np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    start = time.process_time()
    for _ in range(SAMPLED):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        roc_auc_score(labels[rows], scores[rows])
        average_precision_score(labels[rows], scores[rows])
    return (time.process_time() - start) * REPLICATES / SAMPLED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; medians are given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown file whose section is replaced")
    arguments = parser.parse_args()
    rows = [
        f"| images | patients | mammoflow, {len(RANKING)} metrics: s | loop, 2 metrics: s | ratio |",
        "|---|---|---|---|---|",
    ]
    with threadpool_limits(1):
        for images, patients in SIZES.items():
            made = cohort(images, patients)
            pairs = [(ours(*made), loop(*made)) for _ in range(arguments.rounds)]
            first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            rows.append(f"| {images:,} | {patients:,} | {first:.2f} | {second:.1f} | {ratio:.1f} |")
    body = (
        f"`python benchmarks/bootstrap.py`; numpy {np.__version__}, scikit-learn {sklearn.__version__}, Python "
        f"{platform.python_version()}; CPU seconds of {REPLICATES:,} patient-clustered replicates, one thread.\n\n"
        + "\n".join(rows)
    )
    print(body)
    if arguments.write:
        write_section(arguments.write, "Bootstrap intervals", body)


if __name__ == "__main__":
    main()
