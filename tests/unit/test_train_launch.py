"""How a training is started: alone, by torchrun on one machine, by one torchrun per node."""

import sys

import pytest

from mammoflow.train import launch


def test_one_process_needs_no_launcher() -> None:
    assert launch.command(1, [], "", ["train", "x"]) == [sys.executable, "-m", "mammoflow", "train", "x"]


def test_several_processes_on_one_machine() -> None:
    started = launch.command(4, [], "", ["train", "x"])
    assert started[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in started
    assert "--standalone" in started
    assert started[-4:] == ["-m", "mammoflow", "train", "x"]


def test_nodes_meet_at_the_first_one_on_a_port_of_the_job() -> None:
    started = launch.command(2, ["n1", "n2"], "20123", ["train", "x"])
    assert "--nnodes=2" in started
    assert "--rdzv-endpoint=n1:20123" in started
    assert "--standalone" not in started


@pytest.mark.parametrize(("processes", "total", "each"), [(1, "4", 4), (2, "4", 2), (3, "4", 1), (8, "4", 1)])
def test_the_threads_of_a_job_are_shared_by_its_processes(processes: int, total: str, each: int) -> None:
    assert launch.threads_per_process(processes, {"OMP_NUM_THREADS": total}) == each


def test_outside_of_slurm_there_are_no_nodes() -> None:
    assert launch.step_nodes({}) == []
    assert launch.step_nodes({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_NODES": "1"}) == []
