"""The CMMD adapter on its phantom in every layout, and on small trees written here."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from mammoflow import labels, phantom, settings
from mammoflow.datasets import adapter, archive, cmmd
from mammoflow.errors import UserError
from mammoflow.imaging.decode import read_image
from mammoflow.phantom import cmmd as drawing
from mammoflow.phantom import mg_dicom

HEADER = "ID1,LeftRight,Age,number,abnormality,classification,subtype"
ROWS = [
    "D1-0001,R,44,2,calcification,Benign,",
    "D2-0007,L,51,2,both,Malignant,Luminal A",
    "D2-0009,L,60,2,mass,Malignant,triple negative",
    "D2-0009,R,60,2,mass,Benign,",
    "D1-0202,L,50,2,mass,Benign,",
    "D2-0284,L,50,2,mass,Benign,",
    "D1-0808,R,50,2,mass,Benign,",
    "D1-1292,R,50,2,mass,Benign,",
]
PATIENTS = 12


def write_table(root: Path, rows: list[str] = ROWS, name: str = "CMMD_clinicaldata_revision.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes("\r\n".join([HEADER, *rows, ""]).encode())
    return root


def write_image(root: Path, patient: str, side: str, view: str, number: int = 1, **changes) -> Path:
    elements = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": mg_dicom.uid_of(patient, side, view, number),
        "Modality": "MG",
        "PatientID": patient,
        "StudyInstanceUID": mg_dicom.uid_of(patient),
        "SeriesInstanceUID": mg_dicom.uid_of(patient, "series"),
        "ImagerPixelSpacing": [0.094090909, 0.094090909],
        "PatientOrientation": mg_dicom.ORIENTATION[side, view],
        "ImageLaterality": side,
        "ViewCodeSequence": mg_dicom.view_code(view),
        **changes,
    }
    path = root / "CMMD" / patient / "07-18-2010-1" / "1.0-2" / f"1-{number}.dcm"
    mg_dicom.write(path, {k: v for k, v in elements.items() if v is not None}, np.zeros((6, 4), np.uint8), 8)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = write_table(tmp_path / "cmmd")
    # The order of the files says nothing: MLO first, right first.
    for number, (side, view) in enumerate([("R", "MLO"), ("R", "CC"), ("L", "MLO"), ("L", "CC")], start=1):
        write_image(root, "D2-0007", side, view, number)
    write_image(root, "D1-0001", "R", "CC")
    return root


@pytest.fixture(scope="module", params=drawing.LAYOUTS)
def drawn(request, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / request.param
    phantom.write("cmmd", root, PATIENTS, seed=2, layout=request.param)
    return root


def test_side_and_view_come_from_the_header(tree):
    images = cmmd.inventory(tree).images.set_index("image_id")
    known = images[images["patient_id"] == "D2-0007"]
    assert list(known.index) == ["D2-0007_L_CC", "D2-0007_L_MLO", "D2-0007_R_CC", "D2-0007_R_MLO"]
    assert [Path(path).name for path in known["path"]] == ["1-4.dcm", "1-3.dcm", "1-2.dcm", "1-1.dcm"]
    row = images.loc["D2-0007_L_CC"]
    assert row[["laterality", "view_position", "height", "width", "bits_stored"]].tolist() == ["L", "CC", 6, 4, 8]
    assert row["pixel_spacing_mm"] == pytest.approx(0.094090909)
    assert row[["photometric", "transfer_syntax"]].tolist() == ["MONOCHROME2", "1.2.840.10008.1.2.1"]
    assert row[["study_id", "age", "site"]].tolist() == [mg_dicom.uid_of("D2-0007"), 51, "D2"]
    assert pd.isna(row["manufacturer"])
    assert row["source_size"] == (tree / row["path"]).stat().st_size


def test_a_breast_without_a_row_is_unlabelled(tree):
    images = cmmd.inventory(tree).images.set_index("image_id")
    assert images.loc["D2-0007_L_CC", ["pathology", "label_malignant", "label_source"]].tolist() == [
        "MALIGNANT",
        1,
        "pathology",
    ]
    other = images.loc["D2-0007_R_CC"]
    assert other[["uncertain", "use", "label_source"]].tolist() == ["contralateral_unlabelled", "unlabelled", "none"]
    assert other[["pathology", "label_malignant", "label_3cat"]].isna().all()
    policy = settings.resolve_section("labels", {"unlabelled_side": "normal"})
    normal = labels.apply_policy(images.reset_index(), policy).set_index("image_id").loc["D2-0007_R_CC"]
    assert normal[["label_malignant", "label_3cat", "use"]].tolist() == [0, "normal", "labelled"]


def test_images_that_the_table_promises_are_listed(tree):
    images = cmmd.inventory(tree).images
    absent = images[images["excluded_reason"] == "missing_file"]
    assert len(absent) == 2 * len(ROWS) - 3
    assert set(absent["use"]) == {"excluded"}
    half = images[images["patient_id"] == "D1-0001"].set_index("image_id")
    assert half["excluded_reason"].isna().to_dict() == {"D1-0001_R_CC": True, "D1-0001_R_MLO": False}
    assert half["study_id"].nunique() == 1  # the missing view belongs to the study that is there
    assert images.loc[images["patient_id"] == "D2-0009", "pathology"].tolist() == ["MALIGNANT"] * 2 + ["BENIGN"] * 2


def test_women_with_two_names_are_one_group(tree):
    groups = cmmd.inventory(tree).images.drop_duplicates("patient_id").set_index("patient_id")["group_id"]
    assert groups["D1-0202"] == groups["D2-0284"] == "cmmd:D1-0202"
    assert groups["D1-0808"] == groups["D1-1292"] == "cmmd:D1-0808"
    assert groups.nunique() == len(groups) - 2


def test_findings_have_no_place(tree):
    findings = cmmd.inventory(tree).findings.set_index("finding_id")
    assert len(findings) == 2 * len(ROWS)
    both = findings.loc["D2-0007_L_CC_1"]
    assert both["finding_categories"] == "['Mass', 'Suspicious Calcification']"
    assert both[["geometry", "pathology", "finding_native"]].tolist() == ["none", "MALIGNANT", "both"]
    assert json.loads(both["attributes"]) == {"subtype": "Luminal A"}
    assert both[["xmin", "finding_birads"]].isna().all()
    assert not any(name.startswith("D2-0007_R") for name in findings.index)


def test_a_contradicting_orientation_is_told(tree):
    write_image(tree, "D2-0009", "L", "CC", PatientOrientation=["P", "L"])
    images = cmmd.inventory(tree).images.set_index("image_id")
    assert images.loc["D2-0009_L_CC", "uncertain"] == "laterality_conflict"
    assert images.loc["D2-0009_L_CC", "label_malignant"] == 1
    assert pd.isna(images.loc["D2-0009_R_CC", "uncertain"])


def test_an_image_of_unknown_side_has_no_label(tree):
    changes = {"ImageLaterality": None, "PatientOrientation": None, "ViewCodeSequence": None}
    write_image(tree, "D2-0009", "L", "CC", **changes)
    images = cmmd.inventory(tree).images.set_index("image_id")
    unknown = images.loc["D2-0009_X_X"]
    assert unknown["uncertain"] == "laterality_unknown"
    assert pd.isna(unknown["pathology"])
    # It stands for one of the four promised images: three remain missing, not four.
    assert (images["patient_id"] == "D2-0009").sum() == 4


def test_a_woman_without_a_row(tree):
    write_image(tree, "D1-0003", "L", "CC")
    row = cmmd.inventory(tree).images.set_index("image_id").loc["D1-0003_L_CC"]
    assert row[["uncertain", "use"]].tolist() == ["not_in_clinical_table", "unlabelled"]


def test_an_unreadable_file_stays_with_its_reason(tree):
    path = write_image(tree, "D2-0009", "L", "CC")
    path.write_bytes(path.read_bytes()[:40])
    images = cmmd.inventory(tree).images
    broken = images[images["excluded_reason"] == "unreadable_header"]
    assert broken["patient_id"].tolist() == ["D2-0009"]
    assert broken["path"].tolist() == ["CMMD/D2-0009/07-18-2010-1/1.0-2/1-1.dcm"]
    assert set(broken["use"]) == {"excluded"}
    assert (images["patient_id"] == "D2-0009").sum() == 4


def test_strangers_and_copies_are_left_out_with_a_word(tree, caplog):
    write_image(tree, "PHANTOM-1", "L", "CC")
    write_image(tree, "D2-0009", "L", "CC", Modality="SEG")
    shutil.copytree(tree / "CMMD" / "D1-0001", tree / "again" / "D1-0001")
    with caplog.at_level(logging.WARNING):
        images = cmmd.inventory(tree).images
    assert "2 files are no mammogram of CMMD" in caplog.text
    assert "1 files are copies of an image" in caplog.text
    assert images["image_id"].is_unique
    assert len(images) == 2 * len(ROWS) + 2


def test_the_table_may_be_a_spreadsheet(tree):
    listed = cmmd.inventory(tree)
    rows = pd.read_csv(tree / "CMMD_clinicaldata_revision.csv", dtype=str, keep_default_na=False)
    (tree / "CMMD_clinicaldata_revision.csv").unlink()
    rows.to_excel(tree / "CMMD_clinicaldata_revision.xlsx", index=False)
    again = cmmd.inventory(tree)
    pd.testing.assert_frame_equal(again.images, listed.images)
    pd.testing.assert_frame_equal(again.findings, listed.findings)
    (tree / "CMMD_clinicaldata_revision.xlsx").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"revision\.xlsx cannot be read .*save it as CSV"):
        cmmd.inventory(tree)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROWS[0].replace("Benign", "benign?")], ["'classification'", "benign?"]),
        ([ROWS[0].replace(",R,", ",B,")], ["'LeftRight'", "'B'"]),
        ([ROWS[0].replace("calcification", "cyst")], ["'abnormality'", "'cyst'"]),
        ([ROWS[0].replace("44", "old")], ["'Age'", "'old'"]),
        ([ROWS[0], ROWS[1][:9]], ["row 2", "'Age'", "unchanged"]),
        ([ROWS[0], ROWS[0]], ["two rows", "D1-0001"]),
    ],
)
def test_a_bad_table_is_named(tmp_path, rows, words):
    root = write_table(tmp_path / "bad", rows)
    with pytest.raises(UserError) as caught:
        cmmd.inventory(root)
    assert [word for word in ["CMMD_clinicaldata_revision.csv", *words] if word not in str(caught.value)] == []


def test_a_missing_column_is_named(tree):
    path = tree / "CMMD_clinicaldata_revision.csv"
    path.write_text(path.read_text().replace("classification", "result"))
    with pytest.raises(UserError, match=r"revision\.csv has no column 'classification'"):
        cmmd.inventory(tree)


def test_a_folder_without_the_archive_is_named(tmp_path):
    with pytest.raises(UserError, match="is empty: put CMMD_clinicaldata"):
        cmmd.inventory(tmp_path)
    write_image(tmp_path, "D1-0001", "R", "CC")
    with pytest.raises(UserError, match="no table with the columns ID1, LeftRight, Age: put"):
        cmmd.inventory(tmp_path)
    found = cmmd.detect(tmp_path)
    assert (found.images_found, found.missing) == (1, ["CMMD_clinicaldata_revision.xlsx or .csv"])


def test_detection_by_content(tree, tmp_path):
    found = cmmd.detect(tree)
    assert (found.images_found, found.missing) == (5, ["images of 5 patients of CMMD_clinicaldata_revision.csv"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "table.csv").write_text("patient,side\n1,L\n")
    assert cmmd.detect(other) is None
    assert cmmd.detect(write_table(tmp_path / "named", name="my_labels.csv")).images_found == 0


def test_the_phantom_is_read_whole_in_every_layout(drawn):
    listed = cmmd.inventory(drawn)
    images = listed.images
    files = list(drawn.rglob("*.dcm"))
    assert len(images) == len(files)
    assert images["excluded_reason"].isna().all()
    assert images["patient_id"].nunique() == len(listed.exams) == PATIENTS
    assert images["laterality"].notna().all()
    assert set(images["view_position"]) == {"CC", "MLO"}
    assert set(images["label_malignant"].dropna()) == {0, 1}
    assert (images["uncertain"] == "contralateral_unlabelled").any()
    both = images.groupby("patient_id")["pathology"].nunique()
    assert (both == 2).any()  # a woman with one benign and one malignant breast
    assert cmmd.detect(drawn).missing == []


def test_layouts_tell_the_same(tmp_path):
    ids = []
    for layout in drawing.LAYOUTS:
        phantom.write("cmmd", tmp_path / layout, 3, seed=4, layout=layout)
        ids.append(cmmd.inventory(tmp_path / layout).images.drop(columns=["path", "source_mtime_ns"]))
    pd.testing.assert_frame_equal(ids[0], ids[1])
    pd.testing.assert_frame_equal(ids[0], ids[2])


def test_the_phantom_has_the_quirks_of_the_files(drawn):
    images = cmmd.inventory(drawn).images.set_index("image_id")
    pixels = {name: read_image(drawn / path).pixels for name, path in images["path"].items()}
    for view in ("CC", "MLO"):
        for side in ("L", "R"):
            first, second = pixels.get(f"D1-0202_{side}_{view}"), pixels.get(f"D2-0284_{side}_{view}")
            assert (first is None) == (second is None)
            assert first is None or np.array_equal(first, second)
    shared = [name[7:] for name in pixels if name.startswith("D1-0808")]
    equal = [np.array_equal(pixels[f"D1-0808{name}"], pixels[f"D1-1292{name}"]) for name in shared]
    assert sum(equal) == 1
    assert set(images.loc[images["bits_stored"] == 16, "patient_id"]) == {"D1-1343"}
    header = pydicom.dcmread(drawn / images["path"].iloc[0], stop_before_pixels=True)
    assert (header.VOILUTFunction, header.WindowCenter, header.WindowWidth) == ("SIGMOID", 128, 256)
    assert "ViewPosition" not in header
    assert (drawn / "CMMD_clinicaldata_revision.csv").read_bytes().count(b"\r\n") > PATIENTS


def test_the_catalogue_forbids_the_window():
    assert adapter("cmmd") is cmmd
    assert archive("cmmd").intensity_settings() == {"rescale": False, "voi": False, "invert_monochrome1": True}
    assert archive("cmmd").localised is False
