"""Flags about how an exposure was made, from its header: what sets it apart from a plain screening view.

View modifiers are those of DICOM CID 4015 (PS3.16), with the older SNOMED RT codes; the attributes stand in PS3.3
C.8.11.7 (Mammography Image), C.8.7.2 and C.7.6.1 (General Image).
"""

import re

from pydicom.dataset import Dataset

FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"  # Digital Mammography X-Ray Image Storage - For Processing

MODIFIERS = {
    "399055006": "spot_compression", "R-102D7": "spot_compression",
    "399163009": "magnification", "R-102D6": "magnification",
    "399209000": "implant_displaced", "R-102D5": "implant_displaced",
    "399011000": "axillary_tail", "R-102D1": "axillary_tail",
    "399161006": "cleavage", "R-102D2": "cleavage",
    "399110001": "tangential", "R-102C2": "tangential",
    "399197002": "rolled", "R-102D3": "rolled",
    "399226006": "rolled", "R-102D4": "rolled",
    "415670009": "rolled", "R-102C9": "rolled",
    "414493004": "rolled", "R-102CA": "rolled",
    "441752004": "anterior_compression", "P2-00161": "anterior_compression",
    "442593008": "infra_mammary_fold", "R-40ABE": "infra_mammary_fold",
    "442580003": "axillary_tissue", "R-40AB2": "axillary_tissue",
}  # fmt: skip
SPECIMEN = {"127457009", "G-8310"}  # CID 4014: tissue specimen from breast
# Contact views project at 1.0 to about 1.1; magnification stands begin at 1.4.
MAGNIFIED = 1.25

TAGS = (
    "BreastImplantPresent", "ViewModifierCodeSequence", "PaddleDescription", "PartialView", "BurnedInAnnotation",
    "QualityControlImage", "EstimatedRadiographicMagnificationFactor",
)  # fmt: skip


def flags(ds: Dataset) -> tuple[str, ...]:
    """The flags that a header gives rise to, each once, in a fixed order."""
    found = []
    intent = str(ds.get("PresentationIntentType") or "").upper()
    if intent == "FOR PROCESSING" or ds.get("SOPClassUID") == FOR_PROCESSING:
        found.append("for_processing")
    for name, flag in (
        ("QualityControlImage", "quality_control"),
        ("BreastImplantPresent", "implant"),
        ("PartialView", "partial_view"),
        ("BurnedInAnnotation", "burned_in_annotation"),
    ):
        if str(ds.get(name) or "").strip().upper() == "YES":
            found.append(flag)
    views = _items(ds, "ViewCodeSequence")
    if any(_code(item) in SPECIMEN for item in views):
        found.append("specimen")
    # The modifiers stand inside the view's item in mammography, beside it in other objects.
    modifiers = [item for holder in (ds, *views) for item in _items(holder, "ViewModifierCodeSequence")]
    found += [MODIFIERS[_code(item)] for item in modifiers if _code(item) in MODIFIERS]
    paddle = str(ds.get("PaddleDescription") or "").upper()
    if re.search(r"\bSPOT\b", paddle):
        found.append("spot_compression")
    if re.search(r"\bMAG", paddle) or _number(ds.get("EstimatedRadiographicMagnificationFactor")) > MAGNIFIED:
        found.append("magnification")
    return tuple(dict.fromkeys(found))


def _items(ds: Dataset, name: str) -> list[Dataset]:
    value = ds.get(name)
    return list(value) if value else []


def _code(item: Dataset) -> str:
    return str(item.get("CodeValue") or "").strip()


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
