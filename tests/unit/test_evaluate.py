"""Evaluation: thresholds from val only, every dataset by itself, and a reason wherever there is no number."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from mammoflow import bootstrap, evaluate, fuse, headline, levels, measure, settings, tables
from mammoflow.cli import main
from mammoflow.errors import UserError
from mammoflow.report import figures
from results_tree import cohort_tables, predictions_of

SECTION = settings.resolve_section("run", {"cohort": "pooled", "evaluate": {"bootstrap": 100}})


@pytest.fixture(scope="module")
def cohort():
    manifest, findings = cohort_tables(180, seed=1)
    predictions = predictions_of(manifest, seed=2)
    fused, _ = fuse.fuse(manifest, findings, predictions, SECTION, seed=3)
    return manifest, predictions, fused


@pytest.fixture(scope="module")
def results(cohort):
    return evaluate.evaluate(*cohort, SECTION["evaluate"], seed=3)


def block(blocks, subgroup=None, value=None, **wanted):
    found = [
        b for b in headline.select(blocks, subgroup, **wanted) if value in (None, (b["subgroup"] or {}).get("value"))
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("level", ["image", "breast", "patient"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_levels_and_splits_agree_with_scikit_learn(cohort, results, level, split):
    rows = cohort[1][(cohort[1]["level"] == level) & (cohort[1]["split"] == split)]
    found = block(results[0], level=level, split=split, model="image")
    assert found["metrics"]["auc"]["value"] == pytest.approx(
        roc_auc_score(rows["label_malignant"].astype(int), rows["score"])
    )
    assert found["n_units"] == len(rows)
    assert found["n_patients"] == rows["group_id"].nunique()
    assert found["metrics"]["auc"]["low"] < found["metrics"]["auc"]["value"] < found["metrics"]["auc"]["high"]


def test_breast_level_shows_floor_and_fusion(cohort, results):
    test = cohort[2][cohort[2]["split"] == "test"]
    for model in ("image", "metadata", "fused", "calibrated"):
        found = block(results[0], level="breast", split="test", model=model)
        expected = roc_auc_score(test["label_malignant"].astype(int), test[f"score_{model}"])
        assert found["metrics"]["auc"]["value"] == pytest.approx(expected)


def test_threshold_comes_from_val_alone(cohort, results):
    manifest, predictions, fused = cohort
    chosen = results[2]["thresholds"]["image"]["image"]["threshold"]
    val = predictions[(predictions["level"] == "image") & (predictions["split"] == "val")]
    negatives = val.loc[val["label_malignant"] == 0, "score"]
    assert (negatives < chosen).mean() >= 0.9
    other = predictions.copy()
    test = other["split"] == "test"
    other.loc[test, "score"] = np.random.default_rng(0).random(test.sum())
    again = evaluate.evaluate(manifest, other, fused, SECTION["evaluate"], seed=3)
    assert again[2]["thresholds"]["image"]["image"] == results[2]["thresholds"]["image"]["image"]
    found = block(results[0], level="image", split="test", model="image")
    rows = predictions[(predictions["level"] == "image") & test]
    assert found["confusion"]["tp"] == int(((rows["score"] >= chosen) & (rows["label_malignant"] == 1)).sum())
    assert found["threshold"] == chosen


def test_every_dataset_stands_by_itself_with_every_metric(results):
    pooled = block(results[0], level="breast", split="test", model="fused")
    parts = headline.select(results[0], "dataset", level="breast", model="fused")
    assert [part["subgroup"]["value"] for part in parts] == ["cbis_ddsm", "mias"]
    assert sum(part["n_units"] for part in parts) == pooled["n_units"]
    assert set(parts[0]["metrics"]) == set(pooled["metrics"])


def test_subgroups_partition_and_small_ones_are_marked(cohort, results):
    pooled = block(results[0], level="image", split="test", model="image")
    for column in ("density", "age_band", "view", "site", "manufacturer"):
        parts = headline.select(results[0], column, level="image", model="image")
        assert sum(part["n_units"] for part in parts) == pooled["n_units"]
        for part in parts:
            assert part["small"] == (part["n_patients"] < SECTION["evaluate"]["min_subgroup"])
    assert {
        part["subgroup"]["value"] for part in headline.select(results[0], "finding", level="image", model="image")
    } == {
        "Mass",
        "none marked",
    }
    assert not headline.select(results[0], "view", level="breast")


def test_differences_are_paired(results):
    difference = next(
        r for r in results[2]["differences"] if (r["split"], r["first"], r["second"]) == ("test", "fused", "metadata")
    )
    first, second = (block(results[0], level="breast", split="test", model=name) for name in ("fused", "metadata"))
    assert difference["value"] == pytest.approx(first["metrics"]["auc"]["value"] - second["metrics"]["auc"]["value"])
    assert difference["low"] < difference["value"] < difference["high"]


def test_same_seed_same_numbers_other_seed_other_intervals(cohort, results):
    again = evaluate.evaluate(*cohort, SECTION["evaluate"], seed=3)
    assert json.dumps(again) == json.dumps(results)
    other = evaluate.evaluate(*cohort, SECTION["evaluate"], seed=4)
    first, second = (
        block(part[0], level="image", split="test", model="image")["metrics"]["auc"] for part in (results, other)
    )
    assert first["value"] == second["value"]
    assert first["low"] != second["low"]


def test_unlabelled_units_are_counted_not_scored(cohort):
    manifest, predictions, fused = cohort
    some = predictions.copy()
    rows = some.index[(some["level"] == "image") & (some["split"] == "test")][:7]
    some.loc[rows, "label_malignant"] = pd.NA
    found = block(
        evaluate.evaluate(manifest, some, fused, SECTION["evaluate"], 0)[0], level="image", split="test", model="image"
    )
    assert found["n_unlabelled"] == 7
    assert found["n_units"] == ((some["level"] == "image") & (some["split"] == "test")).sum() - 7


def test_single_class_and_empty_splits_give_null_with_a_reason(cohort):
    manifest, predictions, fused = cohort
    healthy = predictions[predictions["split"] != "val"].copy()
    test = healthy["split"] == "test"
    healthy.loc[test, "label_malignant"] = 0
    blocks, curves, head = evaluate.evaluate(manifest, healthy, fused, SECTION["evaluate"], 0)
    found = block(blocks, level="breast", split="test", model="image")
    assert found["metrics"]["auc"] == {
        "value": None,
        "low": None,
        "high": None,
        "dropped": 0,
        "reason": f"needs at least 1 positive and 1 negative units; has 0 and {found['n_units']}",
    }
    assert found["metrics"]["brier"]["value"] is None
    assert found["confusion"] is None
    assert found["reason"] == "one class only"
    assert head["thresholds"]["image"]["image"]["reason"] == "val holds no negative unit"
    assert block(blocks, level="image", split="val", model="image")["reason"] == "no labelled unit"
    assert all(not curve["roc"] and curve["reason"] for curve in curves)
    json.dumps([blocks, curves, head], allow_nan=False)


def test_thin_validation_is_said(cohort):
    units = pd.DataFrame({"split": ["val"] * 4, "label": [0, 0, 0, 1], "image": [0.1, 0.2, 0.3, 0.9]})
    chosen = measure.choose_threshold(units, "image", 0.9)
    assert chosen["threshold"] == 0.9
    assert "only 3 negative units" in chosen["reason"]


def test_perfect_scores_do_not_claim_certainty(cohort):
    manifest, predictions, fused = cohort
    perfect = predictions.copy()
    perfect["score"] = perfect["label_malignant"] * 0.8 + 0.1
    found = block(
        evaluate.evaluate(manifest, perfect, fused, SECTION["evaluate"], 0)[0],
        level="image",
        split="test",
        model="image",
    )
    assert found["metrics"]["auc"]["value"] == 1.0
    assert found["metrics"]["auc"]["low"] is None
    sensitivity = found["metrics"]["sensitivity"]
    assert sensitivity["value"] == 1.0
    assert 0.7 < sensitivity["low"] < 1.0
    assert sensitivity["reason"].startswith("exact bound")


def test_curves_end_in_the_corners_and_the_band_holds_the_curve(results):
    for curve in results[1]:
        assert (curve["roc"][0]["fpr"], curve["roc"][0]["tpr"]) == (0, 0)
        assert (curve["roc"][-1]["fpr"], curve["roc"][-1]["tpr"]) == (1, 1)
        assert curve["pr"][-1]["recall"] == 1
        middle = [point for point in curve["band"] if 0.2 < point["fpr"] < 0.8]
        x, y = (np.array([point[name] for point in curve["roc"]]) for name in ("fpr", "tpr"))
        inside = [point["low"] - 0.03 <= np.interp(point["fpr"], x, y) <= point["high"] + 0.03 for point in middle]
        assert np.mean(inside) > 0.9


@pytest.mark.parametrize(("patients", "known"), [(4, False), (5, True)])
def test_a_curve_of_few_patients_has_no_band(patients, known):
    labels = np.repeat([1, 0], [2 * patients, 60])
    scores = np.random.default_rng(0).normal(labels)
    rows = pd.DataFrame({"label": labels, "image": scores, "group_id": [f"p{n // 2}" for n in range(len(labels))]})
    resampler = bootstrap.Resampler.over(rows["group_id"], 100, 0)
    found = measure.curve(rows, "image", resampler, SECTION["evaluate"])
    assert found["roc"]
    assert found["pr"]
    assert (bool(found["band"]), bool(found["pr_band"])) == (known, known)
    curve = {"model": "image", **found}
    assert figures.roc([curve]) is not None
    assert figures.precision_recall([curve], 0.3) is not None


def test_attributes_take_units_from_included_rows_only(cohort):
    table = levels.attributes(cohort[0], "breast")
    included = cohort[0][cohort[0]["exclude_reason"].isna()]
    assert len(table) == len(included.drop_duplicates(["patient_id", "laterality"]))
    assert "view" not in table
    assert set(table["finding"].dropna()) == {"Mass"}


def test_foreign_fused_table_is_refused(cohort):
    manifest, predictions, fused = cohort
    with pytest.raises(UserError, match=r"missing in fused\.parquet"):
        evaluate.evaluate(manifest, predictions, fused[5:], SECTION["evaluate"], 0)


def test_headline_model_is_chosen_on_val_not_on_test(results):
    metrics = {"run": "demo", "results": json.loads(json.dumps(results[0])), "differences": results[2]["differences"]}
    for best, other in [("image", "fused"), ("fused", "image")]:
        for name, value in [(best, 0.9), (other, 0.8)]:
            block(metrics["results"], level="breast", split="val", model=name)["metrics"]["auc"]["value"] = value
            block(metrics["results"], level="breast", split="test", model=name)["metrics"]["auc"]["value"] = 1 - value
        assert headline.chosen_model(metrics) == best
    assert any("metadata-only floor" in line for line in headline.lines(metrics))


def test_command_writes_three_files(tmp_path, cohort, results, capsys):
    manifest, predictions, fused = cohort
    tables.write(manifest, tmp_path / "cohort" / "manifest.parquet")
    tables.write(cohort_tables(180, seed=1)[1], tmp_path / "cohort" / "findings.parquet")
    (tmp_path / "cohort" / "digest.json").write_text('{"digest": "abc"}')
    tables.write(predictions, tmp_path / "predictions.parquet")
    tables.write(fused, tmp_path / "fused.parquet")
    out = tmp_path / "results" / "runs" / "demo" / "evaluate"
    command = [
        "evaluate",
        "demo",
        "--cohort",
        str(tmp_path / "cohort"),
        "--predictions",
        str(tmp_path / "predictions.parquet"),
    ]
    command += [
        "--fused",
        str(tmp_path / "fused.parquet"),
        "--seed",
        "3",
        "--out",
        str(out),
        "--settings",
        json.dumps(SECTION),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    # The command knows the findings too, and so adds the subgroups by lesion size.
    without_size = [b for b in metrics["results"] if (b["subgroup"] or {}).get("column") != "lesion_size"]
    assert without_size == json.loads(json.dumps(results[0]))
    assert len(without_size) < len(metrics["results"])
    assert metrics["reproduction"]["cohort_digest"]["content"] == {"digest": "abc"}
    assert metrics["reproduction"]["seed"] == 3
    table = pd.read_csv(out / "metrics.csv")
    assert list(table) == evaluate.CSV_COLUMNS
    pick = (
        (table["level"] == "breast")
        & (table["model"] == "fused")
        & (table["split"] == "test")
        & (table["subgroup"] == "all")
    )
    value = table.loc[pick & (table["metric"] == "auc"), "value"].item()
    assert value == pytest.approx(
        block(results[0], level="breast", split="test", model="fused")["metrics"]["auc"]["value"]
    )
    assert f"{value:.3f}" in printed
    assert len(json.loads((out / "curves.json").read_text())["curves"]) == 8
    assert main(["headline", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out == printed
    assert main(["headline", str(tmp_path / "nothing")]) == 2


def test_delong_stands_beside_every_bootstrap(results):
    for found in results[0]:
        number = found["metrics"].get("auc", {"value": None})
        if number["value"] is None:
            continue
        assert number["delong"] is None or number["delong"]["low"] <= number["value"] <= number["delong"]["high"]
        if found["split"] == "train":  # enough patients for both to be right
            assert number["delong"]["low"] == pytest.approx(number["low"], abs=0.025)
            assert number["delong"]["high"] == pytest.approx(number["high"], abs=0.025)
    for difference in results[2]["differences"]:
        if difference["split"] == "train":
            assert difference["delong"]["low"] == pytest.approx(difference["low"], abs=0.04)
            assert difference["delong"]["high"] == pytest.approx(difference["high"], abs=0.04)


def test_patients_are_fused_by_their_higher_breast(cohort, results):
    _, predictions, fused = cohort
    patients = predictions[(predictions["level"] == "patient") & (predictions["split"] == "test")]
    highest = fused.groupby("patient_id")["score_fused"].max().reindex(patients["patient_id"]).to_numpy(float)
    found = block(results[0], level="patient", split="test", model="fused")
    assert found["metrics"]["auc"]["value"] == pytest.approx(
        roc_auc_score(patients["label_malignant"].astype(int), highest)
    )


def test_calibration_methods_are_fitted_on_val_and_measured_on_test(cohort, results):
    manifest, predictions, fused = cohort
    rows = {(row["model"], row["method"]): row for row in results[2]["calibrations"]}
    assert set(rows) == {(m, k) for m in ("image", "fused") for k in ("none", "temperature", "platt", "isotonic")}
    val, test = (fused[fused["split"] == split] for split in ("val", "test"))
    fitted = IsotonicRegression(out_of_bounds="clip").fit(
        val["score_fused"].astype(float), val["label_malignant"].astype(int)
    )
    expected = brier_score_loss(test["label_malignant"].astype(int), fitted.predict(test["score_fused"].astype(float)))
    assert rows["fused", "isotonic"]["metrics"]["brier"]["value"] == pytest.approx(expected, abs=1e-6)
    as_it_is = rows["image", "none"]["metrics"]["brier"]["value"]
    assert rows["image", "platt"]["metrics"]["brier"]["value"] < as_it_is  # the made scores are far too low
    changed = fused.copy()
    changed.loc[changed["split"] == "test", "score_fused"] = 0.5
    again = evaluate.evaluate(manifest, predictions, changed, SECTION["evaluate"], seed=3)[2]["calibrations"]
    assert [row["fit"] for row in again] == [row["fit"] for row in results[2]["calibrations"]]


def test_lesion_sizes_are_in_millimetres_and_the_largest_counts():
    place = {"dataset": "mias", "study_id": "p", "patient_id": "p"}
    group = {**place, "group_id": "g", "label_policy": "x"}
    images = [
        {**group, "image_id": "a", "laterality": "L", "pixel_spacing_mm": 0.1},
        {**group, "image_id": "b", "laterality": "R"},
        {**group, "image_id": "c", "laterality": "L", "patient_id": "q", "study_id": "q"},
    ]
    manifest = tables.finish("manifest", pd.DataFrame(images))
    marks = [("a", 10, 10, 60, 90), ("a", 0, 0, 150, 40), ("b", 0, 0, 9, 9)]
    rows = [
        {**place, "image_id": image, "finding_id": str(k), "geometry": "bbox",
         "xmin": left, "ymin": top, "xmax": right, "ymax": bottom}
        for k, (image, left, top, right, bottom) in enumerate(marks)
    ]  # fmt: skip
    findings = tables.finish("manifest_findings", pd.DataFrame(rows))
    found = levels.attributes(manifest, "breast", findings)["lesion_size"]
    assert found.dropna().to_dict() == {"mias|p|L": "10-19 mm", "mias|p|R": "size unknown"}
    assert found.index[found.isna()].tolist() == ["mias|q|L"]


def test_lesion_size_is_a_subgroup_where_the_cohort_has_findings(cohort):
    spaced = cohort[0].assign(pixel_spacing_mm=0.2)  # boxes of the fixture are 50 x 60 pixels
    findings = cohort_tables(180, seed=1)[1]
    blocks, _, _ = evaluate.evaluate(spaced, *cohort[1:], SECTION["evaluate"], 3, findings)
    rows = headline.select(blocks, "lesion_size", level="breast", model="image")
    assert {row["subgroup"]["value"] for row in rows} == {"10-19 mm", "none marked"}


def test_every_interval_of_the_curves_holds_its_curve(results):
    curve = next(c for c in results[1] if (c["level"], c["model"]) == ("breast", "image"))
    for point in curve["reliability"]:
        assert point["low"] <= point["observed"] <= point["high"]
        assert point["high"] - point["low"] > 0.05  # an observed share of 0 has its exact bound, not [0, 0]
    recall, precision = (np.array([p[name] for p in curve["pr"]]) for name in ("recall", "precision"))
    inside = []
    for point in curve["pr_band"]:
        reached = precision[np.searchsorted(recall, point["recall"] - 1e-9)]
        inside.append(point["low"] - 0.02 <= reached <= point["high"] + 0.02)
    assert np.mean(inside) > 0.9


def test_tiny_cohorts_never_crash():
    for patients in (4, 9, 16):
        manifest, findings = cohort_tables(patients, seed=patients)
        predictions = predictions_of(manifest, 0)
        fused, _ = fuse.fuse(manifest, findings, predictions, SECTION, seed=0)
        json.dumps(evaluate.evaluate(manifest, predictions, fused, SECTION["evaluate"], 0), allow_nan=False)


def test_resampler_of_nothing():
    assert bootstrap.Resampler.over([], 10, 0).counts.shape == (10, 0)
