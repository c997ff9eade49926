"""The two tables that a hospital may put beside its DICOM tree: ``labels.csv`` and ``findings.csv``.

``labels.csv``: one row per image, breast or patient; the first of these columns that exists is the key

``image_id``    SOPInstanceUID
``file``        path below the root, or the file's name where it is unique
``patient_id``  PatientID, with ``laterality`` (L or R) for a breast and without it for all images of a patient

and any of these columns; an empty cell is unknown, and columns of other names are passed over with a warning:

``pathology``  malignant, benign, normal, or another word of ``tables.PATHOLOGIES``, in any case of letters
``birads``     0 to 6, 4a, 4b, 4c
``density``    A to D, or 1 to 4
``age``        years           ``site``   any word           ``split``  training or test
``laterality``, ``view_position``, ``patient_id``   beside ``image_id`` or ``file``: win over the header

A row whose image is not on disk becomes an image that is missing; a patient without images is passed over with a
warning. A pathology that holds for a whole patient marks both breasts: give ``laterality`` wherever it is known.
"""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.datasets import base
from mammoflow.errors import UserError
from mammoflow.tables import list_literal

LOG = logging.getLogger(__name__)
NAME = "dicom_folder"
LABELS, FINDINGS = "labels.csv", "findings.csv"
KEYS = ("image_id", "file", "patient_id")
IDENTITY = ("laterality", "view_position", "patient_id")
BOX = ["xmin", "ymin", "xmax", "ymax"]
NO_FINDING = "No Finding"

SIDES = {"L": "L", "R": "R"}
PATHOLOGIES = {word.lower(): word for word in tables.PATHOLOGIES}
BIRADS = {word.removeprefix("BI-RADS ").lower(): word for word in tables.BIRADS}
BIRADS |= {word.lower(): word for word in tables.BIRADS}
DENSITIES = {name: f"DENSITY {letter}" for number, letter in enumerate("ABCD", 1)
             for name in (letter.lower(), str(number), f"density {letter.lower()}")}  # fmt: skip
SPLITS = {"training": "training", "train": "training", "test": "test"}
# Column of labels.csv -> column of images and its words (None: any text).
VALUES = {
    "pathology": ("pathology", PATHOLOGIES),
    "birads": ("breast_birads", BIRADS),
    "density": ("breast_density", DENSITIES),
    "split": ("split_official", SPLITS),
    "site": ("site", None),
    "age": ("age", None),
}


def add_labels(images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """``images`` with the truth of ``labels.csv``, and a row for each image that only the table knows.

    Raises UserError where no key column exists, a key is given twice, a word is unknown or nothing matches.
    """
    table, key = _read_labels(path)
    joined = {"image_id": _by_image_id, "file": _by_file, "patient_id": _by_patient}[key](table, images, path)
    matched = joined[joined["row"].notna()]
    if matched.empty:
        raise UserError(
            f"{path}: no row belongs to an image of this directory (key {key!r}, first value "
            f"{table[key].iloc[0]!r}): compare it with the ids that the inventory lists"
        )
    own = table.loc[matched["row"]].set_axis(matched.index)
    images = images.copy()
    for name in [*IDENTITY, *VALUES]:
        column = VALUES[name][0] if name in VALUES else name
        # Where patient and laterality are the key, they only repeat what the header says.
        if name in table and not (key == "patient_id" and name in IDENTITY):
            given = own[name].reindex(images.index)
            images[column] = given.fillna(images[column]) if column in images else given
    images.loc[matched.index, "label_scope"] = matched["scope"]
    if key == "patient_id":
        return images
    unseen = table.loc[table.index.difference(matched["row"])]
    if len(unseen):
        LOG.warning("%s: %d images of the table are not on disk, the first is %s",
                    path, len(unseen), unseen[key].iloc[0])  # fmt: skip
    return pd.concat([images, _missing(unseen, key)], ignore_index=True)


def _read_labels(path: Path) -> tuple[pd.DataFrame, str]:
    """The table in our words, unknown columns dropped, and the name of its key column."""
    frame = base.read_csv(path, [], NAME)
    key = next((name for name in KEYS if name in frame), None)
    if key is None:
        raise UserError(f"{path} has none of the columns {', '.join(KEYS)}: add the one that names your images")
    strange = [name for name in frame if name not in (*KEYS, *IDENTITY, *VALUES)]
    if strange:
        LOG.warning("%s: the columns %s are not known and are passed over", path, ", ".join(strange))
    base.require_values(frame, [key], path)
    if not set(frame) & set(VALUES):
        raise UserError(f"{path} has none of the columns {', '.join(VALUES)}: it says nothing about its images")
    if "laterality" in frame:
        frame["laterality"] = base.map_words(frame["laterality"].str.upper().str[:1], SIDES, path)
    for name, (_, words) in VALUES.items():
        if name in frame and words is not None:
            frame[name] = base.map_words(frame[name].str.lower(), words, path)
    if "age" in frame:
        frame["age"] = base.parse_int(frame["age"], path)
    unique = [key, "laterality"] if key == "patient_id" and "laterality" in frame else [key]
    repeated = frame[frame.duplicated(unique)]
    if len(repeated):
        raise UserError(f"{path} names {' '.join(repeated.iloc[0][unique].dropna())} twice: keep one row for each")
    return frame.drop(columns=strange), key


# The joins: for each image (same index) the label of its row in the table, or NA, and the scope of the truth.


def _by_image_id(table: pd.DataFrame, images: pd.DataFrame, path: Path) -> pd.DataFrame:
    rows = pd.Series(table.index, index=table["image_id"])
    return pd.DataFrame({"row": images["image_id"].map(rows), "scope": "image"}, index=images.index)


def _by_file(table: pd.DataFrame, images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """By the path below the root; a bare name counts where only one file has it."""
    rows = pd.Series(table.index, index=table["file"].str.replace("\\", "/").str.removeprefix("./"))
    if rows.index.has_duplicates:
        raise UserError(f"{path} names {rows.index[rows.index.duplicated()][0]} twice: keep one row for each")
    names = images["path"].str.rsplit("/", n=1).str[-1]
    shared = names[names.isin(rows.index) & names.duplicated(keep=False) & images["path"].str.contains("/")]
    if len(shared):
        raise UserError(
            f"{path}: several files are named {shared.iloc[0]}; write their paths below {path.parent} in column 'file'"
        )
    matched = images["path"].map(rows)
    return pd.DataFrame({"row": matched.fillna(names.map(rows)), "scope": "image"}, index=images.index)


def _by_patient(table: pd.DataFrame, images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """By breast, else by patient. A breast's own row wins over the patient's."""
    sides = table["laterality"] if "laterality" in table else pd.Series(pd.NA, index=table.index, dtype="string")
    breast = {(patient, side): row for row, patient, side in zip(table.index, table["patient_id"], sides, strict=True)
              if not pd.isna(side)}  # fmt: skip
    whole = pd.Series(table.index[sides.isna()], index=table.loc[sides.isna(), "patient_id"])
    by_breast = pd.Series(
        [breast.get(pair) for pair in zip(images["patient_id"], images["laterality"].fillna(""), strict=True)],
        index=images.index,
        dtype="Int64",
    )
    rows = by_breast.fillna(images["patient_id"].map(whole).astype("Int64"))
    unseen = sorted(set(table["patient_id"]) - set(images["patient_id"]))
    if unseen:
        LOG.warning("%s: %d patients have no image here, the first is %s", path, len(unseen), unseen[0])
    scope = by_breast.notna().map({True: "breast", False: "patient"})
    return pd.DataFrame({"row": rows, "scope": scope}, index=images.index)


def _missing(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Rows of ``images`` for images that are in the table only."""
    image_ids = table[key]
    patients = table["patient_id"] if "patient_id" in table else pd.Series(pd.NA, index=table.index, dtype="string")
    patients = patients.fillna("unknown_" + image_ids)
    values = {VALUES[name][0]: table[name] for name in VALUES if name in table}
    known = {name: table[name] for name in ("laterality", "view_position") if name in table}
    return pd.DataFrame({
        "dataset": NAME, "image_id": image_ids, "study_id": "study_of_" + image_ids, "patient_id": patients,
        "path": pd.NA, "file_format": "dicom", "label_scope": "image", "use": "excluded", **known, **values,
    })  # fmt: skip


def read_findings(path: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Boxes of ``findings.csv`` (half-open, pixels of the stored image), clipped to the frame where its size is known.

    Rows of ``No Finding`` are no findings. Raises UserError for an image that is not listed, a box that is none or
    lies outside, or an unknown word.
    """
    table = base.read_csv(path, ["image_id", "finding_categories", *BOX], NAME)
    base.require_values(table, ["image_id", "finding_categories"], path)
    table = table[~table["finding_categories"].str.contains(NO_FINDING, regex=False)].reset_index(drop=True)
    strangers = table.loc[~table["image_id"].isin(images["image_id"]), "image_id"]
    if len(strangers):
        raise UserError(f"{path} marks image {strangers.iloc[0]!r}, which is not here: correct its image_id "
                        "(the SOPInstanceUID)")  # fmt: skip
    known = images.set_index("image_id").reindex(columns=["study_id", "series_id", "patient_id", "laterality",
                                                          "view_position", "height", "width", "breast_birads",
                                                          "breast_density", "split_official"])  # fmt: skip
    own = known.loc[table["image_id"]].reset_index().rename(columns={"split_official": "split"})
    words = {"finding_birads": BIRADS, "pathology": PATHOLOGIES}
    given = {name: base.map_words(table[name].str.lower(), words[name], path) for name in words if name in table}
    return own.assign(
        dataset=NAME,
        finding_id=table["image_id"] + "_" + (table.groupby("image_id").cumcount() + 1).astype("string"),
        finding_categories=[list_literal(_names(text)) for text in table["finding_categories"]],
        finding_native=table["finding_categories"],
        geometry="bbox",
        **given,
        **_boxes(table, own, path),
    )


def _names(text: str) -> list[str]:
    """``"['Mass', 'Asymmetry']"`` or plain ``Mass;Asymmetry`` as a list."""
    return [name for word in text.strip("[]").replace(";", ",").split(",") if (name := word.strip(" '\""))]


def _boxes(table: pd.DataFrame, own: pd.DataFrame, path: Path) -> dict[str, Any]:
    given = {name: pd.to_numeric(table[name], errors="coerce").astype("Float64") for name in BOX}
    limits = {"x": own["width"].astype("Float64"), "y": own["height"].astype("Float64")}
    boxes = {
        name: values.clip(lower=0).clip(upper=limits[name[0]].fillna(float("inf"))) for name, values in given.items()
    }
    good = (boxes["xmax"] > boxes["xmin"]) & (boxes["ymax"] > boxes["ymin"])
    bad = table[~good.fillna(False).astype(bool)]
    if len(bad):
        raise UserError(
            f"{path}, data row {bad.index[0] + 1}: the box of image {bad['image_id'].iloc[0]} is incomplete, empty or "
            "outside the image; give xmin, ymin, xmax, ymax in pixels of the stored image"
        )
    return boxes
