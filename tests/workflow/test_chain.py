"""Runs that build on runs: one target trains the whole chain, and the report tells of it."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mammoflow import tables
from workflow.harness import Workflow, make_workflow

pytestmark = pytest.mark.workflow

TINY = {"cohort": "films", "encoder": "test_resnet", "epochs": 1, "batch_size": 8, "workers": 0, "accelerator": "cpu"}
RUNS = {
    "first": {**TINY, "image_size": [96, 64]},
    "drawn": {
        **TINY, "image_size": [128, 64], "task": "segment", "from_run": "first",
        "segment": {"classes": "type", "decoder_channels": 16}, "processes": 2,
    },
    "last": {
        **TINY, "image_size": [128, 64], "from_run": "drawn",
        "pseudo_labels": {"run": "first", "datasets": ["cbis_ddsm"], "malignant_above": 0.5, "benign_below": 0.5},
    },
}  # fmt: skip
SECTIONS = {
    "datasets": {"cbis_ddsm": {"shards": 1}},
    "convert": {"long_side": 192},
    "cohorts": {"films": {"datasets": ["cbis_ddsm"], "splits": {"train": 0.5, "val": 0.25, "test": 0.25}, "folds": 2}},
}
EVALUATE = {"evaluate": {"bootstrap": 100, "min_subgroup": 5}}
TARGET = "results/runs/last/0/weights.safetensors"


def test_a_chain_of_three_runs_is_one_target(tmp_path: Path) -> None:
    """The last run's weights need one fold of each run before it on the same cohort, and all of another cohort's."""
    planned = make_workflow(tmp_path, **SECTIONS, runs=RUNS).planned(TARGET)
    assert planned["train_fold"] == 3
    assert planned["pseudo_label"] == 1
    assert planned["list_unlabelled"] == 1
    assert planned["pack_unlabelled"] == 2  # the size that the labelling run wants, and the learning run's
    assert planned["pack_cohort"] == 2
    other = {**SECTIONS["cohorts"], "again": {**SECTIONS["cohorts"]["films"], "folds": 3}}
    chain = {"first": {**TINY, "cohort": "again"}, "second": {**TINY, "from_run": "first"}}
    sections = {**SECTIONS, "cohorts": other}
    planned = make_workflow(tmp_path, **sections, runs=chain).planned("results/runs/second/0/weights.safetensors")
    assert planned["train_fold"] == 4


def test_a_cycle_is_refused_when_the_configuration_is_read(tmp_path: Path) -> None:
    runs = {"a": {**TINY, "from_run": "b"}, "b": {**TINY, "from_run": "a"}}
    output = make_workflow(tmp_path, **SECTIONS, runs=runs).run("--dry-run", expect=1)
    assert "config.runs.a.from_run: a -> b -> a is a cycle" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The whole chain, evaluated and reported. Benign lesions without callback have no label: they are for `first`."""
    labels = {"benign_without_callback": "exclude"}
    runs = {name: {**run, **EVALUATE} for name, run in RUNS.items()}
    workflow = make_workflow(
        tmp_path_factory.mktemp("chain"), data=str(phantoms), labels=labels, seed=3, **SECTIONS, runs=runs
    )
    workflow.run()
    return workflow


@pytest.mark.slow
def test_the_chain_is_trained_evaluated_and_told(finished: Workflow) -> None:
    results = finished.directory / "results"
    records = {name: json.loads((results / f"runs/{name}/0/train.json").read_text()) for name in RUNS}
    assert records["first"]["started_from"] is None
    assert records["drawn"]["started_from"]["run"] == "first"
    assert records["drawn"]["started_from"]["changed"]["image_size"] == {"from": [96, 64], "to": [128, 64]}
    assert records["last"]["started_from"]["run"] == "drawn"
    assert all(record["started_from"]["fold"] == 0 for name, record in records.items() if name != "first")
    assert set(records["drawn"]["lesions"]) == {"mask"}  # from the archive's mask files, through crop and manifest
    assert records["last"]["label_sources"]["pseudo:first"] > 0

    cohort = tables.read(results / "cohorts/films/manifest.parquet", "manifest")
    labelled = tables.read(results / "runs/last/0/pseudo/pseudo.parquet", "manifest")
    held_out = cohort[cohort["split"].isin(["val", "test"])]
    assert not set(labelled["patient_id"]) & set(held_out["patient_id"])
    scored = tables.read(results / "runs/last/predictions.parquet", "predictions")
    assert not set(labelled["image_id"]) & set(scored["image_id"].dropna())

    metrics = json.loads((results / "runs/drawn/evaluate/metrics.json").read_text())
    test = metrics["lesions"]["splits"]["test"]
    assert test["n_targets"] > 0
    assert {row["class_name"] for row in test["overlap"]} == {"any", "mass", "calcification"}
    table = pd.read_csv(results / "runs/drawn/evaluate/metrics.csv")
    assert "localisation hit rate" in set(table.loc[table["level"] == "lesion", "metric"])
    page = (results / "report/index.html").read_text()
    assert "Lesions drawn and found" in page
    assert 'class="truth"' in page
    assert "Starts from the weights of run drawn" in page
    card = (results / "runs/last/model_card.md").read_text()
    assert "- Starts from drawn, fold 0" in card
    assert "- which started from first, fold 0" in card
    assert "cbis_ddsm was seen by drawn, first, last" in card


@pytest.mark.slow
def test_nothing_is_left_to_do_and_a_new_head_costs_only_what_follows(finished: Workflow, tmp_path: Path) -> None:
    assert finished.planned() == {}
    changed = Workflow(finished.directory, tmp_path / "config.yaml")
    changed.config.write_text(finished.config.read_text())
    changed.change(
        "runs", drawn={**RUNS["drawn"], **EVALUATE, "segment": {"classes": "lesion", "decoder_channels": 16}}
    )
    planned = changed.planned()
    assert planned["train_fold"] == 4  # drawn and last, two folds each
    assert "pack_cohort" not in planned
    assert "pseudo_label" not in planned
