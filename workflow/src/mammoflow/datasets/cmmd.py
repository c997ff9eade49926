"""CMMD, the Chinese Mammography Database (TCIA; Cui et al. 2021): 5,202 images of 1,775 women.

The clinical table (``CMMD_clinicaldata_revision.xlsx``, or saved as CSV) has one row per *labelled breast*: biopsy
result, kind of abnormality, subtype, age. Side and view of an image stand in its header only: ImageLaterality and
ViewCodeSequence, with PatientOrientation as a check (a contradiction is kept in ``uncertain``).

A breast without a row is unlabelled, not normal: ``uncertain`` is ``contralateral_unlabelled``. 97 women have rows for
both breasts, and 30 of them one benign and one malignant. D1-0202/D2-0284 and D1-0808/D1-1292 share identical pixels
(note on TCIA's page), so each pair is one group.

``image_id`` is ``<patient>_<side>_<view>``, the same for any download tool and for an image that is not there yet: of
each labelled breast a CC and an MLO are expected, and named as missing where no file shows them. With the collection's
rows of the IDC index beside the images (see :mod:`mammoflow.datasets.idc`) the unlabelled breasts are expected too.

Images are finished 8-bit pictures: their SIGMOID window bends them and is not applied (see the catalogue).
"""

import logging
from pathlib import Path

import pandas as pd

from mammoflow import labels
from mammoflow.datasets import idc, views
from mammoflow.datasets.base import (
    Detection,
    Inventory,
    find_files,
    finish_inventory,
    mark_missing,
    require_directory,
    source_keys,
)
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.datasets.cmmd_clinical import CATEGORIES, COLUMNS, PATIENT, find_table, read_clinical
from mammoflow.datasets.dicom_tags import ERROR, first, read_tags
from mammoflow.errors import UserError
from mammoflow.tables import list_literal, to_json

LOG = logging.getLogger(__name__)
NAME = "cmmd"
VIEWS = ["CC", "MLO"]
SAME_WOMAN = {"D2-0284": "D1-0202", "D1-1292": "D1-0808"}

TAGS = [
    *views.TAGS, "PatientID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns",
    "BitsStored", "PhotometricInterpretation", "ImagerPixelSpacing", "Manufacturer", "ManufacturerModelName",
]  # fmt: skip


def detect(root: Path) -> Detection | None:
    """The archive, when a table with CMMD's columns or folders named after its patients lie in or below ``root``."""
    root = Path(root)
    table = find_table(root)
    files = find_files(root, {".dcm"}) if table or _patient_folders(root) else []
    files = [path for path in files if _patient_of(root, path)]
    if table is None and not files:
        return None
    missing = [] if table else ["CMMD_clinicaldata_revision.xlsx or .csv"]
    if table:
        absent = set(read_clinical(table)["patient_id"]) - {_patient_of(root, path) for path in files}
        missing += [f"images of {len(absent)} patients of {table.name}"] if absent else []
    return Detection(NAME, root, len(files), missing)


def inventory(root: Path) -> Inventory:
    """Tables of the archive at ``root``; see :class:`mammoflow.datasets.base.Adapter`.

    ``findings`` has one row without a place per image of a labelled breast: its abnormality, subtype and pathology.
    """
    root = require_directory(root, NAME, ARCHIVES[NAME].put_here)
    table = find_table(root)
    if table is None:
        raise UserError(
            f"{root} holds no table with the columns {', '.join(COLUMNS[:3])}: "
            "put CMMD_clinicaldata_revision.xlsx (or the same saved as .csv) of TCIA's page there"
        )
    clinical = read_clinical(table)
    index = idc.find_index(root)
    present = _present(root)
    images = pd.concat([present, _absent(clinical, present, idc.read_index(index, NAME) if index else None)])
    images = _label(images.reset_index(drop=True), clinical)
    findings = _findings(images, clinical)
    columns = [name for name in images if name not in ("abnormality", "subtype")]
    return finish_inventory(mark_missing(source_keys(images[columns], root)), findings)


def _present(root: Path) -> pd.DataFrame:
    """One row per DICOM mammogram on disk, with side and view of its header."""
    files = find_files(root, {".dcm"})
    rows, strange = [], []
    for path, header in zip(files, read_tags(files, TAGS), strict=True):
        patient = header.get("PatientID") or _patient_of(root, path)
        if patient is None or not PATIENT.fullmatch(patient) or header.get("Modality", "MG") != "MG":
            strange.append(path)
            continue
        view = views.resolve(header)
        rows.append({
            "uid": header.get("SOPInstanceUID", path.as_posix()),
            "patient_id": patient,
            "study_id": header.get("StudyInstanceUID", patient),
            "series_id": header.get("SeriesInstanceUID"),
            "path": path.relative_to(root).as_posix(),
            "laterality": view.laterality,
            "view_position": view.view_position,
            "uncertain": views.LATERALITY_CONFLICT if views.LATERALITY_CONFLICT in view.flags else None,
            "height": header.get("Rows"),
            "width": header.get("Columns"),
            "bits_stored": header.get("BitsStored"),
            "photometric": header.get("PhotometricInterpretation"),
            "transfer_syntax": header.get("TransferSyntaxUID"),
            "pixel_spacing_mm": first(header.get("ImagerPixelSpacing")),
            "manufacturer": header.get("Manufacturer"),
            "machine": header.get("ManufacturerModelName"),
            "use": "excluded" if ERROR in header else "labelled",
            "excluded_reason": "unreadable_header" if ERROR in header else None,
        })  # fmt: skip
    if strange:
        LOG.warning("%s: %d files are no mammogram of CMMD and are left out, first %s", root, len(strange), strange[0])
    present = pd.DataFrame(rows, columns=["uid", *_PRESENT], dtype=object)
    again = present[present.duplicated("uid")]
    if len(again):
        LOG.warning(
            "%s: %d files are copies of an image listed already, first %s", root, len(again), again["path"].iloc[0]
        )
    present = present.drop_duplicates("uid")[_PRESENT]
    for name in ("height", "width", "bits_stored", "pixel_spacing_mm"):
        present[name] = pd.to_numeric(present[name])
    return present


_PRESENT = [
    "patient_id", "study_id", "series_id", "path", "laterality", "view_position", "uncertain", "height", "width",
    "bits_stored", "photometric", "transfer_syntax", "pixel_spacing_mm", "manufacturer", "machine", "use",
    "excluded_reason",
]  # fmt: skip


def _absent(clinical: pd.DataFrame, present: pd.DataFrame, index: pd.DataFrame | None) -> pd.DataFrame:
    """Rows for the images that the tables promise and no file shows."""
    breasts = clinical[["patient_id", "laterality", "number"]]
    if index is not None:
        known = breasts.groupby("patient_id")["number"].sum()
        count = index.groupby("PatientID")["instanceCount"].sum()
        other = breasts[breasts["patient_id"].map(count) > breasts["patient_id"].map(known)]
        other = other.assign(laterality=other["laterality"].map({"L": "R", "R": "L"}))
        breasts = pd.concat([breasts, other], ignore_index=True)
    promised = breasts.loc[breasts.index.repeat(breasts["number"])].reset_index(drop=True)
    place = promised.groupby(["patient_id", "laterality"]).cumcount()
    promised["view_position"] = place.map(dict(enumerate(VIEWS)))
    keys = ["patient_id", "laterality", "view_position"]
    shown = pd.MultiIndex.from_frame(present[keys].astype("string"))
    absent = promised.loc[~pd.MultiIndex.from_frame(promised[keys].astype("string")).isin(shown), keys]
    # A file whose header tells no side or view stands for one of its patient's images already.
    unplaced = present[present["laterality"].isna() | present["view_position"].isna()].groupby("patient_id").size()
    taken = absent["patient_id"].map(unplaced).astype("Float64").fillna(0)
    absent = absent[absent.groupby("patient_id").cumcount() >= taken]
    study = present.drop_duplicates("patient_id").set_index("patient_id")["study_id"].to_dict()
    if index is not None:
        study = index.set_index("PatientID")["StudyInstanceUID"].to_dict() | study
    # A woman has one study; where nothing tells its UID she is its name.
    return absent.assign(study_id=absent["patient_id"].map(lambda patient: study.get(patient, patient)), use="excluded")


def _label(images: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    """Join the breasts' labels and name the images."""
    text = images.astype(dict.fromkeys(["patient_id", "laterality", "view_position", "uncertain"], "string"))
    keys = ["patient_id", "laterality"]
    breasts = clinical.astype(dict.fromkeys(keys, "string")).drop(columns=["age", "number"])
    images = text.merge(breasts, on=keys, how="left", validate="many_to_one")
    ages = clinical.drop_duplicates("patient_id").set_index("patient_id")["age"]
    listed = images["patient_id"].isin(clinical["patient_id"])
    reason = pd.Series(pd.NA, index=images.index, dtype="string")
    reason = reason.mask(images["pathology"].isna() & listed, labels.CONTRALATERAL)
    reason = reason.mask(images["laterality"].isna(), "laterality_unknown").mask(~listed, "not_in_clinical_table")
    name = images["patient_id"] + "_" + images["laterality"].fillna("X") + "_" + images["view_position"].fillna("X")
    copy = name.groupby(name).cumcount() + 1
    both = images["uncertain"].notna() & reason.notna()
    return images.assign(
        dataset=NAME,
        image_id=name.mask(copy > 1, name + "_" + copy.astype("string")),
        group_id=NAME + ":" + images["patient_id"].replace(SAME_WOMAN),
        file_format="dicom",
        presentation="presentation",
        age=images["patient_id"].map(ages).astype("Int64"),
        site=images["patient_id"].str[:2],  # the archive's two parts differ in almost everything: report them apart
        label_source=images["pathology"].notna().map({True: "pathology", False: "none"}),
        label_scope="breast",
        uncertain=images["uncertain"].fillna(reason).mask(both, images["uncertain"] + ";" + reason),
    )


def _findings(images: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    labelled = images[images["pathology"].notna()]
    literals = {word: list_literal(names) for word, names in CATEGORIES.items()}
    columns = ["dataset", "image_id", "study_id", "series_id", "patient_id", "laterality", "view_position", "height",
               "width", "pathology"]  # fmt: skip
    subtype = labelled["subtype"].map(lambda word: pd.NA if pd.isna(word) else to_json({"subtype": word}))
    return labelled[columns].assign(
        finding_id=labelled["image_id"] + "_1",
        finding_categories=labelled["abnormality"].map(literals),
        finding_native=labelled["abnormality"],
        geometry="none",
        attributes=subtype.astype("string"),
    )


def _patient_folders(root: Path) -> bool:
    folders = [path for path in root.iterdir() if path.is_dir()]
    below = (path for folder in folders[:20] for path in folder.iterdir())
    return any(PATIENT.fullmatch(path.name) for path in [*folders, *below])


def _patient_of(root: Path, path: Path) -> str | None:
    return next((part for part in path.relative_to(root).parts if PATIENT.fullmatch(part)), None)
