"""What the Cancer Imaging Archive publishes beside the DICOM series of its collections."""

from typing import Any

from mammoflow.collect.model import Series, Table, safe_name
from mammoflow.collect.selection import exam_of

WIKI = "https://wiki.cancerimagingarchive.net/download/attachments"
SITE = "https://www.cancerimagingarchive.net/wp-content/uploads"

# name: (number of the wiki page, query, first bytes of the file)
_TABLES = {
    "cbis_ddsm": {
        "calc_case_description_test_set.csv": ("22516629", "?version=1&modificationDate=1506796343686&api=v2"),
        "calc_case_description_train_set.csv": ("22516629", "?version=1&modificationDate=1506796349666&api=v2"),
        "mass_case_description_test_set.csv": ("22516629", "?version=1&modificationDate=1506796343175&api=v2"),
        "mass_case_description_train_set.csv": ("22516629", "?version=1&modificationDate=1506796355038&api=v2"),
    },
    "cmmd": {"CMMD_clinicaldata_revision.xlsx": ("70230508", "?api=v2")},
}


def tables(dataset: str, tables_url: str | None) -> list[Table]:
    """The tables of a collection. tables_url: a directory of one's own to take them from, instead of TCIA's."""
    found = []
    for name, (page, query) in _TABLES.get(dataset, {}).items():
        begins = b"PK\x03\x04" if name.endswith(".xlsx") else b"patient_id,"
        urls = (
            (f"{tables_url.rstrip('/')}/{name}",) if tables_url else (f"{SITE}/{name}", f"{WIKI}/{page}/{name}{query}")
        )
        found.append(Table(name, urls, begins))
    return found


def series_of(dataset: str, row: dict[str, Any], *, images: int, size: int, licence: str, location: str = "") -> Series:
    """A series as the downloader knows it, from a row of IDC's index or of NBIA's answer: both spell its ids so.

    size: in bytes. Raises KeyError where an id is missing, RefusedError where one is no safe file name.
    """
    patient, study, uid = (safe_name(row[key]) for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    modality = safe_name(row["Modality"])
    return Series(
        uid=uid,
        patient=patient,
        exam=exam_of(dataset, patient, study),
        modality=modality,
        images=images,
        bytes=size,
        licence=licence,
        folder=f"{dataset}/{patient}/{study}/{modality}_{uid}",
        location=location,
    )
