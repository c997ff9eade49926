"""What a reading must keep to, as the VinDr-Mammo authors checked theirs."""

import ast

import pandas as pd

from mammoflow.reading.files import BOX

LOWEST_FINDING = 3  # VinDr-Mammo marks what is at least probably benign
UNGRADED = {
    "Skin Thickening",
    "Skin Retraction",
    "Nipple Retraction",
    "Suspicious Lymph Node",
}  # no BI-RADS of their own
VIOLATIONS = ["study_id", "image_id", "reader", "rule", "detail"]


def broken_rules(images: pd.DataFrame, breasts: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """Broken rules of readings (see :class:`mammoflow.reading.files.Readings`), one row each, columns VIOLATIONS.

    A breast has a BI-RADS and a density, the same on all its images, and no finding where it is BI-RADS 1. A finding is
    BI-RADS 3 or more (signs at the skin, nipple and nodes may have none), not above its breast, and has a box inside
    its image.
    """
    rows = findings.merge(breasts[["reader", "image_id", "breast_birads"]], on=["reader", "image_id"], how="left")
    found = [*_breast_rules(breasts), *_grade_rules(rows), _box_rule(rows, images)]
    return pd.concat(found, ignore_index=True).sort_values(VIOLATIONS, ignore_index=True)


def _broken(rows: pd.DataFrame, wrong: pd.Series, rule: str, detail: pd.Series) -> pd.DataFrame:
    wrong = wrong.fillna(False).astype(bool)
    return rows[wrong].assign(rule=rule, detail=detail[wrong]).reindex(columns=VIOLATIONS).astype("string")


def _breast_rules(breasts: pd.DataFrame) -> list[pd.DataFrame]:
    found = []
    for name in ("breast_birads", "breast_density"):
        given = breasts[name]
        first = breasts.groupby(["reader", "study_id", "laterality"])[name].transform("first")
        empty = pd.Series(f"{name} is empty", index=breasts.index)
        found.append(_broken(breasts, given.isna(), "a breast has its global labels", empty))
        found.append(_broken(breasts, given != first, "one label per breast", given + " and " + first))
    return found


def _grade_rules(rows: pd.DataFrame) -> list[pd.DataFrame]:
    grade, breast = (
        rows[name].str.extract(r"BI-RADS (\d)")[0].astype("Int64") for name in ("finding_birads", "breast_birads")
    )
    may_lack = rows["finding_categories"].map(lambda text: set(ast.literal_eval(text)) <= UNGRADED).astype(bool)
    low = (grade < LOWEST_FINDING) | (grade.isna() & ~may_lack)
    both = rows["finding_birads"].fillna("none") + " in a breast of " + rows["breast_birads"]
    return [
        _broken(rows, breast == 1, "no finding in a BI-RADS 1 breast", rows["finding_categories"]),
        _broken(rows, low, f"a finding is BI-RADS {LOWEST_FINDING} or more", rows["finding_birads"].fillna("empty")),
        _broken(rows, (grade > breast) & (breast > 1), "a finding is not graded above its breast", both),
    ]


def _box_rule(rows: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    size = images.drop_duplicates("image_id").set_index("image_id")
    height, width = (rows["image_id"].map(size[name]).astype("Float64") for name in ("height", "width"))
    inside = (rows["xmin"] >= 0) & (rows["ymin"] >= 0) & (rows["xmax"] <= width) & (rows["ymax"] <= height)
    sound = inside & (rows["xmax"] > rows["xmin"]) & (rows["ymax"] > rows["ymin"])
    text = pd.Series([" ".join(map(str, box)) for box in rows[BOX].to_numpy(object)], index=rows.index, dtype="string")
    return _broken(rows, ~sound.fillna(False), "a finding has a box inside its image", text)
