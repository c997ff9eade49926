"""The ways CBIS-DDSM is found on disk: series as DICOM files (or JPEG), with the listings that each tool leaves.

``nbia_descriptive``  NBIA Data Retriever, its default: folders of date, description and the last five digits of UIDs
``nbia_classic``      NBIA Data Retriever, "classic directory name": folders of full UIDs
``idc``               idc-index: PatientID/StudyUID/MG_SeriesUID/uuid.dcm
``kaggle_jpeg``       the JPEG mirror on Kaggle (awsaf49): 8-bit jpeg/SeriesUID/N-NNN.jpg and csv/
"""

import csv
import io
import uuid
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from mammoflow.files import replacing, write_text

LAYOUTS = ("nbia_descriptive", "nbia_classic", "idc", "kaggle_jpeg")
UID_ROOT = "1.3.6.1.4.1.9590.100.1.2"
# Made of the archive's release, not of today, so that the same seed gives the same bytes.
MANIFEST = "manifest-1617905855234"
DOWNLOADED = "2021-04-08T18:20:31.234"
METADATA_COLUMNS = (
    "Series UID,Collection,3rd Party Analysis,Data Description URI,Subject ID,Study UID,Study Description,Study Date,"
    "Series Description,Manufacturer,Modality,SOP Class Name,SOP Class UID,Number of Images,File Size,File Location,"
    "Download Timestamp"
)
NOTICE = "Synthetic images drawn by a program (mammoflow phantom): no patient, no part of CBIS-DDSM, free to use.\n"


@dataclass
class Series:
    """One DICOM series. ``subject`` names its folder; ``patient_id`` is the header's, which may differ.

    date: YYYYMMDD or empty.  description: may be empty.  instances: uint16 or uint8 pictures in their order on disk.
    """

    subject: str
    patient_id: str
    study_uid: str
    series_uid: str
    date: str
    description: str
    body_part: str
    instances: list[np.ndarray]


def new_uid(rng: np.random.Generator) -> str:
    """A UID below the archive's root, 64 characters at most."""
    high, low = rng.integers(10**18, 10**19, size=2, dtype=np.uint64)
    return f"{UID_ROOT}.{high}{low}"


def write_series(root: Path, series: Series, layout: str, rng: np.random.Generator) -> dict[str, object]:
    """Write the files of one series below ``root`` and let go of its pictures; return its row for the listings."""
    files, size = [], 0
    for number, pixels in enumerate(series.instances, start=1):
        path = _path(series, number, len(series.instances), layout, rng)
        header = _header(series, number, pixels, new_uid(rng))
        content = _jpeg(pixels) if layout == "kaggle_jpeg" else _dicom(header, pixels)
        with replacing(root / path) as handle:
            handle.write(content)
        size += len(content)
        files.append((path, {element.keyword: element.value for element in header}))
    series.instances = []  # the pictures are on disk now
    return {"series": series, "files": files, "size": size}


def write_listings(root: Path, rows: list[dict[str, object]], layout: str) -> None:
    """``metadata.csv`` of the NBIA Retriever, or the mirror's ``dicom_info.csv`` and ``meta.csv``; none for IDC."""
    if layout in ("nbia_descriptive", "nbia_classic"):
        lines = [METADATA_COLUMNS, *(_metadata_line(row) for row in rows)]
        with replacing(root / MANIFEST / "metadata.csv", "w", encoding="utf-8", newline="") as handle:
            handle.write("".join(f"{line}\r\n" for line in lines))
        write_text(root / MANIFEST / "LICENSE", NOTICE)
    elif layout == "kaggle_jpeg":
        _write_mirror_tables(root / "csv", rows)
    write_text(root / "README.txt", NOTICE)


def _path(series: Series, number: int, total: int, layout: str, rng: np.random.Generator) -> Path:
    study, uid = series.study_uid, series.series_uid
    if layout == "idc":
        name = f"{uuid.UUID(bytes=rng.bytes(16), version=4)}.dcm"
        return Path("cbis_ddsm", series.patient_id, study, f"MG_{uid}", name)
    if layout == "kaggle_jpeg":
        return Path("jpeg", uid, f"{number}-{rng.integers(2, 299):03d}.jpg")
    subject = Path(MANIFEST, "CBIS-DDSM", series.subject)
    if layout == "nbia_classic":
        return subject / study / uid / f"1-{number}.dcm"
    date = f"{series.date[4:6]}-{series.date[6:]}-{series.date[:4]}-" if series.date else ""
    description = f"{series.description[:53]}-" if series.description else ""
    return subject / f"{date}DDSM-{study[-5:]}" / f"1.000000-{description}{uid[-5:]}" / f"1-{number}.dcm"


def _header(series: Series, number: int, pixels: np.ndarray, sop_uid: str) -> Dataset:
    """Secondary Capture header with what the archive writes: no spacing, no window, no view, no manufacturer."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.SOPInstanceUID = sop_uid
    header.StudyDate = series.date
    header.StudyTime = ""
    header.AccessionNumber = ""
    header.Modality = "MG"
    header.ConversionType = "WSD"
    header.ReferringPhysicianName = ""
    if series.description:
        header.SeriesDescription = series.description
    header.PatientName = series.patient_id
    header.PatientID = series.patient_id
    header.PatientBirthDate = ""
    header.PatientSex = ""
    with pydicom.config.disable_value_validation():  # "Left Breast" is no valid code string; the archive has it
        header.BodyPartExamined = series.body_part
    header.StudyInstanceUID = series.study_uid
    header.SeriesInstanceUID = series.series_uid
    header.StudyID = "DDSM"
    header.SeriesNumber = 1
    header.InstanceNumber = number
    header.PatientOrientation = ""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated = header.BitsStored = 8 * pixels.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = 0
    return header


def _dicom(header: Dataset, pixels: np.ndarray) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    full = Dataset()
    full.update(header)
    full.file_meta = meta
    full.PixelData = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes() + b"\0" * (pixels.nbytes % 2)
    full["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(buffer, full, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray) -> bytes:
    grey = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    return cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _metadata_line(row: dict[str, object]) -> str:
    series = row["series"]
    date = f"{series.date[4:6]}-{series.date[6:]}-{series.date[:4]}" if series.date else ""
    folder = row["files"][0][0].relative_to(MANIFEST).parent.as_posix().replace("/", "\\")
    values = [series.series_uid, "CBIS-DDSM", "NO", "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY", series.subject]
    values += [series.study_uid, "", date, series.description, "", "MG", "Secondary Capture Image Storage"]
    values += [SecondaryCaptureImageStorage, str(len(row["files"])), f"{row['size'] / 1e6:.2f} MB"]
    return ",".join([*values, f".\\{folder}", DOWNLOADED])


def _write_mirror_tables(folder: Path, rows: list[dict[str, object]]) -> None:
    """``dicom_info.csv``: one row per picture with the fields of its former header; ``meta.csv``: one per series."""
    info = []
    for row in rows:
        for path, header in row["files"]:
            former = f"CBIS-DDSM/dicom/{row['series'].subject}/{path.stem}.dcm"
            info.append({"file_path": former, "image_path": f"CBIS-DDSM/{path.as_posix()}", **header})
    columns = [
        "file_path",
        "image_path",
        *sorted({name for line in info for name in line} - {"file_path", "image_path"}),
    ]
    _write_table(folder / "dicom_info.csv", columns, info)
    series = [
        {
            "SeriesInstanceUID": row["series"].series_uid,
            "StudyInstanceUID": row["series"].study_uid,
            "Modality": "MG",
            "SeriesDescription": row["series"].description,
            "BodyPartExamined": row["series"].body_part,
            "SeriesNumber": 1,
            "Collection": "CBIS-DDSM",
            "Visibility": 1,
            "ImageCount": len(row["files"]),
        }
        for row in rows
    ]
    _write_table(folder / "meta.csv", list(series[0]), series)


def _write_table(path: Path, columns: list[str], rows: list[dict[str, object]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
