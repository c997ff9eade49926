"""The VinDr-Mammo adapter on its phantom, on small tables written here, and on tables with the published counts."""

import ast
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from mammoflow import phantom
from mammoflow.cli import main
from mammoflow.datasets import adapter, archive, vindr_mammo
from mammoflow.errors import UserError
from mammoflow.imaging.decode import read_image
from mammoflow.phantom import vindr_mammo as drawing

BREAST_HEADER = "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split"
FINDING_HEADER = (
    "image_id,study_id,series_id,laterality,view_position,height,width,breast_birads,breast_density,"
    "finding_categories,finding_birads,xmin,ymin,xmax,ymax,split"
)
STUDY, SERIES = "b8d273e8601f348d3664778dae0e7e0b", "d931832a0815df082c085b6e09d20aac"
# An md5 digest that a careless reader takes for the number 1e10.
CC, MLO = "1e10" + "0" * 28, "dac39351b0f3a8c670b7f8dc88029364"
BREASTS = [
    f"{STUDY},{SERIES},{CC},L,CC,3518,2800,BI-RADS 4,DENSITY C,training",
    f"{STUDY},{SERIES},{MLO},L,MLO,3518,2800,BI-RADS 4,DENSITY C,training",
]
MASS = (
    f"{MLO},{STUDY},{SERIES},L,MLO,3518,2800,BI-RADS 4,DENSITY C,\"['Mass', 'Skin Retraction']\",BI-RADS 4,"
    "2355.139892578125,1731.6400146484375,2482.97998046875,1852.75,training"
)
NODE = (
    f"{MLO},{STUDY},{SERIES},L,MLO,3518,2800,BI-RADS 4,DENSITY C,['Suspicious Lymph Node'],,-3.5,10,2803.25,60,training"
)
NOTHING = f"{CC},{STUDY},{SERIES},L,CC,3518,2800,BI-RADS 4,DENSITY C,['No Finding'],,,,,,training"
FINDINGS = [MASS, NODE, NOTHING]
PATIENTS = 9


def write_tree(root: Path, breasts=BREASTS, findings=FINDINGS, suffix: str = ".dicom") -> Path:
    (root / "images" / STUDY).mkdir(parents=True)
    (root / "breast-level_annotations.csv").write_text("\n".join([BREAST_HEADER, *breasts, ""]))
    (root / "finding_annotations.csv").write_text("\n".join([FINDING_HEADER, *findings, ""]))
    for image in (CC, MLO):
        (root / "images" / STUDY / f"{image}{suffix}").write_bytes(b"not opened by the inventory")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "vindr")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "vindr"
    phantom.write("vindr_mammo", root, PATIENTS, seed=1)
    return root


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """The two annotation tables with the paper's exact marginals; no pictures."""
    root = tmp_path_factory.mktemp("tables")
    breasts, findings = drawing.annotation_tables()
    breasts.to_csv(root / "breast-level_annotations.csv", index=False)
    findings.to_csv(root / "finding_annotations.csv", index=False)
    return root


@pytest.fixture(scope="module")
def published(paper) -> vindr_mammo.Inventory:
    return vindr_mammo.inventory(paper)


def test_images(tree):
    images = vindr_mammo.inventory(tree).images.set_index("image_id")
    assert list(images.index) == [CC, MLO]
    row = images.loc[CC]
    assert row[["study_id", "patient_id", "series_id"]].tolist() == [STUDY, STUDY, SERIES]
    assert row["group_id"] == f"vindr_mammo:{STUDY}"
    assert row[["height", "width", "laterality", "view_position"]].tolist() == [3518, 2800, "L", "CC"]
    assert row[["breast_birads", "breast_density", "split_official"]].tolist() == ["BI-RADS 4", "DENSITY C", "training"]
    assert row[["label_source", "label_scope", "label_malignant", "label_3cat"]].tolist() == [
        "birads",
        "breast",
        1,
        "recall",
    ]
    assert pd.isna(row["pathology"])
    assert row["path"] == f"images/{STUDY}/{CC}.dicom"


def test_findings(tree):
    findings = vindr_mammo.inventory(tree).findings.set_index("finding_id")
    assert list(findings.index) == [f"{MLO}_1", f"{MLO}_2"]  # "No Finding" is none
    mass, node = findings.loc[f"{MLO}_1"], findings.loc[f"{MLO}_2"]
    assert mass["finding_categories"] == "['Mass', 'Skin Retraction']"
    assert mass[["xmin", "ymin", "xmax", "ymax"]].tolist() == [
        2355.139892578125,
        1731.6400146484375,
        2482.97998046875,
        1852.75,
    ]
    assert mass[["finding_birads", "geometry", "split", "label_malignant"]].tolist() == [
        "BI-RADS 4",
        "bbox",
        "training",
        1,
    ]
    assert pd.isna(mass["attributes"])
    assert node[["finding_birads", "pathology", "label_malignant"]].isna().all()


def test_a_box_beyond_the_frame_is_clipped_and_remembered(tree):
    node = vindr_mammo.inventory(tree).findings.set_index("finding_id").loc[f"{MLO}_2"]
    assert node[["xmin", "ymin", "xmax", "ymax"]].tolist() == [0, 10, 2800, 60]
    assert json.loads(node["attributes"]) == {"box_native": [-3.5, 10, 2803.25, 60]}


def test_a_box_outside_is_no_place(tmp_path, caplog):
    outside = NODE.replace("-3.5,10,2803.25,60", "2900,10,2950,60")
    with caplog.at_level(logging.WARNING):
        (finding,) = vindr_mammo.inventory(write_tree(tmp_path / "v", findings=[outside])).findings.itertuples()
    assert finding.geometry == "none"
    assert pd.isna(finding.xmin)
    assert MLO in caplog.text


@pytest.mark.parametrize("place", ["1.0.0", "files/vindr-mammo/1.0.0", "physionet.org/files/vindr-mammo/1.0.0"])
def test_the_tree_of_wget_is_found(tmp_path, place):
    write_tree(tmp_path / place)
    images = vindr_mammo.inventory(tmp_path).images
    assert images["path"].tolist() == [f"{place}/images/{STUDY}/{image}.dicom" for image in (CC, MLO)]
    assert images["source_size"].notna().all()
    found = vindr_mammo.detect(tmp_path)
    assert (found.images_found, found.missing) == (2, [])


def test_files_with_the_common_suffix_are_found(tmp_path):
    images = vindr_mammo.inventory(write_tree(tmp_path / "v", suffix=".dcm")).images
    assert images["path"].str.endswith(".dcm").all()


def test_metadata_is_optional(tree):
    images = vindr_mammo.inventory(tree).images
    assert images[["age", "manufacturer", "machine", "photometric"]].isna().all(axis=None)
    (tree / "metadata.csv").write_text(
        "SOP Instance UID,Patient's Age,Manufacturer,Manufacturer's Model Name,Photometric Interpretation,Window\n"
        f'{MLO},053Y,SIEMENS,Mammomat Inspiration,MONOCHROME2,"[540, 600]"\n{CC},,,,,\n'
    )
    images = vindr_mammo.inventory(tree).images.set_index("image_id")
    known = ["age", "manufacturer", "machine", "photometric"]
    assert images.loc[MLO, known].tolist() == [53, "SIEMENS", "Mammomat Inspiration", "MONOCHROME2"]
    assert images.loc[CC, known].isna().all()


def test_half_a_download(tree):
    (tree / "images" / STUDY / f"{CC}.dicom").unlink()
    images = vindr_mammo.inventory(tree).images.set_index("image_id")
    assert images.loc[CC, ["use", "excluded_reason"]].tolist() == ["excluded", "missing_file"]
    assert pd.isna(images.loc[MLO, "excluded_reason"])
    (tree / "finding_annotations.csv").unlink()
    found = vindr_mammo.detect(tree)
    assert found.images_found == 1
    assert found.missing == ["finding_annotations.csv", "1 of 2 images of breast-level_annotations.csv below images/"]
    with pytest.raises(UserError, match=r"finding_annotations\.csv does not exist: put"):
        vindr_mammo.inventory(tree)


@pytest.mark.parametrize(
    ("breasts", "findings", "words"),
    [
        ([BREASTS[0].replace("BI-RADS 4", "BI-RADS 9")], [], ["breast-level", "'breast_birads'", "BI-RADS 9"]),
        ([BREASTS[0].replace("training", "valid")], [], ["breast-level", "'split'", "'valid'"]),
        ([BREASTS[0].replace("3518", "tall")], [], ["breast-level", "'height'", "'tall'"]),
        ([BREASTS[0], BREASTS[1][:60]], [], ["breast-level", "row 2", "unchanged"]),
        (BREASTS, [MASS.replace("'Mass'", "'Mess'")], ["finding_annotations.csv", "Mess"]),
        (BREASTS, [MASS.replace("['Mass',", "['Mass'")[:-9] + ",training"], ["finding_annotations.csv"]),
        (BREASTS, [NODE.replace("['Suspicious Lymph Node']", "Mass")], ["finding_annotations.csv", "'Mass'"]),
        (BREASTS, [MASS.replace("1852.75", "")], ["finding_annotations.csv", MLO, "box"]),
        (BREASTS, [MASS.replace(MLO, "f" * 32)], ["finding_annotations.csv", "f" * 32, "one release"]),
    ],
)
def test_a_bad_table_is_named(tmp_path, breasts, findings, words):
    root = write_tree(tmp_path / "bad", breasts, findings)
    with pytest.raises(UserError) as caught:
        vindr_mammo.inventory(root)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_column_is_named(tree):
    path = tree / "finding_annotations.csv"
    path.write_text(path.read_text().replace("finding_birads", "grade"))
    with pytest.raises(UserError, match=r"finding_annotations\.csv has no column 'finding_birads'"):
        vindr_mammo.inventory(tree)
    (tree / "metadata.csv").write_text("uid,age\n1,2\n")
    path.write_text(path.read_text().replace("grade", "finding_birads"))
    with pytest.raises(UserError, match=r"metadata\.csv has no column 'SOP Instance UID'"):
        vindr_mammo.inventory(tree)


def test_a_folder_without_the_archive_is_named(tmp_path):
    with pytest.raises(UserError, match="is empty: put breast-level"):
        vindr_mammo.inventory(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"breast-level_annotations\.csv does not exist: put"):
        vindr_mammo.inventory(tmp_path)
    assert vindr_mammo.detect(tmp_path) is None


def test_the_paper_is_counted_again(published):
    """Tables 3 to 5 of Nguyen et al. 2023, from an inventory of 20,000 images."""
    counted = vindr_mammo.published_tables(published)
    birads = counted["birads"]
    assert birads["all"].tolist() == [6703, 2338, 465, 381, 113]
    assert birads["training"].tolist() == [5362, 1871, 372, 305, 90]
    assert birads["test"].tolist() == [1341, 467, 93, 76, 23]
    density = counted["density"]
    assert density["all"].tolist() == [50, 954, 7646, 1350]
    assert density["training"].tolist() == [40, 764, 6116, 1080]
    assert density["test"].tolist() == [10, 190, 1530, 270]
    findings = counted["findings"]
    assert findings["all"].to_dict() == {
        "Mass": 1226,
        "Suspicious Calcification": 543,
        "Asymmetry": 97,
        "Focal Asymmetry": 269,
        "Global Asymmetry": 26,
        "Architectural Distortion": 119,
        "Skin Thickening": 57,
        "Skin Retraction": 18,
        "Nipple Retraction": 37,
        "Suspicious Lymph Node": 57,
    }
    assert findings["training"].tolist() == [989, 428, 77, 216, 20, 95, 45, 15, 30, 46]
    assert findings["test"].tolist() == [237, 115, 20, 53, 6, 24, 12, 3, 7, 11]


def test_the_published_size(published):
    assert archive("vindr_mammo").expected == {"images": 20000, "patients": 5000}
    assert (len(published.images), published.images["patient_id"].nunique()) == (20000, 5000)
    exams = published.exams
    assert (len(exams), exams["complete_4view"].sum()) == (5000, 5000)
    assert exams["split_official"].value_counts().to_dict() == {"training": 4000, "test": 1000}
    several = published.findings["finding_categories"].map(ast.literal_eval).map(len) > 1
    assert several.any()  # a box counts in each of its categories


def test_a_changed_annotation_changes_the_count(published):
    images = published.images.copy()
    first = images.index[images["breast_birads"] == "BI-RADS 5"][0]
    same = (images["study_id"] == images.at[first, "study_id"]) & (
        images["laterality"] == images.at[first, "laterality"]
    )
    images.loc[same, "breast_birads"] = "BI-RADS 1"
    counted = vindr_mammo.published_tables(published._replace(images=images))
    assert counted["birads"]["all"].tolist() == [6704, 2338, 465, 381, 112]


def test_the_inventory_prints_the_paper_s_tables(paper, tmp_path, capsys):
    assert main(["inventory", "vindr_mammo", str(paper), "--out", str(tmp_path)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["BI-RADS", "1", "5362", "1341", "6703"],
        ["DENSITY", "C", "6116", "1530", "7646"],
        ["Mass", "989", "237", "1226"],
        ["Skin", "Retraction", "15", "3", "18"],
    ):
        assert row in printed


def test_the_phantom_is_read_whole(drawn):
    listed = vindr_mammo.inventory(drawn)
    assert (len(listed.images), listed.images["patient_id"].nunique()) == (4 * PATIENTS, PATIENTS)
    assert listed.images["excluded_reason"].isna().all()
    assert listed.images["age"].notna().all()
    assert set(listed.images["label_malignant"].dropna()) == {0, 1}
    assert set(listed.images["split_official"]) == {"training", "test"}
    boxes = listed.findings
    assert ((boxes["xmin"] >= 0) & (boxes["xmax"] <= boxes["width"])).all()
    assert boxes["attributes"].notna().any()  # the box that left its frame
    assert vindr_mammo.detect(drawn).missing == []


def test_the_phantom_has_the_quirks_of_the_files(drawn):
    paths = sorted((drawn / "images").rglob("*.dicom"))
    assert len(paths) == 4 * PATIENTS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert {header.file_meta.MediaStorageSOPClassUID for header in headers} == {"1.2.3.4"}
    assert not any("SOPClassUID" in header for header in headers)
    assert all(header.SOPInstanceUID == path.stem for header, path in zip(headers, paths, strict=True))
    assert not any(pydicom.uid.UID(header.SOPInstanceUID).is_valid for header in headers)
    assert {header.BitsStored for header in headers} == {12, 14, 16}
    assert {header.PhotometricInterpretation for header in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert {header["WindowCenter"].VM for header in headers} == {2}
    images = [read_image(path) for path in paths]
    assert {image.pixels.shape for image in images} == {(640, 512)}


def test_boxes_lie_on_brighter_tissue(drawn):
    """A marked lesion is brighter than the breast around it, in the image that its box names."""
    listed = vindr_mammo.inventory(drawn)
    paths = listed.images.set_index("image_id")["path"]
    marked = listed.findings[listed.findings["finding_birads"].notna()]
    brighter = []
    for box in marked.itertuples():
        image = read_image(drawn / paths[box.image_id])
        pixels = image.pixels.astype(float)
        if image.header.photometric == "MONOCHROME1":
            pixels = (1 << image.header.bits_stored) - 1 - pixels
        inside = pixels[int(box.ymin) : int(box.ymax), int(box.xmin) : int(box.xmax)]
        brighter.append(np.percentile(inside, 90) > np.median(pixels[pixels > 0]))
    assert len(brighter) >= 6
    assert all(brighter)


def test_the_catalogue_knows_it():
    assert adapter("vindr_mammo") is vindr_mammo
    assert archive("vindr_mammo").localised
    assert archive("vindr_mammo").intensity_settings() == {"rescale": True, "voi": True, "invert_monochrome1": True}
