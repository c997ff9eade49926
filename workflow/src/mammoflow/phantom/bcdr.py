"""Synthetic BCDR: sub-sets D01, D02 and DN01 (digital) and F03 (film), 8-bit TIFF with contours in CSV tables.

Follows the repository's files (Guevara Lopez et al. 2012): blanks round the text cells, ``image_type_id`` counted from
0 and ``image_view`` from 1, ``NaN`` for unknown, O for MLO. D02 repeats half the lesions and images of D01; DN01 are
normals without contours; F03 has one more level of folders, and a second segmentation of a lesion.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from mammoflow.files import replacing, write_text
from mammoflow.phantom.anatomy import DENSITIES, Woman
from mammoflow.phantom.contours import draw_outlined
from mammoflow.phantom.exam import Planned, plan_lesion

SHAPES = {"small": {"D": (640, 502), "F": (584, 360)}, "full": {"D": (4084, 3328), "F": (1168, 720)}}
IMAGE_HEAD = "patient_id,study_id,series,image_filename,image_type_name,image_type_id,age,density"
OUTLINE_HEAD = (
    "patient_id,study_id,series,lesion_id,segmentation_id,image_view,image_filename,lw_x_points,lw_y_points,"
    "mammography_type,mammography_nodule,mammography_calcification,mammography_microcalcification,"
    "mammography_axillary_adenopathy,mammography_architectural_distortion,mammography_stroma_distortion,age,density,"
    "classification"
)
VIEWS = [("RCC", "R", "CC"), ("LCC", "L", "CC"), ("RO", "R", "MLO"), ("LO", "L", "MLO")]
FLAGS = {
    "mass": "1,0,0,0,0,0",
    "calcification": "0,1,1,0,0,0",
    "architectural_distortion": "0,0,0,0,1,0",
    "asymmetry": "0,0,0,0,0,1",
}


@dataclass(frozen=True)
class Study:
    """One study before it is drawn; ``number`` is its patient, ``side`` the breast with the lesion (None: normal)."""

    number: int
    subset: str
    woman: Woman
    density: int
    age: int
    side: str | None
    lesion: Planned | None

    @property
    def folder(self) -> str:
        return f"patient_{self.number}/study_{self.number + 1}"


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the sub-sets into ``root``, one study of four views a patient. Half of the lesions are malignant."""
    studies = plan(patients, seed)
    for subset in sorted({study.subset for study in studies}):
        own = [study for study in studies if study.subset == subset]
        _write_subset(Path(root), subset, own, seed, SHAPES[size][subset[0]])
        if subset == "D01":  # D02 holds them again, every second one
            _write_subset(Path(root), "D02", own[::2], seed, SHAPES[size]["D"])


def plan(patients: int, seed: int) -> list[Study]:
    """Truth, sub-set and woman of every study; no pixels."""
    rng = np.random.default_rng((seed, 1))
    studies = []
    for number in range(1, patients + 1):
        subset = ("D01", "D01", "F03", "DN01", "D01", "F03")[number % 6]
        density = int(rng.integers(1, 5))
        woman = Woman.draw(rng, list(DENSITIES)[density - 1])
        side = None if subset == "DN01" else str(rng.choice(["L", "R"]))
        lesion = plan_lesion(rng, bool(number // 2 % 2)) if side else None
        studies.append(Study(number, subset, woman, density, int(rng.integers(35, 80)), side, lesion))
    return studies


def _write_subset(root: Path, subset: str, studies: list[Study], seed: int, shape: tuple[int, int]) -> None:
    base = root / f"BCDR-{subset}_dataset"
    if subset == "F03":
        base = base / "BCDR-F03"
    images, outlines = [IMAGE_HEAD], [OUTLINE_HEAD]
    for study in studies:
        density = "NaN" if study.number % 7 == 5 else str(study.density)
        for code, (name, side, view) in enumerate(VIEWS):
            lesions = [study.lesion] if study.lesion and side == study.side else []
            rng = np.random.default_rng((seed, 2, study.number, code))
            drawn = draw_outlined(shape, side, view, study.woman, lesions, rng)
            keys = f"{study.number},{study.number + 1},1"
            file = f"{study.folder}/img_{study.number}_{study.number + 1}_1_{name}.tif"
            _write_tiff(base / file, drawn.pixels)
            images.append(f"{keys}, {file} , {name},{code},{study.age},{density}")
            for outline in drawn.outlines:
                outlines += [
                    _outline_row(study, keys, segmentation, code + 1, file, outline, density)
                    for segmentation in range(1, 3 if subset == "F03" else 2)
                ]
    stem = f"bcdr_{subset.lower()}"
    write_text(base / f"{stem}_img.csv", "\n".join(images) + "\n")
    if "N" not in subset:
        write_text(base / f"{stem}_outlines.csv", "\n".join(outlines) + "\n")


def _outline_row(
    study: Study, keys: str, segmentation: int, view: int, file: str, outline: np.ndarray, density: str
) -> str:
    x, y = (" ".join(map(str, values)) for values in outline.T)
    truth = "Malign" if study.lesion.malignant else "Benign"
    flags = FLAGS[study.lesion.kind]
    return f"{keys},1,{segmentation},{view}, {file}, {x}, {y},1,{flags},{study.age},{density}, {truth} "


def _write_tiff(path: Path, pixels: np.ndarray) -> None:
    with replacing(path) as handle:
        tifffile.imwrite(handle, np.rint(pixels * 255).astype(np.uint8), photometric="minisblack", metadata=None)
