"""One file: its header read, its place in the new tree, and the image written there."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

from mammoflow import __version__
from mammoflow.datasets.dicom_tags import BROKEN
from mammoflow.files import replacing
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.errors import DecodeError
from mammoflow.pseudonymise import pixels
from mammoflow.pseudonymise.identities import STANDARD_UIDS, identities
from mammoflow.pseudonymise.keys import Key
from mammoflow.pseudonymise.pixels import Blanking, Refused
from mammoflow.pseudonymise.whitelist import clean_top

VERSION = 1  # raise it when the same settings write other files
METHOD = "mammoflow pseudonymise"
IMPLEMENTATION_UID = "2.25.256406829371903640923851749240917263841"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Source:
    """One file of the original tree. own: what identifies it.  reason: why it is left out, None where it is not."""

    path: str  # relative to the tree, with /
    image_id: str = ""
    patient_id: str = ""
    new_path: str = ""  # relative to the new tree
    new_image_id: str = ""
    new_patient_id: str = ""
    reason: str | None = None
    own: frozenset[str] = field(default=frozenset(), repr=False)


def read_source(path: Path, root: Path, key: Key) -> Source:
    """Read a header (no pixels) and say what becomes of the file."""
    relative = path.relative_to(root).as_posix()
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        own = frozenset(identities(ds))
        image_id, study = str(ds.get("SOPInstanceUID") or ""), str(ds.get("StudyInstanceUID") or "")
        patient_id = str(ds.get("PatientID") or "").strip()
        reason = _why_left_out(ds)
    except (pydicom.errors.InvalidDicomError, *BROKEN):
        return Source(relative, reason="unreadable_header")
    if reason:
        return Source(relative, image_id, patient_id, reason=reason, own=own)
    new_patient = key.patient(patient_id) if patient_id else ""
    # Files without PatientID are grouped by study, as the inventory does.
    folder = new_patient or key.name("U", "study of nobody", study or image_id)
    new_path = f"{folder}/{key.name('S', 'study', study)}/{key.name('I', 'image', image_id)}.dcm"
    return Source(relative, image_id, patient_id, new_path, key.uid(image_id), new_patient, own=own)


def _why_left_out(ds: Dataset) -> str | None:
    modality = str(ds.get("Modality") or "unknown")
    if modality != "MG":
        return f"modality_{modality if re.fullmatch(r'[A-Z]{2,6}', modality) else 'unknown'}"
    if not ds.get("Rows") or not ds.get("Columns"):
        return "no_pixels"
    if int(ds.get("NumberOfFrames") or 1) > 1:
        return "multi_frame"
    if not ds.get("SOPInstanceUID"):
        return "no_instance_uid"
    if not str(ds.get("SOPClassUID") or "").startswith(STANDARD_UIDS):
        return "unknown_sop_class"
    stored = int(ds.get("BitsStored") or ds.get("BitsAllocated") or 0)
    return "odd_high_bit" if int(ds.get("HighBit", stored - 1)) != stored - 1 else None


def transform(
    source: Source,
    root: Path,
    out: Path,
    key: Key,
    blanking: Blanking,
    compress: bool,
    boxes: Mapping[str, list[Box]],
) -> tuple[str, dict[str, Any]]:
    """Write one image, unless it is there already, made from the same file with the same settings.

    Returns ``done``, ``reused`` or ``failed``, and a row: reason (None where it was written) and ``written`` (there
    still seems to be writing in the picture).
    """
    own_boxes = boxes.get(source.image_id, [])
    path = root / source.path
    stat = path.stat()
    made_from = [VERSION, __version__, asdict(blanking), compress, own_boxes, stat.st_size, stat.st_mtime_ns]
    method = [METHOD, f"made from {key.marker(json.dumps(made_from))}"]
    target = out / source.new_path
    if (kept := _method_of(target)) and kept[:2] == method:
        return "reused", {"reason": None, "written": len(kept) > 2}
    try:
        image = read_image(path, "dicom")
        area = pixels.blank_area(pixels.find_breast(image), image.pixels.shape, blanking)
        pixels.check_lesions(area, own_boxes)
        values = pixels.blanked(image, area)
    except Refused as error:
        target.unlink(missing_ok=True)
        return "failed", {"reason": str(error).split(":")[0], "written": False}
    except DecodeError as error:
        target.unlink(missing_ok=True)
        return "failed", {"reason": type(error).__name__, "written": False}
    ds = clean_top(pydicom.dcmread(path, stop_before_pixels=True), key, set(source.own))
    syntax = pixels.add_pixels(ds, values, image.header.bits_stored, compress)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientIdentityRemoved = "YES"  # PS3.15 E.1.1
    ds.LongitudinalTemporalInformationModified = "REMOVED"
    ds.DeidentificationMethod = method
    written = pixels.still_written(pixels.with_values(image, values))
    if written:
        ds.DeidentificationMethod = [*method, "writing suspected"]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID, ds.file_meta.ImplementationClassUID = syntax, IMPLEMENTATION_UID
    with replacing(target) as handle:
        dcmwrite(handle, ds, enforce_file_format=True)
    # The new file is read back as anybody would: a wrong pixel must not be found years later.
    if not np.array_equal(pixels.stored_values(read_image(target, "dicom")), values):
        target.unlink()
        return "failed", {"reason": "read_back_differs", "written": False}
    return "done", {"reason": None, "written": written}


def _method_of(path: Path) -> list[str]:
    """DeidentificationMethod of a file that is there; empty where it is absent or no whole file of ours."""
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["DeidentificationMethod"])
    except (pydicom.errors.InvalidDicomError, *BROKEN):
        return []
    value = ds.get("DeidentificationMethod") or []
    return [value] if isinstance(value, str) else list(value)
