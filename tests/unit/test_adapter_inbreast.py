"""The INbreast adapter on a small tree written here (table, contours, odd names) and on the phantom."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammoflow import phantom
from mammoflow.datasets import inbreast
from mammoflow.datasets.detection import search
from mammoflow.datasets.inbreast_xml import read_contours
from mammoflow.errors import UserError
from mammoflow.phantom import mg_dicom

TABLE = """\
Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads
removed;removed;R;CC;201001;22678622;4;1
removed;removed;L;MLO;200806;20586934;   ;4a
removed;removed;L;FB;200806;20586935; 2 ;6
removed;removed;L;CC;200801;20586999;1;3
"""
PLIST = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>Images</key><array><dict><key>ImageIndex</key><integer>0</integer>
<key>NumberOfROIs</key><integer>{count}</integer><key>ROIs</key><array>{regions}</array></dict></array></dict></plist>
"""


def region(name: str | None, *points: str) -> str:
    key = "" if name is None else f"<key>Name</key><string>{name}</string>"
    texts = "".join(f"<string>{point}</string>" for point in points)
    return f"<dict>{key}<key>NumberOfPoints</key><integer>9</integer><key>Point_px</key><array>{texts}</array></dict>"


REGIONS = [
    region("Mass", "(10.500000, 20.250000)", "(30.0, 20.0)", "(25.0, 44.0)"),
    region("Espiculated Region", "(-4.0, 90.0)", "(12.0, 110.5)", "(9.0, 70.0)"),  # beyond the left and lower edge
    region("Calcification", "(60.0, 50.0)"),
    region("Point 1", "(3.0, 50.0)", "(5.0, 54.0)"),
    region(None, "(200.0, 300.0)", "(210.0, 300.0)", "(210.0, 310.0)"),  # outside
    region("Assymetry"),
]


def make_tree(root: Path, regions: list[str] | None = None) -> Path:
    base = root / "INbreast Release 1.0"
    names = {
        "22678622": ("0123456789abcdef", "R_CC"),
        "20586934": ("fedcba9876543210", "L_ML"),
        "20586935": ("fedcba9876543210", "L_FB"),
    }
    for file_id, (patient, view) in names.items():
        elements = {"SOPClassUID": mg_dicom.PRESENTATION, "SOPInstanceUID": f"1.2.{file_id}", "PatientID": "removed"}
        pixels = np.arange(100 * 80, dtype=np.uint16).reshape(100, 80)
        mg_dicom.write(base / "AllDICOMs" / f"{file_id}_{patient}_MG_{view}_ANON.dcm", elements, pixels, 14)
    (base / "INbreast.csv").write_text(TABLE)
    (base / "AllXML").mkdir()
    regions = REGIONS if regions is None else regions
    text = PLIST.format(count=len(regions), regions="".join(regions))
    (base / "AllXML" / "20586934.xml").write_text(text)
    return base


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


def test_identity_comes_from_the_file_name(tree):
    images = inbreast.inventory(tree).images.set_index("image_id")
    assert images.loc["22678622", "patient_id"] == "0123456789abcdef"
    assert images.loc["20586934", "group_id"] == "inbreast:fedcba9876543210"
    assert images.loc["20586934", "study_id"] == "fedcba9876543210_200806"
    assert images.loc["20586934", "path"] == "AllDICOMs/20586934_fedcba9876543210_MG_L_ML_ANON.dcm"


def test_header_and_table_columns(tree):
    image = inbreast.inventory(tree).images.set_index("image_id").loc["20586934"]
    assert (image["height"], image["width"], image["bits_stored"]) == (100, 80, 14)
    assert (image["photometric"], image["transfer_syntax"]) == ("MONOCHROME2", "1.2.840.10008.1.2.1")
    assert (image["laterality"], image["view_position"], image["pixel_spacing_mm"]) == ("L", "MLO", 0.07)
    assert pd.isna(image["breast_density"])  # three blanks


def test_labels_rest_on_birads(tree):
    images = inbreast.inventory(tree).images.set_index("image_id")
    assert images["breast_birads"].to_dict() == {
        "20586934": "BI-RADS 4A", "20586935": "BI-RADS 6", "20586999": "BI-RADS 3", "22678622": "BI-RADS 1",
    }  # fmt: skip
    assert images.loc[["22678622", "20586935", "20586934"], "label_malignant"].tolist() == [0, 1, 1]
    assert pd.isna(images.loc["20586999", "label_malignant"])  # BI-RADS 3
    assert set(images["label_source"]) == {"birads"}
    assert images["pathology"].isna().all()
    assert images.loc["20586935", ["view_position", "breast_density"]].tolist() == ["FB", "DENSITY B"]


def test_an_absent_file_is_a_patient_of_its_own(tree):
    image = inbreast.inventory(tree).images.set_index("image_id").loc["20586999"]
    assert (image["use"], image["excluded_reason"]) == ("excluded", "missing_file")
    assert image["patient_id"] == "unknown_20586999"


def test_a_file_that_the_table_does_not_name_is_unlabelled(tree, caplog):
    table = tree / "INbreast.csv"
    table.write_text("".join(line for line in TABLE.splitlines(True) if "22678622" not in line))
    image = inbreast.inventory(tree).images.set_index("image_id").loc["22678622"]
    assert (image["use"], image["laterality"], image["view_position"]) == ("unlabelled", "R", "CC")
    assert "1 images are not in the table" in caplog.text


def test_a_side_that_the_name_contradicts_is_flagged(tree):
    (tree / "INbreast.csv").write_text(TABLE.replace(";R;CC;", ";L;CC;"))
    image = inbreast.inventory(tree).images.set_index("image_id").loc["22678622"]
    assert (image["laterality"], image["uncertain"]) == ("L", "laterality_conflict")


def test_contours(tree, caplog):
    findings = inbreast.inventory(tree).findings.set_index("finding_id")
    assert findings["finding_categories"].tolist() == [
        "['Mass']", "['Mass']", "['Suspicious Calcification']", "['Other']", "['Other']", "['Asymmetry']",
    ]  # fmt: skip
    assert findings["geometry"].tolist() == ["polygon", "polygon", "point", "point", "none", "none"]
    boxes = findings[["xmin", "ymin", "xmax", "ymax"]]
    assert boxes.iloc[0].tolist() == [10.5, 20.0, 30.0, 44.0]
    assert boxes.iloc[1].tolist() == [0.0, 70.0, 12.0, 100.0]  # clipped to 80 x 100
    assert json.loads(findings["points"].iloc[1]) == [[0.0, 90.0], [12.0, 100.0], [9.0, 70.0]]
    assert boxes.iloc[2].tolist() == [52.0, 42.0, 68.0, 58.0]
    assert boxes.iloc[3].tolist() == [0.0, 42.0, 13.0, 62.0]  # two points, clipped on the left
    assert boxes.iloc[4:].isna().all(axis=None)
    assert "lies outside the image" in caplog.text
    assert pd.isna(findings["finding_native"].iloc[4])


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("Calcifications", "Suspicious Calcification"), ("Cluster", "Suspicious Calcification"), ("mass", "Mass"),
        ("Spiculated region", "Mass"), ("Asymmetry", "Asymmetry"), ("Distortion", "Architectural Distortion"),
        ("Unnamed", "Other"), ("", "Other"), ("Point 3", "Other"),
    ],
)  # fmt: skip
def test_names_are_normalised(name, category):
    assert inbreast.category(name) == category


def test_the_spreadsheet_is_read_without_its_totals(tree):
    csv = tree / "INbreast.csv"
    frame = pd.read_csv(csv, sep=";", dtype=str, skipinitialspace=True)
    expected = inbreast.read_table(csv)
    frame = frame.rename(columns={"Bi-Rads": "Bi-Rads ", "ACR": " ACR"}).assign(**{"Mass ": "X"})
    frame["File Name"] = frame["File Name"].astype(float)
    totals = pd.DataFrame({"Mass ": ["107", "410"]})
    csv.unlink()
    pd.concat([frame, totals]).to_excel(tree / "INbreast.xlsx", index=False)
    pd.testing.assert_frame_equal(inbreast.read_table(tree / "INbreast.xlsx"), expected)
    assert len(inbreast.inventory(tree).images) == 4


# --- bad input


def test_wrong_and_empty_directories(tmp_path):
    with pytest.raises(UserError, match=r"is empty: put INbreast\.csv"):
        inbreast.inventory(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match=r"no INbreast\.csv lies below .*: put INbreast.csv"):
        inbreast.inventory(tmp_path)
    (tmp_path / "INbreast.xls").write_bytes(b"\xd0\xcf")
    with pytest.raises(UserError, match=r"save .*INbreast\.xls as INbreast\.csv"):
        inbreast.inventory(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Bi-Rads", "Birads", "no column 'Bi-Rads'"),
        (";4a", ";4d", "unknown value '4d'"),
        (";R;", ";X;", "unknown value 'X'"),
        (";4;1", ";7;1", "unknown value '7'"),
        ("22678622", "20586934", "lists the image 20586934 twice"),
    ],
)
def test_a_damaged_table_is_named(tree, old, new, said):
    (tree / "INbreast.csv").write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        inbreast.inventory(tree)
    assert "INbreast.csv" in str(error.value)


def test_a_table_without_rows_is_named(tree):
    (tree / "INbreast.csv").write_text(TABLE.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"INbreast\.csv has no row of an image"):
        inbreast.inventory(tree)


ENTITY = '<!DOCTYPE plist [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
BILLION = '<!DOCTYPE plist [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<plist><dict>",
        "<plist><array/></plist>",
        PLIST.format(count=1, regions=region("Mass", "1204 2310")),
        PLIST.format(count=1, regions=region("Mass", "(nan, 3)")),
        f"{ENTITY}<plist><dict><key>Images</key><string>&a;</string></dict></plist>",
        f"{BILLION}<plist><dict><key>Images</key><string>&b;</string></dict></plist>",
    ],
)
def test_a_broken_or_hostile_contour_file_is_named(tmp_path, text):
    path = tmp_path / "20586934.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"20586934\.xml is not a contour file of INbreast"):
        read_contours(path)


def test_an_oversized_contour_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "20586934.xml"
    path.write_text(PLIST.format(count=0, regions=""))
    assert read_contours(path) == []
    monkeypatch.setattr("mammoflow.datasets.inbreast_xml.MAX_BYTES", 20)
    with pytest.raises(UserError, match="more than"):
        read_contours(path)


def test_detection(tmp_path):
    assert inbreast.detect(tmp_path) is None
    tree = make_tree(tmp_path)
    (found,) = search(tmp_path)
    assert (found.dataset, found.root, found.images_found) == ("inbreast", tree, 3)
    assert found.missing == ["407 of 410 images"]
    (tree / "INbreast.csv").unlink()
    assert "INbreast.csv" in inbreast.detect(tree).missing


def test_phantom(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    phantom.write("inbreast", tmp_path / "archive", 8, 1)
    images, findings, _ = inbreast.inventory(tmp_path / "archive")
    assert images["excluded_reason"].value_counts().to_dict() == {"missing_file": 1}
    assert "FB" in set(images["view_position"])
    assert set(images["label_malignant"].dropna()) == {0, 1}
    assert images["breast_density"].isna().any()
    assert {"polygon"} <= set(findings["geometry"])
    inside = findings.dropna(subset="xmin")
    assert (inside["xmin"] >= 0).all()
    assert (inside["xmax"] <= inside["width"]).all()
    assert (inside["ymax"] <= inside["height"]).all()
    assert not caplog.records
