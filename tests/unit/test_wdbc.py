"""Real data through the tabular half: Wisconsin Diagnostic Breast Cancer (Wolberg et al. 1993), from scikit-learn.

Its 30 columns measure cell nuclei in a fine-needle aspirate, so in a mammography run they would be outcomes and are
refused by name; here they enter below that check, where the fusion is plain statistics. One row is one patient with one
breast. There is no picture: the image score is the same for all, and image and floor must say so.
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from mammoflow import features, fuse, headline, settings, tables
from mammoflow.errors import UserError
from mammoflow.evaluate import evaluate

OPTIONS = settings.resolve_section("evaluate", {"bootstrap": 200})


@pytest.fixture(scope="module")
def table():
    data = load_breast_cancer(as_frame=True)
    malignant = 1 - data.target  # scikit-learn: 0 is malignant
    return data.data.set_axis(data.data.columns.str.replace(" ", "_"), axis=1), malignant.rename("label_malignant")


def breasts(labels, test, rng):
    """Id columns, split and folds of every row: ``test`` as given, a sixth of the rest val, three folds in train."""
    names = [f"W{number:03d}" for number in range(len(labels))]
    split = pd.Series("train", index=names)
    rest = np.flatnonzero(~test)
    split.iloc[np.flatnonzero(test)] = "test"
    split.iloc[rng.permutation(rest)[: len(rest) // 6]] = "val"
    frame = pd.DataFrame(
        {
            "unit_id": [f"wdbc|{name}|L" for name in names],
            "dataset": "wdbc",
            "patient_id": names,
            "study_id": names,
            "group_id": names,
            "laterality": "L",
            "split": split,
            "fold": pd.Series(rng.integers(0, 3, len(names)), index=names).where(split == "train"),
            "label_malignant": labels.to_numpy(),
            "score": 0.5,
        }
    )
    return frame.astype({"fold": "Int64", "label_malignant": "Int64"})


@pytest.fixture(scope="module")
def folds(table):
    """(fused table, summary) of each of five outer folds."""
    matrix, labels = table
    found = []
    for number, (_, held) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(matrix, labels)):
        test = np.zeros(len(labels), bool)
        test[held] = True
        rows = breasts(labels, test, np.random.default_rng(number))
        columns = matrix.set_axis(rows.index, axis=0)
        nothing = pd.DataFrame(index=rows.index)
        found.append(fuse.fit_scores(rows, columns, nothing, [], "auto", seed=number))
    return found


def test_five_fold_auc_is_that_of_the_literature(folds):
    """Boosted trees reach 0.99 on this table; so must the fusion's learner, mean over folds and pooled."""
    aucs = [summary["auc"]["test"]["fused"] for _, summary in folds]
    assert np.mean(aucs) >= 0.99
    assert min(aucs) >= 0.97
    test = pd.concat([fused[fused["split"] == "test"] for fused, _ in folds])
    assert test["unit_id"].is_unique
    assert len(test) == 569
    assert roc_auc_score(test["label_malignant"].astype(int), test["score_fused"].astype(float)) >= 0.985


def test_evaluate_agrees_and_gives_the_table_its_interval(table, folds):
    fused, summary = folds[0]
    ids = ["unit_id", "dataset", "patient_id", "study_id", "group_id", "laterality", "split", "fold", "label_malignant"]
    rows = fused[ids].assign(score=fused["score_image"])
    images = rows.assign(image_id=rows["patient_id"], view_position="CC", unit_id="wdbc|" + rows["patient_id"])
    patients = rows.assign(laterality=pd.NA, study_id=pd.NA, unit_id="wdbc|" + rows["patient_id"])
    levels = {"image": images, "breast": rows, "patient": patients}
    predictions = tables.finish("predictions", pd.concat([part.assign(level=name) for name, part in levels.items()]))
    manifest = images.drop(columns=["score", "unit_id"]).assign(label_policy="none")
    manifest = tables.finish("manifest", manifest)
    blocks, _, head = evaluate(manifest, predictions, fused, OPTIONS, seed=0)
    found = headline.select(blocks, level="breast", split="test", model="fused")[0]
    number = found["metrics"]["auc"]
    assert number["value"] == summary["auc"]["test"]["fused"]
    assert 0.95 < number["low"] <= number["value"] <= number["high"] <= 1
    assert number["delong"]["high"] - number["delong"]["low"] < 0.06
    assert found["metrics"]["brier"]["value"] < 0.06
    # Without a picture there is nothing to see, and no gain is claimed over the floor.
    image = headline.select(blocks, level="breast", split="test", model="image")[0]["metrics"]["auc"]
    assert image["value"] == 0.5
    test = [row for row in head["differences"] if (row["level"], row["split"]) == ("breast", "test")]
    gain = next(row for row in test if (row["first"], row["second"]) == ("fused", "metadata"))
    assert abs(gain["value"]) < 0.01


def test_such_a_floor_is_suspected_and_its_columns_are_refused_by_name(table, folds):
    assert any("written after the diagnosis" in sentence for sentence in folds[0][1]["suspicions"])
    with pytest.raises(UserError, match="not a known feature"):
        features.check_features(list(table[0]), allow_read=True)
