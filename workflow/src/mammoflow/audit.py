"""Proof that a split is clean: nothing that belongs together stands on two sides.

The audit trusts nothing that built the split: it looks at the finished manifest only. To add a check (say, pictures
that nearly match), write a function ``manifest -> Check`` and append it to CHECKS.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

EXAMPLES = 10


@dataclass(frozen=True)
class Check:
    """checked: how many units were looked at; leaks: how many break the rule; examples: up to ten, in words."""

    name: str
    checked: int
    leaks: int
    examples: list[str] = field(default_factory=list)


def audit(manifest: pd.DataFrame, conflicts_resolved: list[dict[str, Any]] = ()) -> dict[str, Any]:
    """Run every check on a finished cohort manifest. Returns what audit.json holds; ``ok`` is False for any leak."""
    checks = [check(manifest) for check in CHECKS]
    return {
        "ok": not any(check.leaks for check in checks),
        "checks": [asdict(check) for check in checks],
        "conflicts_resolved": list(conflicts_resolved),
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
