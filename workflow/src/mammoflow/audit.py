"""Proof that a split is clean: nothing that belongs together stands on two sides.

The audit trusts nothing that built the split: it looks at the finished manifest, and at the pictures that were found to
show the same exposure. To add a check, write a function ``manifest -> Check`` and append it to CHECKS.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from mammoflow.tables import PSEUDO

EXAMPLES = 10


@dataclass(frozen=True)
class Check:
    """checked: how many units were looked at; leaks: how many break the rule; examples: up to ten, in words."""

    name: str
    checked: int
    leaks: int
    examples: list[str] = field(default_factory=list)


def audit(
    manifest: pd.DataFrame,
    conflicts_resolved: list[dict[str, Any]] = (),
    near_duplicates: pd.DataFrame | None = None,
    enforce_near_duplicates: bool = True,
) -> dict[str, Any]:
    """Run every check on a finished cohort manifest. Returns what audit.json holds; ``ok`` is False for any leak.

    near_duplicates: the pairs of neardup.find_near_duplicates(); None where the pictures were not compared. The result
    lists them with ``crosses`` (they stand in two splits or two folds). Without ``enforce_near_duplicates`` a crossing
    pair is listed, and is no leak.
    """
    checks = [check(manifest) for check in CHECKS]
    pairs = None
    if near_duplicates is not None:
        placed = _pair_sides(manifest, near_duplicates)
        if enforce_near_duplicates:
            checks += [pictures_keep_to_one(side, placed) for side in ("split", "fold")]
        crosses = placed["crosses_split"] | placed["crosses_fold"]
        pairs = near_duplicates.assign(crosses=crosses).to_dict("records")
    return {
        "ok": not any(check.leaks for check in checks),
        "checks": [asdict(check) for check in checks],
        "conflicts_resolved": list(conflicts_resolved),
        "near_duplicates": pairs,
    }


def first_leak(result: dict[str, Any]) -> str:
    """The first failed check of an audit in one sentence."""
    check = next(check for check in result["checks"] if check["leaks"])
    return f"{check['name']}: {check['leaks']} of {check['checked']} leak, for example {check['examples'][0]}"


def groups_keep_to_one_split(manifest: pd.DataFrame) -> Check:
    """A group is all in train, all in val or all in test."""
    return _one_side("group in one split", manifest["group_id"], manifest["split"])


def patients_keep_to_one_split(manifest: pd.DataFrame) -> Check:
    """The same by the archive's own patient ids, whatever the groups say."""
    return _one_side("patient in one split", _patients(manifest), manifest["split"])


def files_keep_to_one_split(manifest: pd.DataFrame) -> Check:
    """Byte-identical files, within and across archives."""
    return _one_side("identical files in one split", manifest["source_sha256"], manifest["split"])


def groups_keep_to_one_fold(manifest: pd.DataFrame) -> Check:
    """Out-of-fold scores are honest only if a fold's model never saw the group."""
    return _one_side("group in one fold", manifest["group_id"], manifest["fold"])


def patients_keep_to_one_fold(manifest: pd.DataFrame) -> Check:
    return _one_side("patient in one fold", _patients(manifest), manifest["fold"])


def files_keep_to_one_fold(manifest: pd.DataFrame) -> Check:
    return _one_side("identical files in one fold", manifest["source_sha256"], manifest["fold"])


def pictures_keep_to_one(side: str, placed: pd.DataFrame) -> Check:
    """The two pictures of a near-duplicate pair stand in one ``side`` (split or fold). placed: see _pair_sides()."""
    wrong = placed[placed[f"crosses_{side}"]]
    examples = [
        f"{row['first']} in {row[f'first_{side}']}, {row['second']} in {row[f'second_{side}']}"
        for row in wrong.head(EXAMPLES).to_dict("records")
    ]
    return Check(f"near-duplicate pictures in one {side}", len(placed), len(wrong), examples)


def pseudo_labels_stay_in_train(manifest: pd.DataFrame) -> Check:
    """What a model labelled may teach, never judge: such a row in val or test would measure one model by another."""
    pseudo = manifest[manifest["label_source"].str.startswith(PSEUDO).fillna(False)]
    wrong = pseudo[pseudo["split"].isin(["val", "test"])]
    examples = (wrong["dataset"] + "|" + wrong["image_id"] + " in " + wrong["split"]).head(EXAMPLES).tolist()
    return Check("pseudo-labels in train only", len(pseudo), len(wrong), examples)


def rows_are_accounted_for(manifest: pd.DataFrame) -> Check:
    """A row takes part and has a split (and, in train, a fold), or says why not and has neither."""
    takes_part = manifest["exclude_reason"].isna()
    wrong = (takes_part != manifest["split"].notna()) | (
        (manifest["split"] == "train").fillna(False) != manifest["fold"].notna()
    )
    return Check(
        "every row placed or excluded",
        len(manifest),
        int(wrong.sum()),
        (manifest["dataset"] + "|" + manifest["image_id"])[wrong].head(EXAMPLES).tolist(),
    )


CHECKS: list[Callable[[pd.DataFrame], Check]] = [
    groups_keep_to_one_split,
    patients_keep_to_one_split,
    files_keep_to_one_split,
    groups_keep_to_one_fold,
    patients_keep_to_one_fold,
    files_keep_to_one_fold,
    pseudo_labels_stay_in_train,
    rows_are_accounted_for,
]


def _patients(manifest: pd.DataFrame) -> pd.Series:
    return manifest["dataset"] + "|" + manifest["patient_id"]


def _one_side(name: str, keys: pd.Series, sides: pd.Series) -> Check:
    """Count the keys that stand on more than one side; rows without key or side do not take part."""
    pairs = pd.DataFrame({"key": keys, "side": sides.astype("string")}).dropna().drop_duplicates()
    crossing = pairs[pairs["key"].duplicated(keep=False)].sort_values(["key", "side"]).groupby("key")["side"].agg(list)
    examples = [f"{key} in {' and '.join(found)}" for key, found in crossing.head(EXAMPLES).items()]
    return Check(name, int(pairs["key"].nunique()), len(crossing), examples)


def _pair_sides(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` with both images' split and fold, and whether they differ; an image without one is on no side."""
    names = (manifest["dataset"] + "|" + manifest["image_id"]).to_numpy(object)
    sides = manifest[["split", "fold"]].astype("string").set_index(names)
    placed = pairs[["first", "second"]].copy()
    for side in ("split", "fold"):
        one, other = (sides.loc[pairs[which], side].array for which in ("first", "second"))
        placed[f"first_{side}"], placed[f"second_{side}"] = one, other
        placed[f"crosses_{side}"] = pd.array(one != other, dtype="boolean").fillna(False).to_numpy(bool)
    return placed
