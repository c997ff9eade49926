"""Images for the conversion benchmark: phantom mammograms of four sizes, written in six transfer syntaxes."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydicom import uid
from pydicom.uid import UID

from mammoflow.imaging import encode
from mammoflow.phantom.anatomy import Woman, draw_breast

# Rows, columns, bits stored: Kodak CR, Hologic small and large, Planmed or film at 50 um.
SIZES = {"A": (2294, 1914, 12), "B": (3328, 2560, 12), "C": (4096, 3328, 12), "D": (5928, 4728, 14)}
QUICK_SIZES = {"A": (287, 240, 12), "D": (371, 296, 14)}
SYNTAXES: dict[str, UID] = {
    "JPEG lossless (.70)": uid.JPEGLosslessSV1,
    "JPEG lossless (.57)": uid.JPEGLossless,
    "J2K lossless (.90)": uid.JPEG2000Lossless,
    "JPEG-LS (.80)": uid.JPEGLSLossless,
    "RLE (.5)": uid.RLELossless,
    "uncompressed": uid.ExplicitVRLittleEndian,
}


@dataclass(frozen=True)
class Input:
    """One file of the benchmark. raw_bytes: rows * columns * 2."""

    path: Path
    syntax: str
    size: str
    raw_bytes: int

    @property
    def bits_per_pixel(self) -> float:
        return 16 * self.path.stat().st_size / self.raw_bytes


def mammogram(rows: int, columns: int, bits: int, seed: int) -> np.ndarray:
    """(rows, columns) uint16: tissue with film grain, a burnt-in marker, and exact zeros around the breast."""
    rng = np.random.default_rng(seed)
    view = draw_breast((rows, columns), "L", "MLO", "B", [], rng, woman=Woman(seed=seed), marker="L MLO")
    # A detector's transfer function blurs the quantum noise; without it no codec would reach the rates of archives.
    blurred = cv2.GaussianBlur(view.pixels, (0, 0), 0.8)
    return np.where(view.pixels > 0, np.rint(blurred * ((1 << bits) - 1) * 0.8), 0).astype(np.uint16)


def write(folder: Path, sizes: dict[str, tuple[int, int, int]]) -> list[Input]:
    """Write each size in each syntax; B shows zero as white, D has a sigmoid window, all have two windows."""
    made = []
    for seed, (size, (rows, columns, bits)) in enumerate(sizes.items()):
        pixels = mammogram(rows, columns, bits, seed)
        top = 1 << bits
        tags = {
            "BitsStored": bits,
            "WindowCenter": [top // 3, top // 2],
            "WindowWidth": [top // 2, top],
            "ImageLaterality": "L",
        }
        if size == "B":
            pixels = (top - 1 - pixels).astype(np.uint16)
            tags |= {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": [top - top // 3, top // 2]}
        if size == "D":
            tags["VOILUTFunction"] = "SIGMOID"
        for number, (name, syntax) in enumerate(SYNTAXES.items()):
            path = folder / f"{number}-{size}.dcm"
            encode.dataset(pixels, syntax, **tags).save_as(path, enforce_file_format=True)
            made.append(Input(path, name, size, 2 * rows * columns))
    return made
