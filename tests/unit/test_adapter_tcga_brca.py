"""The TCGA-BRCA adapter on its phantom and on small trees and index rows written here."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from mammoflow import phantom
from mammoflow.datasets import adapter, archive, dicom_tags, tcga_brca
from mammoflow.errors import UserError
from mammoflow.imaging.decode import read_image
from mammoflow.phantom import mg_dicom

WOMAN = "TCGA-AO-A0JB"
STUDY = mg_dicom.uid_of("study")
INDEX_HEADER = (
    "collection_id,analysis_result_id,PatientID,SeriesInstanceUID,StudyInstanceUID,Modality,SOPClassUID,Manufacturer,"
    "instanceCount"
)


def write_file(
    root: Path, modality: str, series: str, number: int, patient: str = WOMAN, folder: str = "", **changes
) -> Path:
    elements = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": mg_dicom.uid_of(patient, series, number),
        "Modality": modality,
        "PatientID": patient,
        "PatientAge": "061Y",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": series,
        "Manufacturer": "LORAD",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        **changes,
    }
    path = root / "tcga_brca" / patient / STUDY / (folder or f"{modality}_{series}") / f"{number}.dcm"
    mg_dicom.write(path, elements, np.zeros((6, 4), np.uint16), 12)
    return path


def write_index(root: Path, rows: list[str], header: str = INDEX_HEADER) -> Path:
    path = root / "tcga_brca_idc_v25.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tcga"
    for number in range(3):
        write_file(root, "MR", "1.2.3", number)
    write_file(root, "MG", "1.2.4", 1)
    write_file(root, "MG", "1.2.4", 2, ViewPosition="XCCM")
    write_file(root, "MG", "1.2.5", 1, PresentationIntentType="FOR PROCESSING", PhotometricInterpretation="MONOCHROME1")
    write_file(root, "SR", "1.2.6", 1, patient="TCGA-BH-A0B3-01")
    return root


def test_mammograms_are_unlabelled_images(tree):
    images = tcga_brca.inventory(tree).images
    mammograms = images[images["use"] == "unlabelled"]
    assert sorted(mammograms["view_position"]) == ["CC", "XCCM"]
    row = mammograms.iloc[0]
    assert row[["patient_id", "group_id", "site"]].tolist() == [WOMAN, f"tcga_brca:{WOMAN}", "AO"]
    assert row[["laterality", "age", "manufacturer", "height", "width", "bits_stored"]].tolist() == [
        "L",
        61,
        "LORAD",
        6,
        4,
        12,
    ]
    assert row["source_size"] == (tree / row["path"]).stat().st_size
    assert images[["pathology", "label_malignant", "label_3cat"]].isna().all(axis=None)
    assert set(images["label_source"]) == {"none"}


def test_raw_detector_data_are_refused(tree):
    images = tcga_brca.inventory(tree).images
    (raw,) = images[images["presentation"] == "processing"].itertuples()
    assert (raw.use, raw.excluded_reason, raw.photometric) == ("excluded", "for_processing", "MONOCHROME1")


def test_other_modalities_are_one_row_per_series(tree):
    images = tcga_brca.inventory(tree).images.set_index("image_id")
    series = images.loc["1.2.3"]
    assert series[["use", "excluded_reason", "member"]].tolist() == ["excluded", "modality_MR", "instances=3"]
    assert (tree / series["path"]).is_dir()
    report = images.loc["1.2.6"]
    assert report[["excluded_reason", "patient_id", "site"]].tolist() == ["modality_SR", "TCGA-BH-A0B3", "BH"]


def test_a_folder_of_several_series_is_read_file_by_file(tmp_path):
    for number, (modality, series) in enumerate([("MR", "1.1"), ("MG", "1.2"), ("MR", "1.1"), ("MR", "1.3")]):
        write_file(tmp_path, modality, series, number, folder="all")
    images = tcga_brca.inventory(tmp_path).images.set_index("image_id")
    assert images.loc["1.1", "member"] == "instances=2"
    assert images.loc["1.3", "member"] == "instances=1"
    assert (images["use"] == "unlabelled").sum() == 1


def test_slices_are_not_opened_one_by_one(tmp_path, monkeypatch):
    for number in range(20):
        write_file(tmp_path, "MR", "1.1", number)
    opened = []
    real = dicom_tags.read_tags

    def counting(paths, keywords, threads=8):
        opened.extend(paths)
        return real(paths, keywords, threads)

    monkeypatch.setattr(tcga_brca, "read_tags", counting)
    (row,) = tcga_brca.inventory(tmp_path).images.itertuples()
    assert row.member == "instances=20"
    assert len(opened) == 2


def test_what_the_index_names_and_no_file_shows(tree):
    rows = [
        f"tcga_brca,,{WOMAN},1.2.4,{STUDY},MG,,LORAD,3",  # two of three are there
        f"tcga_brca,,{WOMAN},1.2.3,{STUDY},MR,,GE,3",  # there
        f"tcga_brca,,{WOMAN},1.2.7,{STUDY},MR,,GE,44",
        f"tcga_brca,10.7937/other,{WOMAN},1.2.8,{STUDY},SEG,,,1",  # somebody's result
        "cmmd,,D1-0001,1.2.9,1.2,MG,,,2",
    ]
    before = tcga_brca.inventory(tree).images
    write_index(tree, rows)
    after = tcga_brca.inventory(tree).images.set_index("image_id")
    new = after.loc[~after.index.isin(before["image_id"])]
    assert new["excluded_reason"].to_dict() == {"1.2.4_3": "missing_file", "1.2.7": "modality_MR"}
    assert new.loc["1.2.7", "member"] == "instances=44"
    assert new["path"].isna().all()
    assert len(after) == len(before) + 2


def test_half_a_download(tree, caplog):
    path = next((tree / "tcga_brca").rglob("MG_1.2.4/2.dcm"))
    path.write_bytes(path.read_bytes()[:60])
    write_file(tree, "MG", "7.7", 1, patient="somebody")
    with caplog.at_level(logging.WARNING):
        images = tcga_brca.inventory(tree).images
    assert (images["use"] == "unlabelled").sum() == 1
    assert "has no readable header" in caplog.text
    assert "download it again" in caplog.text
    assert "of no TCGA patient" in caplog.text


def test_a_bad_index_is_named(tree):
    write_index(tree, [f"tcga_brca,,{WOMAN},1.2.4,{STUDY},MG,,LORAD,many"])
    with pytest.raises(UserError, match=r"idc_v25\.csv\.gz, column 'instanceCount': 'many'"):
        tcga_brca.inventory(tree)
    write_index(tree, [f"tcga_brca,,,1.2.4,{STUDY},MG,,LORAD,3"])
    with pytest.raises(UserError, match=r"idc_v25\.csv\.gz, data row 1: column 'PatientID' is empty"):
        tcga_brca.inventory(tree)


def test_a_folder_without_the_archive_is_named(tmp_path):
    with pytest.raises(UserError, match="is empty: put the downloaded DICOM tree"):
        tcga_brca.inventory(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="holds no DICOM file of a TCGA patient: put"):
        tcga_brca.inventory(tmp_path)
    assert tcga_brca.detect(tmp_path) is None
    with pytest.raises(UserError, match="is not a directory"):
        tcga_brca.inventory(tmp_path / "absent")


def test_detection(tree, tmp_path):
    found = tcga_brca.detect(tree)
    assert (found.images_found, found.missing) == (7, [])
    only_index = tmp_path / "index"
    only_index.mkdir()
    write_index(only_index, [f"tcga_brca,,{WOMAN},1.2.4,{STUDY},MG,,LORAD,3"])
    assert tcga_brca.detect(only_index).missing == ["images"]
    write_index(only_index, ["cmmd,,D1-0001,1.2.9,1.2,MG,,,2"])
    assert tcga_brca.detect(only_index) is None


def test_the_phantom_is_read_whole(tmp_path):
    root = tmp_path / "phantom"
    phantom.write("tcga_brca", root, 5, seed=1)
    listed = tcga_brca.inventory(root)
    images = listed.images
    assert images["patient_id"].nunique() == len(listed.exams) == 5
    assert images["excluded_reason"].value_counts().to_dict() == {
        "modality_MR": 10,
        "modality_SR": 5,
        "for_processing": 6,
    }
    kept = images[images["use"] == "unlabelled"]
    assert sorted(kept["view_position"]) == ["CC", "CC", "MLO", "MLO", "XCCM", "XCCM"]
    pixels = read_image(root / kept["path"].iloc[0])
    assert (pixels.pixels.shape, pixels.header.photometric) == ((640, 512), "MONOCHROME2")
    assert tcga_brca.detect(root).images_found == len(list(root.rglob("*.dcm")))


def test_the_catalogue_says_that_it_has_no_labels():
    assert adapter("tcga_brca") is tcga_brca
    assert "unlabelled" in archive("tcga_brca").title
    assert archive("tcga_brca").localised is False
