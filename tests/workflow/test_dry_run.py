"""The dry-run matrix: every dataset alone, all together, every stage, and what a wrong configuration says."""

from pathlib import Path

import pytest

from mammoflow.datasets.catalog import ARCHIVES
from workflow.harness import make_workflow

pytestmark = pytest.mark.workflow

COHORT = {"splits": {"train": 0.6, "val": 0.2, "test": 0.2}, "folds": 2}


@pytest.mark.parametrize("dataset", sorted(ARCHIVES))
def test_each_dataset_plans_alone(dataset: str, tmp_path: Path) -> None:
    workflow = make_workflow(tmp_path, datasets={dataset: {"shards": 3}})
    planned = workflow.planned(dataset)
    assert planned["list_archive"] == 1
    assert planned["convert_shard"] == 3
    assert planned.get("crop_shard", 0) == (3 if ARCHIVES[dataset].localised else 0)
    assert planned["write_manifest"] == 1
    assert "train_fold" not in planned


def test_everything_plans_together(tmp_path: Path) -> None:
    supervised = ["mias", "cbis_ddsm"]
    workflow = make_workflow(
        tmp_path,
        datasets={name: {"shards": 2} for name in ARCHIVES},
        cohorts={"main": {"datasets": supervised, **COHORT}},
        runs={"one": {"cohort": "main"}, "two": {"cohort": "main", "image_size": [512, 256]}},
    )
    planned = workflow.planned()
    assert planned["convert_shard"] == 2 * len(ARCHIVES)
    assert planned["train_fold"] == 4
    assert planned["pack_cohort"] == 2
    assert planned["evaluate_run"] == 2
    assert planned["write_report"] == 1
    assert planned["write_card"] == 2
    assert "export_run" not in planned  # on request


@pytest.mark.parametrize(
    ("target", "present", "absent"),
    [
        ("inventory", "list_archive", "convert_shard"),
        ("convert", "convert_shard", "crop_shard"),
        ("crop", "crop_shard", "write_manifest"),
        ("manifests", "write_manifest", "freeze_cohort"),
        ("cohorts", "freeze_cohort", "train_fold"),
        ("train", "train_fold", "predict_run"),
        ("evaluate", "evaluate_run", "write_report"),
        ("report", "write_report", "export_run"),
        ("report", "write_card", "export_run"),
        ("export", "export_run", "write_report"),
    ],
)
def test_each_stage_is_a_target(target: str, present: str, absent: str, tmp_path: Path) -> None:
    workflow = make_workflow(
        tmp_path,
        datasets={"mias": {}},
        cohorts={"main": {"datasets": ["mias"], **COHORT}},
        runs={"run": {"cohort": "main"}},
    )
    planned = workflow.planned(target)
    assert present in planned
    assert absent not in planned


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"convert": {"long_sid": 512}}, "config.convert: unknown key 'long_sid' (did you mean 'long_side'?)"),
        ({"convert": {"long_side": "512"}}, "config.convert.long_side: '512' is not of type integer or null"),
        (
            {"labels": {"birads3": "bad"}},
            "config.labels.birads3: 'bad' is not allowed; allowed: exclude, benign, malignant",
        ),
        ({"datasets": {"miass": {}}}, "config.datasets: unknown key 'miass' (did you mean 'mias'?)"),
        ({"cohorts": {"a": {"datasets": ["mias"]}}}, "config.cohorts.a.datasets: 'mias' is not in datasets (none)"),
        ({"runs": {"a": {"cohort": "b"}}}, "config.runs.a.cohort: 'b' is not in cohorts (none)"),
        ({"runs": {"a": {}}}, "config.runs.a: 'cohort' is missing"),
    ],
)
def test_wrong_configuration_names_the_key_and_what_is_allowed(sections: dict, message: str, tmp_path: Path) -> None:
    output = make_workflow(tmp_path, **{"datasets": {}, **sections}).run("--dry-run", expect=1)
    assert message in output
    assert "Traceback" not in output


def test_a_configfile_stands_alone(tmp_path: Path) -> None:
    """The default config.yaml names two archives; a file that names one must not inherit the other."""
    planned = make_workflow(tmp_path, datasets={"mias": {"shards": 1}}).planned()
    assert planned["list_archive"] == 1
