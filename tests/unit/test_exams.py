"""One row per study, derived from the images."""

import pandas as pd

from mammoflow import tables
from mammoflow.exams import derive_exams


def exams_of(rows: list[dict]) -> pd.DataFrame:
    common = {"dataset": "rsna", "group_id": "g", "use": "labelled"}
    frame = pd.DataFrame(
        [{**common, "image_id": str(k), "patient_id": row["study_id"], **row} for k, row in enumerate(rows)]
    )
    return derive_exams(tables.finish("images", frame)).set_index("study_id")


def test_an_exam_gathers_its_images():
    views = [("R", "MLO"), ("L", "CC"), ("R", "CC"), ("L", "MLO"), ("L", "CC"), ("L", pd.NA), (pd.NA, "CC")]
    rows = [{"study_id": "s", "laterality": side, "view_position": view} for side, view in views]
    exam = exams_of(rows).loc["s"]
    assert (exam["n_images"], exam["views"], exam["complete_4view"]) == (7, "LCC;LMLO;RCC;RMLO", 1)


def test_three_views_are_not_complete():
    rows = [{"study_id": "s", "laterality": "L", "view_position": view} for view in ("CC", "MLO", "ML", "XCCL")]
    exam = exams_of(rows).loc["s"]
    assert (exam["views"], exam["complete_4view"]) == ("LCC;LML;LMLO;LXCCL", 0)


def test_labels_are_the_worst_of_their_side_and_unknown_stays_unknown():
    rows = [
        {"study_id": "a", "laterality": "L", "label_malignant": 0, "label_3cat": "normal"},
        {"study_id": "a", "laterality": "L", "label_malignant": 1, "label_3cat": "recall"},
        {"study_id": "a", "laterality": "R", "label_3cat": "benign"},
        {"study_id": "b", "laterality": "R", "label_malignant": 0, "label_3cat": "benign"},
        {"study_id": "b", "laterality": pd.NA, "label_malignant": 1, "label_3cat": "normal"},
        {"study_id": "c", "laterality": "L"},
    ]
    exams = exams_of(rows)
    assert exams.loc["a", ["label_malignant_L", "label_malignant"]].tolist() == [1, 1]
    assert pd.isna(exams.loc["a", "label_malignant_R"])
    assert exams.loc["b", ["label_malignant_R", "label_malignant", "label_3cat"]].tolist() == [0, 1, "benign"]
    assert exams.loc["a", "label_3cat"] == "recall"
    assert (
        exams.loc["c", ["label_malignant", "label_malignant_L", "label_3cat", "views", "breast_density"]].isna().all()
    )
    assert exams.loc["c", "complete_4view"] == 0


def test_the_densest_breast_and_the_oldest_age_stand_for_the_exam():
    rows = [
        {"study_id": "a", "breast_density": "DENSITY B", "age": 50, "site": pd.NA},
        {"study_id": "a", "breast_density": "DENSITY C", "age": 51, "site": "2"},
        {"study_id": "a", "split_official": "test"},
    ]
    exam = exams_of(rows).loc["a"]
    assert exam[["breast_density", "age", "site", "split_official"]].tolist() == ["DENSITY C", 51, "2", "test"]


def test_equal_study_ids_of_two_datasets_stay_apart():
    rows = [{"study_id": "s", "dataset": name, "laterality": "L", "view_position": "CC"} for name in ("rsna", "mias")]
    exams = exams_of(rows)
    assert sorted(exams["dataset"]) == ["mias", "rsna"]
    assert exams["n_images"].tolist() == [1, 1]


def test_no_images_no_exams():
    assert derive_exams(tables.finish("images", pd.DataFrame())).empty
