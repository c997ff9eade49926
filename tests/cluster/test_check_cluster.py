"""``check-cluster`` before a run on a real SLURM: what is there, what is not, and a job on each partition."""

import pytest

from workflow.harness import make_workflow

pytestmark = pytest.mark.cluster


@pytest.fixture
def workflow(tmp_path):
    (tmp_path / "data" / "mias").mkdir(parents=True)
    return make_workflow(tmp_path, datasets={"mias": {"shards": 1}})


def profile(folder, text=""):
    path = folder / "profile.yaml"
    path.write_text(
        "__use_yte__: true\nexecutor: slurm\nslurm-no-requeue: true\nslurm-status-command: squeue\n"
        f"default-resources: {{slurm_partition: cpu, mem_mb: 500}}\n{text}"
    )
    return str(path)


def check(workflow, *arguments, expect=0):
    return workflow.mammoflow("check-cluster", "--config", str(workflow.config), *arguments, expect=expect)


def test_a_good_profile_passes_and_a_node_reads_and_writes(cluster, workflow, tmp_path):
    gpu = "set-resources: {train_fold: {slurm_partition: gpu, gres: \"'gpu:2'\"}}\n"
    output = check(workflow, "--profile", profile(tmp_path, gpu), "--node-test")
    assert "fail" not in output
    assert "ok   partition gpu: 4 of 4 nodes usable, with gpu:2" in output
    assert output.count("read and wrote store and results, saw 1 archive, imported mammoflow") == 2
    assert not list(tmp_path.rglob(".mammoflow-check*"))


def test_a_wrong_partition_too_many_gpus_and_missing_accounting_fail(cluster, workflow, tmp_path):
    bad = (
        "set-resources: {train_fold: {slurm_partition: gpu, gres: \"'gpu:8'\"}, predict_run: {slurm_partition: big}}\n"
    )
    output = check(workflow, "--profile", profile(tmp_path, bad), expect=1)
    assert "fail partition gpu has no node with 8 GPUs (it has gpu:2)" in output
    assert "fail partition big does not exist" in output
    path = tmp_path / "profile.yaml"
    path.write_text(path.read_text().replace("slurm-status-command: squeue\n", ""))
    assert "set `slurm-status-command: squeue`" in check(workflow, "--profile", str(path), expect=1)
