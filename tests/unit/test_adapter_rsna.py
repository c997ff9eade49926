"""The RSNA adapter on its phantom, on small tables written here, and on a table of the archive's full size."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from mammoflow import phantom, tables
from mammoflow.datasets import adapter, archive, rsna
from mammoflow.errors import UserError
from mammoflow.imaging.decode import read_image

HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)
ROWS = [
    "2,10006,462822612,L,CC,61.0,0,0,0,,0,,29,False",
    "2,10006,1459541791,L,MLO,61.0,0,0,0,,0,,29,False",
    "1,10025,562340703,R,MLO,75.0,1,1,1,0.0,0,C,49,False",
    "1,10025,1365269360,R,AT,,1,1,1,0,1,C,49,False",
    "1,10025,288394860,L,CC,,0,0,0,2.0,1,C,49,True",
]
PATIENTS = 16


def write_tree(root: Path, rows: list[str], header: str = HEADER, files: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    for row in rows if files else []:
        cells = row.split(",")
        path = root / "train_images" / cells[1] / f"{cells[2]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened by the inventory")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "rsna", ROWS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "rsna"
    phantom.write("rsna", root, PATIENTS, seed=3)
    return root


def test_labels_are_those_of_the_breast(tree):
    images = rsna.inventory(tree).images.set_index("image_id")
    assert images["pathology"].to_dict() == {
        "462822612": "NEGATIVE",
        "1459541791": "NEGATIVE",
        "562340703": "MALIGNANT",
        "1365269360": "MALIGNANT",
        "288394860": "NEGATIVE",
    }
    assert images.loc["562340703", ["label_malignant", "label_source", "label_3cat"]].tolist() == [
        1,
        "pathology",
        "recall",
    ]
    assert images.loc["288394860", ["label_malignant", "label_source", "label_3cat"]].tolist() == [
        0,
        "followup",
        "benign",
    ]
    assert images.loc["462822612", "label_source"] == "followup"
    assert pd.isna(images.loc["462822612", "label_3cat"])  # no BI-RADS: the three-way category is unknown
    assert set(images["label_scope"]) == {"breast"}


def test_native_columns(tree):
    images = rsna.inventory(tree).images.set_index("image_id")
    assert images.loc["1365269360", "view_position"] == "AT"
    assert sorted(images["age"].dropna()) == [61, 61, 75]
    assert images.loc["1365269360", "breast_birads"] == images.loc["562340703", "breast_birads"] == "BI-RADS 0"
    assert images.loc["562340703", ["breast_density", "machine", "site", "implant"]].tolist() == [
        "DENSITY C",
        "49",
        "1",
        0,
    ]
    assert images.loc["462822612", ["breast_density", "breast_birads"]].isna().all()
    assert (images["study_id"] == images["patient_id"]).all()
    assert images.loc["562340703", "group_id"] == "rsna:10025"
    assert images["path"].tolist() == [f"train_images/{p}/{i}.dcm" for i, p in images["patient_id"].items()]


def test_an_outcome_is_no_column(tree):
    text = rsna.inventory(tree).images.to_csv()
    assert "biopsy" not in text
    assert "difficult" not in text


def test_an_absent_file_stays_with_its_reason(tree, caplog):
    (tree / "train_images/10025/562340703.dcm").unlink()
    (tree / "train_images/10025/999.dcm").write_bytes(b"stranger")
    with caplog.at_level(logging.WARNING):
        images = rsna.inventory(tree).images.set_index("image_id")
    assert images.loc["562340703", ["use", "excluded_reason"]].tolist() == ["excluded", "missing_file"]
    assert (images["use"] == "excluded").sum() == 1
    assert "1 files" in caplog.text
    assert "999" not in images.index


def test_tables_without_any_image(tree, tmp_path):
    root = write_tree(tmp_path / "tables_only", ROWS, files=False)
    images = rsna.inventory(root).images
    assert set(images["excluded_reason"]) == {"missing_file"}
    assert len(images) == len(ROWS)


def test_detection_counts_what_is_there(tree):
    assert rsna.detect(tree).missing == []
    (tree / "train_images/10025/562340703.dcm").unlink()
    found = rsna.detect(tree)
    assert (found.images_found, found.missing) == (4, ["1 of 5 images of train.csv below train_images/"])


def test_a_train_csv_of_something_else_is_not_ours(tmp_path):
    (tmp_path / "train.csv").write_text("image_id,label\n1,0\n")
    assert rsna.detect(tmp_path) is None


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (ROWS, HEADER.replace("cancer", "kancer"), ["train.csv", "'cancer'"]),
        ([ROWS[0].replace(",L,", ",B,")], HEADER, ["train.csv", "'laterality'", "'B'"]),
        ([ROWS[0].replace("61.0", "old")], HEADER, ["train.csv", "'age'", "'old'"]),
        ([ROWS[2].replace(",1,1,1,0.0,", ",2,1,1,0.0,")], HEADER, ["train.csv", "'cancer'", "'2'"]),
        ([ROWS[2].replace(",0.0,0,C", ",7.0,0,C")], HEADER, ["train.csv", "'BIRADS'", "'7.0'"]),
        ([ROWS[2].replace(",C,", ",E,")], HEADER, ["train.csv", "'density'", "'E'"]),
        ([ROWS[0], "2,10006,14595"], HEADER, ["train.csv", "row 2", "'laterality'", "unchanged"]),
        ([ROWS[0], ROWS[0]], HEADER, ["462822612"]),
    ],
)
def test_a_bad_table_is_named(tmp_path, rows, header, words):
    root = write_tree(tmp_path / "bad", rows, header)
    with pytest.raises(UserError) as caught:
        rsna.inventory(root)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_folder_without_the_archive_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent is not a directory: put train\.csv"):
        rsna.inventory(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty: put train"):
        rsna.inventory(tmp_path / "empty")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"wrong/train\.csv does not exist: put"):
        rsna.inventory(tmp_path / "wrong")


def test_the_phantom_is_read_whole(drawn):
    listed = rsna.inventory(drawn)
    truth = pd.read_csv(drawn / "train.csv")
    assert len(listed.images) == len(truth)
    assert listed.images["patient_id"].nunique() == PATIENTS
    assert listed.images["label_malignant"].sum() == truth["cancer"].sum() > 0
    assert listed.images["excluded_reason"].isna().all()
    assert listed.findings.empty
    assert len(listed.exams) == PATIENTS
    assert listed.images.loc[listed.images["site"] == "2", "breast_density"].isna().all()
    assert set(truth["view"]) - {"CC", "MLO"}
    assert rsna.detect(drawn).images_found == len(truth)
    on_disk = {path.stem for path in (drawn / "test_images").rglob("*.dcm")}
    assert len(on_disk) == 4
    assert not on_disk & set(listed.images["image_id"])


def test_the_phantom_has_the_quirks_of_the_files(drawn):
    files = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in (drawn / "train_images").rglob("*.dcm")}
    assert {str(header.file_meta.TransferSyntaxUID)[-2:] for header in files.values()} == {"90", "70"}
    assert {header.PhotometricInterpretation for header in files.values()} == {"MONOCHROME1", "MONOCHROME2"}
    assert {header.get("VOILUTFunction") for header in files.values()} == {"LINEAR", "SIGMOID", None}
    assert {header["WindowCenter"].VM for header in files.values()} == {1, 2}
    images = {path: read_image(path) for path in files}
    beyond = {path.parent.name for path, image in images.items() if image.pixels.max() >> image.header.bits_stored}
    assert len(beyond) == 1
    assert sum(np.ptp(image.pixels) == 0 for image in images.values()) == 1


def test_lossless_streams_are_the_same_for_every_decoder(drawn):
    """The phantom's own JPEG lossless encoder writes what GDCM, an independent decoder, reads as well."""
    compared = 0
    for path in sorted((drawn / "train_images").rglob("*.dcm")):
        header = pydicom.dcmread(path)
        if header.file_meta.TransferSyntaxUID != pydicom.uid.JPEGLosslessSV1 or compared == 3:
            continue
        decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)
        reference, _ = decoder.as_array(header, decoding_plugin="gdcm", raw=True)
        np.testing.assert_array_equal(read_image(path).pixels, reference)
        compared += 1
    assert compared == 3


def test_a_phantom_is_a_function_of_its_seed(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        phantom.write("rsna", tmp_path / name, 2, seed=seed)
    trees = {name: _bytes(tmp_path / name) for name in "abc"}
    assert trees["a"] == trees["b"]
    assert trees["a"] != trees["c"]


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


FULL_SIZE = """
import json, sys, time
import numpy as np, pandas as pd
from pathlib import Path
from mammoflow.datasets import rsna
images, patients = 54706, 11913
rng = np.random.default_rng(0)
patient = np.sort(np.concatenate([np.arange(patients), rng.integers(0, patients, images - patients)])) + 10006
one = patient % 2 == 1
pd.DataFrame({
    "site_id": np.where(one, 1, 2), "patient_id": patient, "image_id": np.arange(images) + 10**9,
    "laterality": rng.choice(["L", "R"], images), "view": rng.choice(["CC", "MLO"], images), "age": 61.0,
    "cancer": (patient % 24 == 0).astype(int), "biopsy": 0, "invasive": 0, "BIRADS": np.where(one, 1.0, np.nan),
    "implant": 0, "density": np.where(one, "B", None), "machine_id": 49, "difficult_negative_case": False,
}).to_csv(Path(sys.argv[1]) / "train.csv", index=False)
start = time.perf_counter()
listed = rsna.inventory(Path(sys.argv[1]))
seconds = time.perf_counter() - start
# Not ru_maxrss, which a process inherits from the one that started it: a test runner may hold more.
peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"images": len(listed.images), "exams": len(listed.exams), "seconds": seconds, "peak_kb": peak_kb}))
"""


def test_the_full_archive_is_listed_in_seconds(tmp_path):
    """54,706 rows: about 2 s and 0.25 GB on one core; the limits leave room for a busy machine."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_SIZE, str(tmp_path)], capture_output=True, text=True, env=_environment(), check=True
    )
    measured = json.loads(done.stdout)
    assert (measured["images"], measured["exams"]) == (54706, 11913)
    assert measured["seconds"] < 60
    assert measured["peak_kb"] < 1_000_000


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(tables.__file__).parents[1])}


def test_the_catalogue_knows_it():
    assert adapter("rsna") is rsna
    assert archive("rsna").localised is False
    assert archive("rsna").intensity_settings() == {"rescale": True, "voi": True, "invert_monochrome1": True}
    assert archive("rsna").expected == {"images": 54706, "findings": 0, "patients": 11913}
