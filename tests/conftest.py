"""Fixtures shared by all tests: the repository, and where the real data lies."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says nothing about correctness, and on a busy machine it would fail tests at random.
settings.register_profile("mammoflow", deadline=None)
settings.load_profile("mammoflow")

REPOSITORY = Path(__file__).resolve().parents[1]
# A runner in the background ignores Ctrl-C and hands that on to all it starts; the tests send it to their programs.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Programs that tests start find the package as this process does, however pytest was called.
os.environ["PYTHONPATH"] = str(REPOSITORY / "workflow" / "src")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run the workflow come first, then those with slow tests: begun last, the longest would end alone, with
    the other cores idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("workflow") is None, item.path not in slow))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory of the real archives; the test is skipped, with the reason, where it is absent."""
    folder = Path(os.environ.get("MAMMOFLOW_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MAMMOFLOW_REAL_DATA")
    return folder
