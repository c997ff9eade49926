"""The commands ``inventory``, ``detect`` and ``datasets``, called as a user would."""

import json
import os
from pathlib import Path

import pytest

from mammoflow import phantom, tables
from mammoflow.cli import main
from mammoflow.datasets import ARCHIVES, base, mias
from mammoflow.datasets.detection import search
from mammoflow.errors import UserError
from mammoflow.inventory import differences, exclude_images, take_inventory

INFO = "".join(f"mdb{number:03d} G {'CIRC M 20 30 5' if number % 4 == 1 else 'NORM'}\n" for number in range(1, 9))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "mias"
    root.mkdir()
    (root / "Info.txt").write_text(INFO, encoding="latin-1")
    for number in range(1, 7):
        (root / f"mdb{number:03d}.pgm").write_bytes(b"P5\n4 4\n255\n" + bytes(16))
    return root


def test_tables_counts_and_warnings(tree, tmp_path, capsys):
    assert main(["inventory", "mias", str(tree), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "mias: 8 images, 2 findings, 4 exams, 4 patients",
        "  files on disk: 6",
        "  excluded, missing_file: 2",
        "  label, malignant: 2",
        "  label, not malignant: 6",
    ]
    assert "8 images, the published archive has 322" in said.err
    for name in ("images", "findings", "exams"):
        frame = tables.read(tmp_path / "out" / f"{name}.parquet", name)
        assert tables.validate(name, frame) is not None
    exams = tables.read(tmp_path / "out" / "exams.parquet", "exams")
    assert exams["label_malignant_R"].tolist() == [1, 0, 1, 0]
    assert exams["views"].tolist() == ["LMLO;RMLO"] * 4


def test_the_same_archive_gives_the_same_bytes(tree, tmp_path):
    for out in ("a", "b"):
        main(["inventory", "mias", str(tree), "--out", str(tmp_path / out)])
    for name in ("images", "findings", "exams"):
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes()


def test_excluded_images_stay_with_the_reason(tree, tmp_path, capsys):
    settings = json.dumps({"exclude": ["mdb002", "mdb007"]})
    assert main(["inventory", "mias", str(tree), "--out", str(tmp_path / "out"), "--settings", settings]) == 0
    images = tables.read(tmp_path / "out" / "images.parquet", "images").set_index("image_id")
    assert images["excluded_reason"].dropna().to_dict() == {
        "mdb002": "excluded_by_config",
        "mdb007": "excluded_by_config",
        "mdb008": "missing_file",
    }
    assert set(images.loc[["mdb002", "mdb007"], "use"]) == {"excluded"}
    assert "excluded, excluded_by_config: 2" in capsys.readouterr().out


def test_exclude_refuses_a_typing_error(tree):
    images = mias.inventory(tree).images
    with pytest.raises(UserError, match=r"no image 'mdb0002' \(did you mean 'mdb002'\?\)"):
        exclude_images(images, ["mdb0002"])


def test_bad_input_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["inventory", "mias", str(tmp_path / "empty")], "is empty: put Info.txt"),
        (["inventory", "mias", str(tmp_path / "absent")], "is not a directory"),
        (["inventory", "mammals", str(tmp_path)], "unknown dataset 'mammals'; known: "),
        (["inventory", "mias", str(tmp_path), "--settings", '{"excluded": []}'], "did you mean 'exclude'"),
    ]:
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert len(said.err.splitlines()) == 1
        assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_take_inventory_without_exclusions_is_the_adapters(tree):
    assert take_inventory("mias", tree, []).images.equals(mias.inventory(tree).images)


def test_unprocessed_images_are_left_out_or_taken_alone(tmp_path):
    phantom.write("dicom_folder", tmp_path / "pacs", patients=2, seed=3)
    listed = {word: take_inventory("dicom_folder", tmp_path / "pacs", [], word) for word in ("exclude", "only")}
    raw = {word: one.images[one.images["presentation"] == "processing"] for word, one in listed.items()}
    assert raw["exclude"][["use", "excluded_reason"]].to_numpy().tolist() == [["excluded", "for_processing"]]
    assert raw["only"]["use"].tolist() == ["labelled"]
    assert raw["only"]["excluded_reason"].isna().all()
    taken = {word: one.images[one.images["use"] == "labelled"] for word, one in listed.items()}
    assert (len(taken["exclude"]), len(taken["only"])) == (8, 1)
    reasons = listed["only"].images["excluded_reason"].value_counts().to_dict()
    assert reasons == {"for_presentation": 8, "modality_MR": 1, "modality_SR": 1}


def test_differences_name_both_numbers():
    assert differences({"images": 3, "findings": 2}, {"images": 3, "findings": 5}) == [
        "2 findings, the published archive has 5"
    ]


def test_detect_prints_where_and_what_is_missing(tree, tmp_path, capsys):
    assert main(["detect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"mias: {tree} (6 images)", "  missing: 316 of 322 films"]
    assert main(["detect", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["dataset"], found["root"], found["complete"]) == ("mias", str(tree), False)


def test_detect_names_the_archives_own_folder(tree, tmp_path):
    """Adapters may look one folder down for a table; a shelf with several archives is still none of them."""
    table = tmp_path / "clinical" / "CMMD_clinicaldata_revision.csv"
    table.parent.mkdir()
    row = "D1-0001,R,44,2,calcification,Benign,"
    table.write_text(f"ID1,LeftRight,Age,number,abnormality,classification,subtype\n{row}\n")
    found = {detection.dataset: detection.root for detection in search(tmp_path)}
    assert found == {"cmmd": table.parent, "mias": tree}


def test_detect_ends_in_a_loop_of_links(tree, tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    os.symlink(tmp_path, tmp_path / "a" / "b" / "up")
    assert main(["detect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("mias: ") == 1


def test_detect_reports_a_damaged_archive(tmp_path, capsys):
    (tmp_path / "mass_case_description_train_set.csv").write_text("a,b\n1,2\n")
    assert main(["detect", str(tmp_path)]) == 0
    assert "mass_case_description_train_set.csv has no column" in capsys.readouterr().out


def test_detect_without_a_find(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    assert main(["detect", str(tmp_path)]) == 1
    assert "no known archive below" in capsys.readouterr().err
    assert main(["detect", str(tmp_path / "absent")]) == 2


def test_datasets_lists_the_whole_catalogue(capsys):
    assert main(["datasets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(ARCHIVES)
    assert all(entry[key] for entry in listed for key in ("licence", "access", "put_here"))
    assert [entry["name"] for entry in listed if not entry["citation"]] == ["dicom_folder"]
    assert main(["datasets"]) == 0
    shown = capsys.readouterr().out
    for name in ARCHIVES:
        assert name in shown


def test_read_csv_keeps_text_and_reads_old_encodings(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbfid, name ,note\r\n001 ,NA,"two\nlines\n"\r\n,"",x\r\n')
    frame = base.read_csv(path, ["id", "name"], "any")
    assert frame.fillna("?").to_numpy().tolist() == [["001", "NA", "two\nlines"], ["?", "?", "x"]]
    path.write_bytes("id\ncaf\xe9\n".encode("cp1252"))
    assert base.read_csv(path, ["id"], "any")["id"].tolist() == ["caf\xe9"]
    with pytest.raises(UserError, match=r"table.csv has no column 'age'"):
        base.read_csv(path, ["age"], "any")
    with pytest.raises(UserError, match=r"absent.csv does not exist"):
        base.read_csv(tmp_path / "absent.csv", [], "any")


def test_parse_int_takes_whole_numbers_only(tmp_path):
    frame = base.read_csv(_table(tmp_path, 'age\n61.0\n""\n7\n'), ["age"], "any")
    assert base.parse_int(frame["age"], tmp_path).fillna(-1).tolist() == [61, -1, 7]
    frame = base.read_csv(_table(tmp_path, "age\n61.5\n"), ["age"], "any")
    with pytest.raises(UserError, match=r"column 'age': '61.5' is not a whole number"):
        base.parse_int(frame["age"], tmp_path)


def _table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_find_files_bounds_the_walk(tmp_path):
    for path in ("a/1.DCM", "a/b/2.dcm", "a/.hidden/3.dcm", "a/b/c/d/4.dcm", "a/5.txt", "a/.6.dcm"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in base.find_files(tmp_path, {".dcm"}, max_depth=3)]
    assert found == ["a/1.DCM", "a/b/2.dcm"]
    assert len(base.find_files(tmp_path, {".dcm"})) == 3
