"""The whole graph for real on phantoms: products, no-op, cost of a change, bad images, repair, kill -9 and resume."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from mammoflow import tables
from workflow.harness import Workflow, make_workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

SECTIONS = {
    "results": "results",
    "store": "store",
    "seed": 3,
    "convert": {"long_side": 256},
    "cohorts": {
        "both": {"datasets": ["mias", "cbis_ddsm"], "splits": {"train": 0.5, "val": 0.25, "test": 0.25}, "folds": 2}
    },
    "runs": {
        "tiny": {
            "cohort": "both", "encoder": "resnet10t", "image_size": [128, 64], "epochs": 1, "batch_size": 8,
            "processes": 2, "workers": 0, "evaluate": {"bootstrap": 100, "min_subgroup": 5},
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Both archives through the whole graph, once."""
    directory = tmp_path_factory.mktemp("graph")
    datasets = {"mias": {"shards": 2}, "cbis_ddsm": {"shards": 2}}
    workflow = make_workflow(directory, data=str(phantoms), datasets=datasets, **SECTIONS)
    workflow.run()
    return workflow


def test_every_stage_leaves_its_products(finished: Workflow) -> None:
    results = finished.directory / "results"
    for dataset in ("mias", "cbis_ddsm"):
        manifest = tables.read(results / dataset / "manifest.parquet", "manifest")
        assert len(manifest) > 0
        placed = manifest[manifest["exclude_reason"].isna()]
        assert all((finished.directory / "store" / path).is_file() for path in placed["image_path"])
    audit = json.loads((results / "cohorts/both/audit.json").read_text())
    assert audit["ok"] is True
    for fold in (0, 1):
        assert (results / f"runs/tiny/{fold}/weights.safetensors").is_file()
        record = json.loads((results / f"runs/tiny/{fold}/train.json").read_text())
        assert record["world_size"] == 2
    metrics = pd.read_csv(results / "runs/tiny/evaluate/metrics.csv")
    assert {"metadata", "image", "fused"} <= set(metrics["model"])
    page = (results / "report/index.html").read_text()
    assert "CBIS-DDSM" in page
    assert "data:image" in page


def test_every_result_names_its_settings_data_code_seed_and_machine(finished: Workflow) -> None:
    results = finished.directory / "results"
    run = results / "runs/tiny"
    records = {
        path: json.loads((results / path).read_text())["reproduction"]
        for path in (
            "mias/summary.json", "cohorts/both/audit.json", "runs/tiny/0/train.json", "runs/tiny/fuse/fuse.json",
            "runs/tiny/evaluate/metrics.json", "runs/tiny/evaluate/curves.json",
        )
    }  # fmt: skip
    for path in (run / "predictions.parquet", run / "fuse/fused.parquet"):
        records[path.name] = json.loads(pq.read_schema(path).metadata[b"PANDAS_ATTRS"])["reproduction"]
    for name, record in records.items():
        assert record["config_digest"], name
        assert record["code_version"], name
        assert record["hardware"]["cores"] >= 1, name
        assert record["numpy"], name
        assert record["cohort_digest"] or record["inputs"], name
        assert (record["seed"] is None) == (record["stage"] == "manifest"), name
    assert records["predictions.parquet"]["inputs"].keys() == {"fold 0", "fold 1"}


def test_no_patient_stands_on_two_sides(finished: Workflow) -> None:
    cohort = tables.read(finished.directory / "results/cohorts/both/manifest.parquet", "manifest")
    placed = cohort[cohort["split"].notna()]
    assert placed.groupby("group_id")["split"].nunique().max() == 1
    assert placed.groupby("group_id")["fold"].nunique().max() <= 1


def test_a_second_run_plans_nothing(finished: Workflow) -> None:
    assert finished.planned() == {}
    assert finished.planned() == {}


def test_snakemakes_own_report_shows_what_the_rules_mark(finished: Workflow) -> None:
    """Made without a network, and complete in itself."""
    output = finished.run("--report", "report.html")
    for name in ("index.html", "balance.html", "metrics.csv", "quarantine.csv"):
        assert f"Adding {name}" in output
    page = (finished.directory / "report.html").read_text(encoding="utf-8")
    for category in ("Archives", "Splits", "Training", "Metrics"):
        assert f'"{category}"' in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=.?https?:", page)


def test_status_counts_what_is_done(finished: Workflow) -> None:
    status = json.loads(finished.mammoflow("status", "--json"))
    assert status["mias"]["shards_done"] == status["mias"]["shards"] == 2
    assert status["mias"]["failed"] == 0
    assert "nothing to try again" in finished.mammoflow("failed-shards", "mias", "--config", str(finished.config))


@pytest.mark.parametrize(
    ("section", "values", "replanned", "untouched"),
    [
        ("labels", {"normal_as": "exclude"}, "write_manifest", {"convert_shard", "crop_shard", "list_archive"}),
        ("crop", {"margin": 0.5}, "crop_shard", {"convert_shard", "list_archive"}),
        ("convert", {"bits": 8}, "convert_shard", {"crop_shard", "list_archive"}),
    ],
)
def test_a_change_costs_only_what_depends_on_it(
    finished: Workflow, tmp_path: Path, section: str, values: dict, replanned: str, untouched: set[str]
) -> None:
    changed = Workflow(finished.directory, tmp_path / "config.yaml")
    shutil.copy(finished.config, changed.config)
    changed.change(section, **values)
    planned = changed.planned()
    assert replanned in planned
    assert not untouched & set(planned)


def test_an_unchanged_split_does_not_train_again(finished: Workflow, tmp_path: Path) -> None:
    """Lesions are cut anew, and the policy changes on what no label here hangs; the split comes out the same: packing
    and training are planned, then dropped."""
    changed = Workflow(finished.directory, tmp_path / "config.yaml")
    shutil.copy(finished.config, changed.config)
    changed.change("crop", margin=0.5)
    changed.change("labels", unlabelled_side="normal")  # CMMD's alone
    output = changed.run()
    assert "Cut the lesions of cbis_ddsm" in output
    before, after = output.split("Split and audit the cohort both")
    assert "Write the manifest of cbis_ddsm" in before
    assert "Write the report" in after
    for job in ("Train tiny", "Pack the images of both", "Score the images of tiny"):
        assert job not in after


def test_a_corrupt_file_is_quarantined_and_only_it_is_tried_again(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(phantoms / "mias", tmp_path / "data/mias")
    victim = sorted((tmp_path / "data/mias").glob("*.pgm"))[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:5000])
    workflow = make_workflow(
        tmp_path,
        data="data",
        datasets={"mias": {"shards": 4}},
        convert={"long_side": 256},
        manifest={"max_failed_fraction": 0.5},
    )
    workflow.run("mias")
    quarantine = pd.read_csv(tmp_path / "results/mias/quarantine.csv")
    assert quarantine["image_id"].tolist() == [victim.stem]
    ledgers = workflow.mammoflow("failed-shards", "mias").split()
    assert len([path for path in ledgers if "/convert/" in path]) == 1

    victim.write_bytes(whole)
    output = workflow.run("mias", "--forcerun", *ledgers)
    assert "done=1 " in output
    assert len(pd.read_csv(tmp_path / "results/mias/quarantine.csv")) == 0

    # The same gate, closed: the run stops, says where to look, and keeps the list.
    victim.write_bytes(whole[:5000])
    workflow.change("manifest", max_failed_fraction=0.0)
    output = workflow.run("mias", "--forcerun", *ledgers, expect=1)
    assert "MissingOutputException" not in output, "the command's own failure must end the job"
    assert "quarantine.failed.csv" in output
    assert (tmp_path / "results/mias/quarantine.failed.csv").is_file()


def test_kill_in_the_middle_of_convert_and_continue(phantoms: Path, tmp_path: Path) -> None:
    workflow = make_workflow(
        tmp_path, data=str(phantoms), datasets={"mias": {"shards": 1}}, convert={"long_side": None, "crop": False}
    )
    workflow.run("inventory")
    store = tmp_path / "store"
    command = [*workflow.command("convert"), "--set-threads", "convert_shard=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    # Watch for the first image, without a fixed time: then kill the controller and all it started, as a crash does.
    while process.poll() is None and not any(store.rglob("[!.]*.png")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.001)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family)
    assert not (tmp_path / "results/mias/convert/0000-of-0001.parquet").exists(), "killed too late to test anything"
    survivors = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.rglob("[!.]*.png")}
    assert survivors

    workflow.run("--unlock")
    output = workflow.run("mias", "--rerun-incomplete")
    ledger = tables.read(tmp_path / "results/mias/convert/0000-of-0001.parquet", "convert_ledger")
    total = len(ledger)
    assert f"done={total - len(survivors)} reused={len(survivors)} failed=0" in output
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == seen for path, seen in survivors.items())

    (tmp_path / "again").mkdir()
    undisturbed = make_workflow(
        tmp_path / "again",
        data=str(phantoms),
        datasets={"mias": {"shards": 1}},
        convert={"long_side": None, "crop": False},
    )
    undisturbed.run("mias")
    assert contents(tmp_path / "again/store") == contents(store)


def contents(store: Path) -> dict[Path, bytes]:
    """Every finished picture of a store. Files that begin with a dot are what a killed writer left behind."""
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("[!.]*.png")}
