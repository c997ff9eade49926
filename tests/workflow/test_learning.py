"""The workflow learns what is there to learn, and nothing from shuffled labels: intervals above 0.5 and around 0.5."""

import json

import pytest
import yaml

from workflow.harness import REPOSITORY, Workflow, make_workflow, mammoflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The demo's configuration, and the same run with labels shuffled over patients as a negative control."""
    directory = tmp_path_factory.mktemp("learning")
    config = yaml.safe_load((REPOSITORY / "config/demo.yaml").read_text())
    for dataset, patients, seed in (("mias", "50", "1"), ("cbis_ddsm", "200", "2")):
        folder = str(directory / "demo" / dataset)
        done = mammoflow("phantom", dataset, folder, "--patients", patients, "--seed", seed, directory=directory)
        assert done.returncode == 0, done.stderr
    shuffled = {"shuffle_labels": True, "localisation_weight": 0, "epochs": 8}
    config["runs"]["control"] = {**config["runs"]["demo"], **shuffled}
    workflow = make_workflow(directory, **config)
    workflow.run("evaluate")
    return workflow


def test_what_is_there_is_learned(learned: Workflow) -> None:
    for level in ("image", "breast"):
        auc = auc_on_test(learned, "demo", level)
        assert auc["low"] > 0.5, (level, auc)


def test_nothing_is_learned_from_shuffled_labels(learned: Workflow) -> None:
    for level in ("image", "breast"):
        auc = auc_on_test(learned, "control", level)
        assert auc["low"] < 0.5 < auc["high"], (level, auc)


def auc_on_test(workflow: Workflow, run: str, level: str) -> dict[str, float]:
    """Value, low and high of the image model's AUC on the test split."""
    path = workflow.directory / f"results/demo/runs/{run}/evaluate/metrics.json"
    blocks = json.loads(path.read_text(encoding="utf-8"))["results"]
    wanted = {"split": "test", "level": level, "model": "image", "subgroup": None}
    found = [block for block in blocks if all(block[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]["metrics"]["auc"]
