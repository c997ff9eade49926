"""Phantom archives shared by the workflow tests."""

from pathlib import Path

import pytest

from workflow.harness import mammoflow


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small phantom archives of mini-MIAS and CBIS-DDSM. Read-only for tests: copy before changing."""
    folder = tmp_path_factory.mktemp("phantoms")
    for dataset, patients, seed in (("mias", "16", "1"), ("cbis_ddsm", "16", "2")):
        done = mammoflow(
            "phantom", dataset, str(folder / dataset), "--patients", patients, "--seed", seed, directory=folder
        )
        assert done.returncode == 0, done.stderr
    return folder
