"""CBIS-DDSM: 3,103 digitised film mammograms of 1,566 DDSM patients with 3,568 lesions, masks and pathology.

Source: the four ``{mass,calc}_case_description_{train,test}_set.csv`` tables of The Cancer Imaging Archive (Lee et al.,
Sci Data 4:170177, 2017) and the DICOM tree of any download tool, or the JPEG mirror. One image per full-mammogram
series; 71 views are exported twice, once for their masses and once for their calcifications.

Decisions: the patient of the table (``P_00001``) is patient, exam and group (DICOM PatientID is the folder's name and
StudyInstanceUID differs per picture). An image's pathology is that of the worst lesion of its view, in whichever table
it stands, its ``breast_birads`` the view's highest assessment (0, incomplete, stays BI-RADS 0); lesions of the view's
other export count as ``findings_elsewhere``, since they are on the picture without being marked there. 31 patients
stand in both official splits; the rows keep what the tables say, resolving it is the cohort's business.
"""

from pathlib import Path

import pandas as pd

from mammoflow.datasets import archive, base
from mammoflow.datasets.cbis_ddsm_files import choose_mask, count_series, largest, series_on_disk
from mammoflow.datasets.cbis_ddsm_tables import IMAGE_FOLDER, NAME, PATHOLOGIES, TABLE_NAMES, find_tables, read_table
from mammoflow.datasets.headers import DICOM_SUFFIXES, FileHeader

SUFFIXES = DICOM_SUFFIXES | {".jpg", ".jpeg", ".png"}

_VIEW = ["patient_id", "laterality", "view_position"]
_SHARED = ["image_id", "patient_id", "laterality", "view_position", "breast_density", "pathology"]


def detect(root: Path) -> base.Detection | None:
    """CBIS-DDSM where its tables lie in ``root`` or ``root/csv``, or its image folders directly in ``root``.

    Counts the full mammograms on disk; raises UserError where a table that is there cannot be read.
    """
    root = Path(root)
    near = {path.name: path for folder in (root, root / "csv") if folder.is_dir() for path in folder.iterdir()}
    present = [near[name] for name in TABLE_NAMES if name in near]
    missing = [name for name in TABLE_NAMES if name not in near]
    if not present:
        folders = [path for path in root.iterdir() if IMAGE_FOLDER.fullmatch(path.name)]
        return base.Detection(NAME, root, len(folders), missing) if folders else None
    uids = {uid for path in present for uid in read_table(path)["image_series"]}
    found = count_series(base.find_files(root, SUFFIXES), uids)
    if found < len(uids):
        missing.append(f"{len(uids) - found} of {len(uids)} full mammograms")
    return base.Detection(NAME, root, found, missing)


def inventory(root: Path) -> base.Inventory:
    """One row per full mammogram and per lesion of the four tables, joined to the files that are on disk.

    Raises UserError where a table is absent, lacks a column or holds a word that the archive does not use.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    files = base.find_files(root, SUFFIXES | {".csv"})
    lesions = pd.concat([read_table(path) for path in find_tables(root, files)], ignore_index=True)
    uids = {uid for column in ("image_series", "crop_series", "mask_series") for uid in lesions[column]}
    series = series_on_disk([path for path in files if path.suffix.lower() in SUFFIXES], uids)
    full = {uid: largest(series.get(uid, [])) for uid in lesions["image_series"].unique()}
    return base.finish_inventory(_images(lesions, full, root), _findings(lesions, full, series, root))


def _images(lesions: pd.DataFrame, full: dict[str, FileHeader | None], root: Path) -> pd.DataFrame:
    view = lesions.groupby(_VIEW)
    # A lesion's type says in which export it stands, not on which film: both exports show both.
    rank = lesions["pathology"].map(PATHOLOGIES.index).groupby([lesions[name] for name in _VIEW]).transform("max")
    elsewhere = view["image_id"].transform("size") - lesions.groupby("image_id")["image_id"].transform("size")
    lesions = lesions.assign(pathology=rank.map(dict(enumerate(PATHOLOGIES))), findings_elsewhere=elsewhere)
    worst = lesions.drop_duplicates("image_id")
    headers = [full[uid] for uid in worst["image_series"]]
    images = worst[[*_SHARED, "density_native", "findings_elsewhere", "split_official"]].assign(
        dataset=NAME,
        study_id=worst["patient_id"],
        series_id=worst["image_series"],
        group_id=f"{NAME}:" + worst["patient_id"],
        breast_birads=_breast_birads(lesions).loc[worst.index],
        presentation="film",
        label_scope="lesion",
        use="unlabelled",
        path=[_relative(header, root) for header in headers],
    )
    for name in ("file_format", "height", "width", "bits_stored", "photometric", "transfer_syntax"):
        images[name] = [getattr(header, name, None) for header in headers]
    return base.mark_missing(base.source_keys(images, root))


def _findings(
    lesions: pd.DataFrame, full: dict[str, FileHeader | None], series: dict[str, list[FileHeader]], root: Path
) -> pd.DataFrame:
    # Crop and mask share a series in most lesions and have one each in 104, once with the two swapped: look in both.
    pairs = zip(lesions["crop_series"], lesions["mask_series"], strict=True)
    candidates = [[header for uid in dict.fromkeys(pair) for header in series.get(uid, [])] for pair in pairs]
    images = [full[uid] for uid in lesions["image_series"]]
    masks = [choose_mask(files, image) for files, image in zip(candidates, images, strict=True)]
    return lesions[[*_SHARED, "finding_id", "finding_categories", "finding_native", "subtlety", "attributes"]].assign(
        dataset=NAME,
        study_id=lesions["patient_id"],
        series_id=lesions["image_series"],
        height=[image.height if image else None for image in images],
        width=[image.width if image else None for image in images],
        breast_birads=_breast_birads(lesions),
        finding_birads="BI-RADS " + lesions["assessment"].astype("string"),
        split=lesions["split_official"],
        geometry=["mask" if mask else "none" for mask in masks],
        mask_path=[_relative(mask, root) for mask in masks],
    )


def _breast_birads(lesions: pd.DataFrame) -> pd.Series:
    return "BI-RADS " + lesions.groupby(_VIEW)["assessment"].transform("max").astype("string")


def _relative(header: FileHeader | None, root: Path) -> str | None:
    return header.path.relative_to(root).as_posix() if header else None
