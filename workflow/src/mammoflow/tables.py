"""The common schema: every table of the workflow, its columns, dtypes and allowed values, in one place.

Column names follow VinDr-Mammo's published CSVs where that archive has the column (Nguyen et al., Sci Data 2023); the
first sixteen columns of ``findings`` are VinDr's, in its order, so that code written for its files reads ours.

Conventions: ids are strings; boxes are float pixels of the image *as stored*, origin top left, half-open
(``xmax``/``ymax`` are the first pixel outside); NA means unknown, and is never a class.

pandas and pandera are imported by the functions that need them: a conversion job reads and writes its tables as plain
rows (:mod:`mammoflow.rows`) and would spend longer on the two imports than on its first ten images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammoflow.errors import UserError
from mammoflow.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

TEXT, INTEGER, NUMBER, FLAG = "string", "Int64", "Float64", "boolean"

LATERALITIES = ["L", "R"]
FORMATS = ["dicom", "ljpeg", "pgm", "tiff", "png", "jpeg"]
PHOTOMETRICS = ["MONOCHROME1", "MONOCHROME2"]
PRESENTATIONS = ["presentation", "processing", "film", "unknown"]
BIRADS = [f"BI-RADS {grade}" for grade in ["0", "1", "2", "3", "4", "4A", "4B", "4C", "5", "6"]]
DENSITIES = [f"DENSITY {grade}" for grade in "ABCD"]
# Native truth of an image or finding, before any policy. NEGATIVE: no cancer by follow-up, lesions unknown (RSNA).
PATHOLOGIES = ["MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK", "UNPROVEN", "NORMAL", "NEGATIVE"]
LABEL_SOURCES = ["pathology", "followup", "birads", "folder", "none"]
PSEUDO = "pseudo:"  # and the name of the run that labelled
LABEL_SCOPES = ["lesion", "breast", "image", "patient"]
CATEGORIES3 = ["normal", "benign", "recall"]
USES = ["labelled", "unlabelled", "excluded"]
GEOMETRIES = ["bbox", "polygon", "circle", "mask", "point", "none"]
STATUSES = ["ok", "failed", "skipped"]
SPLITS = ["train", "val", "test"]


@dataclass(frozen=True)
class Column:
    """dtype is a pandas nullable dtype; ``values`` lists the allowed words; ``required`` forbids NA."""

    dtype: str
    values: tuple[Any, ...] = ()
    required: bool = False
    prefix: str = ""  # words that begin with it are allowed beside ``values``


def _text(values: Iterable[str] = (), required: bool = False) -> Column:
    return Column(TEXT, tuple(values), required)


ID = Column(TEXT, required=True)
STRING, INT, FLOAT, BOOL = Column(TEXT), Column(INTEGER), Column(NUMBER), Column(FLAG)
BINARY = Column(INTEGER, (0, 1))

# One row per image of the archive, present on disk or not.
IMAGES: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,  # unique within the dataset
    "study_id": ID,
    "series_id": STRING,
    "patient_id": ID,
    "path": STRING,  # relative to the archive's root; NA where the file is absent
    "member": STRING,  # frame number or file inside an archive
    "file_format": _text(FORMATS),
    "laterality": _text(LATERALITIES),
    "view_position": STRING,  # CC, MLO, or the native word
    "height": INT,  # pixels as stored; NA where only the pixels would tell
    "width": INT,
    "bits_stored": INT,
    "photometric": _text(PHOTOMETRICS),
    "transfer_syntax": STRING,
    "pixel_spacing_mm": FLOAT,
    "presentation": _text(PRESENTATIONS),
    "manufacturer": STRING,
    "machine": STRING,
    "age": INT,  # years
    "implant": BINARY,
    "breast_birads": _text(BIRADS),
    "breast_density": _text(DENSITIES),
    "density_native": STRING,
    "pathology": _text(PATHOLOGIES),  # native truth; the label policy turns it into the next columns
    "label_malignant": BINARY,
    "label_3cat": _text(CATEGORIES3),
    "label_source": _text(LABEL_SOURCES),
    "label_scope": _text(LABEL_SCOPES),
    "uncertain": STRING,  # reason word, such as benign_without_callback
    "findings_elsewhere": INT,  # lesions of this picture that its archive lists with another copy of it
    "split_official": _text(["training", "test"]),
    "group_id": ID,  # what a split may not cut, after merging known duplicates; carries the dataset's name
    "site": STRING,
    "use": _text(USES, required=True),
    "excluded_reason": STRING,
    "source_size": INT,  # bytes; with the time of change the key by which a changed file is noticed
    "source_mtime_ns": INT,
    "md5": STRING,  # only where the archive publishes it; convert computes sha256
}

# One row per annotated finding.
FINDINGS: dict[str, Column] = {
    "image_id": ID,
    "study_id": ID,
    "series_id": STRING,
    "laterality": _text(LATERALITIES),
    "view_position": STRING,
    "height": INT,
    "width": INT,
    "breast_birads": _text(BIRADS),
    "breast_density": _text(DENSITIES),
    "finding_categories": STRING,  # Python list literal, as VinDr: "['Mass', 'Skin Retraction']"
    "finding_birads": _text(BIRADS),
    "xmin": FLOAT,
    "ymin": FLOAT,
    "xmax": FLOAT,
    "ymax": FLOAT,
    "split": _text(["training", "test"]),
    # Ours from here.
    "dataset": ID,
    "finding_id": ID,  # unique within the dataset
    "patient_id": ID,
    "finding_native": STRING,
    "pathology": _text(PATHOLOGIES),
    "label_malignant": BINARY,
    "geometry": _text(GEOMETRIES, required=True),
    "points": STRING,  # JSON: polygon [[x, y], ...]; circle [[x, y], [radius]]; mask: list of such polygons (from crop)
    "mask_path": STRING,  # relative to the archive's root
    "subtlety": INT,
    "attributes": STRING,  # JSON object of what has no column
}

# One row per exam (study).
EXAMS: dict[str, Column] = {
    "dataset": ID,
    "study_id": ID,
    "patient_id": ID,
    "group_id": ID,
    "n_images": INT,
    "views": STRING,  # LCC;LMLO;RCC;RMLO
    "complete_4view": BINARY,
    "age": INT,
    "site": STRING,
    "label_malignant_L": BINARY,
    "label_malignant_R": BINARY,
    "label_malignant": BINARY,
    "label_3cat": _text(CATEGORIES3),
    "breast_density": _text(DENSITIES),
    "split_official": _text(["training", "test"]),
}

# From stored pixels (x, y) to the working image: subtract crop_x0/crop_y0, mirror within the crop if flip, scale, pad.
GEOMETRY: dict[str, Column] = {
    "stored_height": INT,
    "stored_width": INT,
    "crop_x0": INT,
    "crop_y0": INT,
    "crop_x1": INT,
    "crop_y1": INT,
    "flip": BOOL,
    "scale_x": FLOAT,
    "scale_y": FLOAT,
    "pad_left": INT,
    "pad_top": INT,
    "out_height": INT,
    "out_width": INT,
}

# Numbers about an image to filter by: mammoflow.imaging.quality.Measures says what each means. NA: no breast found.
QUALITY: dict[str, Column] = {
    "breast_fraction": FLOAT,
    "background_level": FLOAT,
    "breast_level": FLOAT,
    "background_excess": FLOAT,
    "contrast": FLOAT,
    "saturation_fraction": FLOAT,
    "noise_score": FLOAT,
    "text_score": FLOAT,
    "implant_score": FLOAT,
    "straight_edge_score": FLOAT,
    "cut_off_fraction": FLOAT,
    "box_fill": FLOAT,
    "side_score": FLOAT,
}

_LEDGER_COMMON: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,
    "patient_id": ID,
    "status": _text(STATUSES, required=True),
    "error": STRING,
    "recipe": ID,
    "path": STRING,  # relative to the store
    "decoder": STRING,
    "transfer_syntax": STRING,
    "window": STRING,  # JSON: function, center, width, index, and the grey range used
    "seconds": FLOAT,
    "flags": STRING,  # words joined by ;
}

# One row per image of a shard. source_* is the key of the file that was read.
CONVERT_LEDGER: dict[str, Column] = {
    **_LEDGER_COMMON,
    "source_size": INT,
    "source_mtime_ns": INT,
    "source_sha256": STRING,
    "header_spacing_mm": FLOAT,  # between the rows, by the header; NA where it does not say
    **GEOMETRY,
    **QUALITY,
}

# One row per finding of a shard: the lesion's box and the window cut round it, both in stored pixels.
CROP_LEDGER: dict[str, Column] = {
    **_LEDGER_COMMON,
    "finding_id": ID,
    "xmin": FLOAT,
    "ymin": FLOAT,
    "xmax": FLOAT,
    "ymax": FLOAT,
    "roi_x0": INT,
    "roi_y0": INT,
    "roi_x1": INT,
    "roi_y1": INT,
    "outline_path": STRING,  # relative to the store: the lesion as 0/255 in the crop's pixels
    "points": STRING,  # outline of a mask file in stored pixels, as in findings
}

# One row per image, ready for training; rows that are left out keep their place and say why.
MANIFEST: dict[str, Column] = {
    **{name: column for name, column in IMAGES.items() if name not in ("path", "use", "excluded_reason", "md5")},
    "source_path": STRING,  # relative to the archive's root
    "image_path": STRING,  # relative to the store
    "label_source": Column(TEXT, tuple(LABEL_SOURCES), prefix=PSEUDO),  # pseudo:<run>, only ever in split train
    "label_policy": ID,  # the policy's recipe
    "split": _text(SPLITS),
    "fold": INT,  # 0.. within train
    "exclude_reason": STRING,  # NA: the row takes part
    "finding_categories": STRING,  # union over the image's findings, list literal
    "n_findings": INT,
    "source_sha256": STRING,
    "flags": STRING,
    **GEOMETRY,
    **QUALITY,
}

# The findings of a manifest, with boxes in pixels of the working image beside those of the stored one.
MANIFEST_FINDINGS: dict[str, Column] = {
    **FINDINGS,
    "roi_path": STRING,  # relative to the store
    "roi_outline_path": STRING,  # relative to the store
    "out_xmin": FLOAT,
    "out_ymin": FLOAT,
    "out_xmax": FLOAT,
    "out_ymax": FLOAT,
    "flags": STRING,
}

# Scores of one run: one row per image, breast or patient.
PREDICTIONS: dict[str, Column] = {
    "level": _text(["image", "breast", "patient"], required=True),
    "unit_id": ID,  # image_id, study_id|laterality or patient_id, each after "dataset|"
    "dataset": ID,
    "image_id": STRING,
    "patient_id": ID,
    "study_id": STRING,  # NA at level patient, who may have several
    "group_id": ID,
    "laterality": _text(LATERALITIES),
    "view_position": STRING,
    "split": _text(SPLITS, required=True),
    "fold": INT,  # train rows: the fold whose model never saw the patient (out of fold)
    "label_malignant": BINARY,  # breasts and patients: mammoflow.unit_labels
    "score": FLOAT,  # probability of malignancy; val and test: mean over the folds' models
    "attention": FLOAT,  # images: share of the breast's attention that lies on this image, 0..1; NA where not written
    "score_roi": FLOAT,  # images: highest probability of a lesion in the heat map; NA where no box was learned from
}

# One row per breast: the image score beside the metadata-only floor and their fusion. Train rows are out of fold.
FUSED: dict[str, Column] = {
    "unit_id": ID,
    "dataset": ID,
    "patient_id": ID,
    "study_id": ID,
    "group_id": ID,
    "laterality": _text(LATERALITIES),
    "split": _text(SPLITS, required=True),
    "fold": INT,
    "label_malignant": BINARY,
    "score_image": FLOAT,
    "score_metadata": FLOAT,
    "score_fused": FLOAT,
    "score_calibrated": FLOAT,  # score_fused as a probability, calibrated on val
}

# Places that a run's maps point to, highest score first within an image. Coordinates in pixels of the working image.
CANDIDATES: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,
    "rank": Column(INTEGER, required=True),  # 0 is the image's highest
    "patient_id": ID,
    "group_id": ID,
    "split": _text(SPLITS, required=True),
    "fold": INT,
    "score": Column(NUMBER, required=True),  # mean probability of the hottest quarter of the region
    "x": Column(NUMBER, required=True),  # centre of mass of the probability
    "y": Column(NUMBER, required=True),
    "xmin": Column(NUMBER, required=True),  # of its region, half-open
    "ymin": Column(NUMBER, required=True),
    "xmax": Column(NUMBER, required=True),
    "ymax": Column(NUMBER, required=True),
    "class_name": STRING,  # segment: the most probable lesion class of the region
    "hits": STRING,  # finding_id of the target lesion whose outline holds x, y
    "excused": Column(FLAG, required=True),  # points into a lesion that is no target and no background
}

# The marked lesions that candidates should find, on images whose lesions are all marked.
TARGETS: dict[str, Column] = {
    "dataset": ID,
    "finding_id": ID,
    "image_id": ID,
    "patient_id": ID,
    "group_id": ID,
    "split": _text(SPLITS, required=True),
    "fold": INT,
    "drawn": _text(["polygon", "circle", "mask", "box"], required=True),
    "kind": _text(["mass", "calcification", "other"], required=True),
    "class_name": STRING,  # segment: in the run's class set; NA where it has no name there
    "label_malignant": BINARY,
    "size_mm": FLOAT,  # longer side of its box
    "target": Column(FLAG, required=True),  # counts for sensitivity
    "score": FLOAT,  # of the best candidate that hits it; NA where none does
    "dice": FLOAT,  # segment: with the predicted regions that touch it
    "dice_roi": FLOAT,  # segment, sampling roi: seen through a window around it
}

# One row per image that was measured, and class of the run's set: pixels of the packed image.
OVERLAPS: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,
    "class_name": ID,  # "any" is all classes but background
    "patient_id": ID,
    "group_id": ID,
    "split": _text(SPLITS, required=True),
    "fold": INT,
    "true_px": INT,  # NA for a run that draws nothing
    "predicted_px": INT,
    "both_px": INT,
}

# What a trained fold has seen, its sources included: whoever starts from it must not hold these patients out.
SEEN: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,
    "patient_id": ID,
    "group_id": ID,
    "source_sha256": STRING,
    "role": _text(["train", "val"], required=True),  # fitted on, or only looked at to choose the epoch
    "run": ID,
}

# Where each image lies in a pack, and how the working image was placed in it (pixels of the packed image).
PACK_INDEX: dict[str, Column] = {
    "dataset": ID,
    "image_id": ID,
    "image_path": ID,  # relative to the store: which working image was packed
    "member": ID,  # name inside the tar
    "shard": ID,  # file name of the tar
    "offset": Column(INTEGER, required=True),  # of the member's first byte in the tar
    "size": Column(INTEGER, required=True),  # bytes
    "crc32": Column(INTEGER, required=True),
    "height": Column(INTEGER, required=True),  # pixels of the packed image, padding included
    "width": Column(INTEGER, required=True),
    "content_height": Column(INTEGER, required=True),  # pixels that the working image fills
    "content_width": Column(INTEGER, required=True),
    "scale_x": Column(NUMBER, required=True),  # packed = working * scale + offset
    "scale_y": Column(NUMBER, required=True),
    "offset_x": Column(INTEGER, required=True),
    "offset_y": Column(INTEGER, required=True),
}

KEYS: dict[str, list[str]] = {
    "images": ["dataset", "image_id"],
    "findings": ["dataset", "finding_id"],
    "exams": ["dataset", "study_id"],
    "convert_ledger": ["dataset", "image_id"],
    "crop_ledger": ["dataset", "finding_id"],
    "manifest": ["dataset", "image_id"],
    "manifest_findings": ["dataset", "finding_id"],
    "predictions": ["level", "unit_id"],
    "fused": ["unit_id"],
    "pack_index": ["dataset", "image_id"],
    "candidates": ["dataset", "image_id", "rank"],
    "targets": ["dataset", "finding_id"],
    "overlaps": ["dataset", "image_id", "class_name"],
    "seen": ["run", "dataset", "image_id"],
}
TABLES: dict[str, dict[str, Column]] = {
    "images": IMAGES,
    "findings": FINDINGS,
    "exams": EXAMS,
    "convert_ledger": CONVERT_LEDGER,
    "crop_ledger": CROP_LEDGER,
    "manifest": MANIFEST,
    "manifest_findings": MANIFEST_FINDINGS,
    "predictions": PREDICTIONS,
    "fused": FUSED,
    "pack_index": PACK_INDEX,
    "candidates": CANDIDATES,
    "targets": TARGETS,
    "overlaps": OVERLAPS,
    "seen": SEEN,
}


def dtypes(table: str) -> dict[str, str]:
    """Column -> pandas dtype: ``pd.read_csv(path, dtype=dtypes("images"))`` keeps ids as text."""
    return {name: column.dtype for name, column in TABLES[table].items()}


def finish(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Bring a frame to the schema of ``table``: add missing columns as NA, order, cast, sort by key, validate.

    Columns that the schema does not know are refused with ValueError, since a silent drop would hide a typing error.
    Raises UserError (with the column, the values and how many) where a value is not allowed or a key is not unique.
    """
    import pandas as pd

    columns = TABLES[table]
    unknown = [name for name in frame.columns if name not in columns]
    if unknown:
        raise ValueError(f"{table}: columns not in the schema: {unknown}")
    data = {
        name: (frame[name] if name in frame else pd.Series(pd.NA, index=frame.index)).astype(column.dtype)
        for name, column in columns.items()
    }
    finished = pd.DataFrame(data, index=frame.index).sort_values(KEYS[table], kind="stable").reset_index(drop=True)
    return validate(table, finished)


def validate(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Check a finished frame against its schema. Returns it; raises UserError that names the offending values."""
    import pandera.pandas as pa

    try:
        return _pandera_schema(table).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        first = cases.iloc[0]
        shown = ", ".join(repr(case) for case in cases.loc[cases["check"] == first["check"], "failure_case"].head(3))
        where = first["column"] if isinstance(first["column"], str) else "/".join(KEYS[table])
        raise UserError(
            f"table {table}, column {where}: {first['check']} fails for {shown} ({len(cases)} values in all)"
        ) from None


def _pandera_schema(table: str) -> pa.DataFrameSchema:
    import pandera.pandas as pa

    columns = {
        name: pa.Column(
            column.dtype,
            checks=_allowed(column),
            nullable=not column.required,
        )
        for name, column in TABLES[table].items()
    }
    return pa.DataFrameSchema(columns, strict=True, ordered=True, unique=KEYS[table])


def _allowed(column: Column) -> list[pa.Check]:
    import pandera.pandas as pa

    if not column.values:
        return []
    if not column.prefix:
        return [pa.Check.isin(list(column.values))]
    words = "|".join(map(re.escape, column.values))
    return [pa.Check.str_matches(rf"(?:{words}|{re.escape(column.prefix)}.+)$")]


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write parquet (zstd) or CSV by the suffix of ``path``, atomically. CSV: UTF-8, comma, LF, NA empty."""
    path = Path(path)
    with replacing(path) as handle:
        if path.suffix == ".parquet":
            frame.to_parquet(handle, index=False, compression="zstd")
        elif path.suffix == ".csv":
            frame.to_csv(handle, index=False, lineterminator="\n")
        else:
            raise ValueError(f"unknown table format: {path}")


def read(path: Path, table: str) -> pd.DataFrame:
    """Read a table written by :func:`write`, with the dtypes of ``table``. UserError where it is unreadable."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the step that writes it first")
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=dtypes(table), keep_default_na=False, na_values=[""])
        else:
            frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a {table} table ({error}): delete it and run again") from None
    missing = [name for name in TABLES[table] if name not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: it is not a {table} table of this version")
    return frame[list(TABLES[table])].astype(dtypes(table))


def list_literal(words: Iterable[str]) -> str:
    """VinDr's spelling of categories: a Python list literal with single quotes."""
    return str(list(words))


def to_json(value: Any) -> str:
    """Compact JSON for a table's cell."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
