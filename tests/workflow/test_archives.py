"""Every archive's phantom through the workflow up to its manifest, all in one run."""

import pytest

from mammoflow import tables
from mammoflow.datasets.catalog import ARCHIVES
from workflow.harness import Workflow, make_workflow, mammoflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

PATIENTS = "6"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A small phantom of each archive, one shard each."""
    directory = tmp_path_factory.mktemp("archives")
    for name in ARCHIVES:
        folder = str(directory / "data" / name)
        done = mammoflow("phantom", name, folder, "--patients", PATIENTS, "--seed", "4", directory=directory)
        assert done.returncode == 0, done.stderr
    workflow = make_workflow(directory, datasets={name: {"shards": 1} for name in ARCHIVES}, convert={"long_side": 128})
    workflow.run("manifests")
    return workflow


@pytest.mark.parametrize("name", sorted(ARCHIVES))
def test_every_image_is_placed_or_says_why_not(listed: Workflow, name: str) -> None:
    manifest = tables.read(listed.directory / "results" / name / "manifest.parquet", "manifest")
    inventory = tables.read(listed.directory / "results" / name / "inventory/images.parquet", "images")
    assert sorted(manifest["image_id"]) == sorted(inventory["image_id"])
    assert inventory["use"].isin(tables.USES).all()
    assert inventory.loc[inventory["use"] == "excluded", "excluded_reason"].notna().all()
    assert inventory.loc[inventory["use"] == "labelled", "label_malignant"].notna().all()
    assert inventory.loc[inventory["use"] == "unlabelled", "label_malignant"].isna().all()
    taking_part = manifest[manifest["exclude_reason"].isna()]
    assert all((listed.directory / "store" / path).is_file() for path in taking_part["image_path"])
    if name == "tcga_brca":  # no benign class: nothing to learn from
        assert manifest["label_malignant"].isna().all()
    else:
        assert set(taking_part["label_malignant"]) == {0, 1}


def test_all_plan_nothing_more(listed: Workflow) -> None:
    assert listed.planned("manifests") == {}
