"""Synthetic CBIS-DDSM: the four description tables and the DICOM tree, with their known traps.

As in the archive (TCIA, doi:10.7937/K9/TCIA.2016.7O02S9CY): Secondary Capture in Implicit VR Little Endian,
MONOCHROME2, 16 bit stretched to 0..65535 without window or spacing; a crop and a mask per lesion in either order, under
a series description that means nothing, now and then in two series; a mask whose size is not the mammogram's; file
names in the tables that are on no disk; a line break inside the quotes of a path; PatientIDs that are folder names,
some of calc-test with ``.dcm`` at their end; patients in both official splits once the two kinds are joined.
"""

import csv
import io
from pathlib import Path

import cv2
import numpy as np

from mammoflow.files import write_text
from mammoflow.phantom.anatomy import Lesion, View, draw_breast, outline, place_lesion
from mammoflow.phantom.cbis_ddsm_files import LAYOUTS, Series, new_uid, write_listings, write_series
from mammoflow.phantom.cbis_ddsm_plan import Abnormality, Breast, plan

__all__ = ["LAYOUTS", "write"]

SHAPES = {"small": (640, 426), "full": (4600, 3000)}
DATES = {
    ("Mass", "Training"): "20160720",
    ("Mass", "Test"): "20161004",
    ("Calc", "Training"): "20160807",
    ("Calc", "Test"): "20170829",
}
FULL_MAMMOGRAM, DESCRIPTIONS = "full mammogram images", ("cropped images", "ROI mask images")
DESCRIPTORS = {"Mass": ("mass shape", "mass margins"), "Calc": ("calc type", "calc distribution")}


def write(root: Path, patients: int, seed: int, size: str = "small", layout: str = LAYOUTS[0]) -> None:
    """Write the archive into ``root``.

    size: ``small`` draws mammograms of about 640x426 pixels, ``full`` of about 4600x3000 (27 MB each).  layout: one of
    ``LAYOUTS``, explained in :mod:`mammoflow.phantom.cbis_ddsm_files`.
    """
    root = Path(root)
    tables: dict[tuple[str, str], list[dict[str, object]]] = {key: [] for key in DATES}
    listing = []
    for number, breast in enumerate(plan(patients, seed)):
        for view_number, view in enumerate(breast.views):
            rng = np.random.default_rng((seed, 2, number, view_number))
            drawn = draw_view(breast, view, SHAPES[size], rng)
            for table, split in breast.splits.items():
                chosen = [k for k, lesion in enumerate(breast.abnormalities) if lesion.table == table]
                masks = [drawn.lesion_masks[k] for k in chosen]
                lesions = [breast.abnormalities[k] for k in chosen]
                first_view = view_number == 0
                series, rows = _export(breast, view, table, split, lesions, drawn.pixels, masks, first_view, rng)
                listing += [write_series(root, one, layout, rng) for one in series]
                tables[table, split] += rows
    folder = root / "csv" if layout == "kaggle_jpeg" else root
    for (table, split), rows in tables.items():
        name = f"{table.lower()}_case_description_{'train' if split == 'Training' else 'test'}_set.csv"
        write_text(folder / name, _table(table, rows))
    write_listings(root, listing, layout)


def draw_view(breast: Breast, view: str, shape: tuple[int, int], rng: np.random.Generator) -> View:
    """One film of a breast; ``lesion_masks`` in the order of its abnormalities."""
    height, width = (round(side * rng.uniform(0.97, 1.03)) for side in shape)
    shape, side, woman = (height, width), breast.side[0], breast.woman
    reach = outline(shape, side, view, woman).nipple[0]
    lesions: list[Lesion] = []
    for lesion in breast.abnormalities:
        x, y, radius = place_lesion(
            rng,
            shape,
            side,
            view,
            woman=woman,
            radius=lesion.radius * reach,
            depth=lesion.depth,
            chest_wall=breast.chest_wall,
            avoid=lesions,
        )
        lesions.append(Lesion(lesion.kind, lesion.malignant, x, y, radius, lesion.contrast))
    drawn = draw_breast(
        shape,
        side,
        view,
        woman.density,
        lesions,
        rng,
        woman=woman,
        marker=f"{side} {view}",
        chest_wall=breast.chest_wall,
    )
    _add_film_frame(drawn.pixels, drawn.breast_mask, rng)
    return drawn


def _add_film_frame(pixels: np.ndarray, breast: np.ndarray, rng: np.random.Generator) -> None:
    """The bright edge of the light box beside the film, with the film's round corners, away from the chest wall."""
    height, width = pixels.shape
    at_right = bool(breast[:, 0].sum() > breast[:, -1].sum())
    thick, corner = width * rng.uniform(0.005, 0.012), width * 0.035
    columns = np.arange(width, dtype=np.float32)[None, :]
    outer = (width - 1 - columns if at_right else columns) - thick
    rows = np.arange(height, dtype=np.float32)[:, None]
    end = np.minimum(rows, height - 1 - rows)
    rounded = (outer < corner) & (end < corner) & (np.hypot(outer - corner, end - corner) > corner)
    pixels[((outer < 0) | rounded) & ~breast] = 1.0


def _export(
    breast: Breast,
    view: str,
    table: str,
    split: str,
    lesions: list[Abnormality],
    pixels: np.ndarray,
    masks: list[np.ndarray],
    first_view: bool,
    rng: np.random.Generator,
) -> tuple[list[Series], list[dict[str, object]]]:
    """The series of one mammogram and its lesions in one table, and the table's rows."""
    folder = f"{table}-{split}_{breast.patient}_{breast.side}_{view}"
    grey = np.round(pixels * 65535).astype(np.uint16)
    full = _series(folder, table, split, FULL_MAMMOGRAM, [grey], breast.side, rng)
    found, rows = [full], []
    for number, (lesion, mask) in enumerate(zip(lesions, masks, strict=True), start=1):
        crop = _crop(grey, mask)
        white = mask.astype(np.uint8) * 255
        if breast.odd_mask and first_view:
            height, width = mask.shape
            white = cv2.resize(white, (round(width * 1.0105), round(height * 1.0138)), interpolation=cv2.INTER_NEAREST)
        name = f"{folder}_{number}"
        if breast.two_series:
            words = DESCRIPTIONS[::-1] if first_view else DESCRIPTIONS
            crop_series = _series(name, table, split, words[0], [crop], breast.side, rng)
            mask_series = _series(name, table, split, words[1], [white], breast.side, rng)
            found += [crop_series, mask_series]
        else:
            pair = [crop, white] if rng.random() < 0.75 else [white, crop]
            word = DESCRIPTIONS[int(rng.random() < 0.46)]
            crop_series = mask_series = _series(name, table, split, word, pair, breast.side, rng)
            found.append(crop_series)
        rows.append(_row(breast, view, table, number, lesion, full, crop_series, mask_series))
    return found, rows


def _crop(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = round(0.15 * max(np.ptp(rows), np.ptp(columns))) + 2
    return grey[
        max(0, rows[0] - margin) : rows[-1] + 1 + margin, max(0, columns[0] - margin) : columns[-1] + 1 + margin
    ].copy()


def _series(
    subject: str, table: str, split: str, description: str, instances: list[np.ndarray], side: str, rng
) -> Series:
    """A series with the header traps of calc-test: nearly all mammograms and half of the lesions have wrong fields."""
    full = description == FULL_MAMMOGRAM
    series = Series(subject, subject, new_uid(rng), new_uid(rng), DATES[table, split], description, "BREAST", instances)
    if (table, split) == ("Calc", "Test") and rng.random() < (0.87 if full else 0.46):
        series.patient_id = f"{subject.removeprefix('Calc-Test_')}.dcm"
        series.body_part = f"{side.title()} Breast"
        if full:
            series.description = series.date = ""
    return series


def _row(
    breast: Breast, view: str, table: str, number: int, lesion: Abnormality, full: Series, crop: Series, mask: Series
) -> dict[str, object]:
    """One row of a table. The paths end in the names of 2016 (000000.dcm), which no download tool writes today."""
    crop_file, mask_file = ("000000", "000001") if table == "Mass" else ("000001", "000000")
    if crop is not mask:
        crop_file = mask_file = "000000"
    crop_path, mask_path = _table_path(crop, crop_file), _table_path(mask, mask_file)
    if table == "Mass":
        mask_path += "\n"
    else:
        crop_path += "\n"
    return {
        "patient_id": breast.patient,
        "breast_density" if table == "Mass" else "breast density": breast.density,
        "left or right breast": breast.side,
        "image view": view,
        "abnormality id": number,
        "abnormality type": "mass" if table == "Mass" else "calcification",
        **dict(zip(DESCRIPTORS[table], lesion.words, strict=True)),
        "assessment": lesion.assessment,
        "pathology": lesion.pathology,
        "subtlety": lesion.subtlety,
        "image file path": _table_path(full, "000000"),
        "cropped image file path": crop_path,
        "ROI mask file path": mask_path,
    }


def _table_path(series: Series, file_name: str) -> str:
    return f"{series.subject}/{series.study_uid}/{series.series_uid}/{file_name}.dcm"


def _table(table: str, rows: list[dict[str, object]]) -> str:
    density = "breast_density" if table == "Mass" else "breast density"
    columns = ["patient_id", density, "left or right breast", "image view", "abnormality id", "abnormality type"]
    columns += [*DESCRIPTORS[table], "assessment", "pathology", "subtlety"]
    columns += ["image file path", "cropped image file path", "ROI mask file path"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
