"""CMMD's and TCGA-BRCA's own tables: the clinical table, and the collections' rows of the IDC index."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mammoflow.datasets import archive, cmmd, idc, tcga_brca
from mammoflow.datasets.cmmd_clinical import read_clinical

pytestmark = pytest.mark.real
TABLE = "cmmd-clinical/CMMD_clinicaldata_revision.csv"


def _file(real_data: Path, name: str) -> Path:
    path = real_data / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="module")
def clinical(real_data) -> pd.DataFrame:
    return read_clinical(_file(real_data, TABLE))


@pytest.fixture(scope="module")
def with_index(real_data, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cmmd")
    shutil.copy(_file(real_data, TABLE), root)
    shutil.copy(_file(real_data, "idc-index/cmmd_idc_v25.csv.gz"), root)
    return root


def test_the_clinical_table(clinical):
    assert (len(clinical), clinical["patient_id"].nunique()) == (1872, 1775)
    assert clinical["laterality"].value_counts().to_dict() == {"L": 988, "R": 884}
    assert clinical["pathology"].value_counts().to_dict() == {"MALIGNANT": 1316, "BENIGN": 556}
    assert clinical["abnormality"].value_counts().to_dict() == {"mass": 1149, "both": 461, "calcification": 262}
    assert (clinical["age"].min(), clinical["age"].max()) == (17, 87)
    assert set(clinical["number"]) == {2}
    assert clinical["subtype"].isna().sum() == 1123
    women = clinical.groupby("patient_id")["pathology"]
    assert (women.size() == 2).sum() == 97
    assert (women.nunique() == 2).sum() == 30


def test_the_table_alone_lists_each_labelled_breast(real_data):
    listed = cmmd.inventory(_file(real_data, TABLE).parent)
    images = listed.images
    assert len(images) == 2 * 1872
    assert set(images["excluded_reason"]) == {"missing_file"}
    breasts = images.drop_duplicates(["patient_id", "laterality"])
    assert breasts["label_malignant"].value_counts().to_dict() == {1: 1316, 0: 556}
    # One malignant breast makes the woman malignant: 1,310 of 1,775.
    assert listed.exams["label_malignant"].value_counts().to_dict() == {1: 1310, 0: 465}
    assert images["group_id"].nunique() == 1773
    assert len(listed.findings) == archive("cmmd").expected["findings"]


def test_the_index_names_the_unlabelled_breasts_too(with_index):
    """With the IDC index the published archive is complete, side by side with the counts of its headers."""
    listed = cmmd.inventory(with_index)
    images = listed.images
    expected = archive("cmmd").expected
    assert (len(images), images["patient_id"].nunique()) == (expected["images"], expected["patients"]) == (5202, 1775)
    assert images["laterality"].value_counts().to_dict() == {"L": 2682, "R": 2520}
    assert images["view_position"].value_counts().to_dict() == {"CC": 2601, "MLO": 2601}
    assert (images["uncertain"] == "contralateral_unlabelled").sum() == 1458
    assert images["label_malignant"].value_counts().to_dict() == {1: 2632, 0: 1112}
    assert listed.exams["n_images"].value_counts().to_dict() == {2: 949, 4: 826}
    assert images["study_id"].str.startswith("1.3.6.1.4.1.14519.").all()


def test_cmmd_series_of_the_index(real_data):
    index = idc.read_index(_file(real_data, "idc-index/cmmd_idc_v25.csv.gz"), "cmmd")
    assert (len(index), index["SeriesInstanceUID"].nunique(), index["PatientID"].nunique()) == (1775, 1775, 1775)
    assert index["instanceCount"].sum() == 5202
    assert set(index["Modality"]) == {"MG"}


def test_tcga_series_of_the_index(real_data, tmp_path):
    shutil.copy(_file(real_data, "idc-index/tcga_brca_idc_v25.csv.gz"), tmp_path)
    images = tcga_brca.inventory(tmp_path).images
    resonance = images[images["excluded_reason"] == "modality_MR"]
    assert (len(resonance), resonance["study_id"].nunique(), resonance["patient_id"].nunique()) == (1858, 157, 137)
    assert resonance["member"].str.removeprefix("instances=").astype(int).sum() == 230134
    mammograms = images[images["excluded_reason"] == "missing_file"]
    assert (len(mammograms), mammograms["series_id"].nunique(), mammograms["study_id"].nunique()) == (33, 19, 7)
    women = {"TCGA-AO-A0JB", "TCGA-AO-A0JF", "TCGA-AO-A0JI", "TCGA-EW-A1J2", "TCGA-EW-A423"}
    assert set(mammograms["patient_id"]) == women
    assert (images["site"] == "BH").sum() == 617
    assert images["label_malignant"].isna().all()
    assert set(images["use"]) == {"excluded"}
    assert tcga_brca.detect(tmp_path).missing == ["images"]
