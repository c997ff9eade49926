"""The whole graph of three archives on the cluster, trained on two nodes, against the same on one machine."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from cluster.slurm import Cluster, ClusterWorkflow, Job
from mammoflow import tables
from workflow.harness import Workflow, make_workflow, mammoflow

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PATIENTS = {"mias": 12, "cbis_ddsm": 12, "cmmd": 8}
# Weights after two epochs, four processes both times: only the order in which gloo adds may differ.
TOLERANCE = 1e-4


def sections(processes: int) -> dict:
    return {
        "seed": 5,
        "datasets": {name: {"shards": 2} for name in PATIENTS},
        "convert": {"long_side": 256},
        "cohorts": {
            "pool": {"datasets": list(PATIENTS), "splits": {"train": 0.5, "val": 0.25, "test": 0.25}, "folds": 2}
        },
        "runs": {
            "tiny": {
                "cohort": "pool", "encoder": "test_efficientnet", "image_size": [64, 32], "epochs": 2,
                "batch_size": 8, "workers": 0, "processes": processes, "accelerator": "cpu",
                "evaluate": {"bootstrap": 100, "min_subgroup": 5},
            }
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Both:
    """The finished runs."""

    cluster: Cluster
    there: ClusterWorkflow  # two processes on each of two nodes
    here: Workflow  # four processes on this machine
    before: int  # number of the last job of other tests

    def jobs(self, rule: str) -> list[Job]:
        """The run's jobs of one rule, by SLURM's own record."""
        jobs = self.cluster.look().values()
        return [job for job in jobs if job.number > self.before and job.comment.startswith(f"rule_{rule}")]


@pytest.fixture(scope="module")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Both:
    data = tmp_path_factory.mktemp("data")
    for seed, (name, patients) in enumerate(PATIENTS.items()):
        arguments = ("phantom", name, str(data / name), "--patients", str(patients), "--seed", str(seed))
        done = mammoflow(*arguments, directory=data)
        assert done.returncode == 0, done.stderr
    there = make_workflow(tmp_path_factory.mktemp("there"), data=str(data), **sections(2))
    # A job takes about eight seconds: a look after five would be followed by one after twenty.
    first_look = ("--slurm-init-seconds-before-status-checks", "10")
    there = ClusterWorkflow(there.directory, there.config, first_look)
    here = make_workflow(tmp_path_factory.mktemp("here"), data=str(data), **sections(4))
    before = cluster.last_number()
    # Side by side: the cluster's run mostly waits for the next look at its jobs.
    run = there.start(environment={"MAMMOFLOW_TRAIN_NODES": "2"})
    try:
        here.run()
    finally:
        status = run.finish()
    assert status == 0, run.said()[-6000:]
    return Both(cluster, there, here, before)


def results(workflow: Workflow, path: str) -> Path:
    return workflow.directory / "results" / path


def test_the_report_is_written_and_nothing_is_left_to_do(both: Both) -> None:
    assert "CMMD" in results(both.there, "report/index.html").read_text()
    assert both.there.planned() == {}


def test_shards_spread_over_the_nodes(both: Both) -> None:
    """SLURM's record and what each job's log says of where it ran agree."""
    jobs = both.jobs("convert_shard")
    assert len(jobs) == 2 * len(PATIENTS)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert len({job.nodes for job in jobs}) >= 2
    for job in jobs:
        dataset, shard = re.fullmatch(r"rule_convert_shard_wildcards_(\w+)_(\S+)", job.comment).groups()
        log = results(both.there, f"logs/convert/{dataset}/{shard}.log").read_text()
        assert f"running on {job.nodes[0]}, SLURM job {job.number}," in log


def test_training_ran_on_two_nodes_with_two_processes_each(both: Both) -> None:
    jobs = both.jobs("train_fold")
    assert [(job.state, len(job.nodes)) for job in jobs] == [("COMPLETED", 2)] * 2
    for job in jobs:
        fold = int(re.search(r"(\d+)$", job.comment).group(1))
        log = results(both.there, f"logs/train/tiny/{fold}.log").read_text()
        assert log.count(f"training processes on each of {', '.join(job.nodes)}: 2") == 2  # one launcher per node
    for workflow in (both.there, both.here):
        for fold in (0, 1):
            assert json.loads(results(workflow, f"runs/tiny/{fold}/train.json").read_text())["world_size"] == 4


def test_the_pictures_are_the_same_byte_for_byte(both: Both) -> None:
    there, here = (
        {path.relative_to(workflow.directory): path.read_bytes() for path in workflow.directory.rglob("store/**/*.png")}
        for workflow in (both.there, both.here)
    )
    assert len(here) > 100
    assert there == here


def test_manifests_and_split_are_the_same(both: Both) -> None:
    for path in (
        *(f"{name}/manifest.csv" for name in PATIENTS),
        "cohorts/pool/manifest.csv",
        "cohorts/pool/digest.json",
    ):
        assert results(both.there, path).read_bytes() == results(both.here, path).read_bytes(), path


def test_two_nodes_learn_what_one_machine_learns(both: Both) -> None:
    for fold in (0, 1):
        weights = f"runs/tiny/{fold}/weights.safetensors"
        there, here = (load_file(results(workflow, weights)) for workflow in (both.there, both.here))
        assert there.keys() == here.keys()
        difference = max(float(np.abs(there[name] - here[name]).max()) for name in there)
        assert difference < TOLERANCE
    scores = [
        tables.read(results(workflow, "runs/tiny/predictions.parquet"), "predictions").set_index(["level", "unit_id"])
        for workflow in (both.there, both.here)
    ]
    pd.testing.assert_series_equal(scores[0]["score"], scores[1]["score"], atol=TOLERANCE, rtol=0)
