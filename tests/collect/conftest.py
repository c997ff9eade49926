"""Phantom archives as the stub server serves them. Drawn once; read-only for tests."""

from pathlib import Path

import pytest

from collect.archives import draw, multiply_cmmd
from collect.catalogue import Catalogue
from mammoflow import collect


@pytest.fixture(scope="session")
def cmmd(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Four exams of CMMD."""
    return Catalogue("cmmd", draw("cmmd", tmp_path_factory.mktemp("cmmd"), 4))


@pytest.fixture(scope="session")
def many(cmmd: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """200 exams of CMMD: the pictures of the four, under other names."""
    return Catalogue("cmmd", multiply_cmmd(cmmd.root, tmp_path_factory.mktemp("many"), 200))


@pytest.fixture(scope="session")
def cbis_ddsm(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue("cbis_ddsm", draw("cbis_ddsm", tmp_path_factory.mktemp("cbis"), 3))


@pytest.fixture(scope="session")
def tcga_brca(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Two women: MR of both, mammograms of one."""
    return Catalogue("tcga_brca", draw("tcga_brca", tmp_path_factory.mktemp("tcga"), 2))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the listing at the end, which test_afterwards.py looks at."""
    monkeypatch.setattr(collect, "write_training_manifest", lambda *_: 0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
