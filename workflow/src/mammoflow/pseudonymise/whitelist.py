"""The elements that may stay (``tags.csv``), and a header rebuilt from nothing but them."""

import csv
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from mammoflow.datasets.dicom_folder import years
from mammoflow.datasets.views import VIEW_CODES
from mammoflow.imaging.acquisition import MODIFIERS, SPECIMEN
from mammoflow.pseudonymise.identities import STANDARD_UIDS, carried
from mammoflow.pseudonymise.keys import Key

TAGS_FILE = Path(__file__).with_name("tags.csv")
ACTIONS = ("keep", "text", "uid", "patient", "age", "empty", "code", "sequence", "ours")
OLDEST = 90  # years; older women are so few that their age identifies (HIPAA 45 CFR 164.514(b)(2)(i)(C))

# The codes that may stay, with the word written as their meaning: free text of the device may hold anything.
CODES = {
    **VIEW_CODES,
    **{code: word.replace("_", " ") for code, word in MODIFIERS.items()},
    **dict.fromkeys(SPECIMEN, "tissue specimen"),
    **dict.fromkeys(("76752008", "T-04000"), "breast"),
    **dict.fromkeys(("73056007", "T-04020"), "right breast"),
    **dict.fromkeys(("80248007", "T-04030"), "left breast"),
    **dict.fromkeys(("63762007", "T-04080"), "both breasts"),
}
_NUMBER = re.compile(r"[ ]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ ]*")
_CODE_STRING = re.compile(r"[A-Z0-9 _]{0,16}")  # PS3.5 table 6.2-1, and the lower case and signs seen in files


@cache
def actions() -> dict[int, str]:
    """Tag -> action. Raises ValueError where the file is inconsistent, which only a change of it can cause."""
    with TAGS_FILE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    table = {}
    for row in rows:
        tag = tag_for_keyword(row["keyword"])
        shown = "" if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        if row["action"] not in ACTIONS or shown != row["tag"] or dictionary_VR(tag) != row["vr"] or tag in table:
            raise ValueError(f"{TAGS_FILE.name}: the row of {row['keyword']} is not right")
        table[tag] = row["action"]
    return table


def clean(ds: Dataset, key: Key, own: set[str]) -> Dataset:
    """A new dataset with the whitelisted elements of ``ds``, pseudonyms in the place of ids, and nothing else.

    own: what identifies this image (:func:`mammoflow.pseudonymise.identities.identities`); a free text that carries any
    of it is left out. Pixels and the elements of action ``ours`` are for the caller to add.
    """
    out = Dataset()
    for element in ds:
        action = actions().get(element.tag)
        if action not in _VALUES:
            continue
        kind = dictionary_VR(element.tag)
        # A value of another type than the dictionary's is not what its tag says.
        if kind != element.VR and element.VR not in kind.split(" or "):
            continue
        value = _VALUES[action](element, key, own)
        if value is not None:
            out.add_new(element.tag, element.VR, value)
    return out


def clean_top(ds: Dataset, key: Key, own: set[str]) -> Dataset:
    """:func:`clean` for a whole object: with the age, and with the empty elements that every object must have."""
    out = clean(ds, key, own)
    for tag, action in actions().items():
        if action == "empty":
            out.add_new(tag, dictionary_VR(tag), "")
    if (age := age_of(ds)) is not None:
        out.PatientAge = f"{age:03d}Y"
    if "PatientID" not in out:
        out.PatientID = ""
    return out


def age_of(ds: Dataset) -> int | None:
    """Whole years, at most OLDEST: PatientAge, or from the dates of birth and study; None where neither is known."""
    given = years(str(ds.get("PatientAge") or ""))
    if isinstance(given, int):
        return min(given, OLDEST)
    born = _day(ds.get("PatientBirthDate"))
    taken = next((day for name in ("StudyDate", "AcquisitionDate", "ContentDate") if (day := _day(ds.get(name)))), None)
    if born is None or taken is None or taken < born:
        return None
    return min(taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day)), OLDEST)


def _day(value: Any) -> date | None:
    match = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", str(value or ""))
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _keep(element: DataElement, key: Key, own: set[str]) -> Any:
    values = element.value if element.VM > 1 else [element.value]
    if element.VR in ("DS", "IS"):
        sound = all(_NUMBER.fullmatch(str(one)) and str(one).strip() not in own for one in values)
    elif element.VR == "CS":
        sound = all(_CODE_STRING.fullmatch(str(one).strip().upper()) and not carried(str(one), own) for one in values)
    elif element.VR == "UI":
        sound = all(str(one).startswith(STANDARD_UIDS) for one in values)
    else:  # binary numbers and lookup tables
        sound = True
    return element.value if sound and element.value not in (None, "") else None


def _text(element: DataElement, key: Key, own: set[str]) -> Any:
    text = str(element.value) if element.VM <= 1 else "\\".join(map(str, element.value))
    return element.value if text.strip() and not carried(text, own) else None


def _uid(element: DataElement, key: Key, own: set[str]) -> str | None:
    return key.uid(str(element.value)) if element.value else None


def _patient(element: DataElement, key: Key, own: set[str]) -> str | None:
    return key.patient(str(element.value)) if str(element.value or "").strip() else None


def _codes(element: DataElement, key: Key, own: set[str]) -> list[Dataset] | None:
    items = []
    for item in element.value or []:
        code = str(item.get("CodeValue") or "").strip()
        if code not in CODES:
            continue
        kept = Dataset()
        kept.CodeValue, kept.CodeMeaning = code, CODES[code]
        kept.CodingSchemeDesignator = "SCT" if code.isdigit() else "SRT"
        if "ViewModifierCodeSequence" in item:
            kept.ViewModifierCodeSequence = _codes(item["ViewModifierCodeSequence"], key, own) or []
        items.append(kept)
    return items or None


def _sequence(element: DataElement, key: Key, own: set[str]) -> list[Dataset] | None:
    return [clean(item, key, own) for item in element.value or []] or None


_VALUES = {"keep": _keep, "text": _text, "uid": _uid, "patient": _patient, "code": _codes, "sequence": _sequence}
