"""Tabular features of a breast, sorted by when they become known.

Metadata can be worth more than the picture: on CMMD the patient-id prefix and age reach AUC 0.839, above published
image models; on RSNA the column ``biopsy`` alone reaches 0.984, because it is written after the diagnosis. So a
feature is usable only if it is on the list of what exists before the reading, or, on request, at the reading.
"""

import ast
import difflib

import numpy as np
import pandas as pd

from mammoflow.errors import UserError
from mammoflow.tables import BIRADS, DENSITIES

# Known before anybody looks at the picture.
PRE_READ = {
    "age": "number",
    "implant": "number",
    "n_images": "number",
    "complete_views": "number",
    "pixel_spacing_mm": "number",
    "bits_stored": "number",
    "laterality": "category",
    "machine": "category",
    "manufacturer": "category",
    "site": "category",
    "dataset": "category",
    "photometric": "category",
    "presentation": "category",
}
# What a radiologist writes while reading.
READ = {
    "breast_birads": "number",
    "breast_density": "number",
    "finding_birads": "number",
    "finding_categories": "category",
    "n_findings": "number",
    "subtlety": "number",
}
# Known only after the diagnosis, or derived from it. `use` and the exclusion reasons depend on the label.
OUTCOME = {
    "pathology", "biopsy", "invasive", "difficult_negative_case", "cancer", "uncertain", "split", "split_official",
    "fold", "use", "excluded_reason", "exclude_reason", "label_source", "label_scope", "label_policy",
}  # fmt: skip
# Names of persons, files and rows: a model can only memorise them, and some carry the label (CMMD's D1/D2 prefix).
IDENTIFIERS = {
    "patient_id", "group_id", "study_id", "series_id", "image_id", "finding_id", "unit_id", "path", "member",
    "source_path", "image_path", "roi_path", "mask_path", "md5", "source_sha256", "source_size", "source_mtime_ns",
}  # fmt: skip

BREAST = ["dataset", "patient_id", "study_id", "laterality"]
AGE_BANDS = {"< 40": (0, 40), "40-49": (40, 50), "50-59": (50, 60), "60-69": (60, 70), "70 +": (70, 200)}


def check_features(names: list[str], allow_read: bool = False) -> list[str]:
    """Return ``names`` if each is allowed; raise UserError that says why one is not and what is allowed."""
    allowed = {**PRE_READ, **(READ if allow_read else {})}
    for name in names:
        where = f"fuse.features: {name!r}"
        if name in OUTCOME or name.startswith(("label", "score")):
            raise UserError(
                f"{where} is an outcome: it is known only after the diagnosis and would leak the label. Remove it"
            )
        if name in IDENTIFIERS or name.endswith("_id"):
            raise UserError(f"{where} is an identifier: a model can only memorise it. Remove it")
        if name in READ and not allow_read:
            raise UserError(
                f"{where} is written by the radiologist at the reading: remove it, or set fuse.allow_read: true "
                "and say in your text that the model does not read alone"
            )
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{where} is not a known feature{hint}; allowed: {', '.join(sorted(allowed))}")
    return list(names)


def breast_key(frame: pd.DataFrame) -> pd.Series:
    """``dataset|study_id|laterality`` of each row: a breast at one exam. An unknown side is spelled ``NA``.

    An exam (study) belongs to one patient. What an earlier exam showed is another sample: its films were normal.
    """
    return frame["dataset"] + "|" + frame["study_id"] + "|" + frame["laterality"].fillna("NA")


def unit_key(rows: pd.DataFrame, level: str) -> pd.Series:
    """Name of each row's image, breast or patient, after its dataset: the ``unit_id`` of predictions.

    Images of an exam whose side is not known form one breast of their own (``...|NA``).
    """
    return breast_key(rows) if level == "breast" else rows["dataset"] + "|" + rows[f"{level}_id"]


def breast_table(manifest: pd.DataFrame, findings: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per breast that takes part, indexed by :func:`breast_key`, with every pre-read and read feature.

    ``manifest``: a cohort's manifest.  ``findings``: its findings (None: the descriptors are NA). Numbers are the
    largest over the breast's images, categories the most frequent known one; BI-RADS and density become grades.
    """
    rows = manifest[manifest["exclude_reason"].isna()]
    rows = rows.assign(
        key=breast_key(rows),
        breast_birads=_grade(rows["breast_birads"], BIRADS),
        breast_density=_grade(rows["breast_density"], DENSITIES),
    )
    groups = rows.groupby("key", sort=True)
    table = groups[
        ["age", "implant", "pixel_spacing_mm", "bits_stored", "breast_birads", "breast_density", "n_findings"]
    ].max()
    table["n_images"] = groups.size()
    views = [rows["view_position"].eq(view).fillna(False).groupby(rows["key"]).any() for view in ("CC", "MLO")]
    table["complete_views"] = (views[0] & views[1]).astype(int)
    for name in ["machine", "manufacturer", "site", "photometric", "presentation", *BREAST]:
        table[name] = most_frequent(rows["key"], rows[name]).reindex(table.index)
    named = rows.dropna(subset="finding_categories").groupby("key")["finding_categories"]
    table["finding_categories"] = (
        named.agg(lambda cells: "+".join(categories(cells))).reindex(table.index).replace("", pd.NA)
    )
    table[["finding_birads", "subtlety"]] = np.nan
    if findings is not None and len(findings):
        marks = findings.assign(key=breast_key(findings), finding_birads=_grade(findings["finding_birads"], BIRADS))
        worst = marks.groupby("key")[["finding_birads", "subtlety"]].max().astype("Float64")
        table[["finding_birads", "subtlety"]] = worst.reindex(table.index)
    return table


def design_matrix(table: pd.DataFrame, names: list[str], levels: dict[str, list[str]]) -> pd.DataFrame:
    """Features ``names`` as float columns; categories as positions in ``levels``, NaN where unknown or not listed."""
    kinds = {**PRE_READ, **READ}
    columns = {}
    for name in names:
        if kinds[name] == "number":
            columns[name] = table[name].astype("Float64").to_numpy(float, na_value=np.nan)
        else:
            codes = {level: float(position) for position, level in enumerate(levels[name])}
            columns[name] = table[name].map(codes).to_numpy(float, na_value=np.nan)
    return pd.DataFrame(columns, index=table.index)


def category_levels(table: pd.DataFrame, names: list[str]) -> dict[str, list[str]]:
    """Known values of each categorical feature in ``table`` (the training rows), sorted."""
    kinds = {**PRE_READ, **READ}
    return {name: sorted(table[name].dropna().unique()) for name in names if kinds[name] == "category"}


def categories(cells: pd.Series) -> list[str]:
    """Sorted union of list literals such as ``"['Mass', 'Asymmetry']"`` without "No Finding"."""
    words = {word for cell in cells.dropna().unique() for word in ast.literal_eval(cell)}
    return sorted(words - {"No Finding"})


def age_band(ages: pd.Series) -> pd.Series:
    """Band of each age in years, NA where unknown."""
    bands = pd.Series(pd.NA, index=ages.index, dtype="string")
    for name, (low, high) in AGE_BANDS.items():
        bands[((ages >= low) & (ages < high)).fillna(False)] = name
    return bands


def most_frequent(keys: pd.Series, values: pd.Series) -> pd.Series:
    """The most frequent known value per key, the first in order among equals. Keys without any are absent."""
    known = pd.DataFrame({"key": keys, "value": values.astype(object)}).dropna()
    counts = known.groupby(["key", "value"]).size().rename("n").reset_index()
    first = counts.sort_values(["key", "n", "value"], ascending=[True, False, True]).drop_duplicates("key")
    return first.set_index("key")["value"]


def _grade(values: pd.Series, order: list[str]) -> pd.Series:
    return values.map({word: float(position) for position, word in enumerate(order)}).astype("Float64")
