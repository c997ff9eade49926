"""The page holds whatever a configuration allows a run to be."""

import shutil

import pytest

from mammoflow import report, settings, tables
from mammoflow.calibration import METHOD_NAMES
from mammoflow.cli import main
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


def test_units_without_a_label_are_said_to_be_missing(two_runs, run):
    assert "not counted" not in build(two_runs, [run])
    path = run / "evaluate" / "metrics.json"
    metrics = read_json(path)
    for block in metrics["results"]:
        block["n_unlabelled"] = {"patient": 3, "breast": 1}.get(block["level"], 0)
    write_json(path, metrics)
    html = build(two_runs, [run])
    assert "3 test patients have no label and are not counted. A woman without a known cancer is negative only" in html
    assert "1 test breast has no label and is not counted.</p>" in html
    assert "test images" not in html.split("Operating points")[0].split("Results on the test split")[1]


def controlled(two_runs, directory):
    """A copy of the second run as a negative control: its labels are not those of the archives."""
    control = shutil.copytree(two_runs["runs"][1], directory / "control")
    for path in control.glob("*/train.json"):
        record = read_json(path)
        write_json(path, record | {"settings": record["settings"] | {"shuffle_labels": True}})
    predictions = tables.read(control / "predictions.parquet", "predictions")
    tables.write(
        predictions.assign(label_malignant=1 - predictions["label_malignant"]), control / "predictions.parquet"
    )
    fused = tables.read(control / "fuse" / "fused.parquet", "fused")
    tables.write(fused.assign(label_malignant=1 - fused["label_malignant"]), control / "fuse" / "fused.parquet")
    return control


def test_a_negative_control_is_left_out_of_the_comparison(two_runs, tmp_path):
    """With it no unit would have one label in every run. It does not become the reference where it comes first."""
    html = build(two_runs, [controlled(two_runs, tmp_path), *two_runs["runs"]])
    assert "Run control is a negative control with shuffled labels and is not compared." in html
    assert "the AUC of second minus that of baseline is" in html
    assert "left out: another label" not in html


def test_one_run_beside_its_control_is_not_compared(two_runs, tmp_path):
    seen = report.compare_evaluated([controlled(two_runs, tmp_path), two_runs["runs"][0]])
    assert seen["reason"].endswith("run control is a negative control with shuffled labels and is not compared.")
    runs = [shutil.copytree(tmp_path / "control", tmp_path / name) for name in ("one", "two")]
    assert "runs one and two are negative controls" in report.compare_evaluated(runs)["reason"]


def test_the_command_leaves_a_control_out_and_says_so(two_runs, tmp_path, capsys):
    control, out = controlled(two_runs, tmp_path), tmp_path / "compare.html"
    given = [*map(str, two_runs["runs"]), "--bootstrap", "100", "--out", str(out)]
    assert main(["compare", str(control), *given]) == 0
    assert "left out: run control is a negative control" in capsys.readouterr().out
    assert read_json(out.with_suffix(".json"))["controls"] == ["control"]
    assert "Run control is a negative control" in out.read_text()
    assert main(["compare", str(control), str(two_runs["runs"][0])]) == 2
    assert "compare needs two runs or more: run control is" in capsys.readouterr().err
