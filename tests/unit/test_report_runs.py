"""The page holds whatever a configuration allows a run to be."""

import shutil

import pytest

from mammoflow import report, settings
from mammoflow.calibration import METHOD_NAMES
from mammoflow.files import read_json, write_json

CALIBRATIONS = settings.schema()["$defs"]["fuse"]["properties"]["calibration"]["enum"]


def build(tree, runs):
    return report.build(tree["datasets"], [], runs, tree["store"][0], tree["config"][0])[0]


@pytest.fixture
def run(two_runs, tmp_path):
    """A copy of a run that a test may change."""
    return shutil.copytree(two_runs["runs"][0], tmp_path / "baseline")


# auto becomes one of the others; none is what happens without both classes in validation.
@pytest.mark.parametrize("method", [*sorted(set(CALIBRATIONS) - {"auto"}), "none"])
def test_every_calibration_that_the_schema_allows_has_its_words(two_runs, run, method):
    path = run / "fuse" / "fuse.json"
    fused = read_json(path)
    write_json(path, fused | {"calibration": fused["calibration"] | {"method": method}})
    assert f"is the fused score after {METHOD_NAMES[method]} on validation" in build(two_runs, [run])
