"""The CBIS-DDSM adapter on a tree of three patients, laid out as each download tool would."""

import csv
import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from mammoflow import phantom
from mammoflow.datasets import cbis_ddsm
from mammoflow.datasets.cbis_ddsm_files import choose_mask, has_two_values
from mammoflow.datasets.detection import search
from mammoflow.datasets.headers import FileHeader, read_header
from mammoflow.errors import UserError

ROOT_UID = "1.3.6.1.4.1.9590.100.1.2."
SHAPE = (64, 48)
LAYOUTS = ["classic", "descriptive", "idc", "zip", "flat", "jpeg"]


def uid(name: str) -> str:
    return ROOT_UID + str(int.from_bytes(blake2b(name.encode(), digest_size=12).digest()))


@dataclass(frozen=True)
class Lesion:
    kind: str  # Mass or Calc
    split: str  # Training or Test
    patient: str
    side: str
    view: str
    number: int
    pathology: str
    assessment: int
    words: tuple[str, str] = ("IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED")
    density: int = 3
    subtlety: int = 4
    two_series: bool = False
    mask_first: bool = False  # the order of the two files in their series
    mask_shape: tuple[int, int] = SHAPE

    @property
    def image(self) -> str:
        return f"{self.kind}-{self.split}_{self.patient}_{self.side}_{self.view}"

    @property
    def name(self) -> str:
        return f"{self.image}_{self.number}"

    @property
    def crop_series(self) -> str:
        return uid(f"crop{self.name}" if self.two_series else f"roi{self.name}")

    @property
    def mask_series(self) -> str:
        return uid(f"mask{self.name}" if self.two_series else f"roi{self.name}")


LESIONS = [
    Lesion("Mass", "Training", "P_00001", "LEFT", "CC", 1, "BENIGN", 0),
    Lesion("Mass", "Training", "P_00001", "LEFT", "CC", 2, "MALIGNANT", 4, ("OVAL-OVAL", "N/A"), mask_first=True),
    Lesion("Mass", "Training", "P_00001", "LEFT", "MLO", 1, "MALIGNANT", 5, two_series=True),
    Lesion("Mass", "Test", "P_00002", "RIGHT", "CC", 1, "BENIGN_WITHOUT_CALLBACK", 2, ("LYMPH_NODE", "ILL_DEFINED")),
    Lesion("Calc", "Training", "P_00003", "RIGHT", "MLO", 1, "BENIGN", 0, ("NEW_WORD", ""), mask_shape=(66, 48)),
    # Patient 1 again, in the other split: the official split's conflict.
    Lesion("Calc", "Test", "P_00001", "LEFT", "CC", 1, "BENIGN", 2, ("PUNCTATE-AMORPHOUS", "CLUSTERED"), 0, 0),
]


def write_tables(folder: Path, lesions=LESIONS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("Mass", "Calc"):
        for split in ("Training", "Test"):
            words = ("mass shape", "mass margins") if kind == "Mass" else ("calc type", "calc distribution")
            density = "breast_density" if kind == "Mass" else "breast density"
            name = f"{kind.lower()}_case_description_{'train' if split == 'Training' else 'test'}_set.csv"
            with open(folder / name, "w", newline="", encoding="utf-8") as handle:
                names = ["patient_id", density, "left or right breast", "image view", "abnormality id"]
                names += ["abnormality type", *words, "assessment", "pathology", "subtlety"]
                names += ["image file path", "cropped image file path", "ROI mask file path"]
                table = csv.DictWriter(handle, names, lineterminator="\n")
                table.writeheader()
                rows = [lesion for lesion in lesions if (lesion.kind, lesion.split) == (kind, split)]
                table.writerows(dict(zip(names, table_row(lesion), strict=True)) for lesion in rows)


def table_row(lesion: Lesion) -> list:
    """Cells as published: the last path that the archive wrote ends with a line break."""
    image = f"{lesion.image}/{uid('s')}/{uid(lesion.image)}/000000.dcm"
    crop = f"{lesion.name}/{uid('s')}/{lesion.crop_series}/000001.dcm"
    mask = f"{lesion.name}/{uid('s')}/{lesion.mask_series}/000000.dcm"
    kind = "mass" if lesion.kind == "Mass" else "calcification"
    crop, mask = (crop, mask + "\n") if kind == "mass" else (crop + "\n", mask)
    cells = [lesion.patient, lesion.density, lesion.side, lesion.view, lesion.number, kind, *lesion.words]
    return [*cells, lesion.assessment, lesion.pathology, lesion.subtlety, image, crop, mask]


def write_dicom(path: Path, pixels: np.ndarray, series: str) -> None:
    """A Secondary Capture file whose PatientID and SeriesDescription are as untrue as the archive's can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, uid("s")
    dataset.PatientID, dataset.Modality, dataset.SeriesDescription = "P_00038_LEFT_CC.dcm", "MG", "cropped images"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = pixels.itemsize * 8 - 1, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def place(layout: str, root: Path, name: str, series: str, kind: str, number: int) -> Path:
    """Where a tool puts file ``number`` (from 1) of a series."""
    study, tail = uid("s"), uid(name + series)[-5:]
    return {
        "classic": root / "CBIS-DDSM" / name / study / series / f"1-{number}.dcm",
        "descriptive": root / f"CBIS-DDSM/{name}/08-29-2017-DDSM-{study[-5:]}/1.000000-{kind}-{tail}/1-{number}.dcm",
        "idc": root / "cbis_ddsm" / name / study / f"MG_{series}" / f"{tail}-{number}.dcm",
        "zip": root / series / f"{number:08d}.dcm",
        "flat": root / f"{tail}{number}.dcm",
        "jpeg": root / "jpeg" / series / f"{number}-{tail}.jpg",
    }[layout]


def pictures(lesion: Lesion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full mammogram and crop (uint16), mask (uint8)."""
    rng = np.random.default_rng(lesion.number)
    full = rng.integers(0, 65536, SHAPE, dtype=np.uint16)
    mask = np.zeros(lesion.mask_shape, np.uint8)
    mask[20:40, 10:30] = 255
    return full, full[16:44, 6:34].copy(), mask


def write_tree(root: Path, layout: str, lesions=LESIONS) -> dict[str, Path]:
    """Tables and files below ``root``; returns the path of each lesion's mask."""
    write_tables(root / "csv" if layout == "jpeg" else root, lesions)
    masks = {}

    def save(path: Path, pixels: np.ndarray, series: str) -> None:
        if layout != "jpeg":
            return write_dicom(path, pixels, series)
        path.parent.mkdir(parents=True, exist_ok=True)
        eight_bit = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        return cv2.imwrite(str(path), eight_bit) or pytest.fail(f"{path} not written")

    for lesion in lesions:
        full, crop, mask = pictures(lesion)
        series = uid(lesion.image)
        save(place(layout, root, lesion.image, series, "full mammogram images", 1), full, series)
        first = 1 if lesion.mask_first or lesion.two_series else 2
        masks[lesion.name] = place(layout, root, lesion.name, lesion.mask_series, "ROI mask images", first)
        save(masks[lesion.name], mask, lesion.mask_series)
        other = 1 if lesion.two_series else 3 - first
        save(place(layout, root, lesion.name, lesion.crop_series, "ROI mask images", other), crop, lesion.crop_series)
    return masks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_inventory(tmp_path, layout):
    masks = write_tree(tmp_path, layout)
    listed = cbis_ddsm.inventory(tmp_path)
    images = listed.images.set_index("image_id")
    assert sorted(images.index) == sorted({lesion.image for lesion in LESIONS})
    assert images["path"].notna().all()
    assert set(images["use"]) == {"labelled"}
    assert images[["height", "width"]].drop_duplicates().to_numpy().tolist() == [list(SHAPE)]
    for name, path in images["path"].items():
        assert (tmp_path / path).stat().st_size == images.loc[name, "source_size"]
        assert read_header(tmp_path / path).shape == SHAPE
    if layout == "jpeg":
        assert set(images["file_format"]) == {"jpeg"}
        assert set(images["bits_stored"]) == {8}
    else:
        assert set(images["bits_stored"]) == {16}
        assert set(images["transfer_syntax"]) == {ImplicitVRLittleEndian}
    found = {row.finding_id: tmp_path / row.mask_path for row in listed.findings.itertuples()}
    assert found == masks
    assert set(listed.findings["geometry"]) == {"mask"}


def test_images_carry_the_worst_lesion(tmp_path):
    write_tables(tmp_path)
    images = cbis_ddsm.inventory(tmp_path).images.set_index("image_id")
    both = images.loc["Mass-Training_P_00001_LEFT_CC"]
    assert (both["pathology"], both["label_malignant"], both["breast_birads"]) == ("MALIGNANT", 1, "BI-RADS 4")
    uncalled = images.loc["Mass-Test_P_00002_RIGHT_CC"]
    assert (uncalled["label_malignant"], uncalled["uncertain"]) == (0, "benign_without_callback")
    assert images.loc["Calc-Training_P_00003_RIGHT_MLO", "breast_birads"] == "BI-RADS 0"


def test_two_exports_of_a_view_show_the_same_film(tmp_path):
    """The masses of the view stand in one table, its calcification in another: both films show all of them."""
    write_tables(tmp_path)
    images = cbis_ddsm.inventory(tmp_path).images.set_index("image_id")
    masses, calcification = images.loc["Mass-Training_P_00001_LEFT_CC"], images.loc["Calc-Test_P_00001_LEFT_CC"]
    assert (calcification["pathology"], calcification["label_malignant"]) == ("MALIGNANT", 1)
    assert calcification["breast_birads"] == "BI-RADS 4"
    assert (masses["findings_elsewhere"], calcification["findings_elsewhere"]) == (1, 2)
    assert images["findings_elsewhere"].drop([masses.name, calcification.name]).eq(0).all()


def test_identity_density_and_split(tmp_path):
    write_tables(tmp_path)
    listed = cbis_ddsm.inventory(tmp_path)
    images = listed.images.set_index("image_id")
    row = images.loc["Calc-Test_P_00001_LEFT_CC"]
    assert (row["patient_id"], row["group_id"], row["study_id"]) == ("P_00001", "cbis_ddsm:P_00001", "P_00001")
    assert (row["laterality"], row["view_position"], row["split_official"]) == ("L", "CC", "test")
    assert (row["density_native"], row["breast_density"]) == ("0", images["breast_density"].dtype.na_value)
    assert images.loc["Mass-Training_P_00001_LEFT_MLO", "breast_density"] == "DENSITY C"
    assert images.loc["Mass-Training_P_00001_LEFT_MLO", "split_official"] == "training"
    assert len(listed.exams) == 3


def test_findings_keep_words_and_grades(tmp_path):
    write_tables(tmp_path)
    findings = cbis_ddsm.inventory(tmp_path).findings.set_index("finding_id")
    first = findings.loc["Mass-Training_P_00001_LEFT_CC_1"]
    assert first["finding_categories"] == "['Mass', 'Architectural Distortion']"
    assert json.loads(first["attributes"]) == {
        "mass_shape": ["IRREGULAR", "ARCHITECTURAL_DISTORTION"],
        "mass_margins": ["SPICULATED"],
    }
    assert (first["finding_birads"], first["breast_birads"], first["pathology"]) == ("BI-RADS 0", "BI-RADS 4", "BENIGN")
    second = findings.loc["Mass-Training_P_00001_LEFT_CC_2"]
    assert json.loads(second["attributes"]) == {"mass_shape": ["OVAL"]}
    assert second["finding_categories"] == "['Mass']"
    assert findings.loc["Mass-Test_P_00002_RIGHT_CC_1", "finding_categories"] == "['Suspicious Lymph Node']"
    calc = findings.loc["Calc-Training_P_00003_RIGHT_MLO_1"]
    assert (calc["finding_categories"], calc["finding_native"]) == ("['Suspicious Calcification']", "calcification")
    assert json.loads(calc["attributes"]) == {"calc_type": ["NEW_WORD"]}
    assert findings["subtlety"].isna().to_dict() == {name: name.startswith("Calc-Test") for name in findings.index}


def test_tables_alone_keep_all_rows(tmp_path):
    write_tables(tmp_path)
    listed = cbis_ddsm.inventory(tmp_path)
    assert set(listed.images["excluded_reason"]) == {"missing_file"}
    assert set(listed.findings["geometry"]) == {"none"}
    assert len(listed.findings) == len(LESIONS)


def test_half_downloaded_tree(tmp_path):
    masks = write_tree(tmp_path, "classic")
    masks["Mass-Training_P_00001_LEFT_CC_2"].unlink()  # its crop stays alone: not a mask
    lost = place("classic", tmp_path, "Mass-Test_P_00002_RIGHT_CC", uid("Mass-Test_P_00002_RIGHT_CC"), "", 1)
    lost.unlink()
    torn = place("classic", tmp_path, "Mass-Training_P_00001_LEFT_MLO", uid("Mass-Training_P_00001_LEFT_MLO"), "", 1)
    torn.write_bytes(b"")
    listed = cbis_ddsm.inventory(tmp_path)
    images, findings = listed.images.set_index("image_id"), listed.findings.set_index("finding_id")
    assert images["excluded_reason"].dropna().to_dict() == {"Mass-Test_P_00002_RIGHT_CC": "missing_file"}
    assert images.loc["Mass-Training_P_00001_LEFT_MLO", "source_size"] == 0
    assert findings.loc["Mass-Training_P_00001_LEFT_CC_2", "geometry"] == "none"
    # The full image is gone, but two values in the pixels still tell the mask.
    assert findings.loc["Mass-Test_P_00002_RIGHT_CC_1", "geometry"] == "mask"
    assert cbis_ddsm.detect(tmp_path).missing == ["1 of 5 full mammograms"]


def test_tables_beside_the_downloaded_tree(tmp_path):
    write_tree(tmp_path, "classic")
    assert cbis_ddsm.inventory(tmp_path / "CBIS-DDSM").images["path"].notna().all()


def test_a_neighbours_tables_do_not_count(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no mass_case_description_train_set.csv: put the four"):
        cbis_ddsm.inventory(tmp_path / "other")


def test_a_loop_of_links_ends(tmp_path):
    write_tree(tmp_path, "idc")
    os.symlink(tmp_path, tmp_path / "cbis_ddsm" / "again")
    assert cbis_ddsm.inventory(tmp_path).images["path"].notna().all()


def test_missing_table_column_and_unknown_values(tmp_path):
    write_tables(tmp_path)
    path = tmp_path / "calc_case_description_test_set.csv"
    text = path.read_text()
    for old, new, message in [
        ("pathology", "truth", r"calc_case_description_test_set.csv has no column 'pathology': put the unchanged"),
        ("breast density", "b", r"has no column 'breast density'"),
        (",BENIGN,", ",HARMLESS,", r"set.csv, column 'pathology': unknown value 'HARMLESS'"),
        (",LEFT,", ",UP,", r"column 'left or right breast': unknown value 'UP'"),
        ("P_00001,0", "P_00001,9", r"column 'breast density': 9 is not one of 0 to 4"),
        ("P_00001,0", "P_00001,x", r"column 'breast density': 'x' is not a whole number"),
        ("/000000.dcm", "", r"is not a path of the form folder/study/series/file"),
    ]:
        path.write_text(text.replace(old, new, 1) if old != "/000000.dcm" else text.replace(old, ""))
        with pytest.raises(UserError, match=message):
            cbis_ddsm.inventory(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"holds no calc_case_description_test_set.csv: put the four"):
        cbis_ddsm.inventory(tmp_path)
    assert cbis_ddsm.detect(tmp_path).missing[0] == "calc_case_description_test_set.csv"


def test_empty_directory_and_binary_table(tmp_path):
    with pytest.raises(UserError, match="is empty: put the four"):
        cbis_ddsm.inventory(tmp_path)
    write_tables(tmp_path)
    (tmp_path / "mass_case_description_test_set.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"mass_case_description_test_set.csv is not a readable CSV table"):
        cbis_ddsm.inventory(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_detect_counts_the_full_mammograms(tmp_path, layout):
    write_tree(tmp_path / "archive", layout)
    (found,) = search(tmp_path)
    assert (found.dataset, found.root, found.images_found) == ("cbis_ddsm", tmp_path / "archive", 5)
    assert found.missing == []


def test_detect_tree_without_tables(tmp_path):
    write_tree(tmp_path, "classic")
    for table in tmp_path.glob("*.csv"):
        table.unlink()
    (found,) = search(tmp_path)
    assert (found.root, found.images_found, len(found.missing)) == (tmp_path / "CBIS-DDSM", 5, 4)


def header(path: Path, shape: tuple[int, int], bits: int) -> FileHeader:
    return FileHeader(path, "dicom", *shape, bits, bits)


def test_mask_is_chosen_by_content(tmp_path):
    binary = np.zeros((64, 48), np.uint8)
    binary[5:9, 5:9] = 255
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    write_dicom(tmp_path / "binary.dcm", binary, uid("a"))
    write_dicom(tmp_path / "binary16.dcm", binary.astype(np.uint16) * 257, uid("a"))
    write_dicom(tmp_path / "small8.dcm", (grey[:10, :10] % 251).astype(np.uint8), uid("a"))
    write_dicom(tmp_path / "grey.dcm", grey, uid("a"))
    write_dicom(tmp_path / "blank.dcm", np.zeros((64, 48), np.uint16), uid("a"))
    files = {path.stem: read_header(path) for path in tmp_path.glob("*.dcm")}
    full = header(tmp_path / "full.dcm", (64, 48), 16)

    assert choose_mask([files["small8"], files["binary"]], full) == files["binary"]
    assert choose_mask([files["grey"], files["binary16"]], full) == files["binary16"]  # 16-bit mask: pixels decide
    assert choose_mask([files["grey"], files["binary"]], None) == files["binary"]  # no full image: pixels decide
    assert choose_mask([files["small8"]], full) is None  # an 8-bit crop is no mask
    assert choose_mask([files["grey"], files["blank"]], full) is None  # a mask marks something
    assert choose_mask([], full) is None


def test_files_that_cannot_be_decoded_are_no_masks(tmp_path, caplog):
    write_dicom(tmp_path / "short.dcm", np.zeros((64, 48), np.uint8), uid("a"))
    dataset = pydicom.dcmread(tmp_path / "short.dcm")
    dataset.PixelData = b"\0\0"
    dataset.save_as(tmp_path / "short.dcm")
    assert not has_two_values(tmp_path / "short.dcm")
    assert "cannot be decoded" in caplog.text


def test_phantoms_of_all_layouts_hold_the_same_archive(tmp_path):
    """The same seed draws the same films, so tables, masks and boxes must not depend on the download tool."""
    listings, boxes = {}, {}
    for layout in phantom.writer("cbis_ddsm").LAYOUTS:
        root = tmp_path / layout
        phantom.write("cbis_ddsm", root, patients=3, seed=5, layout=layout)
        listed = cbis_ddsm.inventory(root)
        assert listed.images["path"].notna().all()
        assert set(listed.findings["geometry"]) == {"mask"}
        boxes[layout] = [mask_box(root / path) for path in listed.findings["mask_path"]]
        own = ["path", "series_id", "file_format", "bits_stored", "photometric", "transfer_syntax", "source_size"]
        listings[layout] = listed.images.drop(columns=[*own, "source_mtime_ns"])
        (found,) = search(root)
        assert (found.images_found, found.missing) == (len(listed.images), [])
    first, *others = listings
    for layout in others:
        assert listings[layout].equals(listings[first])
        assert np.abs(np.array(boxes[layout]) - np.array(boxes[first])).max() <= 4  # JPEG blurs the outline


def mask_box(path: Path) -> tuple[int, int, int, int]:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.suffix == ".jpg" else pydicom.dcmread(path).pixel_array
    rows, columns = np.nonzero(pixels > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
