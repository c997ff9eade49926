"""What the header of an image file says, without reading its pixels: size, bits, encoding, series."""

import logging
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

DICOM_SUFFIXES = {".dcm", ".dicom"}
PICTURE_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".pgm": "pgm", ".tif": "tiff", ".tiff": "tiff"}
IMAGE_SUFFIXES = DICOM_SUFFIXES | set(PICTURE_FORMATS)

_DICOM_TAGS = [
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PhotometricInterpretation",
]


@dataclass(frozen=True)
class FileHeader:
    """One file. height and width in pixels as stored; None where the header does not say or cannot be read.

    ``series_uid``, ``photometric`` and ``transfer_syntax`` exist in DICOM files only.
    """

    path: Path
    file_format: str
    height: int | None = None
    width: int | None = None
    bits_allocated: int | None = None
    bits_stored: int | None = None
    series_uid: str | None = None
    photometric: str | None = None
    transfer_syntax: str | None = None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width), or None where the header could not be read."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def format_of(path: Path) -> str:
    """The file format by the suffix: one of ``tables.FORMATS``; a name without a known suffix is taken for DICOM."""
    return PICTURE_FORMATS.get(path.suffix.lower(), "dicom")


def read_header(path: Path) -> FileHeader:
    """The header of a DICOM, PGM, JPEG, PNG or TIFF file. Raises ValueError with the reason where it has none."""
    from pydicom.errors import InvalidDicomError

    try:
        return _read_dicom(path) if format_of(path) == "dicom" else _read_picture(path)
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, TypeError, KeyError) as error:
        # pydicom meets a broken file with any of these; UnidentifiedImageError of Pillow is an OSError.
        raise ValueError(f"{path}: header not readable ({error})") from error


def read_headers(paths: Collection[Path], threads: int = 8) -> dict[Path, FileHeader]:
    """Headers of many files, read by a thread pool (the time goes into opening files on shared storage).

    A file whose header is broken comes back with its path and format alone, and a warning in the log: whether its
    image is lost is for the conversion to say.
    """
    paths = list(paths)
    with quiet_validation(), ThreadPoolExecutor(threads) as pool:
        headers = list(pool.map(_read_or_none, paths))
    broken = [path for path, header in zip(paths, headers, strict=True) if header is None]
    if broken:
        logger.warning("%d files have no readable header, the first is %s", len(broken), broken[0])
    return {path: header or FileHeader(path, format_of(path)) for path, header in zip(paths, headers, strict=True)}


def _read_or_none(path: Path) -> FileHeader | None:
    try:
        return read_header(path)
    except ValueError:
        return None


@contextmanager
def quiet_validation() -> Iterator[None]:
    """Archives hold values that the standard forbids; this listing neither needs nor repairs them."""
    from pydicom import config

    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


def _read_dicom(path: Path) -> FileHeader:
    import pydicom

    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_DICOM_TAGS)
    return FileHeader(
        path,
        "dicom",
        height=_integer(dataset.get("Rows")),
        width=_integer(dataset.get("Columns")),
        bits_allocated=_integer(dataset.get("BitsAllocated")),
        bits_stored=_integer(dataset.get("BitsStored")),
        series_uid=_text(dataset.get("SeriesInstanceUID")),
        photometric=_text(dataset.get("PhotometricInterpretation")),
        transfer_syntax=_text(dataset.file_meta.get("TransferSyntaxUID")),
    )


def _read_picture(path: Path) -> FileHeader:
    from PIL import Image

    with Image.open(path) as picture:  # lazy: the pixels stay on disk
        bits = 16 if picture.mode.startswith("I") else 8
        return FileHeader(path, format_of(path), picture.height, picture.width, bits, bits)


def _integer(value: object) -> int | None:
    return None if value is None else int(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
