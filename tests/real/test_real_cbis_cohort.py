"""The official CBIS-DDSM tables, all four together, as a cohort: its conflicts resolved, and nothing leaks.

The pictures are not here: every mammogram is declared converted. Labels, patients and splits are the real ones.
"""

from pathlib import Path

import pytest

from made_tables import cohort_config, make_manifest
from mammoflow.cohort import build_cohort
from mammoflow.datasets import cbis_ddsm

pytestmark = pytest.mark.real


@pytest.mark.parametrize(("policy", "kept_for_test"), [("test", True), ("drop", False)])
def test_31_patients_stand_in_both_splits_and_none_leaks(real_data: Path, policy: str, kept_for_test: bool) -> None:
    images = cbis_ddsm.inventory(real_data / "cbis-ddsm-csv").images
    present = images.assign(path=images["image_id"] + ".dcm", use="labelled", excluded_reason=None)
    both = present.groupby("patient_id")["split_official"].nunique()
    both = set(both[both == 2].index)
    assert len(both) == 31

    cohort = build_cohort(
        make_manifest(present), cohort_config("cbis_ddsm", official_conflict=policy, near_duplicates="ignore"), seed=1
    )
    assert cohort.audit["ok"]
    assert all(check["leaks"] == 0 for check in cohort.audit["checks"])
    assert len(cohort.audit["conflicts_resolved"]) == 31

    rows = cohort.manifest
    placed = rows[rows["split"].notna()]
    assert placed.groupby("patient_id")["split"].nunique().max() == 1
    conflicting = rows[rows["patient_id"].isin(both)]
    left_out = conflicting["exclude_reason"] == "official_conflict"
    assert left_out[conflicting["split_official"] == "training"].all()
    assert left_out[conflicting["split_official"] == "test"].any() != kept_for_test
    published_test = (rows["split_official"] == "test") & rows["split"].notna()
    assert (rows.loc[published_test, "split"] == "test").all()
    assert (rows.loc[rows["split"] == "test", "split_official"] == "test").all()
