"""What in a header names a person, an exam or a place, and whether a text still carries it."""

import re
from collections.abc import Iterable, Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

STANDARD_UIDS = "1.2.840.10008."  # SOP classes and transfer syntaxes (PS3.6 annex A): they name no instance

# Free-text elements that identify (all in PS3.15 table E.1-1). Names, dates and UIDs are known by their VR.
IDENTIFYING = (
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "AdmissionID",
    "PatientAddress", "PatientTelephoneNumbers", "MedicalRecordLocator", "RequestedProcedureID",
    "ScheduledProcedureStepID", "PerformedProcedureStepID", "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "DetectorID", "PlateID", "CassetteID",
)  # fmt: skip
_SHORTEST = 3  # characters; shorter ones stand in too many innocent words


def elements(ds: Dataset) -> Iterator[DataElement]:
    """All elements of a dataset, those of nested sequences included."""
    for element in ds:
        yield element
        if element.VR == "SQ":
            for item in element.value or []:
                yield from elements(item)


def identities(ds: Dataset) -> set[str]:
    """Lower-case texts that tell whose image it is: ids, parts of names, dates in two spellings, UIDs, places."""
    found: set[str] = set()
    for element in elements(ds):
        texts = [text.strip() for text in _texts(element)]
        if element.VR == "PN":
            found.update(texts)
            found.update(part for text in texts for part in re.split(r"[\s^=,;.]+", text))
        elif element.VR == "UI":
            found.update(text for text in texts if not text.startswith(STANDARD_UIDS))
        elif element.VR in ("DA", "DT"):
            days = [text[:8] for text in texts if re.match(r"\d{8}", text)]
            found.update(days)
            found.update(f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days)
        elif element.keyword in IDENTIFYING:
            found.update(texts)
    return {text.lower() for text in found if len(text) >= _SHORTEST}


def carried(text: str, own: Iterable[str]) -> str | None:
    """The first of ``own`` (lower case) that ``text`` carries: a long one anywhere, a short one as a word."""
    lower = text.lower()
    words = set(tokens(lower))
    for one in own:
        if one in words or (len(one) >= 5 and one in lower):
            return one
    return None


def tokens(text: str) -> list[str]:
    """Words of a text; points and hyphens stay inside, since ids and dates carry them."""
    return [word.strip(".-_") for word in re.split(r"[^0-9a-zA-Z.\-_À-ɏ]+", text) if word.strip(".-_")]


def _texts(element: DataElement) -> list[str]:
    value = element.value
    if value is None or isinstance(value, bytes) or element.VR == "SQ":
        return []
    several = hasattr(value, "__iter__") and not isinstance(value, str) and element.VR != "PN"
    return [str(one) for one in (value if several or element.VM > 1 else [value]) if str(one).strip()]
