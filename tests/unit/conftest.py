"""Fixtures that several unit tests share."""

import pytest

from results_tree import write_tree


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A results tree of two evaluated runs on one cohort (see :func:`results_tree.write_tree`). Read-only."""
    return write_tree(tmp_path_factory.mktemp("tree"), patients=90, runs=("baseline", "second"))
