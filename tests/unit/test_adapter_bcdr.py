"""The BCDR adapter on small sub-sets written here (blanks, two view codes, repeats) and on the phantom."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mammoflow import phantom
from mammoflow.datasets import bcdr
from mammoflow.datasets.detection import search
from mammoflow.errors import UserError
from mammoflow.phantom.bcdr import IMAGE_HEAD, OUTLINE_HEAD

D01_IMAGES = f"""{IMAGE_HEAD}
3,4,1, patient_3/study_4/img_3_4_1_LCC.tif , LCC,1,58,2
3,4,1, patient_3/study_4/img_3_4_1_LO.tif , LO,3,58,2
3,4,1, patient_3/study_4/img_3_4_1_RCC.tif , RCC,0,58,2
3,4,1, patient_3/study_4/img_3_4_1_RXL.tif , RXL,6,58,NaN
7,8,1, patient_7/study_8/img_7_8_1_RO.tif , RO,2,NaN,4
"""
D01_OUTLINES = f"""{OUTLINE_HEAD}
3,4,1,1,1,2, patient_3/study_4/img_3_4_1_LCC.tif, 10 20 15, 30 30 40, 1,1,0,0,0,0,0,58,2, Malign
3,4,1,1,2,2, patient_3/study_4/img_3_4_1_LCC.tif, 11 20 15, 30 30 40, 1,1,0,0,0,0,0,58,2, Malign
3,4,1,2,1,2, patient_3/study_4/img_3_4_1_LCC.tif, 45 60 55, 80 90 70, 1,0,1,1,0,0,0,58,2, Benign
7,8,1,1,1,3, patient_7/study_8/img_7_8_1_RO.tif, 1 2 2, 1 1 3, 1,0,0,0,1,0,1,NaN,4, Benign
"""
DN01_IMAGES = f"""{IMAGE_HEAD}
9,2,1, patient_9/study_2/img_9_2_1_RCC.tif , RCC,0,40,1
3,4,1, patient_3/study_4/img_3_4_1_LCC.tif , LCC,1,58,2
"""


def make_subset(root: Path, name: str, images: str, outlines: str | None, inner: str = "") -> Path:
    base = root / f"BCDR-{name}_dataset" / inner
    base.mkdir(parents=True)
    for line in images.splitlines()[1:]:
        path = base / line.split(",")[3].strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.zeros((100, 50), np.uint8), photometric="minisblack")
    (base / f"bcdr_{name.lower()}_img.csv").write_text(images)
    if outlines is not None:
        (base / f"bcdr_{name.lower()}_outlines.csv").write_text(outlines)
    return base


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "bcdr"
    make_subset(root, "D01", D01_IMAGES, D01_OUTLINES)
    make_subset(root, "D02", D01_IMAGES, D01_OUTLINES)
    make_subset(root, "DN01", DN01_IMAGES, None)
    return root


def test_images_of_all_sub_sets_are_listed_once(tree):
    images = bcdr.inventory(tree).images
    assert images["image_id"].tolist() == ["D_3_4_1_LCC", "D_3_4_1_LO", "D_3_4_1_RCC", "D_3_4_1_RXL", "D_7_8_1_RO",
                                           "D_9_2_1_RCC"]  # fmt: skip
    assert images["path"].iloc[0] == "BCDR-D01_dataset/patient_3/study_4/img_3_4_1_LCC.tif"
    assert images["group_id"].tolist() == ["bcdr:3"] * 4 + ["bcdr:7", "bcdr:9"]
    assert set(images["study_id"]) == {"D_3_4", "D_7_8", "D_9_2"}


def test_views_density_and_size(tree):
    images = bcdr.inventory(tree).images.set_index("image_id")
    assert images["laterality"].tolist() == ["L", "L", "R", "R", "R", "R"]
    assert images["view_position"].tolist() == ["CC", "MLO", "CC", "RXL", "MLO", "CC"]
    assert images.loc["D_3_4_1_LCC", ["breast_density", "age"]].tolist() == ["DENSITY B", 58]
    assert images.loc["D_3_4_1_RXL", ["breast_density"]].isna().all()
    assert pd.isna(images.loc["D_7_8_1_RO", "age"])
    assert set(images["height"]) == {100}
    assert set(images["width"]) == {50}
    assert set(images["bits_stored"]) == {8}
    assert set(images["presentation"]) == {"presentation"}


def test_truth_of_images(tree):
    images = bcdr.inventory(tree).images.set_index("image_id")
    assert images["pathology"].fillna("-").tolist() == ["MALIGNANT", "-", "-", "-", "BENIGN", "NORMAL"]
    assert images["uncertain"].fillna("-").tolist() == [
        "-", "unmarked_view", "contralateral_unlabelled", "contralateral_unlabelled", "-", "-",
    ]  # fmt: skip
    assert images["label_source"].tolist() == ["pathology", "none", "none", "none", "pathology", "folder"]
    assert images["label_malignant"].fillna(-1).tolist() == [1, -1, -1, -1, 0, 0]


def test_lesions_are_listed_once_with_their_boxes(tree):
    findings = bcdr.inventory(tree).findings.set_index("finding_id")
    assert list(findings.index) == ["D_3_4_1_2", "D_3_4_2_2", "D_7_8_1_3"]
    assert findings["pathology"].tolist() == ["MALIGNANT", "BENIGN", "BENIGN"]
    assert findings["finding_categories"].tolist() == [
        "['Mass']", "['Suspicious Calcification']", "['Suspicious Lymph Node', 'Architectural Distortion']",
    ]  # fmt: skip
    assert findings["finding_native"].iloc[2] == "axillary_adenopathy;stroma_distortion"
    boxes = findings[["xmin", "ymin", "xmax", "ymax"]]
    assert boxes.iloc[0].tolist() == [10, 30, 21, 41]
    assert boxes.iloc[1].tolist() == [45, 70, 50, 91]  # clipped to 50 columns
    assert json.loads(findings["points"].iloc[0]) == [[10, 30], [20, 30], [15, 40]]
    assert set(findings["geometry"]) == {"polygon"}


def test_film_and_digital_images_of_one_patient_are_one_group(tree):
    make_subset(tree, "F03", D01_IMAGES, D01_OUTLINES, inner="BCDR-F03")
    images, findings, exams = bcdr.inventory(tree)
    film = images[images["image_id"].str.startswith("F_")]
    assert len(film) == 5
    assert film["path"].str.startswith("BCDR-F03_dataset/BCDR-F03/patient_").all()
    assert set(film["presentation"]) == {"film"}
    assert set(film["group_id"]) == {"bcdr:3", "bcdr:7"}
    assert len(findings) == 6
    assert exams["study_id"].is_unique


def test_a_lesion_without_a_result_leaves_a_benign_image_open(tree):
    for name in ("D01", "D02"):
        path = tree / f"BCDR-{name}_dataset" / f"bcdr_{name.lower()}_outlines.csv"
        path.write_text(D01_OUTLINES.replace(" Malign\n", "\n"))
    image = bcdr.inventory(tree).images.set_index("image_id").loc["D_3_4_1_LCC"]
    assert pd.isna(image["pathology"])
    assert image["use"] == "unlabelled"


def test_an_absent_image_is_found_in_another_sub_set_or_missing(tree):
    (tree / "BCDR-D01_dataset/patient_3/study_4/img_3_4_1_LO.tif").unlink()
    image = bcdr.inventory(tree).images.set_index("image_id").loc["D_3_4_1_LO"]
    assert image["path"] == "BCDR-D02_dataset/patient_3/study_4/img_3_4_1_LO.tif"
    (tree / image["path"]).unlink()
    image = bcdr.inventory(tree).images.set_index("image_id").loc["D_3_4_1_LO"]
    assert image["excluded_reason"] == "missing_file"


def test_a_side_that_the_name_contradicts_is_flagged(tree):
    for name in ("D01", "D02"):
        path = tree / f"BCDR-{name}_dataset" / f"bcdr_{name.lower()}_img.csv"
        path.write_text(D01_IMAGES.replace("LCC,1,", "LCC,0,"))
    image = bcdr.inventory(tree).images.set_index("image_id").loc["D_3_4_1_LCC"]
    assert (image["laterality"], image["uncertain"]) == ("R", "laterality_conflict")


# --- bad input


def test_wrong_and_empty_directories(tmp_path):
    with pytest.raises(UserError, match="is empty: put the unzipped sub-sets"):
        bcdr.inventory(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match=r"no bcdr_\*_img\.csv lies below"):
        bcdr.inventory(tmp_path)


def test_a_lesion_set_without_its_contours_is_refused(tree):
    (tree / "BCDR-D02_dataset" / "bcdr_d02_outlines.csv").unlink()
    with pytest.raises(UserError, match=r"bcdr_d02_outlines\.csv does not exist"):
        bcdr.inventory(tree)
    assert "bcdr_d02_outlines.csv" in bcdr.detect(tree).missing


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lw_x_points", "x_points", "no column 'lw_x_points'"),
        (" Malign\n", " Maligno\n", "unknown value 'Maligno'"),
        (",1,1,2, patient_3", ",1,1,5, patient_3", "5 is not one of 1 to 4"),
        (" 10 20 15,", " 10 20,", "equally many numbers"),
        (" 10 20 15,", " 10 20 x,", "equally many numbers"),
        ("img_7_8_1_RO", "img_7_8_2_RO", "marks image '7_8_2_RO', which no bcdr"),
        ("7,8,1,1,1,3,", ",8,1,1,1,3,", "column 'patient_id' is empty"),
    ],
)
def test_a_damaged_contour_table_is_named(tree, old, new, said):
    assert old in D01_OUTLINES
    (tree / "BCDR-D01_dataset" / "bcdr_d01_outlines.csv").write_text(D01_OUTLINES.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        bcdr.inventory(tree)
    assert "bcdr_d01_outlines.csv" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image_type_id", "type", "no column 'image_type_id'"),
        ("58,2\n", "58,9\n", "unknown value '9'"),
        ("3,4,1, p", "3,four,1, p", "'four' is not a whole number"),
    ],
)
def test_a_damaged_image_table_is_named(tree, old, new, said):
    (tree / "BCDR-D01_dataset" / "bcdr_d01_img.csv").write_text(D01_IMAGES.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        bcdr.inventory(tree)
    assert "bcdr_d01_img.csv" in str(error.value)


def test_empty_tables_are_named(tmp_path):
    make_subset(tmp_path, "D01", f"{IMAGE_HEAD}\n", f"{OUTLINE_HEAD}\n")
    with pytest.raises(UserError, match=r"bcdr_d01_img\.csv and the other image tables have no row"):
        bcdr.inventory(tmp_path)


def test_a_sub_set_without_contours_still_has_its_images(tmp_path):
    make_subset(tmp_path, "D01", D01_IMAGES, f"{OUTLINE_HEAD}\n")
    images, findings, _ = bcdr.inventory(tmp_path)
    assert (len(images), len(findings)) == (5, 0)
    assert set(images["uncertain"]) == {"contralateral_unlabelled"}


def test_detection(tree):
    (found,) = search(tree.parent)
    assert (found.dataset, found.root, found.images_found, found.missing) == ("bcdr", tree, 6, [])
    make_subset(tree, "F03", D01_IMAGES, D01_OUTLINES, inner="BCDR-F03")
    assert bcdr.detect(tree).images_found == 11
    (tree / "BCDR-DN01_dataset/patient_9/study_2/img_9_2_1_RCC.tif").unlink()
    assert bcdr.detect(tree).missing == ["1 of 11 images"]
    assert bcdr.detect(tree.parent.parent) is None


def test_phantom(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    phantom.write("bcdr", tmp_path / "archive", 8, 1)
    images, findings, exams = bcdr.inventory(tmp_path / "archive")
    assert (len(images), len(exams)) == (32, 8)
    assert images["path"].notna().all()
    assert set(images["pathology"].dropna()) == {"MALIGNANT", "BENIGN", "NORMAL"}
    # Two views of each lesion, whatever sub-sets and segmentations repeat it.
    assert len(findings) == 2 * images.loc[images["pathology"].isin(["MALIGNANT", "BENIGN"]), "patient_id"].nunique()
    assert (findings["xmax"] <= findings["width"]).all()
    assert not caplog.records
