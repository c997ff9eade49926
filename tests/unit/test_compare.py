"""Runs are compared on the test units they share, pair by pair, and the page says what the numbers say."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mammoflow import settings, tables
from mammoflow.cli import main
from mammoflow.comparison import Scores, compare, read_scores, shared_units
from mammoflow.errors import UserError
from mammoflow.report import comparison_page
from mammoflow.report.comparison import comparison_view

OPTIONS = settings.resolve_section("evaluate", {"bootstrap": 100})


@pytest.fixture(scope="module")
def tree(two_runs):
    return two_runs


@pytest.fixture(scope="module")
def runs(tree):
    return [read_scores(path) for path in tree["runs"]]


@pytest.fixture(scope="module")
def found(runs):
    return compare(runs, OPTIONS, seed=1)


def difference(found, level="breast", model="image", metric="auc", dataset=None):
    wanted = (level, model, metric, dataset)
    return next(
        row for row in found["differences"] if (row["level"], row["model"], row["metric"], row["dataset"]) == wanted
    )


def changed(run, name=None, predictions=None, fused=None):
    return Scores(name or run.name, run.metrics, run.predictions if predictions is None else predictions,
                  run.fused if fused is None else fused)  # fmt: skip


@pytest.mark.parametrize("level", ["image", "breast", "patient"])
def test_differences_are_those_of_scikit_learn(runs, found, level):
    aucs = []
    for run in runs:
        rows = run.predictions[(run.predictions["level"] == level) & (run.predictions["split"] == "test")]
        aucs.append(roc_auc_score(rows["label_malignant"].astype(int), rows["score"]))
    row = difference(found, level)
    assert row["value"] == pytest.approx(aucs[1] - aucs[0])
    assert row["low"] < row["value"] < row["high"]
    assert (row["run"], row["reference"]) == ("second", "baseline")
    counts = next(part for part in found["units"] if part["level"] == level)
    assert counts["shared"] == len(rows) == counts["own"]["baseline"]


def test_delong_agrees_with_the_paired_bootstrap(found):
    row = difference(found)
    assert row["delong"]["low"] == pytest.approx(row["low"], abs=0.04)
    assert row["delong"]["high"] == pytest.approx(row["high"], abs=0.04)


def test_every_archive_stands_by_itself(found):
    wanted = ("breast", "image", "second")
    parts = [row for row in found["numbers"] if (row["level"], row["model"], row["run"]) == wanted]
    pooled = next(row for row in parts if row["dataset"] is None)
    single = [row for row in parts if row["dataset"] is not None]
    assert [row["dataset"] for row in single] == ["cbis_ddsm", "mias"]
    assert sum(row["n_units"] for row in single) == pooled["n_units"]


def test_only_units_that_are_test_units_of_both_count(runs):
    """A breast that one run was trained on would flatter that run."""
    first, second = runs
    patients = sorted(second.predictions.loc[second.predictions["split"] == "test", "patient_id"].unique())
    moved = second.predictions["patient_id"].isin(patients[:5])
    predictions = second.predictions.assign(split=second.predictions["split"].mask(moved, "train"))
    found = compare([first, changed(second, predictions=predictions)], OPTIONS, seed=1)
    counts = next(part for part in found["units"] if part["level"] == "breast")
    test = first.predictions[(first.predictions["level"] == "breast") & (first.predictions["split"] == "test")]
    assert counts["shared"] == (~test["patient_id"].isin(patients[:5])).sum() < counts["own"]["baseline"]


def test_units_with_another_label_are_left_out_and_counted(runs):
    first, second = runs
    predictions = second.predictions.copy()
    rows = predictions.index[(predictions["level"] == "image") & (predictions["split"] == "test")][:4]
    predictions.loc[rows[:3], "label_malignant"] = 1 - predictions.loc[rows[:3], "label_malignant"]
    predictions.loc[rows[3], "label_malignant"] = pd.NA
    found = compare([first, changed(second, predictions=predictions)], OPTIONS, seed=1)
    counts = next(part for part in found["units"] if part["level"] == "image")
    assert counts["other_label"] == 3
    assert counts["shared"] == counts["own"]["baseline"] - 4
    assert "left out: another label" in comparison_page(found)


def test_runs_without_a_common_test_unit_are_refused(runs):
    first, second = runs
    predictions = second.predictions.assign(split="train")
    with pytest.raises(UserError, match="no test patient in common"):
        compare([first, changed(second, predictions=predictions)], OPTIONS, seed=1)
    with pytest.raises(UserError, match="same name"):
        compare([first, first], OPTIONS, seed=1)
    with pytest.raises(UserError, match="two runs or more"):
        compare([first], OPTIONS, seed=1)


def test_a_run_compared_with_itself_differs_by_nothing(runs):
    found = compare([runs[0], changed(runs[0], name="again")], OPTIONS, seed=1)
    assert all(row["value"] in (0.0, None) for row in found["differences"])
    assert difference(found)["delong"] is None
    assert "No difference of AUC has an interval" in comparison_page(found)


def test_a_better_run_is_called_better_and_a_worse_one_worse(runs):
    first = runs[0]
    noise = np.random.default_rng(0).random(len(first.predictions))
    worse = changed(first, "noise", first.predictions.assign(score=noise))
    for pair, verdict in [((first, worse), "noise ranks worse"), ((worse, first), "baseline ranks better")]:
        told = comparison_view(compare(list(pair), OPTIONS, seed=1))["sentences"]
        assert any(verdict in sentence for sentence in told)


def test_three_runs_are_each_compared_with_the_first(runs):
    third = changed(runs[1], name="third")
    found = compare([*runs, third], OPTIONS, seed=1)
    names = {(row["run"], row["reference"]) for row in found["differences"]}
    assert names == {("second", "baseline"), ("third", "baseline")}
    assert "not corrected for their number" in comparison_page(found)


def test_patient_clusters_widen_the_interval(runs):
    """Pairs of breasts that are drawn together: with breasts as patients the interval would be too narrow."""
    doubled = []
    for run in runs:
        left = run.predictions[run.predictions["laterality"] == "L"]
        twin = left.assign(laterality="R", unit_id=left["unit_id"].str.replace("|L", "|R", regex=False) + "x")
        rows = pd.concat([left, twin.assign(image_id=twin["image_id"] + "x")])
        fused = run.fused[run.fused["laterality"] == "L"]
        both = pd.concat([fused, fused.assign(laterality="R", unit_id=fused["unit_id"] + "x")])
        patients = run.predictions[run.predictions["level"] == "patient"]
        doubled.append(changed(run, predictions=pd.concat([rows, patients]), fused=both))
    clustered = difference(compare(doubled, OPTIONS, seed=1))
    alone = [changed(r, predictions=r.predictions.assign(group_id=r.predictions["unit_id"])) for r in doubled]
    naive = difference(compare(alone, OPTIONS, seed=1))
    assert clustered["value"] == pytest.approx(naive["value"])
    ratio = (clustered["high"] - clustered["low"]) / (naive["high"] - naive["low"])
    assert ratio == pytest.approx(np.sqrt(2), rel=0.2)


def test_shared_units_need_the_label_in_both():
    columns = {"split": ["test", "test", "train"], "label": pd.array([1, pd.NA, 0], dtype="Int64")}
    table = pd.DataFrame(columns, index=["a", "b", "c"])
    shared, counts = shared_units({"x": table, "y": table})
    assert shared.tolist() == ["a"]
    assert counts == {"own": {"x": 1, "y": 1}, "other_label": 0, "shared": 1}


def test_command_prints_the_table_and_writes_page_and_numbers(tree, tmp_path, capsys):
    results = tree["runs"][0].parents[1]
    out = tmp_path / "compare.html"
    command = ["compare", "baseline", str(tree["runs"][1]), "--results", str(results), "--bootstrap", "200"]
    command += ["--seed", "1", "--level", "all", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    numbers = json.loads(out.with_suffix(".json").read_text())
    row = difference(numbers)
    assert f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" in printed
    assert "shared test units" in printed
    assert all(f"{level} level" in printed for level in ("image", "breast", "patient"))
    assert printed.rstrip().endswith(f"page: {out}")
    html = out.read_text()
    assert f"{row['value']:+.3f}".replace("-", "−") in html
    assert not re.search(r'(?:src|href)="(?!data:image/|#)', html)
    assert "<script" not in html
    for run in numbers["runs"]:
        assert run["reproduction"]["config_digest"] in html
    first = out.read_bytes()
    assert main(command) == 0
    assert out.read_bytes() == first


def test_command_says_what_is_missing(tree, tmp_path, capsys):
    results = tree["runs"][0].parents[1]
    assert main(["compare", "baseline", "nonesuch", "--results", str(results)]) == 2
    assert "runs there: baseline, second" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    assert main(["compare", str(tree["runs"][0]), str(tmp_path / "bare")]) == 2
    assert "is no evaluated run" in capsys.readouterr().err


def test_other_versions_of_a_table_are_named(tree, tmp_path, capsys):
    directory = tmp_path / "old"
    (directory / "evaluate").mkdir(parents=True)
    (directory / "evaluate" / "metrics.json").write_text("{}")
    table = tables.read(tree["runs"][0] / "predictions.parquet", "predictions").drop(columns="score")
    tables.write(table, directory / "predictions.parquet")
    assert main(["compare", str(tree["runs"][0]), str(directory)]) == 2
    assert "no column 'score'" in capsys.readouterr().err
