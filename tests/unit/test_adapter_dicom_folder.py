"""A hospital's DICOM tree: what is taken from headers, what is left out and why, and the two optional tables."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import DigitalMammographyXRayImageStorageForProcessing, MRImageStorage

from mammoflow import cli, phantom
from mammoflow.datasets import dicom_folder
from mammoflow.datasets.detection import search
from mammoflow.datasets.dicom_folder import years
from mammoflow.errors import UserError
from mammoflow.inventory import take_inventory
from mammoflow.phantom import mg_dicom

BASE = {
    "SOPClassUID": mg_dicom.PRESENTATION,
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "PatientID": "P1",
    "Modality": "MG",
    "PresentationIntentType": "FOR PRESENTATION",
    "PatientAge": "052Y",
    "Manufacturer": "GE",
    "ManufacturerModelName": "Senographe",
    "ImagerPixelSpacing": ["0.1", "0.1"],
    "PhotometricInterpretation": "MONOCHROME1",
}


def add(root: Path, name: str, uid: str, size: tuple[int, int] | None = (30, 20), **elements) -> None:
    pixels = None if size is None else np.arange(size[0] * size[1], dtype=np.uint16).reshape(size)
    mg_dicom.write(root / name, {**BASE, "SOPInstanceUID": uid, **elements}, pixels, 12)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "pacs"
    add(root, "a/IM1", "1.1", ImageLaterality="L", ViewPosition="CC", BreastImplantPresent="NO")
    add(root, "a/1.2.840.99", "1.2", ImageLaterality="L", ViewCodeSequence=mg_dicom.view_code("MLO"))
    add(root, "b/x.dcm", "1.3", PatientID="P2", StudyInstanceUID="1.9", ImageLaterality="R", ViewPosition="CC")
    return root


def images_of(root: Path) -> pd.DataFrame:
    return dicom_folder.inventory(root).images.set_index("image_id")


def test_a_path_that_is_not_utf8_is_refused_by_name(tree, tmp_path, capsys):
    """Old exports have Latin-1 names. What is no image may be called as it likes."""
    (tree / "a" / os.fsdecode(b"Gr\xfc\xdfe.txt")).write_text("x")
    out = tmp_path / "out"
    assert cli.main(["inventory", "dicom_folder", str(tree), "--out", str(out)]) == 0
    (tree / "b").rename(tree / os.fsdecode(b"M\xfcller1"))
    shutil.rmtree(out)
    assert cli.main(["inventory", "dicom_folder", str(tree), "--out", str(out)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert r"'M\udcfcller1/x.dcm'" in message
    assert f"below {tree}, is not a UTF-8 name" in message
    assert "convmv" in message
    assert not out.exists()


@pytest.mark.parametrize("name", ["cmmd", "ddsm", "inbreast"])
def test_such_a_path_is_refused_in_every_archive(name, tmp_path):
    """Some adapters meet it before their table is whole."""
    phantom.write(name, tmp_path, patients=2, seed=1)
    image = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix.lower() in {".dcm", ".ljpeg"})
    image.parent.rename(os.fsdecode(os.fsencode(image.parent) + b"\xfc"))
    with pytest.raises(UserError, match=r"\\udcfc.* is not a UTF-8 name"):
        take_inventory(name, tmp_path, [])


# --- headers


def test_headers_become_rows(tree):
    images = images_of(tree)
    assert list(images.index) == ["1.1", "1.2", "1.3"]
    image = images.loc["1.1"]
    assert image[["study_id", "series_id", "patient_id", "group_id"]].tolist() == [
        "1.2.3", "1.2.3.4", "P1", "dicom_folder:P1",
    ]  # fmt: skip
    assert image[["height", "width", "bits_stored", "age", "implant"]].tolist() == [30, 20, 12, 52, 0]
    assert image[["photometric", "presentation", "manufacturer", "machine"]].tolist() == [
        "MONOCHROME1", "presentation", "GE", "Senographe",
    ]  # fmt: skip
    assert (image["pixel_spacing_mm"], image["path"], image["use"]) == (0.1, "a/IM1", "unlabelled")
    assert images["laterality"].tolist() == ["L", "L", "R"]
    assert images["view_position"].tolist() == ["CC", "MLO", "CC"]


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "MR", "SOPClassUID": MRImageStorage}, "modality_MR"),
        ({"Modality": ""}, "modality_unknown"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing}, "for_processing"),
        ({"NumberOfFrames": "40"}, "multi_frame"),
        ({"size": None}, "no_pixels"),
    ],
)
def test_what_is_no_mammogram_for_reading_is_excluded_with_its_reason(tree, elements, reason):
    add(tree, "odd", "1.7", **elements)
    image = images_of(tree).loc["1.7"]
    assert (image["use"], image["excluded_reason"]) == ("excluded", reason)


def test_copies_and_broken_files_stay_in_the_table(tree, caplog):
    shutil.copy(tree / "a/IM1", tree / "b/COPY")
    (tree / "b/broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00")
    (tree / "b/notes").write_text("no DICOM at all")
    images = images_of(tree)
    assert len(images) == 5
    assert images.loc["1.1.copy1", ["path", "excluded_reason"]].tolist() == ["b/COPY", "duplicate_file"]
    broken = images[images["path"] == "b/broken.dcm"].iloc[0]
    assert broken["use"] == "excluded"
    assert broken["excluded_reason"] in ("unreadable_header", "modality_unknown")
    assert "1 files are copies" in caplog.text


def test_without_a_patient_id_the_study_is_the_group(tree):
    add(tree, "c", "1.8", PatientID="", StudyInstanceUID="1.77")
    assert images_of(tree).loc["1.8", "patient_id"] == "study_1.77"


@pytest.mark.parametrize(
    ("text", "age"), [("052Y", 52), ("018M", 1), ("104W", 2), ("730D", 2), ("61", 61), ("", pd.NA), ("x", pd.NA)]
)
def test_ages(text, age):
    assert years(text) is age or years(text) == age


# --- labels.csv


def test_labels_by_breast_and_by_patient(tree):
    (tree / "labels.csv").write_text(
        "patient_id,laterality,pathology,birads,density,split,site\n"
        "P1,L,Malignant,4b,c,train,north\nP2,,benign,2,1,test,south\nP9,R,benign,,,,\n"
    )
    images = images_of(tree)
    assert images["pathology"].tolist() == ["MALIGNANT", "MALIGNANT", "BENIGN"]
    assert images["breast_birads"].tolist() == ["BI-RADS 4B", "BI-RADS 4B", "BI-RADS 2"]
    assert images["breast_density"].tolist() == ["DENSITY C", "DENSITY C", "DENSITY A"]
    assert images["label_scope"].tolist() == ["breast", "breast", "patient"]
    assert images["split_official"].tolist() == ["training", "training", "test"]
    assert images["label_malignant"].tolist() == [1, 1, 0]
    assert images["site"].tolist() == ["north", "north", "south"]


def test_the_other_breast_keeps_no_label(tree):
    (tree / "labels.csv").write_text("patient_id,laterality,pathology\nP1,R,malignant\nP2,R,normal\n")
    images = images_of(tree)
    assert images["pathology"].fillna("-").tolist() == ["-", "-", "NORMAL"]
    assert images["use"].tolist() == ["unlabelled", "unlabelled", "labelled"]


def test_labels_by_image_win_over_the_header_and_name_missing_images(tree, caplog):
    (tree / "labels.csv").write_text(
        "image_id,birads,laterality,view_position,patient_id,remark\n1.2,5,R,CC,Q1,x\n9.9,1,L,CC,Q2,y\n"
    )
    images = images_of(tree)
    assert images.loc["1.2", ["laterality", "view_position", "patient_id", "group_id"]].tolist() == [
        "R", "CC", "Q1", "dicom_folder:Q1",
    ]  # fmt: skip
    assert images.loc["1.1", ["laterality", "patient_id"]].tolist() == ["L", "P1"]
    assert images.loc["1.2", ["label_source", "label_scope", "label_malignant"]].tolist() == ["birads", "image", 1]
    assert images.loc["9.9", ["excluded_reason", "patient_id", "breast_birads"]].tolist() == [
        "missing_file", "Q2", "BI-RADS 1",
    ]  # fmt: skip
    assert "the columns remark are not known" in caplog.text


def test_labels_by_file_path_or_name(tree):
    (tree / "labels.csv").write_text("file,pathology\na/IM1,malignant\nx.dcm,benign\n")
    assert images_of(tree)["pathology"].fillna("-").tolist() == ["MALIGNANT", "-", "BENIGN"]


def test_a_name_that_two_files_have_needs_its_path(tree):
    add(tree, "c/IM1", "1.8")
    (tree / "labels.csv").write_text("file,pathology\nIM1,malignant\n")
    with pytest.raises(UserError, match="several files are named IM1"):
        images_of(tree)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,pathology\nx,benign\n", "none of the columns image_id, file, patient_id"),
        ("image_id\n1.1\n", "says nothing about its images"),
        ("image_id,pathology\n1.1,kaputt\n", "unknown value 'kaputt'"),
        ("image_id,birads\n1.1,7\n", "unknown value '7'"),
        ("image_id,pathology\n,benign\n", "column 'image_id' is empty"),
        ("image_id,pathology\n1.1,benign\n1.1,malignant\n", "names 1.1 twice"),
        ("patient_id,laterality,pathology\nP1,L,benign\nP1,L,malignant\n", "names P1 L twice"),
        ("image_id,pathology\n7.7,benign\n", "no row belongs to an image"),
        ("image_id,age\n1.1,old\n", "'old' is not a whole number"),
    ],
)
def test_a_damaged_label_table_is_named(tree, table, said):
    (tree / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=said) as error:
        images_of(tree)
    assert "labels.csv" in str(error.value)


# --- findings.csv

FINDINGS = """\
image_id,finding_categories,finding_birads,xmin,ymin,xmax,ymax,pathology
1.1,"['Mass', 'Skin Retraction']",BI-RADS 5,2,3,50,9.5,malignant
1.1,Asymmetry,,1,1,4,4,
1.2,['No Finding'],,,,,,
"""


def test_boxes_in_the_columns_of_vindr(tree):
    (tree / "findings.csv").write_text(FINDINGS)
    findings = dicom_folder.inventory(tree).findings
    assert findings["finding_id"].tolist() == ["1.1_1", "1.1_2"]
    assert findings["finding_categories"].tolist() == ["['Mass', 'Skin Retraction']", "['Asymmetry']"]
    assert findings[["xmin", "ymin", "xmax", "ymax"]].iloc[0].tolist() == [2, 3, 20, 9.5]  # clipped to 20 columns
    assert findings["finding_birads"].fillna("-").tolist() == ["BI-RADS 5", "-"]
    assert findings["label_malignant"].fillna(-1).tolist() == [1, -1]
    assert set(findings["geometry"]) == {"bbox"}
    assert set(findings["patient_id"]) == {"P1"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("xmin", "x0", "no column 'xmin'"),
        ("1.1,Asym", "5.5,Asym", "marks image '5.5', which is not here"),
        ("1,1,4,4", "1,1,,4", "incomplete, empty or outside"),
        ("1,1,4,4", "25,1,28,4", "incomplete, empty or outside"),
        ("malignant", "evil", "unknown value 'evil'"),
    ],
)
def test_a_damaged_table_of_boxes_is_named(tree, old, new, said):
    (tree / "findings.csv").write_text(FINDINGS.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        dicom_folder.inventory(tree)
    assert "findings.csv" in str(error.value)


# --- the directory, the phantom


def test_wrong_and_empty_directories(tmp_path):
    with pytest.raises(UserError, match="is empty: put the DICOM tree"):
        dicom_folder.inventory(tmp_path)
    (tmp_path / "labels.csv").write_text("image_id,pathology\n1,benign\n")
    with pytest.raises(UserError, match="no DICOM file lies below"):
        dicom_folder.inventory(tmp_path)
    assert dicom_folder.detect(tmp_path) is None


def test_detection(tree):
    (found,) = search(tree)
    assert (found.dataset, found.images_found) == ("dicom_folder", 3)
    assert found.missing == ["labels.csv, without which no image has a label"]


def test_phantom(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    phantom.write("dicom_folder", tmp_path / "archive", 6, 1)
    images, findings, exams = dicom_folder.inventory(tmp_path / "archive")
    reasons = images["excluded_reason"].value_counts().to_dict()
    assert reasons == {"for_processing": 1, "modality_MR": 1, "modality_SR": 1}
    read = images[images["use"] == "labelled"]
    assert len(read) == 24
    assert set(read["label_malignant"]) == {0, 1}
    assert set(read["view_position"]) == {"CC", "MLO"}
    assert exams.loc[exams["n_images"] >= 4, "complete_4view"].eq(1).all()
    assert len(findings) > 0
    assert findings["image_id"].isin(read["image_id"]).all()
    assert not caplog.records


def test_detection_beside_a_published_archive(tmp_path):
    """On a shelf with others the folder is known by its table of labels."""
    phantom.write("dicom_folder", tmp_path / "hospital", 2, 1)
    phantom.write("mias", tmp_path / "mias", 2, 1)
    assert {found.dataset: found.root for found in search(tmp_path)} == {
        "dicom_folder": tmp_path / "hospital",
        "mias": tmp_path / "mias",
    }
