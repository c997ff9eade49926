"""What the Cancer Imaging Archive publishes beside the DICOM series of its collections."""

from mammoflow.collect.model import Table

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
