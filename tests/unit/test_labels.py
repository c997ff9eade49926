import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoflow import labels, tables

DEFAULT = labels.default_policy()
PATHOLOGY = st.sampled_from([None, *tables.PATHOLOGIES])
GRADE = st.sampled_from([None, *tables.BIRADS])
POLICY = st.fixed_dictionaries({
    "normal_as": st.sampled_from(["benign", "exclude"]),
    "benign_without_callback": st.sampled_from(["benign", "exclude"]),
    "birads3": st.sampled_from(["exclude", "benign", "malignant"]),
    "birads4a": st.sampled_from(["malignant", "exclude", "benign"]),
    "unlabelled_side": st.sampled_from(["exclude", "normal"]),
})  # fmt: skip


def images(rows: list[dict]) -> pd.DataFrame:
    common = {"dataset": "x", "study_id": "s", "patient_id": "p", "group_id": "x:p", "use": "labelled"}
    return tables.finish(
        "images", pd.DataFrame([{**common, "image_id": f"{i:06d}", **row} for i, row in enumerate(rows)])
    )


def one(policy: dict | None = None, **evidence) -> dict:
    """The labelled row of one image; NA as None."""
    row = labels.apply_policy(images([evidence]), {**DEFAULT, **(policy or {})}).iloc[0]
    return {name: None if pd.isna(row[name]) else row[name] for name in row.index}


@pytest.mark.parametrize(
    ("pathology", "grade", "policy", "label", "category", "reason"),
    [
        ("MALIGNANT", None, {}, 1, "recall", None),
        ("MALIGNANT", "BI-RADS 2", {}, 1, "recall", None),  # pathology beats BI-RADS
        ("BENIGN", "BI-RADS 5", {}, 0, "benign", None),
        ("BENIGN_WITHOUT_CALLBACK", None, {}, 0, "benign", "benign_without_callback"),
        (
            "BENIGN_WITHOUT_CALLBACK",
            None,
            {"benign_without_callback": "exclude"},
            None,
            "benign",
            "benign_without_callback",
        ),
        ("UNPROVEN", "BI-RADS 5", {}, None, None, "unproven"),
        ("NORMAL", None, {}, 0, "normal", None),
        ("NORMAL", None, {"normal_as": "exclude"}, None, "normal", "normal"),
        ("NEGATIVE", "BI-RADS 0", {}, 0, "recall", None),
        ("NEGATIVE", "BI-RADS 1", {}, 0, "normal", None),
        ("NEGATIVE", "BI-RADS 2", {}, 0, "benign", None),
        ("NEGATIVE", None, {}, 0, None, None),
        (None, "BI-RADS 1", {}, 0, "normal", None),
        (None, "BI-RADS 1", {"normal_as": "exclude"}, None, "normal", "normal"),
        (None, "BI-RADS 2", {}, 0, "benign", None),
        (None, "BI-RADS 3", {}, None, "recall", "birads3"),
        (None, "BI-RADS 3", {"birads3": "benign"}, 0, "recall", "birads3"),
        (None, "BI-RADS 3", {"birads3": "malignant"}, 1, "recall", "birads3"),
        (None, "BI-RADS 4A", {}, 1, "recall", "birads4a"),
        (None, "BI-RADS 4A", {"birads4a": "exclude"}, None, "recall", "birads4a"),
        (None, "BI-RADS 4A", {"birads4a": "benign"}, 0, "recall", "birads4a"),
        (None, "BI-RADS 4", {"birads4a": "benign"}, 1, "recall", None),
        (None, "BI-RADS 4B", {}, 1, "recall", None),
        (None, "BI-RADS 4C", {}, 1, "recall", None),
        (None, "BI-RADS 5", {}, 1, "recall", None),
        (None, "BI-RADS 6", {}, 1, "recall", None),
        (None, "BI-RADS 0", {}, None, "recall", "birads0"),
        (None, None, {}, None, None, None),
    ],
)
def test_every_line_of_the_policy_table(pathology, grade, policy, label, category, reason):
    row = one(policy, pathology=pathology, breast_birads=grade)
    assert (row["label_malignant"], row["label_3cat"], row["uncertain"]) == (label, category, reason)
    assert row["use"] == ("unlabelled" if label is None else "labelled")


def test_source_names_the_evidence():
    assert one(breast_birads="BI-RADS 5")["label_source"] == "birads"
    assert one(breast_birads="BI-RADS 3")["label_source"] == "birads"
    assert one()["label_source"] == "none"
    assert one(pathology="MALIGNANT")["label_source"] == "pathology"
    assert one(pathology="NEGATIVE")["label_source"] == "followup"
    assert one(pathology="NEGATIVE", label_source="pathology")["label_source"] == "pathology"
    assert one(pathology="NORMAL", label_source="folder", breast_birads="BI-RADS 1")["label_source"] == "folder"


def test_the_contralateral_breast_is_unknown_unless_the_policy_says_normal():
    unknown = one(uncertain="contralateral_unlabelled")
    assert (unknown["label_malignant"], unknown["label_3cat"]) == (None, None)
    assert unknown["use"] == "unlabelled"
    assumed = one({"unlabelled_side": "normal"}, uncertain="contralateral_unlabelled")
    assert (assumed["label_malignant"], assumed["label_3cat"], assumed["label_source"]) == (0, "normal", "none")
    assert assumed["uncertain"] == "contralateral_unlabelled"


def test_an_adapters_words_stay_and_policy_words_are_renewed():
    row = one({"birads3": "benign"}, breast_birads="BI-RADS 3", uncertain="density_3class;birads4a")
    assert row["uncertain"] == "density_3class;birads3"


def test_excluded_rows_stay_excluded_but_keep_their_label():
    row = one(pathology="MALIGNANT", use="excluded", excluded_reason="missing_file")
    assert (row["use"], row["excluded_reason"], row["label_malignant"]) == ("excluded", "missing_file", 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(PATHOLOGY, GRADE, st.booleans()), min_size=1, max_size=30), POLICY)
def test_every_image_is_labelled_unlabelled_or_excluded_with_a_reason(evidence, policy):
    table = pd.DataFrame(evidence, columns=["pathology", "breast_birads", "absent"])
    table = table.assign(
        dataset="x",
        label_source=pd.NA,
        uncertain=pd.NA,
        use=table["absent"].map({True: "excluded", False: "labelled"}),
        excluded_reason=table["absent"].map({True: "missing_file", False: pd.NA}),
    )
    judged = labels.apply_policy(table.drop(columns="absent").astype("string"), policy)
    assert judged["use"].isin(["labelled", "unlabelled", "excluded"]).all()
    excluded = judged["use"] == "excluded"
    assert (excluded == table["absent"]).all()
    assert (excluded == judged["excluded_reason"].notna()).all()
    known = judged["label_malignant"].notna()
    assert known[judged["use"] == "labelled"].all()
    assert not known[judged["use"] == "unlabelled"].any()


@given(st.lists(st.tuples(PATHOLOGY, GRADE), min_size=1, max_size=30), POLICY, POLICY)
def test_a_second_policy_replaces_the_first(evidence, first, second):
    table = pd.DataFrame(evidence, columns=["pathology", "breast_birads"]).astype("string")
    table = table.assign(dataset="x", label_source=pd.NA, uncertain=pd.NA, use="labelled").astype("string")
    once = labels.apply_policy(table, second)
    pd.testing.assert_frame_equal(labels.apply_policy(labels.apply_policy(table, first), second), once)
    assert len(once) == len(table)
    assert (once["label_malignant"].notna() == (once["use"] == "labelled")).all()


def test_without_normals_an_archive_of_negatives_takes_part_where_it_is_graded():
    """RSNA's second site has no grade: with its negatives alone left out, the site would be all cancers."""
    rsna = [
        {"dataset": "rsna", "pathology": pathology, "breast_birads": grade}
        for grade in ("BI-RADS 0", "BI-RADS 1", "BI-RADS 2", None)
        for pathology in ("NEGATIVE", "MALIGNANT")
    ]
    other = {"dataset": "tcga_brca", "pathology": "MALIGNANT"}
    table = images([*rsna, other])
    judged = labels.apply_policy(table, {**DEFAULT, "normal_as": "exclude"})
    assert judged["label_malignant"].fillna(-1).tolist() == [0, 1, -1, 1, 0, 1, -1, -1, 1]
    assert judged["uncertain"].fillna("").tolist() == ["", "", "normal", "", "", "", "ungraded", "ungraded", ""]
    assert judged["label_3cat"].iloc[7] == "recall"
    assert labels.apply_policy(judged, DEFAULT)["label_malignant"].tolist() == [0, 1] * 4 + [1]


def test_findings_use_their_own_truth_only():
    findings = pd.DataFrame({
        "pathology": ["MALIGNANT", None, None, None, "UNPROVEN"],
        "finding_birads": [None, "BI-RADS 5", "BI-RADS 3", None, None],
        "breast_birads": ["BI-RADS 2"] * 5,
    })  # fmt: skip
    judged = labels.apply_policy_to_findings(findings, DEFAULT)["label_malignant"]
    assert judged.astype(object).where(judged.notna(), None).tolist() == [1, 1, None, None, None]
    empty = labels.apply_policy_to_findings(pd.DataFrame(columns=["finding_id"]), DEFAULT)
    assert empty.empty
    assert "label_malignant" in empty


def test_rows_keep_their_index_and_order():
    table = images([{"pathology": "BENIGN"}, {"pathology": "MALIGNANT"}, {}]).iloc[[2, 0, 1]]
    judged = labels.apply_policy(table, DEFAULT)
    assert judged.index.tolist() == [2, 0, 1]
    assert judged["label_malignant"].fillna(-1).tolist() == [-1, 0, 1]


def test_all_of_rsna_takes_well_under_a_second():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "dataset": "rsna",
        "pathology": rng.choice(["MALIGNANT", "NEGATIVE"], 54_706),
        "breast_birads": rng.choice([*tables.BIRADS[:3], None], 54_706),
    })  # fmt: skip
    for name in ("label_source", "uncertain", "use"):
        table[name] = pd.Series(pd.NA, index=table.index, dtype="string")
    start = time.process_time()
    labels.apply_policy(table, DEFAULT)
    assert time.process_time() - start < 1


def test_words_outside_the_schema_are_a_programming_error():
    with pytest.raises(ValueError, match="PATHOLOGIES"):
        labels.judge("CANCER", None, DEFAULT)
    with pytest.raises(ValueError, match="BIRADS"):
        labels.judge(None, "BI-RADS 7", DEFAULT)
