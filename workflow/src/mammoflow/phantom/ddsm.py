"""Synthetic DDSM: ``cases/cancers/cancer_01/case1001/`` with ``.ics``, ``.LJPEG`` and ``.OVERLAY`` files.

Follows the archive's own files (Heath et al. 2000): films as PVRG lossless JPEG with predictor 7 of 12 or 16 bits, in
many with lines and samples swapped in the header; grey levels as each of the four scanners writes them; chain codes.
Quirks: leftovers of tools (``*.LJPEG.1``, ``*.ics~``, ``*.OVERLAYu``), one gzip-compressed film, one missing film, a
``TOTAL_OUTLINES`` that is too high, a chain that leaves the film, an unproven lesion, empty age and density.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mammoflow.datasets.ddsm_text import points_to_chain
from mammoflow.files import replacing, write_text
from mammoflow.imaging import pvrg_encode
from mammoflow.phantom.anatomy import DENSITIES, Woman
from mammoflow.phantom.contours import draw_outlined
from mammoflow.phantom.exam import Planned, plan_lesion

SHAPES = {"small": (640, 400), "full": (4648, 2672)}
GROUPS = ("cancer", "benign", "normal", "benign_without_callback")
# site, DIGITIZER, bits, micron, grey level of an optical density: the inverse of the curves in mammoflow.imaging.od.
SCANNERS = (
    ("A", "DBA M2100 IMAGECLEAR", 16, "42", lambda od: 10 ** (4.80662 - 1.07553 * od)),
    ("A", "HOWTEK 960", 12, "43.5", lambda od: (3.789 - od) / 0.00094568),
    ("B", "LUMISYS LASER", 12, "50", lambda od: 4096.99 - 1009.01 * od),
    ("C", "LUMISYS LASER", 12, "50", lambda od: 4096.99 - 1009.01 * od),
    ("D", "HOWTEK 960", 12, "43.5", lambda od: (3.96604095240593 - od) / 0.00099055807612),
)
FILMS = [(side, view) for side in ("LEFT", "RIGHT") for view in ("CC", "MLO")]
TYPES = {
    ("mass", False): "MASS SHAPE OVAL MARGINS CIRCUMSCRIBED",
    ("mass", True): "MASS SHAPE IRREGULAR MARGINS SPICULATED",
    ("calcification", False): "CALCIFICATION TYPE PUNCTATE DISTRIBUTION N/A",
    ("calcification", True): "CALCIFICATION TYPE PLEOMORPHIC DISTRIBUTION CLUSTERED",
    ("architectural_distortion", False): "MASS SHAPE ARCHITECTURAL_DISTORTION MARGINS N/A",
    ("architectural_distortion", True): "MASS SHAPE IRREGULAR-ARCHITECTURAL_DISTORTION MARGINS ILL_DEFINED",
    ("asymmetry", False): "MASS SHAPE ASYMMETRIC_BREAST_TISSUE MARGINS N/A",
    ("asymmetry", True): "MASS SHAPE FOCAL_ASYMMETRIC_DENSITY MARGINS ILL_DEFINED",
}


@dataclass(frozen=True)
class Case:
    """One case before it is drawn. ``number`` counts from 0; ``side`` carries the lesion (None: a normal case)."""

    number: int
    group: str
    woman: Woman
    density: int
    age: int
    side: str | None
    lesion: Planned | None

    @property
    def scanner(self):
        return SCANNERS[self.number % len(SCANNERS)]

    @property
    def stem(self) -> str:
        return f"{self.scanner[0]}_{1001 + self.number}_1"

    @property
    def folder(self) -> Path:
        volume = f"{self.group}_{1 + self.number // 40:02d}"
        return Path("cases", f"{self.group}s", volume, f"case{1001 + self.number}")


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``: one case of four films a patient. Of ten cases four are cancers, one is normal
    and one benign without callback; the rest are benign or normal."""
    for case in plan(patients, seed):
        _write_case(Path(root), case, SHAPES[size], seed)


def plan(patients: int, seed: int) -> list[Case]:
    """Truth, scanner and woman of every case; no pixels."""
    rng = np.random.default_rng((seed, 1))
    groups = [GROUPS[index] for index in (0, 1, 2, 0, 1, 0, 2, 0, 3, 1)]
    cases = []
    for number in range(patients):
        group = groups[number % len(groups)]
        density = int(rng.integers(1, 5))
        woman = Woman.draw(rng, list(DENSITIES)[density - 1])
        side = None if group == "normal" else str(rng.choice(["LEFT", "RIGHT"]))
        lesion = plan_lesion(rng, group == "cancer") if side else None
        cases.append(Case(number, group, woman, density, int(rng.integers(35, 85)), side, lesion))
    return cases


def _write_case(root: Path, case: Case, shape: tuple[int, int], seed: int) -> None:
    folder, (_, digitizer, bits, micron, grey_of) = root / case.folder, case.scanner
    lines = []
    for index, (side, view) in enumerate(FILMS):
        name, rng = f"{side}_{view}", np.random.default_rng((seed, 2, case.number, index))
        # Films are cut to size: no two have quite the same number of lines.
        own_shape = (shape[0] - 8 * int(rng.integers(0, 4)), shape[1] - 8 * int(rng.integers(0, 3)))
        lesions = [case.lesion] if case.lesion and side == case.side else []
        drawn = draw_outlined(own_shape, side[0], view, case.woman, lesions, rng, marker=True)
        grey = _grey_levels(drawn.pixels, bits, grey_of, rng)
        stream = pvrg_encode.encode(grey, bits, predictor=7, transposed=case.number % 2 == 0)
        _write_film(folder, case, name, stream)
        for order, outline in enumerate(drawn.outlines):
            write_text(folder / f"{case.stem}.{name}.OVERLAY", _overlay(case, outline, view, order))
        lines.append(
            f"{name} LINES {own_shape[0]} PIXELS_PER_LINE {own_shape[1]} BITS_PER_PIXEL {bits} "
            f"RESOLUTION {micron} {'OVERLAY' if lesions else 'NON_OVERLAY'}"
        )
    write_text(folder / f"{case.stem.replace('_', '-')}.ics", _ics(case, digitizer, lines))
    _write_thumbnail(folder / f"TAPE_{case.stem}.COMB.16_PGM", case.number)
    if case.number == 0:
        _write_leftovers(folder, case.stem)


def _grey_levels(pixels: NDArray[np.float32], bits: int, grey_of, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Film densities as the scanner writes them: exposed background 2.8, the densest tissue 0.3."""
    density = 2.8 - 2.5 * pixels + rng.normal(0, 0.01, pixels.shape)
    grey = np.clip(np.rint(grey_of(density)), 0, (1 << bits) - 1).astype(np.uint16)
    if bits == 16:
        grey[:3] = 0  # the DBA scanner leaves zeros beyond the edge of the film
    return grey


def _write_film(folder: Path, case: Case, name: str, stream: bytes) -> None:
    path = folder / f"{case.stem}.{name}.LJPEG"
    if case.number == 6 and name == "LEFT_MLO":
        return  # listed in the .ics file, lost on the way, as two films of the archive
    if case.number == 1 and name == "RIGHT_CC":
        path, stream = path.with_name(f"{path.name}.gz"), gzip.compress(stream, mtime=0)
    with replacing(path) as handle:
        handle.write(stream)


def _ics(case: Case, digitizer: str, lines: list[str]) -> str:
    age, density = ("", "") if case.number == 2 else (str(case.age), str(case.density))
    return "\n".join([
        "ics_version 1.0", f"filename {case.stem.replace('_', '-')}", "DATE_OF_STUDY 24 9 1997", f"PATIENT_AGE {age}",
        "FILM", "FILM_TYPE REGULAR", f"DENSITY {density}", "DATE_DIGITIZED 2 4 1998", f"DIGITIZER {digitizer}", "",
        "SEQUENCE", *lines, "",
    ])  # fmt: skip


def _overlay(case: Case, outline: NDArray[np.int64], view: str, order: int) -> str:
    malignant, lesion = case.group == "cancer", case.lesion
    pathology = {"cancer": "MALIGNANT", "benign": "BENIGN"}.get(case.group, "BENIGN_WITHOUT_CALLBACK")
    if case.number == 9:
        pathology = "UNPROVEN"
    if case.number == 4 and view == "CC":
        outline = outline - [outline[:, 0].max() + 2 - np.ptp(outline[:, 0]) // 2, 0]  # half of it leaves the film
    core = outline[: len(outline) // 3]
    with_core = malignant and view == "MLO"
    stated = 3 if case.number == 3 and view == "CC" else 1 + with_core
    text = [
        "TOTAL_ABNORMALITIES 1",
        f"ABNORMALITY {order + 1}",
        f"LESION_TYPE {TYPES[lesion.kind, lesion.malignant]}",
        f"ASSESSMENT {5 if malignant else 2 if pathology.endswith('CALLBACK') else 4}",
        f"SUBTLETY {5 if lesion.contrast > 1 else 3}",
        f"PATHOLOGY {pathology}",
        f"TOTAL_OUTLINES {stated}",
        "BOUNDARY",
        points_to_chain(outline),
        *(["\tCORE", points_to_chain(core)] if with_core else []),
    ]
    return "\n".join(text) + " \n"


def _write_thumbnail(path: Path, number: int) -> None:
    with replacing(path) as handle:
        handle.write(b"P5\n4 4\n255\n" + bytes([number % 256] * 16))


def _write_leftovers(folder: Path, stem: str) -> None:
    """What tools of the archive's users left behind."""
    leftovers = [f"{stem}.LEFT_CC.LJPEG.1", f"{stem.replace('_', '-')}.ics~", f"{stem}.LEFT_CC.OVERLAYu",
                 "index.html~", "#mv.sh#"]  # fmt: skip
    for name in leftovers:
        write_text(folder / name, "leftover\n")
