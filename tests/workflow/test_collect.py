"""The collect rules: planned only where asked for, and run for real against the stub server."""

import json
from pathlib import Path

import pytest

from collect.archives import draw
from collect.catalogue import Catalogue
from collect.stub_server import Faults, StubServer
from workflow.harness import make_workflow

pytestmark = pytest.mark.workflow


def test_only_archives_that_ask_are_collected(tmp_path: Path) -> None:
    asked = {"max_gb": 1.5, "modality": ["MG"]}
    workflow = make_workflow(tmp_path, datasets={"cmmd": {"collect": asked}, "mias": {}, "tcga_brca": {"collect": {}}})
    assert workflow.planned("inventory") == {"collect_cmmd": 1, "collect_tcga_brca": 1, "list_archive": 3}


def test_a_collected_archive_is_listed_and_not_fetched_twice(tmp_path: Path) -> None:
    catalogue = Catalogue("cmmd", draw("cmmd", tmp_path / "phantom", 3))
    with StubServer([catalogue], Faults(script={"getImage": ["500", "truncated"]})) as server:
        section = server.settings("nbia") | {"tries": 1, "jobs": 1}
        workflow = make_workflow(tmp_path, datasets={"cmmd": {"collect": section}})
        workflow.run("inventory", expect=1)  # two series fail at their only try
        assert not (tmp_path / "results/cmmd/collected.json").exists()
        assert len(json.loads((tmp_path / "data/cmmd/collected.json").read_text())["series"]) == 1
        workflow.run("inventory")
        assert (tmp_path / "results/cmmd/inventory/images.parquet").is_file()
        assert json.loads((tmp_path / "results/cmmd/collected.json").read_text())["series_count"] == 3
        zips = [one for one in server.seen if one.path.endswith("getImage")]
        assert len(zips) == 3 + 2  # what had arrived was not asked for again
        assert workflow.planned("inventory") == {}
