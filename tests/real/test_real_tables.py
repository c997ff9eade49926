"""The adapters on the archives' own tables, and on real mini-MIAS films. Counts are those of the published archives."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mammoflow.datasets import cbis_ddsm, detection, mias
from mammoflow.datasets.base import Inventory

pytestmark = pytest.mark.real


def _folder(real_data: Path, name: str) -> Path:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: put that archive's files there")
    return folder


@pytest.fixture(scope="module")
def mias_root(real_data) -> Path:
    return _folder(real_data, "mini-mias")


@pytest.fixture(scope="module")
def films(mias_root) -> Inventory:
    return mias.inventory(mias_root)


@pytest.fixture(scope="module")
def cbis_root(real_data) -> Path:
    return _folder(real_data, "cbis-ddsm-csv")


@pytest.fixture(scope="module")
def cbis(cbis_root) -> Inventory:
    return cbis_ddsm.inventory(cbis_root)


@pytest.fixture(scope="module")
def lesions(cbis_root) -> pd.DataFrame:
    return pd.concat([cbis_ddsm.read_table(cbis_root / name) for name in cbis_ddsm.TABLE_NAMES], ignore_index=True)


def test_mias_table(mias_root):
    rows = mias.read_table(mias_root / "Info.txt")
    assert (len(rows), rows["image_id"].nunique(), rows["radius"].notna().sum()) == (330, 322, 119)
    assert rows["kind"].value_counts().to_dict() == {
        "NORM": 207,
        "CALC": 30,
        "CIRC": 25,
        "SPIC": 19,
        "ARCH": 19,
        "MISC": 15,
        "ASYM": 15,
    }
    assert rows["severity"].value_counts().to_dict() == {"B": 69, "M": 54}


def test_mias_images(films):
    images = films.images
    on_disk = images["path"].notna().sum()
    assert (len(images), images["patient_id"].nunique(), len(films.exams)) == (322, 161, 161)
    assert (images["excluded_reason"] == "missing_file").sum() == 322 - on_disk
    # 69 benign and 54 malignant rows lie on 63 + 52 films: seven films have several rows, one of them both kinds.
    assert images["pathology"].value_counts().to_dict() == {"NORMAL": 207, "BENIGN": 63, "MALIGNANT": 52}
    assert images["density_native"].value_counts().to_dict() == {"D": 112, "F": 106, "G": 104}
    assert images["laterality"].value_counts().to_dict() == {"R": 161, "L": 161}


def test_mias_findings(films):
    findings = films.findings
    assert findings["geometry"].value_counts().to_dict() == {"circle": 119, "none": 4}
    assert sorted(findings.loc[findings["geometry"] == "none", "image_id"]) == ["mdb059", "mdb216", "mdb233", "mdb245"]
    boxes = findings[["xmin", "ymin", "xmax", "ymax"]].dropna()
    assert ((boxes >= 0) & (boxes <= 1024)).all(axis=None)


def test_mias_circles_lie_on_the_breast(films, mias_root):
    """With the origin at the bottom left the centres lie in bright tissue; read from the top, clearly fewer do."""
    paths = films.images.set_index("image_id")["path"].dropna()
    circles = films.findings[(films.findings["geometry"] == "circle") & films.findings["image_id"].isin(paths.index)]
    assert len(circles) >= 20
    right, wrong = [], []
    for circle in circles.itertuples():
        film = cv2.imread(str(mias_root / paths[circle.image_id]), cv2.IMREAD_GRAYSCALE)
        ((x, y), _) = json.loads(circle.points)
        right.append(_brightness(film, x, y))
        wrong.append(_brightness(film, x, film.shape[0] - y))
    assert np.mean(np.array(right) > 100) >= 108 / 119
    assert np.sum(np.array(right) > 100) > np.sum(np.array(wrong) > 100)


def _brightness(film: np.ndarray, x: int, y: int) -> float:
    return float(film[max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11].mean())


def test_mias_is_detected(mias_root):
    (found,) = detection.search(mias_root)
    assert found.dataset == "mias"
    assert found.images_found == len(list(mias_root.glob("mdb*.pgm")))


def test_cbis_counts(cbis):
    assert (len(cbis.images), len(cbis.findings), cbis.images["patient_id"].nunique()) == (3103, 3568, 1566)
    assert cbis.findings["pathology"].value_counts().to_dict() == {
        "MALIGNANT": 1457,
        "BENIGN": 1429,
        "BENIGN_WITHOUT_CALLBACK": 682,
    }
    assert (cbis.findings["finding_birads"] == "BI-RADS 0").sum() == 238


def test_cbis_pathology_per_table(cbis):
    findings = cbis.findings
    table = pd.crosstab([findings["finding_native"], findings["split"]], findings["pathology"])
    columns = ["MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK"]
    assert table.loc[("mass", "training"), columns].tolist() == [637, 577, 104]
    assert table.loc[("mass", "test"), columns].tolist() == [147, 194, 37]
    assert table.loc[("calcification", "training"), columns].tolist() == [544, 528, 474]
    assert table.loc[("calcification", "test"), columns].tolist() == [129, 130, 67]


def test_cbis_labels_follow_the_worst_lesion(cbis):
    images = cbis.images
    malignant = images.groupby(["patient_id", "laterality"])["label_malignant"].max()
    assert (malignant.sum(), len(malignant)) == (761, 1708)
    assert images.groupby("patient_id")["label_malignant"].max().sum() == 752
    mixed = cbis.findings.groupby("image_id")["label_malignant"].nunique() > 1
    assert mixed.sum() == 17
    assert (images.set_index("image_id").loc[mixed.index[mixed], "pathology"] == "MALIGNANT").all()


def test_cbis_traps_of_the_official_split(cbis):
    splits = cbis.images.groupby("patient_id")["split_official"].nunique()
    assert (splits > 1).sum() == 31
    kinds = cbis.findings.groupby("patient_id")["finding_native"].nunique()
    assert (kinds > 1).sum() == 79


def test_cbis_density_and_subtlety(cbis):
    assert cbis.images.loc[cbis.images["breast_density"].isna(), "density_native"].unique().tolist() == ["0"]
    assert cbis.findings["breast_density"].isna().sum() == 2
    assert cbis.findings["subtlety"].isna().sum() == 2


def test_cbis_series_are_those_of_the_manifest(lesions, cbis_root):
    (manifest,) = cbis_root.glob("*.tcia")
    text = manifest.read_text().split("ListOfSeriesToDownload=")[1]
    roi = set(lesions["crop_series"]) | set(lesions["mask_series"])
    assert (lesions["crop_series"] != lesions["mask_series"]).sum() == 104
    assert set(lesions["image_series"]) | roi == set(text.split())


def test_cbis_tables_alone_are_detected(cbis_root, cbis):
    (found,) = detection.search(cbis_root)
    assert (found.dataset, found.missing) == ("cbis_ddsm", ["3103 of 3103 full mammograms"])
    assert set(cbis.images["excluded_reason"]) == {"missing_file"}
