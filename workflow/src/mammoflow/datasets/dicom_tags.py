"""Chosen elements of many DICOM headers, for archives whose tables do not say what an image shows."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mammoflow.datasets.headers import quiet_validation

ERROR = "error"  # key of the reason, in the place of every other, where a file has no readable header
# What pydicom meets a broken file with, beside its own InvalidDicomError.
BROKEN = (OSError, EOFError, ValueError, AttributeError, TypeError, KeyError, NotImplementedError)


def read_tags(paths: Collection[Path], keywords: Sequence[str], threads: int = 8) -> list[dict[str, Any]]:
    """One dictionary per path, in order: DICOM keyword -> value, for those of ``keywords`` that have a value.

    Values are text; several values are a list of text, a sequence of codes is the list of its CodeValue. The transfer
    syntax stands under ``TransferSyntaxUID``. A file without a readable header gives ``{"error": reason}``: the caller
    decides what that means. The threads wait for storage; pixels are never read.
    """
    with quiet_validation(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda path: _read(path, keywords), paths))


def _read(path: Path, keywords: Sequence[str]) -> dict[str, Any]:
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
        values = {keyword: _plain(header.get(keyword)) for keyword in keywords}
        values["TransferSyntaxUID"] = _plain(header.file_meta.get("TransferSyntaxUID"))
    except (pydicom.errors.InvalidDicomError, *BROKEN) as error:
        return {ERROR: str(error)}
    return {keyword: value for keyword, value in values.items() if value not in (None, "", [])}


def _plain(value: Any) -> Any:
    from pydicom.multival import MultiValue
    from pydicom.sequence import Sequence as DicomSequence

    if value is None:
        return None
    if isinstance(value, DicomSequence):
        return [str(item.get("CodeValue", "")) for item in value]
    if isinstance(value, MultiValue):
        return [str(item) for item in value]
    return str(value).strip()


def first(value: Any) -> Any:
    """The first of several values, or the only one; None where there is none."""
    return value[0] if isinstance(value, list) and value else value or None
