"""Whom a pseudo-label may be given to: nobody who is held out, under whatever id or file."""

import pandas as pd
import pytest

from made_tables import cohort_config, make_images, make_manifest
from mammoflow import tables
from mammoflow.cohort import build_cohort
from mammoflow.duplicates import join_tables
from mammoflow.errors import UserError
from mammoflow.train.pseudo import check
from mammoflow.unlabelled import unlabelled

FILE = "f" * 64


def archive(name: str, unlabelled: list[str]) -> pd.DataFrame:
    """The manifest of 40 women, of whom some have no label."""
    manifest = make_manifest(make_images(40, name))
    named = manifest["patient_id"].isin(unlabelled)
    return manifest.assign(
        label_malignant=manifest["label_malignant"].mask(named), exclude_reason=named.map({True: "no_label"})
    )


def share(manifest: pd.DataFrame, number: int, *patients: str, file: str = FILE) -> pd.DataFrame:
    """``manifest`` after giving the image ``number`` of each of the patients the same file."""
    rows = [manifest.index[manifest["patient_id"] == patient][number] for patient in patients]
    changed = manifest.copy()
    changed.loc[rows, "source_sha256"] = file
    return changed


def split(manifest: pd.DataFrame) -> pd.DataFrame:
    return build_cohort(manifest, cohort_config("rsna", folds=2), seed=1).manifest


def woman(cohort: pd.DataFrame, side: str) -> str:
    """Somebody of a split, or of fold 1 of train."""
    rows = cohort[cohort["split"] == side] if side != "fold" else cohort[cohort["fold"] == 1]
    return rows["patient_id"].iloc[0]


@pytest.mark.parametrize("side", ["test", "val"])
def test_a_woman_who_shares_a_file_with_one_who_is_held_out_is_not_labelled(side):
    manifest = share(archive("rsna", ["P0001", "P0003"]), 0, "P0002", "P0003")
    cohort = split(manifest)
    assert cohort.groupby("patient_id")["group_id"].first()["P0003"] == "rsna:P0002"
    cohort.loc[(cohort["patient_id"] == "P0002"), ["split", "fold"]] = [side, pd.NA]
    assert set(unlabelled(manifest, cohort)["patient_id"]) == {"P0001"}


def test_a_file_that_is_itself_not_to_be_labelled_tells_as_well():
    """Of another archive, whose labelled images are not in the cohort: only all her files show who she is."""
    cohort = split(share(archive("rsna", []), 0, woman(split(archive("rsna", [])), "test")))
    other = archive("vindr_mammo", ["P0000", "P0001", "P0002"])
    first = other["image_id"].isin(["P0000_L_CC", "P0001_L_MLO"])
    other = other.assign(exclude_reason=other["exclude_reason"].mask(first, "flag:implant"))
    other = share(share(other, 0, "P0000"), 1, "P0000", "P0001", file="e" * 64)  # and through her another one
    assert set(unlabelled(other, cohort)["patient_id"]) == {"P0002"}


def test_she_keeps_to_the_fold_and_the_group_of_the_woman_she_shares_a_file_with():
    plain = archive("rsna", [])
    cohort = split(share(plain, 0, woman(split(plain), "fold")))
    other = share(archive("cmmd", ["P0000", "P0001"]), 0, "P0000")
    known = cohort[cohort["source_sha256"] == FILE].iloc[0]
    rows = unlabelled(other, cohort)
    joined = rows[rows["patient_id"] == "P0000"]
    assert set(joined["fold"]) == {known["fold"]} == {1}
    assert set(joined["group_id"]) == {known["group_id"]}
    assert set(rows.loc[rows["patient_id"] == "P0001", "group_id"]) == {"cmmd:P0001"}

    # Between two folds she could honestly teach neither.
    another = cohort.loc[cohort["fold"] == 0, "source_sha256"].iloc[0]
    assert set(unlabelled(share(other, 1, "P0000", file=another), cohort)["patient_id"]) == {"P0001"}


def test_pictures_join_women_as_files_do():
    cohort = split(archive("rsna", []))
    other = archive("cmmd", ["P0000", "P0001", "P0002"])
    held_out = cohort.loc[cohort["split"] == "test", "image_id"].iloc[0]
    pairs = pd.DataFrame(
        {"first": ["cmmd|P0001_L_CC", "cmmd|P0000_R_CC"], "second": [f"rsna|{held_out}", "cmmd|P0001_R_CC"]}
    )
    assert set(unlabelled(other, cohort, pairs)["patient_id"]) == {"P0002"}
    assert set(unlabelled(other, cohort)["patient_id"]) == {"P0000", "P0001", "P0002"}


def test_training_refuses_rows_that_a_file_ties_to_a_held_out_woman():
    cohort = split(archive("rsna", []))
    rows = unlabelled(archive("cmmd", ["P0000", "P0001"]), cohort)
    rows = tables.finish("manifest", rows.assign(label_malignant=1, label_source=f"{tables.PSEUDO}clf"))
    check(rows, cohort)
    file = cohort.loc[cohort["split"] == "test", "source_sha256"].iloc[0]
    with pytest.raises(UserError, match="4 pseudo-labelled images do not keep to split train"):
        check(share(rows, 2, "P0001", file=file), cohort)
    file = cohort.loc[cohort["fold"] == 1, "source_sha256"].iloc[0]
    with pytest.raises(UserError, match=r"4 pseudo-labelled images do not keep to .* their patient's fold"):
        check(share(rows, 2, "P0001", file=file), cohort)


def test_joined_groups_stand_in_both_tables():
    cohort = split(archive("rsna", []))
    other = share(archive("cmmd", []), 0, "P0003", file=cohort["source_sha256"].iloc[0])
    group, cohort_group = join_tables(other, cohort)
    assert group.index.equals(other.index)
    assert cohort_group.index.equals(cohort.index)
    assert set(group) & set(cohort_group) == {"cmmd:P0003"}
    assert group[other["patient_id"] == "P0003"].nunique() == 1
