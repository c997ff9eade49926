"""Where a run's figures end, drawn from its data: archives, kinds of images, scanners, subgroups, small numbers."""

from collections import Counter
from typing import Any

import pandas as pd

from mammoflow.card_facts import SUBGROUPS
from mammoflow.headline import select
from mammoflow.truth import label_sources, truth_of

OF_ARCHIVES = ("density", "age_band", "view", "site", "manufacturer")  # subgroups that an archive may be silent on
MEDIA = {
    "film": "digitised film",
    "presentation": "digital, for presentation",
    "processing": "digital, for processing",
    "unknown": "of unknown kind",
}


def limits(
    manifest: pd.DataFrame, blocks: list[dict[str, Any]], folds: list[dict[str, Any]], seen: set[str]
) -> list[str]:
    """Sentences, each drawn from the cohort's ``manifest``, the ``blocks`` of metrics.json or the folds' records.

    ``seen``: the datasets that the run and those before it have learned from.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    learned, tested = part[part["split"].isin(["train", "val"])], part[part["split"] == "test"]
    found = []
    truth = truth_of(label_sources(tested))
    if not len(tested):
        return ["No image stands in the test split: nothing is known about new patients."]
    new = sorted(set(tested["dataset"]) - seen)
    if new:
        found.append(f"Only {', '.join(new)} shows how the model does on an archive that it has not learned from.")
    else:
        found.append(
            "Every archive of the test split is in the training, too: another hospital, scanner or population was not "
            "tested. Expect lower figures there, and measure them before you use any."
        )
    for word, rows in (("Training", learned), ("Test", tested)):
        kinds = Counter(MEDIA.get(kind, MEDIA["unknown"]) for kind in rows["presentation"].fillna("unknown"))
        found.append(f"{word} images: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}.")
    have, shown = (set(rows["presentation"].fillna("unknown")) for rows in (learned, tested))
    missing = [words for kind, words in MEDIA.items() if kind not in have & shown and kind != "unknown"]
    if missing and "unknown" not in have | shown:
        found.append(f"Not in both training and test: {'; '.join(missing)}.")
    known, makers = (set(rows["manufacturer"].dropna()) for rows in (learned, tested))
    if makers:
        new_ones = f", {len(makers - known)} of them not in the training" if makers - known else ""
        found.append(f"Manufacturers named in the test images: {len(makers)}{new_ones}. No other was tested.")
    else:
        found.append("The test images do not name their manufacturers: nothing can be said about any of them.")
    broken_down = {(block["subgroup"] or {}).get("column") for block in blocks}
    absent = [title for column, title in SUBGROUPS.items() if column in OF_ARCHIVES and column not in broken_down]
    if blocks and absent:
        found.append(f"Not broken down by {', '.join(absent)}: the archives do not say.")
    for block in select(blocks, split="test", level="breast", model="image"):
        if block["n_units"]:
            share = 100 * block["n_positive"] / block["n_units"]
            found.append(
                f"{share:.1f} % of the test breasts are {truth.called}. Where fewer or more are, predictive values and "
                "calibration differ."
            )
        if block["small"]:
            found.append(f"The test split holds only {block['n_patients']} patients: every figure is uncertain.")
    found.append(
        f"Figures on val and test are those of the mean over {len(folds)} models; a single one was not measured alone."
        if len(folds) > 1
        else "One model was trained: how much another seed or fold would change the figures is not known."
    )
    return found
