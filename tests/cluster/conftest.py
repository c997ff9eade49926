"""A real SLURM for the tests, started and stopped by the playground script."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from cluster.slurm import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes; skipped, with the reason, where they cannot be started."""
    if os.geteuid() != 0:
        pytest.skip("the playground needs root")
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} on PATH: apt-get install slurmctld slurmd slurm-client munge")
    if subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0:
        pytest.skip("a SLURM cluster answers on this machine already: stop it (make playground-down)")
    running = Cluster()
    running.playground("up")
    try:
        yield running
    finally:
        running.playground("down")
