"""Duplicates within and across archives: patients who share a file, or a picture, become one group."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def merge_groups(group_id: pd.Series, sha256: pd.Series) -> pd.Series:
    """Join groups that share a file.

    group_id, sha256: one value per image; a missing hash joins nothing. Returns the new group ids, each the smallest
    (by text) of those that were joined.
    """
    known = sha256.notna().to_numpy(dtype=bool)
    return _join(group_id, group_id[known], sha256[known])


def merge_near_duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The groups of ``manifest`` after joining those of the ``pairs`` of neardup.find_near_duplicates()."""
    group = pd.Series(
        manifest["group_id"].array, index=(manifest["dataset"] + "|" + manifest["image_id"]).to_numpy(object)
    )
    members = pd.concat([group.loc[pairs[side]] for side in ("first", "second")])
    return _join(manifest["group_id"], members, pd.Series(2 * list(range(len(pairs))), dtype="int64"))


def join_tables(
    rows: pd.DataFrame, cohort: pd.DataFrame, pairs: pd.DataFrame | None = None
) -> tuple[pd.Series, pd.Series]:
    """The groups of two manifests' rows after joining those that share a patient, a file, or a picture of ``pairs``.

    ``pairs``: of neardup.find_near_duplicates() over both, None where the pictures were not compared. Returns the
    groups of ``rows`` and those of ``cohort``, each with its table's index; a group may stand in both.
    """
    both = pd.concat([rows, cohort], ignore_index=True)
    known = both["source_sha256"].notna()
    links = [
        (both["group_id"], "patient|" + both["dataset"] + "|" + both["patient_id"]),
        (both.loc[known, "group_id"], "file|" + both.loc[known, "source_sha256"]),
    ]
    if pairs is not None:
        image = both.assign(name=both["dataset"] + "|" + both["image_id"]).drop_duplicates("name")
        group = image.set_index("name")["group_id"]
        number = pd.Series([f"picture|{index}" for index in range(len(pairs))], dtype="string")
        links += [(group.loc[pairs[side]], number) for side in ("first", "second")]
    members, keys = (pd.concat(part, ignore_index=True) for part in zip(*links, strict=True))
    joined = _join(both["group_id"], members, keys)
    return joined[: len(rows)].set_axis(rows.index), joined[len(rows) :].set_axis(cohort.index)


def _join(group_id: pd.Series, members: pd.Series, keys: pd.Series) -> pd.Series:
    """``group_id`` after joining the groups that have a key in common; members[i] (a group) has keys[i]."""
    groups, group_codes = np.unique(group_id.to_numpy(dtype=object), return_inverse=True)
    shared, key_codes = np.unique(keys.to_numpy(dtype=object), return_inverse=True)
    size = len(groups) + len(shared)
    member_codes = np.searchsorted(groups, members.to_numpy(dtype=object))
    edges = (np.ones(len(keys), dtype=np.int8), (member_codes, len(groups) + key_codes))
    _, component = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    component = component[: len(groups)]
    # groups is sorted, so the first group seen in a component has the smallest id.
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return pd.Series(groups[first][inverse][group_codes], index=group_id.index, dtype="string")


def copies(manifest: pd.DataFrame) -> pd.Series:
    """True for each row whose file also stands in an earlier row, (n_rows,) bool.

    Earlier means: taking part before left out, published test before training (a test set keeps its images), then by
    dataset and image_id.
    """
    rank = pd.DataFrame({
        "left_out": manifest["exclude_reason"].notna(),
        "not_test": (manifest["split_official"] != "test").fillna(True),
        "dataset": manifest["dataset"],
        "image_id": manifest["image_id"],
    })  # fmt: skip
    order = rank.sort_values(list(rank.columns), kind="stable").index
    sha256 = manifest.loc[order, "source_sha256"]
    return (sha256.duplicated() & sha256.notna()).astype(bool).reindex(manifest.index)
