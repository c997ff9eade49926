"""Synthetic TCGA-BRCA radiology in idc-index's folders: breast MR of every woman, mammograms of a few.

Follows the collection: ``tcga_brca/<barcode>/<StudyUID>/<modality>_<SeriesUID>/<uuid>.dcm``; MR series of small slices,
a structured report, and for some women a GE mammogram twice: the raw detector data (MONOCHROME1, For Processing) and
the picture made of it (MONOCHROME2, For Presentation), CC and exaggerated CC views among them. Every woman has a
carcinoma, and no label is to be had.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import draw_view, plan_lesion

SHAPES = {"small": (640, 512), "full": (2294, 1914)}
MR, PROCESSING, REPORT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1.2.1", "1.2.840.10008.5.1.4.1.1.88.33"
HOSPITALS = ["BH", "AO", "EW", "E2", "OL", "AR"]
SLICES = 4
VIEWS = ["CC", "MLO", "XCCM"]


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``: MR for all, mammograms for the first and every fourth woman after her."""
    rng = np.random.default_rng((seed, 1))
    for k in range(patients):
        barcode = f"TCGA-{HOSPITALS[k % len(HOSPITALS)]}-A{k:03d}"
        study = mg_dicom.uid_of(seed, "tcga study", k)
        folder = Path(root) / "tcga_brca" / barcode / study
        common = {"Modality": "MR", "PatientID": barcode, "PatientSex": "F", "StudyInstanceUID": study,
                  "PatientAge": f"{int(rng.integers(30, 85)):03d}Y", "Manufacturer": "GE MEDICAL SYSTEMS"}  # fmt: skip
        for number in range(2):
            _write_mr(folder, common, (seed, k, number), rng)
        _write_report(folder, common, (seed, k))
        if k % 4 == 0:
            _write_mammograms(folder, common, (seed, k), SHAPES[size], rng)


def _write_mr(folder: Path, common: dict[str, Any], key: tuple[int, ...], rng: np.random.Generator) -> None:
    series = mg_dicom.uid_of("tcga mr", *key)
    for number in range(SLICES):
        image = mg_dicom.uid_of("tcga mr", *key, number)
        elements = {**common, "SOPClassUID": MR, "SOPInstanceUID": image, "SeriesInstanceUID": series,
                    "ManufacturerModelName": "SIGNA EXCITE", "InstanceNumber": number + 1}  # fmt: skip
        pixels = rng.integers(0, 900, (64, 64)).astype(np.uint16)
        mg_dicom.write(folder / f"MR_{series}" / f"{image[-32:]}.dcm", elements, pixels, 16)


def _write_report(folder: Path, common: dict[str, Any], key: tuple[int, ...]) -> None:
    series, image = mg_dicom.uid_of("tcga sr", *key), mg_dicom.uid_of("tcga sr", *key, 0)
    elements = {**common, "Modality": "SR", "SOPClassUID": REPORT, "SOPInstanceUID": image, "SeriesInstanceUID": series}
    mg_dicom.write(folder / f"SR_{series}" / f"{image[-32:]}.dcm", elements, None)


def _write_mammograms(
    folder: Path, common: dict[str, Any], key: tuple[int, ...], shape: tuple[int, int], rng: np.random.Generator
) -> None:
    woman, lesions, side = Woman.draw(rng), [plan_lesion(rng, True)], str(rng.choice(["L", "R"]))
    for view in VIEWS:
        drawn = draw_view(shape, side, "CC" if view == "XCCM" else view, woman, lesions, rng)
        for raw in (True, False):
            series = mg_dicom.uid_of("tcga mg", *key, raw)
            image = mg_dicom.uid_of("tcga mg", *key, view, raw)
            pixels = np.rint((1 - drawn.pixels if raw else drawn.pixels) * 4095).astype(np.uint16)
            elements = {
                **common,
                "Modality": "MG",
                "SOPClassUID": PROCESSING if raw else mg_dicom.PRESENTATION,
                "SOPInstanceUID": image,
                "SeriesInstanceUID": series,
                "ManufacturerModelName": "Senographe DS",
                "PresentationIntentType": "FOR PROCESSING" if raw else "FOR PRESENTATION",
                "PhotometricInterpretation": "MONOCHROME1" if raw else "MONOCHROME2",
                "ImageLaterality": side,
                "ViewPosition": view,
                "ImagerPixelSpacing": [0.1, 0.1],
            }
            if not raw:
                elements |= {"WindowCenter": 2048, "WindowWidth": 4096}
            mg_dicom.write(folder / f"MG_{series}" / f"{image[-32:]}.dcm", elements, pixels, 12)
