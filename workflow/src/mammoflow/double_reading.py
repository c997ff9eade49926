"""``double-reading``: from the readings of two radiologists to one annotated data set, as VinDr-Mammo was made.

Each exam is read by two radiologists who do not know of each other; where they disagree, a third decides (Nguyen et
al., Sci Data 10:277, 2023). An exam is discordant where a breast's BI-RADS or density differs, or where a finding of
one reader has no counterpart of the same categories and BI-RADS with enough overlap. Concordant findings get the mean
of the two boxes. Written: ``agreement.json``, ``arbitration.csv`` (what waits for the third reader), ``violations.csv``
and VinDr's two tables, which hold the finished exams.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.exports.vindr import BREAST_COLUMNS, BREASTS, FINDINGS, finding_table
from mammoflow.files import write_json
from mammoflow.reading.agreement import agreement
from mammoflow.reading.files import BOX, Readings, read_readings
from mammoflow.reading.match import pair_findings, spell
from mammoflow.reading.rules import broken_rules

ARBITRATION = ["study_id", "laterality", "image_id", "what", "reader_1", "value_1", "reader_2", "value_2"]
LABELS = ["image_id", "breast_birads", "breast_density"]
MARKS = ["image_id", "finding_categories", "finding_birads", *BOX]


class Merged(NamedTuple):
    """breasts, findings: VinDr's two tables of the finished exams. disputes: what waits, columns ARBITRATION.

    waiting: discordant exams without a third reading; settled: those with one; single: exams that were read once.
    """

    breasts: pd.DataFrame
    findings: pd.DataFrame
    disputes: pd.DataFrame
    waiting: list[str]
    settled: list[str]
    single: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("readings", type=Path, nargs="+", help="CSV, or Label Studio's JSON export")
    parser.add_argument("--arbitration", type=Path, nargs="*", default=[], metavar="FILE", help="third readings")
    parser.add_argument(
        "--iou", type=float, default=0.3, help="overlap of two boxes that mark one finding (default 0.3)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.iou <= 1:
        raise UserError(f"--iou {args.iou:g}: give an overlap above 0 and up to 1")
    readings = read_readings(args.readings)
    third = read_readings(args.arbitration) if args.arbitration else None
    merged = merge(readings, third, args.iou)
    broken = pd.concat([broken_rules(*one) for one in (readings, third) if one is not None], ignore_index=True)
    write_json(args.out / "agreement.json", agreement(*two_readings(readings)))
    tables.write(merged.disputes, args.out / "arbitration.csv")
    tables.write(broken, args.out / "violations.csv")
    print(
        f"{merged.breasts['study_id'].nunique()} exams finished, {len(merged.settled)} of them by a third reading; "
        f"{len(merged.waiting)} wait for one, {len(merged.single)} were read once"
    )
    wrong = broken_rules_of(merged)
    if len(wrong):
        example = "{rule} ({detail}), exam {study_id}, image {image_id}".format(**wrong.iloc[0])
        print(
            f"{len(wrong)} rules are broken in the finished exams, the first: {example}. Correct the readings "
            f"({args.out / 'violations.csv'}); VinDr's tables are not written",
            file=sys.stderr,
        )
        return 1
    if len(broken):
        print(f"{len(broken)} rules are broken in unfinished readings: {args.out / 'violations.csv'}", file=sys.stderr)
    tables.write(merged.breasts, args.out / BREASTS)
    tables.write(merged.findings, args.out / FINDINGS)
    return 0


def broken_rules_of(merged: Merged) -> pd.DataFrame:
    """Broken rules of the finished exams; see rules.broken_rules()."""
    breasts = merged.breasts.assign(reader="merged")
    marked = merged.findings[merged.findings["xmin"].notna()].assign(reader="merged").drop(columns="breast_birads")
    return broken_rules(breasts, breasts, marked)


def two_readings(readings: Readings) -> tuple[Readings, Readings]:
    """First and second reading of the exams that have two, the readers of an exam in the order of their names.

    Raises UserError where an exam has more.
    """
    readers = readings.breasts.groupby("study_id")["reader"].unique().map(sorted)
    many = readers[readers.map(len) > 2]
    if len(many):
        raise UserError(
            f"exam {many.index[0]} was read by {len(many.iloc[0])} readers ({', '.join(many.iloc[0])}): "
            "give the third reading with --arbitration"
        )
    sides = []
    for number in (0, 1):
        reader = {study: names[number] for study, names in readers.items() if len(names) == 2}
        chosen = [
            part[part["reader"] == part["study_id"].map(reader).astype("string")].reset_index(drop=True)
            for part in (readings.breasts, readings.findings)
        ]
        sides.append(Readings(readings.images, *chosen))
    return sides[0], sides[1]


def merge(readings: Readings, third: Readings | None = None, iou: float = 0.3) -> Merged:
    """One set of labels out of two readings per exam, and of a third one where they disagree.

    A third reading replaces both, for its whole exam. Raises UserError where an exam has more than two readings, and
    where a third reading cannot count: not in dispute, incomplete, or by one of the two readers.
    """
    first, second = two_readings(readings)
    agreed, disputes = _compare_findings(first, second, iou)
    disputes = pd.DataFrame([*_compare_labels(first, second), *disputes], columns=ARBITRATION)
    disputes = disputes.sort_values(ARBITRATION[:4], ignore_index=True)
    discordant = set(disputes["study_id"])
    concordant = first.breasts[~first.breasts["study_id"].isin(discordant)]
    marks = agreed[~agreed["study_id"].isin(discordant)]
    labels, settled = concordant[LABELS], set()
    if third is not None:
        settled = _settled(third, readings, discordant)
        labels, marks = pd.concat([labels, third.breasts[LABELS]]), pd.concat([marks, third.findings])
    breasts = readings.images.merge(labels, on="image_id").assign(split="training")[BREAST_COLUMNS]
    return Merged(
        breasts=breasts,
        findings=finding_table(breasts, marks[MARKS], ["image_id"], []),
        disputes=disputes[~disputes["study_id"].isin(settled)].reset_index(drop=True),
        waiting=sorted(discordant - settled),
        settled=sorted(settled),
        single=sorted(set(readings.breasts["study_id"]) - set(first.breasts["study_id"])),
    )


def _settled(third: Readings, readings: Readings, discordant: set[str]) -> set[str]:
    """The exams that the third readings settle."""
    before = readings.breasts.groupby("study_id")
    for study, rows in third.breasts.groupby("study_id"):
        if study not in discordant:
            raise UserError(f"exam {study} has a third reading but is not in dispute: take it out of the arbitration")
        own, reader = before.get_group(study), rows["reader"].iloc[0]
        if rows["reader"].nunique() > 1:
            raise UserError(f"exam {study} has {rows['reader'].nunique()} third readings: give one")
        if reader in set(own["reader"]):
            raise UserError(f"exam {study}: reader {reader} cannot decide on an own reading")
        if set(rows["image_id"]) != set(own["image_id"]):
            odd = sorted(set(rows["image_id"]) ^ set(own["image_id"]))[0]
            raise UserError(f"exam {study}: image {odd} is not in both the third reading and those before it")
    return set(third.breasts["study_id"])


def _compare_labels(first: Readings, second: Readings) -> list[list[Any]]:
    """Breasts whose BI-RADS or density differ, or that only one reader graded; rows of ARBITRATION."""
    keys = ["study_id", "laterality", "image_id"]
    both = first.breasts.merge(second.breasts, on=keys, how="outer", suffixes=("_1", "_2"))
    found = []
    for name in ("breast_birads", "breast_density"):
        differ = both[f"{name}_1"].fillna("") != both[f"{name}_2"].fillna("")
        shown = both[differ].assign(what=name)[[*keys, "what", "reader_1", f"{name}_1", "reader_2", f"{name}_2"]]
        found += shown.to_numpy(object).tolist()
    return found


def _compare_findings(first: Readings, second: Readings, iou: float) -> tuple[pd.DataFrame, list[list[Any]]]:
    """(findings that both marked, with the mean of the boxes; rows of ARBITRATION about the others)."""
    agreed, disputes = [], []
    readers = [side.breasts.groupby("study_id")["reader"].first() for side in (first, second)]
    marked = [
        {image: rows.to_dict("records") for image, rows in side.findings.groupby("image_id")}
        for side in (first, second)
    ]
    for image in sorted({*marked[0], *marked[1]}):
        for one, other in pair_findings(marked[0].get(image, []), marked[1].get(image, []), iou):
            if one is not None and other is not None and spell(one) == spell(other):
                agreed.append({**one, **{name: (one[name] + other[name]) / 2 for name in BOX}})
                continue
            row = one if one is not None else other
            exam = row["study_id"]
            sides = [readers[0][exam], spell(one), readers[1][exam], spell(other)]
            disputes.append([exam, row["laterality"], image, "finding", *sides])
    return pd.DataFrame(agreed, columns=first.findings.columns).astype(first.findings.dtypes), disputes
