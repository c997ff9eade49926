"""The fusion learns what is planted, and refuses whatever would leak."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mammoflow import boosting, features, fuse, metrics, settings, tables
from mammoflow.calibration import logit
from mammoflow.cli import main
from mammoflow.errors import UserError
from mammoflow.train.units import shuffle_labels
from results_tree import cohort_tables, predictions_of


def section(**fuse_keys):
    return settings.resolve_section("run", {"cohort": "pooled", "fuse": fuse_keys})


@pytest.fixture(scope="module")
def cohort():
    manifest, findings = cohort_tables(400, seed=1)
    return manifest, findings, predictions_of(manifest, seed=2, signal=0.8)


@pytest.fixture(scope="module")
def fused(cohort):
    return fuse.fuse(*cohort, section(), seed=3)


def test_fusion_beats_the_floor_and_the_floor_beats_chance(fused):
    table, summary = fused
    for split in ("train", "test"):
        aucs = summary["auc"][split]
        assert 0.6 < aucs["metadata"] < aucs["fused"]
        assert aucs["fused"] > aucs["image"]
    assert summary["models"]["metadata"]["features"] == summary["features"]
    assert not any(name.startswith("score_") for name in summary["models"]["metadata"]["features"])
    assert len(table) == sum(summary["n_breasts"].values())
    json.dumps(summary, allow_nan=False)


def test_importance_names_the_planted_signals(fused):
    importance = {row["feature"]: row["mean_abs_shap"] for row in fused[1]["models"]["fused"]["importance"]}
    assert importance["start"] > importance["age"] > 0
    assert importance["implant"] == importance["manufacturer"] == 0


def test_shap_values_add_up_to_the_score_and_name_their_direction(fused):
    """Local accuracy (Lundberg and Lee 2017), with LightGBM's own values: start + sum of SHAP = log-odds."""
    rng = np.random.default_rng(0)
    features_ = pd.DataFrame({"signal": rng.normal(size=400), "noise": rng.normal(size=400)})
    labels = (features_["signal"] + rng.normal(size=400) < 0).astype(float).to_numpy()
    fit = boosting.fit(features_, None, labels, np.arange(400) % 4, [], seed=0)
    first, *others = fit.importance
    assert first["feature"] == "start"
    assert [row["feature"] for row in others] == ["signal", "noise"]
    assert others[0]["direction"] < -0.9  # a high value lowers the score
    total = np.sum([feature["shap"] for feature in fit.shap], axis=0)
    sample = np.sort(np.random.default_rng(0).permutation(400)[: boosting.SHAP_ROWS])
    log_odds = logit(fit.predict(features_, None))[sample]
    # LightGBM's contributions leave out their own mean, which is one number for all rows.
    assert np.ptp(log_odds - total) < 0.01
    shown = fused[1]["models"]["fused"]["shap"]
    assert 2 <= len(shown) <= boosting.SHAP_FEATURES
    assert all(len(feature["shap"]) == len(feature["rank"]) == boosting.SHAP_ROWS for feature in shown)


def test_every_breast_keeps_its_image_score_and_stays_a_probability(fused, cohort):
    table = fused[0].set_index("unit_id")
    breasts = cohort[2][cohort[2]["level"] == "breast"].set_index("unit_id")
    assert table["score_image"].to_dict() == breasts["score"].to_dict()
    scores = table[list(fuse.SCORES)].to_numpy(float)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_result_does_not_depend_on_threads_or_repetition(fused, cohort, monkeypatch):
    again, _ = fuse.fuse(*cohort, section(), seed=3)
    pd.testing.assert_frame_equal(again, fused[0])
    monkeypatch.setattr(boosting, "THREADED", 0)
    monkeypatch.setattr(boosting, "MAX_ROUNDS", 10)
    manifest, findings = cohort_tables(120, seed=5)
    small = manifest, findings, predictions_of(manifest, seed=6, signal=0.8)
    results = [fuse.fuse(*small, section(), seed=3, threads=threads) for threads in (1, 2)]
    assert [summary["models"]["fused"]["parameters"]["num_threads"] for _, summary in results] == [1, 2]
    pd.testing.assert_frame_equal(results[0][0], results[1][0])


def test_train_scores_are_inner_out_of_fold():
    """On noise an in-fold score would find its own labels again (0.7 and more); an out-of-fold score cannot."""
    rng = np.random.default_rng(0)
    matrix = pd.DataFrame(rng.normal(size=(300, 8))).add_prefix("noise_")
    labels, folds = (rng.random(300) < 0.5).astype(float), np.arange(300) % 3
    matrix["hint"] = labels + rng.normal(scale=1.5, size=300)  # so that some rounds are kept
    fit = boosting.fit(matrix, None, labels, folds, [], seed=0)
    assert fit.rounds > 5
    inside = metrics.auc(labels, fit.predict(matrix, None))[0]
    assert metrics.auc(labels, fit.oof)[0] < roc_auc_score(labels, matrix["hint"]) + 0.02 < inside


def test_fusion_does_not_look_at_test_labels(cohort):
    manifest, findings, predictions = cohort
    changed = predictions.copy()
    test = changed["split"] == "test"
    changed.loc[test, "label_malignant"] = 1 - changed.loc[test, "label_malignant"]
    first, _ = fuse.fuse(manifest, findings, predictions, section(), seed=3)
    second, _ = fuse.fuse(manifest, findings, changed, section(), seed=3)
    pd.testing.assert_frame_equal(first[list(fuse.SCORES)], second[list(fuse.SCORES)])


def test_calibration_uses_val_only(cohort):
    manifest, findings, predictions = cohort
    changed = predictions.copy()
    val = changed["split"] == "val"
    changed.loc[val, "label_malignant"] = 1 - changed.loc[val, "label_malignant"]
    first, _ = fuse.fuse(manifest, findings, predictions, section(), seed=3)
    second, summary = fuse.fuse(manifest, findings, changed, section(), seed=3)
    pd.testing.assert_series_equal(first["score_fused"], second["score_fused"])
    assert summary["calibration"]["slope"] < 0.1
    assert not first["score_calibrated"].equals(second["score_calibrated"])


@pytest.mark.parametrize(
    "name", ["pathology", "biopsy", "label_malignant", "label_3cat", "split_official", "uncertain", "score_image"]
)
def test_an_outcome_is_refused(name):
    with pytest.raises(UserError, match=f"{name}.*outcome"):
        features.check_features(["age", name], allow_read=True)


@pytest.mark.parametrize("name", ["patient_id", "group_id", "image_id", "sop_instance_id", "source_path", "md5"])
def test_an_identifier_is_refused(name):
    with pytest.raises(UserError, match=f"{name}.*identifier"):
        features.check_features([name], allow_read=True)


def test_reading_features_need_consent_and_spelling_is_helped():
    with pytest.raises(UserError, match="allow_read"):
        features.check_features(["breast_density"])
    assert features.check_features(["breast_density"], allow_read=True) == ["breast_density"]
    with pytest.raises(UserError, match="did you mean 'machine'"):
        features.check_features(["machin"])


def test_every_column_of_a_manifest_has_an_availability_or_is_refused():
    for name in tables.MANIFEST:
        allowed = name in features.PRE_READ or name in features.READ
        if not allowed:
            with pytest.raises(UserError):
                features.check_features([name], allow_read=True)
    assert not set(features.PRE_READ) & set(features.READ)
    for name in ("pathology", "label_malignant", "label_3cat", "uncertain", "split", "fold", "patient_id", "image_id"):
        assert name not in {**features.PRE_READ, **features.READ}


def test_birads_is_refused_where_it_made_the_label(cohort):
    manifest, findings, predictions = cohort
    proxy = manifest.assign(label_source=manifest["label_source"].mask(manifest["dataset"] == "mias", "birads"))
    with pytest.raises(UserError, match="label itself"):
        fuse.fuse(proxy, findings, predictions, section(features=["breast_birads"], allow_read=True), seed=0)
    fuse.fuse(proxy, findings, predictions, section(features=["breast_density"], allow_read=True), seed=0)


def test_missing_folds_are_refused(cohort):
    manifest, findings, predictions = cohort
    train = predictions["split"] == "train"
    with pytest.raises(UserError, match="have no fold"):
        fuse.fuse(manifest, findings, predictions.assign(fold=predictions["fold"].mask(train)), section(), seed=0)
    with pytest.raises(UserError, match="cohort manifest have no fold"):
        fuse.fuse(
            manifest.assign(fold=manifest["fold"].mask(manifest["fold"] == 1)), findings, predictions, section(), seed=0
        )


def test_in_fold_and_foreign_scores_are_refused(cohort):
    manifest, findings, predictions = cohort
    moved = predictions.assign(fold=(predictions["fold"] + 1) % 3)
    with pytest.raises(UserError, match="another fold"):
        fuse.fuse(manifest, findings, moved, section(), seed=0)
    with pytest.raises(UserError, match="another cohort"):
        fuse.fuse(manifest[manifest["dataset"] == "mias"], findings, predictions, section(), seed=0)
    torn_manifest, torn = manifest.copy(), predictions.copy()
    patient = predictions.loc[(predictions["split"] == "train"), "patient_id"].iloc[0]
    for frame in (torn_manifest, torn):
        left = (frame["patient_id"] == patient) & (frame["laterality"] == "L")
        frame.loc[left, "fold"] = (frame.loc[left, "fold"] + 1) % 3
    with pytest.raises(UserError, match="several folds"):
        fuse.fuse(torn_manifest, findings, torn, section(), seed=0)


def test_in_fold_scores_with_honest_names_are_suspected(cohort):
    """Folds and names are right, but the scores of train rows come from a model that saw them."""
    manifest, findings, predictions = cohort
    leaking = predictions.copy()
    train = (leaking["split"] == "train").to_numpy()
    leaking.loc[train, "score"] = 0.2 + 0.6 * leaking.loc[train, "label_malignant"]
    _, summary = fuse.fuse(manifest, findings, leaking, section(), seed=0)
    assert any("do not look out of fold" in sentence for sentence in summary["suspicions"])


def test_an_outcome_under_an_innocent_name_is_suspected(cohort, fused):
    manifest, findings, predictions = cohort
    leaking = manifest.assign(site=np.where(manifest["label_malignant"] == 1, "X", "Y"))
    _, summary = fuse.fuse(leaking, findings, predictions, section(), seed=0)
    assert any("above all 'site'" in sentence for sentence in summary["suspicions"])
    assert fused[1]["suspicions"] == []


def test_attention_and_lesion_probability_are_used_where_the_predictions_carry_them(cohort):
    manifest, findings, predictions = cohort
    plain = fuse.image_features(predictions, fuse.check_scores(predictions, manifest))
    assert not [name for name in plain if "attention" in name or "roi" in name]
    carried = predictions.copy()
    image = carried["level"] == "image"
    cc = image & (carried["view_position"] == "CC")
    carried.loc[image, "attention"] = 0.25
    carried.loc[cc, "attention"] = 0.75
    carried.loc[image, "score_roi"] = 0.1 + 0.8 * carried.loc[image, "label_malignant"]
    found = fuse.image_features(carried, fuse.check_scores(carried, manifest))
    left = image & (carried["patient_id"] == "P0001") & (carried["laterality"] == "L")
    rows = carried[left].set_index("view_position")
    assert len(rows) == 2
    expected = 0.75 * rows.loc["CC", "score"] + 0.25 * rows.loc["MLO", "score"]
    assert found.loc["mias|P0001|L", "score_attended"] == pytest.approx(expected)
    assert found.loc["mias|P0001|L", "attention_cc"] == 0.75
    other = found.loc["mias|P0001|R", "score_roi"]
    assert found.loc["mias|P0001|L", "score_roi_minus_other"] == found.loc["mias|P0001|L", "score_roi"] - other
    _, summary = fuse.fuse(manifest, findings, carried, section(), seed=0)
    strength = {row["feature"]: row["mean_abs_shap"] for row in summary["models"]["fused"]["importance"]}
    assert strength["score_roi"] > 0.5


@pytest.mark.parametrize("method", ["platt", "temperature", "isotonic"])
def test_calibration_method_can_be_chosen(cohort, method):
    _, summary = fuse.fuse(*cohort, section(calibration=method), seed=0)
    assert summary["calibration"]["method"] == method


@pytest.mark.parametrize("patients", [6, 12, 25])
def test_tiny_cohorts_run_and_say_so(patients):
    manifest, findings = cohort_tables(patients, seed=patients)
    table, summary = fuse.fuse(manifest, findings, predictions_of(manifest, 0), section(), seed=0)
    assert np.isfinite(table["score_fused"].to_numpy(float)).all()
    assert summary["models"]["fused"]["parameters"]["num_leaves"] == 2


def test_one_class_gives_a_constant_with_a_note(cohort):
    manifest, findings, predictions = cohort
    healthy = predictions.assign(
        label_malignant=predictions["label_malignant"].where(predictions["label_malignant"].isna(), 0)
    )
    table, summary = fuse.fuse(manifest, findings, healthy, section(), seed=0)
    assert table["score_fused"].nunique() == 1
    assert "one class" in summary["models"]["fused"]["note"]
    assert summary["calibration"]["method"] == "none"
    assert summary["auc"]["test"]["fused"] is None


def test_no_features_leaves_a_constant_floor(cohort):
    table, summary = fuse.fuse(*cohort, section(features=[]), seed=0)
    assert table["score_metadata"].nunique() == 1
    assert summary["auc"]["test"]["metadata"] == 0.5
    assert summary["auc"]["test"]["fused"] > 0.6


def test_shuffled_labels_end_at_chance(cohort):
    """As predict does under shuffle_labels: labels are exchanged between patients, scores know nothing of them."""
    manifest, findings, _ = cohort
    aucs = []
    for seed in range(5):
        shuffled = shuffle_labels(manifest[manifest["exclude_reason"].isna()], seed)
        noise = predictions_of(shuffled, seed=seed, signal=0.0)
        auc = fuse.fuse(manifest, findings, noise, section(), seed=seed)[1]["auc"]["test"]
        aucs.append((auc["fused"], auc["metadata"]))
    assert np.abs(np.mean(aucs, axis=0) - 0.5).max() < 0.08


def test_contralateral_difference_and_views(cohort):
    _, _, predictions = cohort
    breasts = fuse.check_scores(predictions, cohort[0])
    found = fuse.image_features(predictions, breasts)
    key = "mias|P0001|L"
    images = predictions[(predictions["level"] == "image") & (predictions["patient_id"] == "P0001")]
    left = images[images["laterality"] == "L"].set_index("view_position")["score"]
    right = breasts.loc["mias|P0001|R", "score"]
    assert found.loc[key, "score_max"] == left.max()
    assert found.loc[key, "score_mean_cc"] == left["CC"]
    assert found.loc[key, "score_minus_other"] == pytest.approx(breasts.loc[key, "score"] - right)


def test_a_breast_of_unknown_side_has_no_other_breast():
    breasts = pd.DataFrame({"dataset": "mias", "study_id": ["P1", "P2", "P2"], "laterality": [pd.NA, "L", "R"]})
    breasts.index = fuse.breast_key(breasts)
    found = fuse.minus_other(pd.Series([0.9, 0.6, 0.2], index=breasts.index), breasts)
    assert found.tolist() == pytest.approx([np.nan, 0.4, -0.4], nan_ok=True)


def test_breast_table_takes_largest_numbers_and_most_frequent_words():
    rows = [
        {
            "view_position": "CC",
            "age": 50,
            "machine": "x",
            "finding_categories": "['Mass']",
            "breast_density": "DENSITY B",
        },
        {"view_position": "MLO", "age": 51, "machine": "y", "finding_categories": "['Asymmetry', 'Mass']"},
        {"view_position": "ML", "age": pd.NA, "machine": "y", "finding_categories": "['No Finding']"},
        {"view_position": "CC", "age": 90, "machine": "z", "exclude_reason": "missing_file"},
    ]
    common = {
        "dataset": "mias", "study_id": "p", "patient_id": "p", "group_id": "g", "laterality": "L", "label_policy": "x"
    }  # fmt: skip
    manifest = tables.finish(
        "manifest", pd.DataFrame([{**common, "image_id": str(k), **row} for k, row in enumerate(rows)])
    )
    breast = features.breast_table(manifest).loc["mias|p|L"]
    assert (breast["age"], breast["machine"], breast["n_images"], breast["complete_views"]) == (51, "y", 3, 1)
    assert breast["finding_categories"] == "Asymmetry+Mass"
    assert breast["breast_density"] == 1
    assert pd.isna(breast["site"])


def test_unknown_categories_are_missing_not_a_level():
    table = pd.DataFrame({"machine": ["a", "b", None, "new"]})
    levels = features.category_levels(table[:3], ["machine"])
    assert levels == {"machine": ["a", "b"]}
    values = features.design_matrix(table, ["machine"], levels)["machine"]
    assert values[:2].tolist() == [0, 1]
    assert values[2:].isna().all()


def test_command_writes_both_files_and_refuses_a_leak(tmp_path, cohort, capsys):
    manifest, findings, predictions = cohort
    tables.write(manifest, tmp_path / "cohort" / "manifest.parquet")
    tables.write(findings, tmp_path / "cohort" / "findings.parquet")
    (tmp_path / "cohort" / "digest.json").write_text('{"digest": "abc"}')
    tables.write(predictions, tmp_path / "predictions.parquet")
    command = [
        "fuse",
        "demo",
        "--cohort",
        str(tmp_path / "cohort"),
        "--predictions",
        str(tmp_path / "predictions.parquet"),
    ]
    command += ["--seed", "1", "--out", str(tmp_path / "fuse"), "--settings"]
    assert main([*command, json.dumps(section())]) == 0
    assert "demo: breast AUC on test: image 0." in capsys.readouterr().out
    assert len(tables.read(tmp_path / "fuse" / "fused.parquet", "fused"))
    assert json.loads((tmp_path / "fuse" / "fuse.json").read_text())["run"] == "demo"
    (tmp_path / "fuse" / "fuse.json").unlink()
    assert main([*command, json.dumps(section(features=["age", "biopsy"]))]) == 2
    assert "'biopsy' is an outcome" in capsys.readouterr().err
    assert not (tmp_path / "fuse" / "fuse.json").exists()
