"""What the numbers behind the flags cost a conversion: CPU time of a full-size image with and without them.

    PYTHONPATH=workflow/src python benchmarks/image_checks.py --write docs/benchmarks.md

One drawn mammogram of 3328 x 2560 in three encodings, converted as by default (decode, window, breast box, 16-bit PNG
in memory), interleaved in one process, CPU time of the calling thread.
"""

import argparse
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from document import write_section
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

from mammoflow import settings
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging import png, quality, working
from mammoflow.imaging.decode import read_image
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman, draw_breast

SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "JPEG lossless": JPEGLosslessSV1, "J2K lossless": JPEG2000Lossless}
NOTHING = quality.Measures(**dict.fromkeys(quality.NAMES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the table into the file's own section")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row_of(name, syntax, Path(scratch), args.rounds) for name, syntax in SYNTAXES.items()]
    body = "\n".join([
        f"`python benchmarks/image_checks.py --rounds {args.rounds}`; OpenCV {cv2.__version__}, Python "
        f"{platform.python_version()}; one image of 3328 x 2560, default settings.",
        "",
        "| encoding | with: CPU ms | without: CPU ms | ratio of each round, median | smallest to largest |",
        "|---|---|---|---|---|",
        *rows,
    ])  # fmt: skip
    print(body)
    if args.write:
        write_section(args.write, "Numbers and flags of each image", body)


def row_of(name: str, syntax: str, folder: Path, rounds: int) -> str:
    path = folder / f"{name}.dcm"
    rng = np.random.default_rng(1)
    woman = Woman.draw(rng, "C")
    drawn = draw_breast((3328, 2560), "L", "MLO", woman.density, [], rng, woman=woman, marker="L MLO").pixels
    elements = {"SOPClassUID": mg_dicom.PRESENTATION, "SOPInstanceUID": "1.2", "Modality": "MG"}
    mg_dicom.write(path, elements, np.rint(drawn * 4095).astype(np.uint16), 12, syntax)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for measured in (True, False) if number % 2 else (False, True):
            taken = convert_once(path, measured)
            if number:  # the first round warms the caches
                seconds[measured].append(taken)
    ratios = [one / other for one, other in zip(seconds[True], seconds[False], strict=True)]
    with_ms, without_ms = (1000 * statistics.median(seconds[measured]) for measured in (True, False))
    middle = statistics.median(ratios)
    return f"| {name} | {with_ms:.1f} | {without_ms:.1f} | {middle:.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"


def convert_once(path: Path, measured: bool) -> float:
    section = settings.resolve_section("convert", {})
    skipped = mock.patch.multiple(quality, measure=lambda found: NOTHING, flags_of=lambda measures: ())
    with nullcontext() if measured else skipped:
        start = time.thread_time()
        image = read_image(path)
        made = working.make_working_image(image, section, IntensityRule(), "L")
        png.encode(made.pixels)
        return time.thread_time() - start


if __name__ == "__main__":
    main()
