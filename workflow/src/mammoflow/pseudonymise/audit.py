"""The last pass: read everything that was written, and find what must not be there."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pydicom
from pydicom.dataset import Dataset

from mammoflow.datasets.base import find_files
from mammoflow.datasets.dicom_tags import BROKEN
from mammoflow.pseudonymise.identities import STANDARD_UIDS, carried, elements, tokens
from mammoflow.pseudonymise.transform import Source
from mammoflow.pseudonymise.whitelist import OLDEST, actions

_NUMBERS = ("DS", "IS", "US", "SS", "US or SS", "OB", "OW", "US or OW", "OB or OW", "UL", "SL", "FL", "FD", "AS", "SQ")
_EMPTY = ("PN", "DA", "TM", "DT")  # value representations that may hold nothing at all
_OUR_WORDS = ("DeidentificationMethod",)


def everybodys(sources: Iterable[Source]) -> set[str]:
    """What identifies any source and is so peculiar that it may stand nowhere: texts with digits, and paths' parts.

    Names without digits are searched for in their own image alone: a patient Hologic must not forbid the vendor.
    """
    found: set[str] = set()
    for source in sources:
        parts = {part.lower() for name in source.path.split("/") for part in (name, name.rsplit(".", 1)[0])}
        found |= {text for text in source.own if len(text) >= 4 and any(sign.isdigit() for sign in text)}
        found |= {part for part in parts if sum(sign.isdigit() for sign in part) >= 4}
    return found


def audit(
    out: Path, sources: Collection[Source], written: Collection[Source], tables: dict[str, pd.DataFrame]
) -> list[str]:
    """Sentences about everything in ``out`` that is not as it must be; empty where all is well.

    written: the sources that have a file there.  tables: name -> what was written beside the images.
    """
    forbidden = everybodys(sources)
    problems = []
    by_path = {source.new_path: source for source in written}
    here = {path.relative_to(out).as_posix() for path in find_files(out, None, max_depth=32)}
    strange = sorted(here - set(by_path) - set(tables))
    if strange:
        problems.append(f"{len(strange)} files are not of this run, the first is {strange[0]}: empty the directory")
    problems += [f"{path} was not written" for path in sorted((set(by_path) | set(tables)) - here)]
    for path, source in by_path.items():
        if path in here:
            problems += [f"{path}: {what}" for what in _file_problems(out / path, source.own, forbidden)]
    for name, table in tables.items():
        for column in table.select_dtypes(include=["object", "string"]):
            for value in table[column].dropna().astype(str).unique():
                if found := forbidden & set(tokens(value.lower())):
                    problems.append(f"{name}, column {column}: an original id or date ({len(min(found))} characters)")
    problems += [f"{path}: its name carries an original id" for path in sorted(here) if forbidden & _parts(path)]
    return problems


def _parts(path: str) -> set[str]:
    return {part for name in path.lower().split("/") for part in (name, name.rsplit(".", 1)[0])}


def _file_problems(path: Path, own: Collection[str], forbidden: Collection[str]) -> Iterator[str]:
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        yield from _dataset_problems(ds, own, forbidden)
    except (pydicom.errors.InvalidDicomError, *BROKEN) as error:
        yield f"cannot be read back ({type(error).__name__})"
        return
    if any(ds.preamble or b""):
        yield "the preamble is not empty"
    strange = [element.keyword for element in ds.file_meta if element.keyword not in _META]
    if strange:
        yield f"file meta element {strange[0]}"
    if ds.file_meta.MediaStorageSOPInstanceUID != ds.SOPInstanceUID:
        yield "the file meta UID is not that of the object"


_META = {
    "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
    "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID", "ImplementationVersionName",
}  # fmt: skip


def _dataset_problems(ds: Dataset, own: Collection[str], forbidden: Collection[str]) -> Iterator[str]:
    for element in elements(ds):
        name = element.keyword or f"({element.tag.group:04X},{element.tag.element:04X})"
        if element.tag.is_private or (element.tag not in actions() and name not in _CODE_PARTS):
            yield f"element {name} is not on the whitelist"
        elif element.VR in _EMPTY and element.value:
            yield f"{name} has a value"
        elif element.VR == "UI":
            for uid in [element.value] if element.VM <= 1 else element.value:
                if not (str(uid).startswith((STANDARD_UIDS, "2.25.")) and pydicom.uid.UID(uid).is_valid) or uid in own:
                    yield f"{name} holds an original or invalid UID"
        elif element.VR not in _NUMBERS and name not in _OUR_WORDS:
            for text in [element.value] if element.VM <= 1 else element.value:
                if (text and carried(str(text), own)) or set(tokens(str(text).lower())) & set(forbidden):
                    yield f"{name} carries an original id, name or date"
    if "PatientAge" in ds and int(str(ds.PatientAge)[:3]) > OLDEST:
        yield f"PatientAge is above {OLDEST}"


_CODE_PARTS = ("CodeValue", "CodeMeaning", "CodingSchemeDesignator")
