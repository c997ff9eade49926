"""VinDr-Mammo 1.0.0 (PhysioNet; Nguyen et al., Sci Data 10:277, 2023).

Layout: ``breast-level_annotations.csv``, ``finding_annotations.csv``, ``metadata.csv`` (optional) and
``images/<study_id>/<image_id>.dicom``. The tables give side, view, size and labels of all 20,000 images, so no header
is opened. All ids are md5 digests, the UIDs in the files too (not valid UIDs; they are text to us).

There is no pathology: BI-RADS is a reader's opinion, so ``label_source`` is ``birads``. PatientID was removed; one exam
is taken as one patient, and is the group. Boxes are in pixels of the stored image; one that reaches beyond the frame is
clipped. Rows of ``No Finding`` say that an image has none; they are not findings.
"""

import ast
import logging
import re
from pathlib import Path

import pandas as pd

from mammoflow.datasets.base import (
    Detection,
    Inventory,
    files_by_stem,
    finish_inventory,
    map_words,
    mark_missing,
    parse_int,
    read_csv,
    require_directory,
    require_values,
    source_keys,
)
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.errors import UserError
from mammoflow.tables import list_literal, to_json

LOG = logging.getLogger(__name__)
NAME = "vindr_mammo"
BREASTS, FINDINGS, METADATA = "breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv"
IMAGES, SUFFIXES = "images", {".dicom", ".dcm"}
# Where `wget -r` of the archive's page and of its folders put the tables, below the directory it ran in.
PLACES = ["", "1.0.0", "vindr-mammo/1.0.0", "files/vindr-mammo/1.0.0", "physionet.org/files/vindr-mammo/1.0.0"]

BREAST_COLUMNS = [
    "study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
    "breast_density", "split",
]  # fmt: skip
BOX = ["xmin", "ymin", "xmax", "ymax"]
FINDING_COLUMNS = [*BREAST_COLUMNS, "finding_categories", "finding_birads", *BOX]

NO_FINDING = "No Finding"
CATEGORIES = [
    "Mass", "Suspicious Calcification", "Asymmetry", "Focal Asymmetry", "Global Asymmetry", "Architectural Distortion",
    "Skin Thickening", "Skin Retraction", "Nipple Retraction", "Suspicious Lymph Node",
]  # fmt: skip
SIDES = {"L": "L", "R": "R"}
BIRADS = {f"BI-RADS {grade}": f"BI-RADS {grade}" for grade in "12345"}
DENSITY = {f"DENSITY {grade}": f"DENSITY {grade}" for grade in "ABCD"}
SPLIT = {"training": "training", "test": "test"}


def detect(root: Path) -> Detection | None:
    """The archive, when ``breast-level_annotations.csv`` lies in ``root`` or where ``wget -r`` leaves it below."""
    base = _base(Path(root))
    if base is None:
        return None
    listed = _stems(read_csv(base / BREASTS, ["study_id", "image_id"], NAME))
    absent = len(listed) - int(listed.isin(files_by_stem(base, IMAGES, SUFFIXES)).sum())
    missing = [] if (base / FINDINGS).is_file() else [FINDINGS]
    if absent:
        missing.append(f"{absent} of {len(listed)} images of {BREASTS} below {IMAGES}/")
    return Detection(NAME, Path(root), len(listed) - absent, missing)


def inventory(root: Path) -> Inventory:
    """Tables of the archive at ``root``; see :class:`mammoflow.datasets.base.Adapter`."""
    root = require_directory(root, NAME, ARCHIVES[NAME].put_here)
    base = _base(root)
    if base is None:
        raise UserError(f"{root / BREASTS} does not exist: put {ARCHIVES[NAME].put_here} there")
    images = _images(base)
    prefix = base.relative_to(root).as_posix()
    if prefix != ".":
        images["path"] = prefix + "/" + images["path"]
    return finish_inventory(mark_missing(source_keys(images, root)), _findings(base, images))


def published_tables(inventory: Inventory) -> dict[str, pd.DataFrame]:
    """Tables 3 to 5 of the paper (Nguyen et al., Sci Data 2023) counted again; columns ``training``, ``test``, ``all``.

    ``birads`` and ``density`` count breasts (rows ``BI-RADS 1``.. and ``DENSITY A``..), ``findings`` counts boxes per
    category: a box with two categories counts in both.
    """
    breasts = inventory.images.drop_duplicates(["study_id", "laterality"])
    boxes = inventory.findings.assign(category=inventory.findings["finding_categories"].map(ast.literal_eval))
    return {
        "birads": _by_split(breasts, "breast_birads", "split_official", list(BIRADS)),
        "density": _by_split(breasts, "breast_density", "split_official", list(DENSITY)),
        "findings": _by_split(boxes.explode("category"), "category", "split", CATEGORIES),
    }


def _by_split(frame: pd.DataFrame, column: str, split: str, order: list[str]) -> pd.DataFrame:
    counts = frame.groupby([column, split]).size().unstack(fill_value=0)
    counts = counts.reindex(index=order, columns=list(SPLIT), fill_value=0).rename_axis(index=None, columns=None)
    return counts.assign(all=counts.sum(axis=1)).astype(int)


def _images(base: Path) -> pd.DataFrame:
    path = base / BREASTS
    table = read_csv(path, BREAST_COLUMNS, NAME)
    require_values(table, BREAST_COLUMNS, path)
    return pd.DataFrame({
        "dataset": NAME,
        "image_id": table["image_id"],
        "study_id": table["study_id"],
        "series_id": table["series_id"],
        "patient_id": table["study_id"],
        "group_id": NAME + ":" + table["study_id"],
        "path": _stems(table).map(files_by_stem(base, IMAGES, SUFFIXES)),
        "file_format": "dicom",
        "laterality": map_words(table["laterality"], SIDES, path),
        "view_position": table["view_position"],
        "height": parse_int(table["height"], path),
        "width": parse_int(table["width"], path),
        "breast_birads": map_words(table["breast_birads"], BIRADS, path),
        "breast_density": map_words(table["breast_density"], DENSITY, path),
        "density_native": table["breast_density"],
        "label_source": "birads",
        "label_scope": "breast",
        "split_official": map_words(table["split"], SPLIT, path),
        "use": "labelled",
    }).pipe(_add_metadata, base / METADATA)  # fmt: skip


def _add_metadata(images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Age, manufacturer and machine from the optional ``metadata.csv``, whose columns are DICOM attribute names."""
    if not path.is_file():
        return images
    table = read_csv(path, [], NAME)
    # "Patient's Age", "PatientAge" and "patient_age" are one name.
    table.columns = [re.sub(r"'s|[^a-z]", "", name.lower()) for name in table.columns]
    if "sopinstanceuid" not in table:
        raise UserError(f"{path} has no column 'SOP Instance UID': take the archive's unchanged file, or none")
    table = table.drop_duplicates("sopinstanceuid").set_index("sopinstanceuid").reindex(images["image_id"])
    table = table.set_axis(images.index)
    known = {
        "manufacturer": table.get("manufacturer"),
        "machine": table.get("manufacturermodelname"),
        "photometric": table.get("photometricinterpretation"),
    }
    if "patientage" in table:
        known["age"] = parse_int(table["patientage"].str.extract(r"^(\d+)Y?$")[0], path)
    return images.assign(**{name: column for name, column in known.items() if column is not None})


def _findings(base: Path, images: pd.DataFrame) -> pd.DataFrame:
    path = base / FINDINGS
    table = read_csv(path, FINDING_COLUMNS, NAME)
    require_values(table, ["image_id", "finding_categories"], path)
    words = {text: _categories(text, path) for text in table["finding_categories"].unique()}
    none = [text for text, names in words.items() if names == [NO_FINDING]]
    table = table[~table["finding_categories"].isin(none)]
    literal = {text: list_literal(names) for text, names in words.items()}
    strangers = table.loc[~table["image_id"].isin(images["image_id"]), "image_id"]
    if len(strangers):
        raise UserError(
            f"{path} marks image {strangers.iloc[0]!r}, which {BREASTS} does not list: take both files from one release"
        )
    own = images.set_index("image_id").loc[table["image_id"]].reset_index()
    table = table.reset_index(drop=True)
    findings = own[["image_id", "study_id", "series_id", "laterality", "view_position", "height", "width",
                    "breast_birads", "breast_density", "dataset", "patient_id"]].assign(
        split=own["split_official"],
        finding_id=table["image_id"] + "_" + (table.groupby("image_id").cumcount() + 1).astype("string"),
        finding_categories=table["finding_categories"].map(literal),
        finding_native=table["finding_categories"],
        finding_birads=map_words(table["finding_birads"], BIRADS, path),
    )  # fmt: skip
    return findings.join(_boxes(table, own, path))


def _boxes(table: pd.DataFrame, images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Boxes clipped to the frame; the native box goes to ``attributes``. One wholly outside has ``geometry`` none."""
    given = table[BOX].apply(lambda column: pd.to_numeric(column, errors="coerce")).astype("Float64")
    bad = given.isna().any(axis=1)
    if bad.any():
        raise UserError(
            f"{path}: a finding of image {table.loc[bad, 'image_id'].iloc[0]} has no complete box; "
            "put the archive's unchanged file there"
        )
    limit = {"x": images["width"].astype("Float64"), "y": images["height"].astype("Float64")}
    boxes = pd.DataFrame({name: given[name].clip(lower=0, upper=limit[name[0]]) for name in BOX})
    empty = (boxes["xmax"] <= boxes["xmin"]) | (boxes["ymax"] <= boxes["ymin"])
    if empty.any():
        LOG.warning("%s: %d boxes lie outside their image, the first on %s",
                    path, int(empty.sum()), table.loc[empty, "image_id"].iloc[0])  # fmt: skip
    clipped = (boxes != given).any(axis=1)
    native = [to_json({"box_native": row}) for row in given[clipped].to_numpy(float).tolist()]
    return boxes.mask(empty).assign(
        geometry=empty.map({True: "none", False: "bbox"}),
        attributes=pd.Series(native, index=given.index[clipped], dtype="string").reindex(given.index),
    )


def _categories(text: str, path: Path) -> list[str]:
    """``"['Mass', 'Skin Retraction']"`` as a list of known categories."""
    try:
        names = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        names = None
    if not isinstance(names, list) or not names or not set(names) <= {*CATEGORIES, NO_FINDING}:
        raise UserError(
            f"{path}, column 'finding_categories': {text!r} is not a list of known findings "
            f"(such as \"['Mass']\"); correct the table, or take the archive's unchanged file"
        )
    return names


def _base(root: Path) -> Path | None:
    return next((root / place for place in PLACES if (root / place / BREASTS).is_file()), None)


def _stems(table: pd.DataFrame) -> pd.Series:
    return IMAGES + "/" + table["study_id"] + "/" + table["image_id"]
