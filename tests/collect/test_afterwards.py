"""What a collect leaves: the archive's adapter reads it, tables are there or it is said how to get them, secrets are
not."""

import json
from pathlib import Path

import pandas as pd
import pytest

from collect.archives import draw
from collect.catalogue import Catalogue
from collect.stub_server import Faults, StubServer
from mammoflow import cli, collect, settings
from mammoflow.collect.http import md5_of
from mammoflow.errors import UserError
from mammoflow.inventory import take_inventory


@pytest.mark.parametrize(
    ("dataset", "source"), [("cmmd", "nbia"), ("cmmd", "idc"), ("cbis_ddsm", "nbia"), ("tcga_brca", "idc")]
)
def test_the_inventory_reads_what_was_collected(
    dataset: str, source: str, out: Path, request: pytest.FixtureRequest
) -> None:
    catalogue = request.getfixturevalue(dataset)
    with StubServer([catalogue]) as server:
        last = collect.collect(dataset, out, server.settings(source))
    assert (last.status, last.message) == ("done", "")
    listed = take_inventory(dataset, out, []).images
    original = take_inventory(dataset, catalogue.root, []).images
    columns = ["patient_id", "laterality", "view_position", "label_malignant", "use", "excluded_reason", "height"]
    pd.testing.assert_frame_equal(
        listed.sort_values("image_id")[columns].reset_index(drop=True),
        original.sort_values("image_id")[columns].reset_index(drop=True),
    )
    manifest = pd.read_csv(out / "training_manifest.csv", dtype=str)
    assert sorted(manifest["image_id"]) == sorted(listed.loc[listed["path"].notna(), "image_id"])
    images = manifest[manifest["md5"].notna()]
    assert len(images)
    assert all(md5_of(out / path) == md5 for path, md5 in zip(images["path"], images["md5"], strict=True))


def test_the_index_of_a_selection_names_what_did_not_arrive(tcga_brca: Catalogue, out: Path) -> None:
    with StubServer([tcga_brca]) as server:
        collect.collect("tcga_brca", out, server.settings("idc") | {"modality": ["MG"]})
    next(out.rglob("*.dcm")).unlink()
    images = take_inventory("tcga_brca", out, []).images
    assert (images["excluded_reason"] == "missing_file").sum() == 1
    assert not images["excluded_reason"].str.startswith("modality_MR", na=False).any()


def test_a_table_that_cannot_be_had_is_told_with_its_address(
    cmmd: Catalogue, out: Path, capsys: pytest.CaptureFixture
) -> None:
    name = "CMMD_clinicaldata_revision.xlsx"
    with StubServer([cmmd], Faults(script={"/tables/": ["html"]})) as server:
        arguments = ["collect", "cmmd", "--out", str(out), "--settings", json.dumps(server.settings("nbia"))]
        assert cli.main(arguments) == 1
        said = capsys.readouterr()
        assert (
            f"{name} could not be fetched (what came is not that table): get it by hand from {server.url}" in said.err
        )
        assert "4 of 4 series" in said.out
        assert not (out / name).exists()
        (out / name).write_bytes(server.tables[name])  # by hand
        assert cli.main(arguments) == 0
    record = json.loads((out / "collected.json").read_text())
    assert record["tables"] == [{"path": name, "bytes": (out / name).stat().st_size, "md5": md5_of(out / name)}]
    assert {series["licence"] for series in record["series"]} == {"CC BY 4.0"}
    assert all(series["collected"].endswith("+00:00") for series in record["series"])


def test_the_record_is_written_when_complete(cmmd: Catalogue, out: Path, tmp_path: Path) -> None:
    record = tmp_path / "results" / "collected.json"
    with StubServer([cmmd], Faults(script={"getImage": ["500", "500"]})) as server:
        section = server.settings("nbia") | {"tries": 1, "jobs": 1}
        arguments = ["collect", "cmmd", "--out", str(out), "--settings", json.dumps(section), "--record", str(record)]
        assert cli.main(arguments) == 1
        assert not record.exists()
        assert cli.main(arguments) == 0
    assert json.loads(record.read_text())["series_count"] == 4
    assert "HTTP 500" in (out / "download_log.txt").read_text()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"max_serie": 3}, "collect: unknown key 'max_serie' (did you mean 'max_series'?)"),
        ({"source": "kaggle"}, "collect.source: cmmd cannot be collected from 'kaggle'; known: idc, nbia"),
    ],
)
def test_a_wrong_section_of_the_configuration_is_explained(section: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings.check_references(settings.resolve({"datasets": {"cmmd": {"collect": section}}}))
    assert str(caught.value).startswith(f"config.datasets.cmmd.{message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cmmd", "--source", "kaggle"], "cmmd cannot be collected from 'kaggle'; known: idc, nbia"),
        (["cmmd", "--jobs", "99"], "99 is greater than the maximum of 16"),
        (["cmmd", "--settings", "{"], "--settings is not valid JSON"),
        (["mamo"], "unknown dataset 'mamo'"),
        (["cmmd", "--base-url", "https://me:secret@host/"], "base_url: no name or password in an address"),
        (["cmmd", "--idc-index", "absent.parquet"], "absent.parquet is no IDC index"),
        (
            ["cmmd", "--source", "nbia", "--base-url", "http://127.0.0.1:9", "--settings", '{"tries": 1}'],
            "nbia cannot be listed (no answer",
        ),
    ],
)
def test_a_wrong_call_is_answered_in_a_sentence(
    arguments: list[str], message: str, out: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["collect", *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err


def test_archives_without_a_route_say_where_to_apply_then_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = draw("bcdr", tmp_path / "shelf" / "bcdr", 2)
    record = tmp_path / "record.json"
    assert cli.main(["collect", "bcdr", "--out", str(tmp_path / "empty")]) == 1
    said = capsys.readouterr().out
    assert "Registration at bcdr.eu" in said
    assert "the unzipped sub-sets" in said
    assert cli.main(["collect", "bcdr", "--out", str(root), "--record", str(record)]) == 0
    assert record.is_file()
    assert cli.main(["collect", "bcdr", "--out", str(root.parent)]) == 1
    assert f"name that directory: --out {root}" in capsys.readouterr().out
    for path in list(root.rglob("*.tif")):
        path.unlink()
    assert cli.main(["collect", "bcdr", "--out", str(root)]) == 1
    assert "missing:" in capsys.readouterr().out
