"""``labels.csv`` and ``findings.csv`` with the same pseudonyms as the images."""

import ast
from pathlib import Path

import pandas as pd

from mammoflow.datasets import base
from mammoflow.datasets.dicom_labels import BOX, IDENTITY, KEYS, VALUES
from mammoflow.errors import UserError
from mammoflow.pseudonymise.keys import Key
from mammoflow.pseudonymise.whitelist import OLDEST

NAME = "dicom_folder"
FINDING_COLUMNS = ["image_id", "finding_categories", "finding_birads", *BOX, "pathology"]


def finding_boxes(path: Path | None) -> dict[str, list[tuple[float, float, float, float]]]:
    """SOPInstanceUID -> boxes of its marked lesions, in stored pixels. Raises UserError for a broken table."""
    if path is None:
        return {}
    table = base.read_csv(path, ["image_id", *BOX], NAME).dropna(subset=BOX)
    corners = table[BOX].apply(pd.to_numeric, errors="coerce")
    if corners.isna().any(axis=None):
        row = int(corners.isna().any(axis=1).to_numpy().argmax()) + 1
        raise UserError(f"{path}, box {row}: its corners are not numbers, so that no lesion could be protected")
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for image_id, *box in zip(table["image_id"], *(corners[name].astype(float) for name in BOX), strict=True):
        boxes.setdefault(image_id, []).append(tuple(box))
    return boxes


def rewrite_findings(path: Path, images: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The table with new image ids and known columns only, and how many rows had no written image.

    images: ``image_id`` (old), ``new_image_id`` and more, one row per written image.
    """
    table = base.read_csv(path, ["image_id", "finding_categories"], NAME)
    new = table["image_id"].map(images.set_index("image_id")["new_image_id"])
    kept = table.assign(image_id=new)[[name for name in FINDING_COLUMNS if name in table]]
    kept["finding_categories"] = kept["finding_categories"].map(_categories, na_action="ignore")
    return _shuffled(kept[new.notna()]), int(new.isna().sum())


def rewrite_labels(path: Path, images: pd.DataFrame, key: Key) -> tuple[pd.DataFrame, int]:
    """As :func:`rewrite_findings` for ``labels.csv``, whichever of its keys it uses. Ages are capped, sites renamed."""
    table = base.read_csv(path, [], NAME)
    by = next((name for name in KEYS if name in table), None)
    if by is None:
        raise UserError(f"{path} has none of the columns {', '.join(KEYS)}: add the one that names your images")
    written = {
        "image_id": images.set_index("image_id")["new_image_id"],
        "file": _paths(images),
        "patient_id": images.drop_duplicates("patient_id").set_index("patient_id")["new_patient_id"],
    }
    names = table[by].str.replace("\\", "/").str.removeprefix("./") if by == "file" else table[by]
    known = names.map(written[by]).notna()
    kept = table[[name for name in (*KEYS, *IDENTITY, *VALUES) if name in table]].copy()
    kept = kept.loc[:, ~kept.columns.duplicated()]
    for name in KEYS:
        if name in kept:
            old = kept[name].str.replace("\\", "/").str.removeprefix("./") if name == "file" else kept[name]
            # A patient who is named beside an image's key need not be the header's.
            kept[name] = old.map(key.patient, na_action="ignore") if name == "patient_id" else old.map(written[name])
    for name, (_, words) in VALUES.items():
        if name in kept and words is not None:  # any other word could be a note
            kept[name] = kept[name].where(kept[name].str.lower().isin(list(words)).fillna(False).astype(bool))
    for name, pattern in (("laterality", r"(?i)[LR][A-Z]*"), ("view_position", r"[A-Z]{1,6}")):
        if name in kept:
            kept[name] = kept[name].where(kept[name].str.fullmatch(pattern).fillna(False).astype(bool))
    if "age" in kept:
        kept["age"] = base.parse_int(kept["age"], path).clip(upper=OLDEST)
    if "site" in kept:
        kept["site"] = kept["site"].map(lambda site: key.name("S", "site", site)[:9], na_action="ignore")
    return _shuffled(kept[known]), int((~known).sum())


def _shuffled(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by pseudonym: the rows' old order, by date perhaps, tells nothing any more."""
    return table.sort_values(list(table.columns), kind="stable", ignore_index=True)


def _paths(images: pd.DataFrame) -> pd.Series:
    """Old path, and old bare name where only one file has it -> new path."""
    names = images["path"].str.rsplit("/", n=1).str[-1]
    alone = ~names.duplicated(keep=False)
    by_name = dict(zip(names[alone], images["new_path"][alone], strict=True))
    return pd.Series(by_name | dict(zip(images["path"], images["new_path"], strict=True)), dtype="object")


def _categories(text: str) -> str:
    """Finding names of letters only; anything else could hold a note."""
    try:
        names = ast.literal_eval(text) if text.startswith("[") else text.replace(",", ";").split(";")
    except (SyntaxError, ValueError):
        names = []
    clean = [name.strip() for name in map(str, names) if name.strip().replace(" ", "").isalpha() and len(name) <= 40]
    return str(clean or ["Other"])
