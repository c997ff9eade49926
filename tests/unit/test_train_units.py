import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoflow import tables
from mammoflow.features import unit_key
from mammoflow.train.units import build_units, participants, shuffle_labels
from mammoflow.unit_labels import LABELS


def manifest(rows):
    """A finished manifest from short rows: patient, side, view, label, split, fold."""
    columns = ["patient_id", "laterality", "view_position", "label_malignant", "split", "fold"]
    frame = pd.DataFrame(rows, columns=columns).assign(dataset="d", label_policy="l")
    frame["study_id"] = frame["patient_id"]
    frame["group_id"] = "d|" + frame["patient_id"]
    frame["image_id"] = [f"{number:04d}" for number in range(len(frame))]
    frame["image_path"] = frame["image_id"] + ".png"
    return tables.finish("manifest", frame)


def cohort(patients, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        split = ["train", "val", "test"][number % 3]
        for side in ["L", "R"][: 1 + number % 2]:
            label = int(generator.random() < 0.4)
            rows += [
                (f"p{number}", side, view, label, split, 0 if split == "train" else None) for view in ("CC", "MLO")
            ]
    return manifest(rows)


def test_a_breast_holds_all_its_views_and_the_worst_label():
    rows = participants(manifest([
        ("a", "L", "CC", 0, "train", 1),
        ("a", "L", "MLO", 1, "train", 1),
        ("a", "R", "CC", None, "train", 1),
        ("b", None, "CC", 0, "test", None),
    ]))  # fmt: skip
    left, right, unknown = build_units(rows, "breast")
    assert (left.unit_id, left.label, left.fold) == ("d|a|L", 1, 1)
    assert left.images == (("d", "0000"), ("d", "0001"))
    assert right.label is None
    assert (unknown.unit_id, unknown.split, unknown.fold) == ("d|b|NA", "test", None)
    assert [unit.label for unit in build_units(rows, "image")] == [0, 1, None, 0]
    assert unit_key(rows, "patient").tolist() == ["d|a", "d|a", "d|a", "d|b"]


def test_only_converted_rows_in_a_split_take_part():
    rows = manifest([("a", "L", "CC", 0, "train", 0)] * 4)
    rows.loc[1, "exclude_reason"] = "duplicate"
    rows.loc[2, "image_path"] = pd.NA
    rows.loc[3, "split"] = pd.NA
    assert participants(rows)["image_id"].tolist() == ["0000"]


def test_truth_is_read_off_all_images_and_unknown_is_not_benign():
    rows = manifest([
        ("film", "L", "CC", 0, "test", None),
        ("film", "L", "MLO", 1, None, None),  # left out: the other published split
        ("film", "R", "CC", 0, "test", None),
        ("grade", "L", "CC", 0, "test", None),
        ("grade", "R", "CC", None, None, None),  # BI-RADS 3
        ("raw", "L", "CC", 0, "test", None),
        ("raw", "R", "CC", None, None, None),  # no mammogram of the usual kind: says nothing of any breast
        ("half", "L", "CC", 0, "test", None),
        ("half", "L", "MLO", None, None, None),  # of a breast that is known
    ])  # fmt: skip
    reasons = [None, "official_conflict", None, None, "no_label:birads_3", None, "not_mammography", None, "no_label"]
    known = participants(rows.assign(exclude_reason=pd.array(reasons, dtype="string")))
    units = {unit.unit_id: (unit.label, len(unit.images)) for unit in build_units(known, "breast")}
    assert units == {"d|film|L": (1, 1), "d|film|R": (0, 1), "d|grade|L": (0, 1), "d|half|L": (0, 1), "d|raw|L": (0, 1)}
    assert [unit.label for unit in build_units(known, "image")] == [0] * 5
    patients = known.groupby("patient_id")["label_patient"].first()
    assert patients["film"] == 1
    assert pd.isna(patients["grade"])
    assert (patients["half"], patients["raw"]) == (0, 0)


def test_a_breast_at_two_exams_is_two_samples():
    rows = manifest([("a", "L", view, label, "train", 0) for label in (0, 1) for view in ("CC", "MLO")])
    known = participants(rows.assign(study_id=["2018", "2018", "2022", "2022"]))
    assert [(unit.unit_id, unit.label) for unit in build_units(known, "breast")] == [("d|2018|L", 0), ("d|2022|L", 1)]
    assert known["label_patient"].tolist() == [1] * 4


def by_breast(rows):
    return rows.groupby(["split", "group_id", "laterality"])["label_malignant"].agg(["min", "max"])


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 90), st.integers(0, 5))
def test_shuffled_labels_keep_counts_and_company(patients, seed):
    rows = cohort(patients, seed)  # at least ten patients of each split have one breast, and ten have two
    shuffled = shuffle_labels(rows, seed)
    labels = list(LABELS.values())
    assert shuffled.drop(columns=labels).equals(rows.drop(columns="label_malignant"))
    before, after = by_breast(rows), by_breast(shuffled)
    assert (after["min"] == after["max"]).all()
    for split in ("train", "val", "test"):
        # How many patients have which (left, right) labels.
        patterns = [frame.loc[split]["max"].unstack().fillna(-1).value_counts().to_dict() for frame in (before, after)]
        assert patterns[0] == patterns[1]


def test_few_patients_of_a_kind_are_exchanged_all_the_same():
    rows = cohort(27)  # nine in each split: every patient may receive from every other
    received = [shuffle_labels(rows, seed)["label_malignant"] for seed in range(40)]
    varied = pd.concat(received, axis=1).nunique(axis=1)
    assert (varied == 2).all()


def test_shuffling_is_seeded_and_really_shuffles():
    rows = cohort(300)
    first, again, other = (shuffle_labels(rows, seed)["label_malignant"] for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    truth = rows["label_malignant"].astype(float)
    assert abs(np.corrcoef(truth, first.astype(float))[0, 1]) < 0.2


def test_unlabelled_images_stay_unlabelled():
    rows = cohort(60)
    rows.loc[::5, "label_malignant"] = pd.NA
    shuffled = shuffle_labels(rows, 3)
    assert (shuffled["label_malignant"].isna() == rows["label_malignant"].isna()).all()
