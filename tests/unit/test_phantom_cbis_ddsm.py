"""The synthetic CBIS-DDSM: its tables, its traps, its lesions, and what a classical feature can learn from it."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy.ndimage import gaussian_filter, maximum_filter
from sklearn.metrics import roc_auc_score

from mammoflow import phantom
from mammoflow.datasets import cbis_ddsm as adapter
from mammoflow.phantom import cbis_ddsm
from mammoflow.phantom.cbis_ddsm_files import LAYOUTS
from mammoflow.phantom.cbis_ddsm_plan import plan

PATIENTS, SEED = 14, 1
# Every descriptor of the four published tables.
WORDS = """
ROUND OVAL LOBULATED IRREGULAR ARCHITECTURAL_DISTORTION LYMPH_NODE ASYMMETRIC_BREAST_TISSUE FOCAL_ASYMMETRIC_DENSITY
CIRCUMSCRIBED SPICULATED ILL_DEFINED OBSCURED MICROLOBULATED
PLEOMORPHIC AMORPHOUS PUNCTATE LUCENT_CENTER LUCENT_CENTERED VASCULAR FINE_LINEAR_BRANCHING COARSE ROUND_AND_REGULAR
EGGSHELL DYSTROPHIC SKIN LARGE_RODLIKE MILK_OF_CALCIUM
CLUSTERED SEGMENTAL REGIONAL LINEAR DIFFUSELY_SCATTERED
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "cbis_ddsm"
    phantom.write("cbis_ddsm", root, PATIENTS, SEED)
    return root


@pytest.fixture(scope="module")
def tables(archive) -> dict[str, pd.DataFrame]:
    return {path.name.removesuffix("_set.csv"): pd.read_csv(path) for path in archive.glob("*_set.csv")}


@pytest.fixture(scope="module")
def lesions(tables) -> pd.DataFrame:
    frames = [frame.rename(columns={"breast density": "breast_density"}) for frame in tables.values()]
    return pd.concat(frames, keys=list(tables)).reset_index(level=0, names="table").reset_index(drop=True)


@pytest.fixture(scope="module")
def series(archive) -> dict[str, list[pydicom.Dataset]]:
    """SeriesInstanceUID -> its files, in their order on disk."""
    found: dict[str, list[pydicom.Dataset]] = {}
    for path in sorted(archive.rglob("*.dcm")):
        header = pydicom.dcmread(path)
        found.setdefault(header.SeriesInstanceUID, []).append(header)
    return found


def uid(path: str) -> str:
    return path.strip().split("/")[-2]


def crop_and_mask(row, series) -> tuple[np.ndarray, np.ndarray]:
    """By content, as the archive wants it: the mask is 8 bit."""
    uids = dict.fromkeys([uid(row["cropped image file path"]), uid(row["ROI mask file path"])])
    files = sorted((file for one in uids for file in series[one]), key=lambda file: file.BitsAllocated)
    assert [file.BitsAllocated for file in files] == [8, 16]
    return files[1].pixel_array, files[0].pixel_array


def test_tables_have_the_archive_s_columns_and_line_breaks(archive, tables):
    paths = ["image file path", "cropped image file path", "ROI mask file path"]
    assert set(tables) == {f"{k}_case_description_{s}" for k in ("mass", "calc") for s in ("train", "test")}
    for name, frame in tables.items():
        mass = name.startswith("mass")
        assert list(frame.columns[:8]) == [
            "patient_id",
            "breast_density" if mass else "breast density",
            "left or right breast",
            "image view",
            "abnormality id",
            "abnormality type",
            *(("mass shape", "mass margins") if mass else ("calc type", "calc distribution")),
        ]
        assert list(frame.columns[8:]) == ["assessment", "pathology", "subtlety", *paths]
        assert frame[paths[2] if mass else paths[1]].str.endswith(".dcm\n").all()
        text = (archive / f"{name}_set.csv").read_bytes()
        assert b"\r" not in text
        assert text.count(b'.dcm\n"') == len(frame)
        folder = frame["image file path"].str.split("/").str[0]
        kind, split = ("Mass" if mass else "Calc"), ("Training" if name.endswith("train") else "Test")
        side_view = frame["left or right breast"] + "_" + frame["image view"]
        assert (folder == f"{kind}-{split}_" + frame["patient_id"] + "_" + side_view).all()


def test_every_word_is_one_of_the_archive(lesions):
    assert set(lesions["pathology"]) == {"MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK"}
    assert lesions["assessment"].between(0, 5).all()
    assert set(lesions["breast_density"]) <= {0, 1, 2, 3, 4}
    words = {
        word
        for breast in plan(60, 0)
        for lesion in breast.abnormalities
        for part in lesion.words
        for word in part.split("-")
        if word
    }
    assert words == set(re.findall(r"\w+", WORDS))


def test_full_mammograms_are_secondary_captures_of_the_whole_range(lesions, series):
    for path in lesions["image file path"].unique():
        (file,) = series[uid(path)]
        assert file.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert file.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
        assert (file.BitsStored, file.PhotometricInterpretation, file.Modality) == (16, "MONOCHROME2", "MG")
        for absent in ("PixelSpacing", "WindowCenter", "ViewPosition", "ImageLaterality", "Manufacturer"):
            assert absent not in file
        pixels = file.pixel_array
        assert (pixels.min(), pixels.max()) == (0, 65535)
        assert len(file.SeriesInstanceUID) <= 64


def test_masks_lie_where_lesions_were_drawn(lesions, series):
    """Mask and crop fit the mammogram: two values, the crop cut from around the mask, inside the breast."""
    odd = 0
    for _, row in lesions.iterrows():
        (full,) = (file.pixel_array for file in series[uid(row["image file path"])])
        crop, mask = crop_and_mask(row, series)
        assert set(np.unique(mask)) == {0, 255}
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if mask.shape != full.shape:
            odd += 1
            continue
        box = full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box > 6000).mean() > 0.97  # breast, not background
        assert crop.shape[0] > box.shape[0]
        assert crop.shape[1] > box.shape[1]
        assert crop.size < full.size / 4
        top = next(top for top in range(rows[0], -1, -1) if _stands_at(crop, full, top, columns[0]))
        assert rows[0] - top <= 0.2 * max(np.ptp(rows), np.ptp(columns)) + 3
    assert odd == 1


def _stands_at(crop: np.ndarray, full: np.ndarray, top: int, left_most: int) -> bool:
    """Whether the crop is a part of the image with its top row at ``top`` and its left edge at or before left_most."""
    strip = full[top : top + crop.shape[0]]
    if strip.shape[0] < crop.shape[0]:
        return False
    return any(
        (strip[:, left : left + crop.shape[1]] == crop).all()
        for left in range(max(0, left_most - crop.shape[1]), left_most + 1)
        if strip[0, left] == crop[0, 0] and left + crop.shape[1] <= full.shape[1]
    )


def test_the_traps_are_there(archive, lesions, tables, series):
    train, test = (set(lesions.loc[lesions["table"].str.endswith(split), "patient_id"]) for split in ("train", "test"))
    (both,) = train & test
    twins = lesions[lesions["patient_id"] == both]
    assert set(twins["table"]) == {"mass_case_description_train", "calc_case_description_test"}
    first_view = twins[twins["image view"] == twins["image view"].iloc[0]]["image file path"].unique()
    pictures = [series[uid(path)][0].pixel_array for path in first_view]
    assert len(pictures) == 2
    assert (pictures[0] == pictures[1]).all()

    two_series = lesions["cropped image file path"].map(uid) != lesions["ROI mask file path"].map(uid)
    assert two_series.any()
    assert set(lesions[two_series]["table"]) == {"mass_case_description_train"}
    assert (tables["calc_case_description_test"]["breast density"] == 0).any()
    assert (lesions["subtlety"] == 0).any()
    assert (lesions["abnormality id"] == 2).any()
    assert lesions["mass shape"].str.contains("IRREGULAR-ARCHITECTURAL_DISTORTION", na=False).any()

    full_ids = {file.PatientID for files in series.values() for file in files if len(files) == 1}
    assert any(name.startswith("P_") and name.endswith(".dcm") for name in full_ids)
    odd_headers = [files[0] for files in series.values() if files[0].PatientID.endswith(".dcm")]
    assert all(file.BodyPartExamined in ("Left Breast", "Right Breast") for file in odd_headers)
    pairs = [files for files in series.values() if len(files) == 2]
    assert {files[0].BitsAllocated for files in pairs} == {8, 16}
    assert {(files[0].SeriesDescription, files[0].BitsAllocated) for files in pairs} > {("cropped images", 16)}
    assert {files[0].SeriesDescription for files in pairs} == {"cropped images", "ROI mask images"}
    assert not list(archive.rglob("000000.dcm"))


def test_chest_wall_is_on_the_breast_s_own_side_but_for_one(lesions, series):
    sides = lesions.drop_duplicates("image file path")
    swapped = set()
    for _, row in sides.iterrows():
        pixels = series[uid(row["image file path"])][0].pixel_array
        left, right = ((pixels[:, edge] > 6000).sum() for edge in (slice(0, 40), slice(-40, None)))
        if ("LEFT" if left > right else "RIGHT") != row["left or right breast"]:
            swapped.add(row["patient_id"])
    assert len(swapped) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adapter_finds_everything_in_every_layout(tmp_path, layout):
    root = tmp_path / "archive"
    phantom.write("cbis_ddsm", root, 4, 2, layout=layout)
    inventory = adapter.inventory(root)
    breasts = plan(4, 2)
    assert len(inventory.images) == sum(len(breast.views) * len(breast.splits) for breast in breasts)
    assert len(inventory.findings) == sum(len(breast.views) * len(breast.abnormalities) for breast in breasts)
    assert inventory.images["path"].notna().all()
    assert (inventory.findings["geometry"] == "mask").all()
    assert set(inventory.images["patient_id"]) == {breast.patient for breast in breasts}


def test_the_retriever_s_listing_names_every_series(archive, series):
    (listing,) = archive.glob("manifest-*/metadata.csv")
    assert listing.read_bytes().count(b"\r\n") == len(series) + 1
    with listing.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["Series UID"] for row in rows} == set(series)
    for row in rows:
        folder = listing.parent / row["File Location"].replace("\\", "/")
        assert len(list(folder.glob("1-*.dcm"))) == int(row["Number of Images"])
        assert not row["Subject ID"].endswith(".dcm")


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        phantom.write("cbis_ddsm", tmp_path / name, 2, seed)
    one, two, other = (
        {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two", tmp_path / "other")
    )
    assert one == two
    pictures = [{content for path, content in files.items() if path.suffix == ".dcm"} for files in (one, other)]
    assert not pictures[0] & pictures[1]


# What can be learnt


@pytest.fixture(scope="module")
def films() -> pd.DataFrame:
    """One row per drawn lesion: kind, truth, mean of the whole film, and two features of the annotated place."""
    rows = []
    for number, breast in enumerate(plan(24, 1)):
        for view_number, view in enumerate(breast.views):
            drawn = cbis_ddsm.draw_view(breast, view, (900, 600), np.random.default_rng((1, 2, number, view_number)))
            for lesion, mask in zip(breast.abnormalities, drawn.lesion_masks, strict=True):
                centre, rim, specks = _features(drawn.pixels, mask)
                rows.append(
                    (f"{number}-{view}", lesion.kind, lesion.malignant, drawn.pixels.mean(), centre - rim, specks)
                )
    return pd.DataFrame(rows, columns=["film", "kind", "malignant", "mean", "core", "specks"])


def _features(pixels: np.ndarray, mask: np.ndarray) -> tuple[float, float, int]:
    """Mean of the lesion's centre, mean of a ring around that, and the number of bright specks."""
    rows, columns = np.nonzero(mask)
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    distance = np.hypot(y - rows.mean(), x - columns.mean())
    smooth = gaussian_filter(pixels, 3)
    fine = gaussian_filter(pixels, 1.5) - gaussian_filter(pixels, 5)
    peaks = (fine == maximum_filter(fine, 5)) & (fine > 0.08) & (distance < 55)
    return smooth[distance < 8].mean(), smooth[(distance > 14) & (distance < 26)].mean(), int(peaks.sum())


def test_the_whole_film_s_brightness_tells_nothing(films):
    by_film = films.groupby("film").agg(malignant=("malignant", "max"), mean=("mean", "first"))
    assert 0.35 < roc_auc_score(by_film["malignant"], by_film["mean"]) < 0.65


@pytest.mark.parametrize(("kind", "feature"), [("mass", "core"), ("calcification", "specks")])
def test_the_annotated_place_tells_malignant_from_benign(films, kind, feature):
    own = films[films["kind"] == kind]
    assert own["malignant"].sum() >= 5
    assert (~own["malignant"]).sum() >= 5
    assert roc_auc_score(own["malignant"], own[feature]) > 0.8


def test_density_tells_nothing_of_the_truth_in_any_table_or_split():
    breasts = [breast for breast in plan(600, 11) if breast.density]
    for table in ("Mass", "Calc"):
        for split in ("Training", "Test"):
            own = [breast for breast in breasts if breast.splits == {table: split}]
            sick = [any(lesion.malignant for lesion in breast.abnormalities) for breast in own]
            assert 0.35 < roc_auc_score(sick, [breast.density for breast in own]) < 0.65


def test_half_of_the_women_have_cancer_and_both_splits_hold_both_truths():
    breasts = plan(40, 7)
    sick = {breast.patient for breast in breasts if any(lesion.malignant for lesion in breast.abnormalities)}
    assert 0.4 <= len(sick) / 40 <= 0.6
    for table in ("Mass", "Calc"):
        for split in ("Training", "Test"):
            truths = {
                lesion.malignant
                for breast in breasts
                if breast.splits.get(table) == split
                for lesion in breast.abnormalities
            }
            assert truths == {True, False}
    assert np.mean([len(breast.views) == 2 for breast in breasts]) > 0.7
