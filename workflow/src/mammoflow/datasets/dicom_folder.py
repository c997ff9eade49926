"""A hospital's own DICOM tree, in any layout, with an optional table of labels and one of boxes.

Every DICOM file below the root becomes a row, whatever its name. Excluded, with the reason: other modalities than MG
(``modality_MR``), unprocessed detector data (``for_processing``), several frames such as tomosynthesis
(``multi_frame``), objects without pixels (``no_pixels``), a second copy of the same SOP instance (``duplicate_file``)
and damaged headers (``unreadable_header``). Side, view, age, vendor and implant come from the header.

``image_id`` is the SOPInstanceUID. ``patient_id`` is the header's PatientID as it stands: if that is a real hospital
number, run `mammoflow pseudonymise` first, since ids appear in tables, paths and logs. Files without PatientID are
grouped by study.

``labels.csv`` in the root (see :mod:`mammoflow.datasets.dicom_labels` for its columns) gives pathology, BI-RADS,
density, age, site and split; ``findings.csv`` gives boxes in VinDr-Mammo's columns ``image_id, finding_categories,
xmin, ymin, xmax, ymax`` with ``finding_birads`` and ``pathology`` where known. Both are optional.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow.datasets import archive, base, views
from mammoflow.datasets.dicom_labels import FINDINGS, LABELS, add_labels, read_findings
from mammoflow.datasets.dicom_tags import ERROR, first, read_tags
from mammoflow.datasets.headers import DICOM_SUFFIXES
from mammoflow.errors import UserError

LOG = logging.getLogger(__name__)
NAME = "dicom_folder"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"  # Digital Mammography X-Ray Image Storage - For Processing
PRESENTATIONS = {"FOR PRESENTATION": "presentation", "FOR PROCESSING": "processing"}
TAGS = [
    "SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientAge", "Modality",
    "PresentationIntentType", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "BitsStored",
    "NumberOfFrames", "PhotometricInterpretation", "ImagerPixelSpacing", "PixelSpacing", "BreastImplantPresent",
    *views.TAGS,
]  # fmt: skip


def detect(root: Path) -> base.Detection | None:
    """Any tree with a DICOM file in it. Other adapters are to be asked first: most archives are DICOM trees as well."""
    root = Path(root)
    files = dicom_files(root)
    if not files:
        return None
    missing = [] if (root / LABELS).is_file() else [f"{LABELS}, without which no image has a label"]
    return base.Detection(NAME, root, len(files), missing)


def inventory(root: Path) -> base.Inventory:
    """All DICOM files below ``root``, with the labels and boxes of the two tables.

    Raises UserError where there is no DICOM file, or a table has an unknown word or speaks of none of the images.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    files = dicom_files(root)
    if not files:
        raise UserError(f"no DICOM file lies below {root}: put {archive(NAME).put_here} there, or set "
                        "datasets.dicom_folder.root")  # fmt: skip
    rows = [_image(path, header, root) for path, header in zip(files, read_tags(files, TAGS), strict=True)]
    broken = [row["path"] for row in rows if row["excluded_reason"] == "unreadable_header"]
    if broken:
        LOG.warning("%s: %d files have no readable header, the first is %s", root, len(broken), broken[0])
    images = _mark_copies(pd.DataFrame(rows))
    if (root / LABELS).is_file():
        images = add_labels(images, root / LABELS)
    images["group_id"] = NAME + ":" + images["patient_id"]
    images = base.mark_missing(base.source_keys(images, root))
    findings = read_findings(root / FINDINGS, images) if (root / FINDINGS).is_file() else pd.DataFrame()
    return base.finish_inventory(images, findings)


def dicom_files(root: Path) -> list[Path]:
    """Files with a DICOM suffix, and files of any other name that begin like DICOM (PS3.10 7.1), sorted."""
    return [
        path
        for path in base.find_files(root, None, max_depth=32)
        if path.name.upper() != "DICOMDIR" and (path.suffix.lower() in DICOM_SUFFIXES or _has_preamble(path))
    ]


def _has_preamble(path: Path) -> bool:
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError as error:
        LOG.warning("%s cannot be read (%s) and is passed over", path, error.strerror)
        return False


def _image(path: Path, header: dict[str, Any], root: Path) -> dict[str, Any]:
    """One row of ``images``. ids fall back on a hash of the path where the header has none."""
    relative = path.relative_to(root).as_posix()
    stand_in = hashlib.blake2b(relative.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    image_id = header.get("SOPInstanceUID") or f"file_{stand_in}"
    study = header.get("StudyInstanceUID") or f"study_of_{image_id}"
    view = views.resolve(header, file_name=path.name)
    processing = header.get("SOPClassUID") == FOR_PROCESSING
    intent = "FOR PROCESSING" if processing else header.get("PresentationIntentType", "").upper()
    reason = _why_excluded(header, intent)
    photometric = header.get("PhotometricInterpretation")
    return {
        "dataset": NAME,
        "image_id": image_id,
        "study_id": study,
        "series_id": header.get("SeriesInstanceUID", pd.NA),
        "patient_id": header.get("PatientID") or f"study_{study}",
        "path": relative,
        "file_format": "dicom",
        "laterality": view.laterality or pd.NA,
        "view_position": view.view_position or pd.NA,
        "height": _whole(header.get("Rows")),
        "width": _whole(header.get("Columns")),
        "bits_stored": _whole(header.get("BitsStored")),
        "photometric": photometric if photometric in ("MONOCHROME1", "MONOCHROME2") else pd.NA,
        "transfer_syntax": header.get("TransferSyntaxUID", pd.NA),
        "pixel_spacing_mm": _spacing(header),
        "presentation": PRESENTATIONS.get(intent, "unknown"),
        "manufacturer": header.get("Manufacturer", pd.NA),
        "machine": header.get("ManufacturerModelName", pd.NA),
        "age": years(header.get("PatientAge")),
        "implant": {"YES": 1, "NO": 0}.get(header.get("BreastImplantPresent", "").upper(), pd.NA),
        "uncertain": ";".join(view.flags) or pd.NA,
        "use": "excluded" if reason else "unlabelled",
        "excluded_reason": reason,
    }


def _why_excluded(header: dict[str, Any], intent: str) -> str | None:
    if ERROR in header:
        return "unreadable_header"
    if header.get("Modality") != "MG":
        return f"modality_{header.get('Modality', 'unknown')}"
    if "Rows" not in header or "Columns" not in header:
        return "no_pixels"
    if intent == "FOR PROCESSING":
        return "for_processing"
    return "multi_frame" if (_whole(header.get("NumberOfFrames", "1")) or 1) > 1 else None


def _mark_copies(images: pd.DataFrame) -> pd.DataFrame:
    """The first file of a SOP instance by path is the image; further ones get an id of their own and a reason."""
    number = images.groupby("image_id").cumcount()
    copies = number > 0
    if copies.any():
        LOG.warning("%d files are copies of another one by their SOPInstanceUID, the first is %s",
                    int(copies.sum()), images.loc[copies, "path"].iloc[0])  # fmt: skip
    return images.assign(
        image_id=images["image_id"].mask(copies, images["image_id"] + ".copy" + number.astype(str)),
        use=images["use"].mask(copies, "excluded"),
        excluded_reason=images["excluded_reason"].mask(copies, "duplicate_file"),
    )


def years(age: str | None) -> Any:
    """PatientAge (PS3.5 table 6.2-1: ``052Y``, ``018M``, ``006W``, ``021D``) in whole years; NA where it is none."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", (age or "").upper())
    return int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]] if match else pd.NA


def _whole(value: str | None) -> Any:
    return int(value) if value and re.fullmatch(r"\d+", value) else pd.NA


def _spacing(header: dict[str, Any]) -> Any:
    """Millimetres between rows, at the detector where it is given."""
    text = first(header.get("ImagerPixelSpacing")) or first(header.get("PixelSpacing"))
    try:
        return float(text) if text else pd.NA
    except ValueError:
        return pd.NA
