"""What the header of one image says about its pixels, as plain values (no pydicom object survives the read)."""

from mammoflow.imaging import lean  # noqa: F401 - before anything that imports pydicom

# isort: split
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mammoflow.imaging import acquisition
from mammoflow.imaging.errors import ColourImage, CorruptHeader

# Shown by `inspect`: what the grey-scale and orientation steps look at. No name, date or number of a person.
SHOWN_TAGS = (
    "SOPClassUID", "Modality", "PresentationIntentType", "Manufacturer", "ManufacturerModelName", "ImageLaterality",
    "Laterality", "ViewPosition", "PatientOrientation", "Rows", "Columns", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", "PresentationLUTShape",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter",
    "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "LossyImageCompression", "ImagerPixelSpacing",
    "PixelSpacing", *acquisition.TAGS,
)  # fmt: skip

_LARGEST = 1e12  # what no modality's unit needs; beyond it, stored values could become infinite


@dataclass(frozen=True)
class LookupTable:
    """A DICOM LUT (PS3.3 C.11.1.1.1, C.11.2.1.1): input ``first`` maps to ``entries[0]``; inputs beyond the ends clip.

    entries: (N,) uint16.  top: the largest output, 2**bits - 1 of the descriptor.
    """

    first: int
    top: int
    entries: NDArray[np.uint16]


@dataclass(frozen=True)
class Header:
    """Grey-scale facts. ``signed`` pixels are two's complement of ``bits_stored`` bits.

    mask_unused_bits: bits above ``bits_stored`` are not part of the sample (PS3.5 8.1.1), as in uncompressed DICOM;
    a compressed stream carries its own precision, so there they are real values beyond the announced range.
    padding: inclusive range of stored values that are not image.
    spacing: millimetres between rows and between columns, at the detector where the header says so.
    """

    rows: int
    columns: int
    bits_stored: int
    signed: bool = False
    mask_unused_bits: bool = False
    photometric: str = "MONOCHROME2"
    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: LookupTable | None = None
    windows: tuple[tuple[float, float], ...] = ()  # (center, width)
    voi_luts: tuple[LookupTable, ...] = ()
    voi_function: str = "LINEAR"
    padding: tuple[int, int] | None = None
    presentation: str = "unknown"
    spacing: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    shown: dict[str, str] = field(default_factory=dict)

    @property
    def stored_range(self) -> tuple[int, int]:
        """Smallest and largest value that ``bits_stored`` bits hold."""
        if self.signed:
            return -(1 << self.bits_stored - 1), (1 << self.bits_stored - 1) - 1
        return 0, (1 << self.bits_stored) - 1


def from_dataset(ds: Dataset, compressed: bool) -> Header:
    """Read the Image Pixel, Modality LUT and VOI LUT modules (PS3.3 C.7.6.3, C.11.1, C.11.2).

    Raises CorruptHeader where the pixels cannot be laid out, ColourImage for anything but one grey channel.
    """
    flags: list[str] = list(acquisition.flags(ds))
    photometric = str(ds.get("PhotometricInterpretation") or "")
    if (ds.get("SamplesPerPixel") or 1) != 1 or photometric.startswith(("PALETTE", "RGB", "YBR")):
        raise ColourImage(f"{ds.get('SamplesPerPixel')} samples per pixel, {photometric or 'no photometric'}")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        flags.append("photometric_assumed")
        photometric = "MONOCHROME2"
    rows, columns, allocated = (_whole(ds, name) for name in ("Rows", "Columns", "BitsAllocated"))
    if rows < 1 or columns < 1:
        raise CorruptHeader(f"Rows x Columns is {rows} x {columns}")
    if allocated not in (8, 16):
        raise CorruptHeader(f"{allocated} bits per pixel are allocated; 8 and 16 can be read")
    stored = _whole(ds, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise CorruptHeader(f"BitsStored {stored} does not fit into BitsAllocated {allocated}")
    signed = _whole(ds, "PixelRepresentation", 0) == 1
    function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        flags.append("unknown_voi_function")
        function = "LINEAR"
    slopes, intercepts = _numbers(ds, "RescaleSlope"), _numbers(ds, "RescaleIntercept")
    slope, intercept = (slopes or [1.0])[0], (intercepts or [0.0])[0]
    if not (0 < abs(slope) < _LARGEST and abs(intercept) < _LARGEST):  # nor a NaN
        flags.append("invalid_rescale")
        slope, intercept = 1.0, 0.0
    modality = _tables(ds, "ModalityLUTSequence", signed, flags)
    return Header(
        rows=rows,
        columns=columns,
        bits_stored=stored,
        signed=signed,
        mask_unused_bits=not compressed and stored < allocated,
        photometric=photometric,
        slope=slope,
        intercept=intercept,
        modality_lut=modality[0] if modality else None,
        windows=_windows(ds, function, flags),
        # The input of a VOI LUT is the output of the modality step; its first value is signed where that may be.
        voi_luts=_tables(ds, "VOILUTSequence", (signed and not modality) or intercept < 0, flags),
        voi_function=function,
        padding=_padding(ds, signed),
        presentation=_presentation(ds, flags),
        spacing=_spacing(ds),
        flags=tuple(dict.fromkeys(flags)),
        shown={name: str(ds.get(name)) for name in SHOWN_TAGS if name in ds},
    )


def _presentation(ds: Dataset, flags: list[str]) -> str:
    if "for_processing" in flags:
        return "processing"
    intent = str(ds.get("PresentationIntentType") or "").upper()
    return "presentation" if intent == "FOR PRESENTATION" else "unknown"


def _spacing(ds: Dataset) -> tuple[float, float] | None:
    """ImagerPixelSpacing (PS3.3 C.8.11.7: at the detector's front plane), else PixelSpacing; None where unsound.

    Not corrected for geometric magnification, whose factor vendors estimate differently.
    """
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        values = _numbers(ds, name)
        if len(values) == 2 and all(value > 0 for value in values):
            return values[0], values[1]
    return None


def _whole(ds: Dataset, name: str, default: int | None = None) -> int:
    value = ds.get(name)
    if value is None:
        if default is None:
            raise CorruptHeader(f"{name} is missing")
        return default
    return int(value)


def _numbers(ds: Dataset, name: str) -> list[float]:
    """Values of a possibly empty, possibly multi-valued decimal string; NaN where one is not a finite number."""
    value = ds.get(name)
    if value is None or value == "":
        return []
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return [_number(one) for one in values]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _windows(ds: Dataset, function: str, flags: list[str]) -> tuple[tuple[float, float], ...]:
    """(center, width) pairs; those that PS3.3 C.11.2.1.2 and C.11.2.1.3 forbid are left out and flagged."""
    centers, widths = _numbers(ds, "WindowCenter"), _numbers(ds, "WindowWidth")
    smallest = 1.0 if function == "LINEAR" else np.nextafter(0.0, 1.0)
    valid = tuple((c, w) for c, w in zip(centers, widths, strict=False) if not np.isnan(c) and w >= smallest)
    if len(valid) < max(len(centers), len(widths)):
        flags.append("invalid_window")
    return valid


def _tables(ds: Dataset, sequence: str, signed_input: bool, flags: list[str]) -> tuple[LookupTable, ...]:
    tables = []
    for item in ds.get(sequence) or []:
        if not item.get("LUTDescriptor") or not item.get("LUTData"):
            flags.append("invalid_lut")  # emptied by an anonymiser
            continue
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count or 1 << 16
        data = item["LUTData"].value
        if isinstance(data, bytes):
            # PS3.3 C.11.1.1.1: 8-bit entries may be packed two to a word, which the length tells.
            order = "<" if ds.original_encoding[1] is not False else ">"
            kind = "u1" if bits <= 8 and len(data) < 2 * count else f"{order}u2"
            data = np.frombuffer(data, dtype=kind)
        entries = np.asarray(data, dtype=np.int64).ravel()[:count] & 0xFFFF
        first &= 0xFFFF
        if signed_input and first >= 1 << 15:
            first -= 1 << 16
        # The descriptor's depth is the output range; some systems overstate it (16 for 12-bit entries) or leave it 0.
        bits = min(max(bits, 1), 16, max(int(entries.max()).bit_length(), 8))
        tables.append(LookupTable(first, max((1 << bits) - 1, int(entries.max())), entries.astype(np.uint16)))
    return tuple(tables)


def _padding(ds: Dataset, signed: bool) -> tuple[int, int] | None:
    """PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), inclusive, as stored values."""
    value = ds.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = ds.get("PixelPaddingRangeLimit")
    ends = [_stored(int(value), signed), _stored(int(value if limit in (None, "") else limit), signed)]
    return min(ends), max(ends)


def _stored(value: int, signed: bool) -> int:
    # The VR (US or SS) is ambiguous in implicit files, so -2000 may arrive as 63536.
    value &= 0xFFFF
    return value - (1 << 16) if signed and value >= 1 << 15 else value
