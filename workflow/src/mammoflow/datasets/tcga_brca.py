"""TCGA-BRCA radiology (TCIA): what the collection is, and is not.

137 women have breast MR, five have mammograms (7 studies, 19 series, 33 images). Every woman has an invasive carcinoma:
there is no benign and no normal class, so no image gets a label, and the archive cannot feed a benign/malignant model.
It is offered as a source of unlabelled mammograms.

``images`` has one row per mammogram (``use=unlabelled``; unprocessed detector data, "For Processing", are excluded as
``for_processing``) and one row per *series* of another modality, excluded as ``modality_MR`` and so on, with its number
of files in ``member`` as ``instances=13`` and its folder in ``path``. With the collection's rows of the IDC index
beside the images (:mod:`mammoflow.datasets.idc`) series that are not on disk are listed too.

A patient is the first 12 characters of the barcode; its characters 6 and 7 name the hospital (``site``).
"""

import logging
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.datasets import idc, views
from mammoflow.datasets.base import (
    Detection,
    Inventory,
    find_files,
    finish_inventory,
    require_directory,
    source_keys,
)
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.datasets.dicom_tags import ERROR, first, read_tags
from mammoflow.errors import UserError

LOG = logging.getLogger(__name__)
NAME = "tcga_brca"
BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"  # Digital Mammography X-Ray Image Storage - For Processing
SERIES_TAGS = [
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
]
IMAGE_TAGS = [
    *SERIES_TAGS, *views.TAGS, "SOPClassUID", "SOPInstanceUID", "PresentationIntentType", "PatientAge", "Rows",
    "Columns", "BitsStored", "PhotometricInterpretation", "ImagerPixelSpacing",
]  # fmt: skip


def detect(root: Path) -> Detection | None:
    """The archive, when folders named after TCGA barcodes or the collection's IDC index lie in or below ``root``."""
    root = Path(root)
    index = _index(root)
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())[:20]]
    if index is None and not any(BARCODE.match(path.name) for folder in folders for path in folder.iterdir()):
        return None
    files = [path for path in find_files(root, {".dcm"}) if BARCODE.search(path.relative_to(root).as_posix())]
    if not files and index is None:
        return None
    missing = [] if files else ["images"]
    return Detection(NAME, root, len(files), missing)


def inventory(root: Path) -> Inventory:
    """Tables of the archive at ``root``; see :class:`mammoflow.datasets.base.Adapter`. ``findings`` is empty."""
    root = require_directory(root, NAME, ARCHIVES[NAME].put_here)
    index = _index(root)
    rows = [row for files in _folders(root) for row in _folder(root, files)]
    rows += _absent(index, rows) if index is not None else []
    if not rows:
        raise UserError(f"{root} holds no DICOM file of a TCGA patient: put {ARCHIVES[NAME].put_here} there")
    images = pd.DataFrame(rows).reindex(columns=list(tables.IMAGES)).astype({"path": "string", "member": "string"})
    series = images["member"].notna()
    return finish_inventory(pd.concat([source_keys(images[~series], root), images[series]]), pd.DataFrame())


def _folders(root: Path) -> list[list[Path]]:
    """Files by folder: every download tool writes one folder per series."""
    return [list(files) for _, files in groupby(find_files(root, {".dcm"}), key=lambda path: path.parent)]


def _folder(root: Path, files: list[Path]) -> list[dict[str, Any]]:
    """Rows of one folder. 230,134 MR slices need not be opened: a folder of one series is told by two of its files."""
    ends = [header for header in read_tags([files[0], files[-1]], SERIES_TAGS) if ERROR not in header]
    if len({header.get("SeriesInstanceUID") for header in ends}) == 1 and ends[0].get("Modality") != "MG":
        return [_series(root, files, ends[0])] if _patient(ends[0]) else _strange(files)
    rows, others = [], {}
    for path, header in zip(files, read_tags(files, IMAGE_TAGS), strict=True):
        if ERROR in header:
            LOG.warning("%s has no readable header (%s) and is left out: download it again", path, header[ERROR])
        elif not _patient(header):
            rows += _strange([path])
        elif header.get("Modality") == "MG":
            rows.append(_mammogram(root, path, header))
        else:
            others.setdefault(header.get("SeriesInstanceUID"), []).append((path, header))
    return rows + [_series(root, [path for path, _ in group], group[0][1]) for group in others.values()]


def _strange(files: list[Path]) -> list[dict[str, Any]]:
    LOG.warning("%d files are of no TCGA patient and are left out, first %s", len(files), files[0])
    return []


def _mammogram(root: Path, path: Path, header: dict[str, Any]) -> dict[str, Any]:
    view = views.resolve(header)
    raw = header.get("SOPClassUID") == FOR_PROCESSING or header.get("PresentationIntentType") == "FOR PROCESSING"
    age = re.fullmatch(r"(\d+)Y", header.get("PatientAge", ""))
    return {
        **_identity(header),
        "image_id": header.get("SOPInstanceUID", path.stem),
        "path": path.relative_to(root).as_posix(),
        "laterality": view.laterality,
        "view_position": view.view_position,
        "height": _number(header.get("Rows")),
        "width": _number(header.get("Columns")),
        "bits_stored": _number(header.get("BitsStored")),
        "photometric": header.get("PhotometricInterpretation"),
        "transfer_syntax": header.get("TransferSyntaxUID"),
        "pixel_spacing_mm": _number(first(header.get("ImagerPixelSpacing"))),
        "presentation": "processing" if raw else "presentation",
        "age": int(age[1]) if age else None,
        "uncertain": ";".join(view.flags) or None,
        "use": "excluded" if raw else "unlabelled",
        "excluded_reason": "for_processing" if raw else None,
    }


def _series(root: Path, files: list[Path], header: dict[str, Any]) -> dict[str, Any]:
    return {
        **_identity(header),
        "image_id": header["SeriesInstanceUID"],
        "path": files[0].parent.relative_to(root).as_posix(),
        "member": f"instances={len(files)}",
        "use": "excluded",
        "excluded_reason": f"modality_{header.get('Modality', 'unknown')}",
    }


def _absent(index: pd.DataFrame, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the index that no file shows: each missing mammogram, each missing series of another modality."""
    listed = pd.Series([row["series_id"] for row in rows], dtype="string").value_counts()
    absent = []
    for header in index.to_dict("records"):
        series = header["SeriesInstanceUID"]
        common = {**_identity(header), "use": "excluded"}
        if header["Modality"] == "MG":
            # Without its file an image has no UID of its own: series and a number stand in.
            numbers = range(int(listed.get(series, 0)) + 1, int(header["instanceCount"]) + 1)
            absent += [{**common, "image_id": f"{series}_{n}", "excluded_reason": "missing_file"} for n in numbers]
        elif series not in listed:
            reason = f"modality_{header['Modality']}"
            member = f"instances={header['instanceCount']}"
            absent.append({**common, "image_id": series, "member": member, "excluded_reason": reason})
    return absent


def _identity(header: dict[str, Any]) -> dict[str, Any]:
    """Columns that every row has; ``header`` is a DICOM header or a row of the IDC index (NA: unknown)."""
    known = {name: value for name, value in header.items() if isinstance(value, str) and value}
    patient = _patient(known)
    return {
        "dataset": NAME,
        "study_id": known["StudyInstanceUID"],
        "series_id": known["SeriesInstanceUID"],
        "patient_id": patient,
        "group_id": f"{NAME}:{patient}",
        "site": patient[5:7],
        "file_format": "dicom",
        "manufacturer": known.get("Manufacturer"),
        "machine": known.get("ManufacturerModelName"),
    }


def _patient(header: dict[str, Any]) -> str | None:
    match = BARCODE.match(header.get("PatientID", ""))
    return match[0] if match and "SeriesInstanceUID" in header and "StudyInstanceUID" in header else None


def _number(value: str | None) -> float | None:
    return None if value is None else float(value)


def _index(root: Path) -> pd.DataFrame | None:
    path = idc.find_index(root)
    index = idc.read_index(path, NAME) if path else None
    return None if index is None or index.empty else index
