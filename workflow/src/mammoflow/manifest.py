"""``manifest``: join a dataset's inventory with its conversion ledgers, apply the label policy, and gate.

Every image of the archive stays a row. ``exclude_reason`` is NA where the image takes part; otherwise it says why not:
the inventory's reason (``missing_file``, ``excluded_by_config`` ...), ``not_selected`` (in no shard),
``convert_failed``, ``skipped:<why>``, ``for_processing`` or ``for_presentation`` (the two never take part together),
``flag:<word>`` (a flag of the converter that ``exclude_flags`` names), or ``no_label``/``no_label:<uncertain>`` where
the policy gives no binary label.
"""

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import labels, provenance, settings, tables
from mammoflow.errors import UserError
from mammoflow.files import write_json
from mammoflow.imaging.geometry import Geometry

BOX = ["xmin", "ymin", "xmax", "ymax"]
OUT_BOX = [f"out_{name}" for name in BOX]
NO_FINDING = "No Finding"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset")
    parser.add_argument("--inventory", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--convert", type=Path, nargs="+", required=True, metavar="LEDGER", help="convert ledgers, all shards"
    )
    parser.add_argument("--crop", type=Path, nargs="*", default=[], metavar="LEDGER", help="crop ledgers, all shards")
    parser.add_argument("--labels", default="{}", metavar="JSON", help="section `labels` of the configuration")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="section `manifest` of the configuration")
    parser.add_argument(
        "--for-processing", choices=["exclude", "only"], default="exclude", help="what to do with unprocessed images"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> None:
    policy = settings.parse_section("labels", args.labels)
    images = tables.read(args.inventory / "images.parquet", "images")
    findings = tables.read(args.inventory / "findings.parquet", "findings")
    converted = read_ledgers(args.convert, "convert_ledger", images, args.dataset)
    cropped = read_ledgers(args.crop, "crop_ledger", images, args.dataset)

    section = settings.parse_section("manifest", args.settings)
    manifest = build_manifest(images, findings, converted, policy, section["exclude_flags"], args.for_processing)
    quarantine = list_quarantine(manifest, converted, cropped)
    tables.write(quarantine, args.out / "quarantine.csv")
    kept = args.out / "quarantine.failed.csv"  # no declared output of the rule: Snakemake leaves it where it is
    try:
        gate(converted, section["max_failed_fraction"], kept)
    except UserError:
        tables.write(quarantine, kept)
        raise
    kept.unlink(missing_ok=True)

    boxed = build_findings(findings, cropped, manifest, policy)
    summary = summarize(args.dataset, manifest, boxed, converted, cropped, policy)
    tables.write(boxed, args.out / "findings.parquet")
    inputs = {name: args.inventory / f"{name}.parquet" for name in ("images", "findings")}
    record = provenance.record(
        "manifest", {**section, "labels": policy, "for_processing": args.for_processing}, inputs=inputs
    )
    write_json(args.out / "summary.json", {**summary, "reproduction": record})
    tables.write(manifest, args.out / "manifest.csv")
    tables.write(manifest, args.out / "manifest.parquet")
    print(
        f"{args.dataset}: {summary['participating']} of {summary['images']} images take part, "
        f"{summary['converted']} converted, {summary['failed']} failed, {summary['findings']} findings"
    )
    for reason, count in summary["exclude_reasons"].items():
        print(f"  left out, {reason}: {count}", file=sys.stderr)


def read_ledgers(paths: list[Path], table: str, images: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Read all shards' ledgers as one table. Raises UserError where they do not fit the inventory or each other."""
    frames = [tables.read(path, table) for path in paths]
    key = tables.KEYS[table]
    if not frames:
        return tables.finish(table, pd.DataFrame(columns=list(tables.TABLES[table])))
    for path, frame in zip(paths, frames, strict=True):
        strange = frame.loc[(frame["dataset"] != dataset) | ~frame["image_id"].isin(images["image_id"]), "image_id"]
        if len(strange):
            raise UserError(
                f"{path} lists image {strange.iloc[0]}, which the inventory of {dataset} does not have: "
                "the ledger is older than the inventory, run its shard again"
            )
    ledger = pd.concat(frames, ignore_index=True)
    twice = ledger.loc[ledger.duplicated(key), key[-1]]
    if len(twice):
        raise UserError(f"{key[-1]} {twice.iloc[0]} stands in two {table}s: give the ledgers of one shard layout only")
    recipes = sorted(ledger["recipe"].unique())
    if len(recipes) > 1:
        raise UserError(f"the {table}s were made with different settings ({', '.join(recipes)}): run that stage again")
    return ledger


def build_manifest(
    images: pd.DataFrame,
    findings: pd.DataFrame,
    converted: pd.DataFrame,
    policy: labels.Policy,
    exclude_flags: Sequence[str] = (),
    for_processing: str = "exclude",
):
    """One row per image of the inventory: finished table ``manifest``. ``split`` and ``fold`` stay NA.

    exclude_flags: words of the converter's flags whose images take no part.  for_processing: ``exclude`` leaves out
    unprocessed images, ``only`` leaves out all others.
    """
    images = labels.apply_policy(images, policy)
    taken = ["status", "error", "path", "transfer_syntax", "source_sha256", "flags", "header_spacing_mm"]
    taken += [*tables.GEOMETRY, *tables.QUALITY]
    ledger = converted.set_index("image_id")[taken].rename(
        columns={"path": "image_path", "transfer_syntax": "decoded_syntax"}
    )
    rows = images.merge(ledger, left_on="image_id", right_index=True, how="left", validate="one_to_one")
    rows = rows.merge(_findings_per_image(findings), left_on="image_id", right_index=True, how="left")
    words = rows["flags"].astype("string").fillna("").str.split(";")
    processing = words.map(lambda flags: "for_processing" in flags).astype(bool)
    rows["presentation"] = rows["presentation"].mask(processing, "processing")
    rows = rows.assign(
        label_policy=settings.recipe("manifest", policy),
        exclude_reason=_exclude_reasons(rows, _unwanted(rows, for_processing), _named_flag(words, exclude_flags)),
        source_path=rows["path"],
        # What only the pixels told.
        height=rows["height"].fillna(rows["stored_height"]),
        width=rows["width"].fillna(rows["stored_width"]),
        transfer_syntax=rows["transfer_syntax"].fillna(rows["decoded_syntax"]),
        pixel_spacing_mm=rows["pixel_spacing_mm"].fillna(rows["header_spacing_mm"]),
        n_findings=rows["n_findings"].fillna(0),
    )
    return tables.finish("manifest", rows[[name for name in tables.MANIFEST if name in rows]])


def build_findings(findings: pd.DataFrame, cropped: pd.DataFrame, manifest: pd.DataFrame, policy: labels.Policy):
    """One row per finding of the inventory: finished table ``manifest_findings``.

    A box and an outline that only the mask file told come from the crop ledger; ``out_*`` are the boxes in the working
    image, NA where the image was not converted or has no box.
    """
    findings = labels.apply_policy_to_findings(findings, policy)
    taken = [*BOX, "points"]
    ledger = cropped.set_index("finding_id")[[*taken, "path", "outline_path", "flags"]].rename(
        columns={name: f"cut_{name}" for name in taken}
    )
    rows = findings.merge(ledger, left_on="finding_id", right_index=True, how="left", validate="one_to_one")
    rows = rows.rename(columns={"path": "roi_path", "outline_path": "roi_outline_path"})
    for name in taken:
        rows[name] = rows[name].fillna(rows[f"cut_{name}"])
    rows = rows.join(_working_boxes(rows, manifest)).drop(columns=[f"cut_{name}" for name in taken])
    return tables.finish("manifest_findings", rows)


def _working_boxes(findings: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    boxes = findings[BOX].to_numpy(dtype=np.float64, na_value=np.nan)
    out = np.full(boxes.shape, np.nan)
    of_image = findings.groupby("image_id", sort=False).indices
    converted = manifest[manifest["image_id"].isin(of_image)].dropna(subset=list(tables.GEOMETRY))
    for row in converted[["image_id", *tables.GEOMETRY]].to_dict("records"):
        rows = of_image[row["image_id"]]
        out[rows] = Geometry.from_row(row).forward(boxes[rows])
    return pd.DataFrame(out, index=findings.index, columns=OUT_BOX).astype("Float64")


def _findings_per_image(findings: pd.DataFrame) -> pd.DataFrame:
    """image_id -> ``finding_categories`` (union, list literal) and ``n_findings``. "No Finding" is not a finding."""
    parsed = {text: set(ast.literal_eval(text)) for text in findings["finding_categories"].dropna().unique()}
    named: dict[str, set[str]] = defaultdict(set)
    number: Counter[str] = Counter()
    for image_id, text in zip(findings["image_id"], findings["finding_categories"], strict=True):
        words = set() if pd.isna(text) else parsed[text]
        named[image_id] |= words
        number[image_id] += words != {NO_FINDING}
    unions = [sorted(words - {NO_FINDING}) or sorted(words) for words in named.values()]
    literals = [tables.list_literal(words) if words else pd.NA for words in unions]
    return pd.DataFrame({"finding_categories": literals, "n_findings": list(number.values())}, index=list(named))


def _unwanted(rows: pd.DataFrame, for_processing: str) -> pd.Series:
    """``for_processing`` or ``for_presentation`` where the image is of the kind that takes no part, else NA."""
    raw = (rows["presentation"] == "processing").fillna(False).astype(bool)
    wrong, reason = (raw, "for_processing") if for_processing == "exclude" else (~raw, "for_presentation")
    return pd.Series(pd.NA, index=rows.index, dtype="string").mask(wrong, reason)


def _named_flag(words: pd.Series, exclude_flags: Sequence[str]) -> pd.Series:
    """``flag:<word>`` of the first of ``exclude_flags`` that an image carries, else NA."""
    found = words.map(lambda flags: next((f"flag:{flag}" for flag in exclude_flags if flag in flags), pd.NA))
    return found.astype("string")


def _exclude_reasons(rows: pd.DataFrame, unwanted: pd.Series, flagged: pd.Series) -> pd.Series:
    """The first reason that applies, in the order an image meets them on its way."""
    status = rows["status"].astype("string")
    unlabelled = rows["label_malignant"].isna()
    skipped = "skipped:" + rows["error"].astype("string").fillna("unknown")
    no_label = "no_label:" + rows["uncertain"].astype("string")
    reasons = pd.Series(pd.NA, index=rows.index, dtype="string")
    for applies, reason in [
        (rows["use"] == "excluded", rows["excluded_reason"].astype("string").fillna("excluded")),
        (status.isna(), "not_selected"),
        (status == "failed", "convert_failed"),
        (status == "skipped", skipped),
        (unwanted.notna(), unwanted),
        (flagged.notna(), flagged),
        (unlabelled, no_label.fillna("no_label")),
    ]:
        reasons = reasons.mask(reasons.isna() & applies.fillna(False).astype(bool), reason)
    return reasons


def list_quarantine(manifest: pd.DataFrame, converted: pd.DataFrame, cropped: pd.DataFrame) -> pd.DataFrame:
    """The failed rows of both stages: ``image_id, stage, error, source_path, finding_id``, sorted."""
    failed = [
        ledger[ledger["status"] == "failed"].assign(stage=stage)
        for stage, ledger in (("convert", converted), ("crop", cropped))
    ]
    columns = ["image_id", "stage", "error", "finding_id"]
    rows = pd.concat([frame.reindex(columns=columns).astype("string") for frame in failed], ignore_index=True)
    rows = rows.merge(manifest[["image_id", "source_path"]], on="image_id", how="left")
    return rows.sort_values(columns, ignore_index=True)[["image_id", "stage", "error", "source_path", "finding_id"]]


def gate(converted: pd.DataFrame, max_failed_fraction: float, quarantine: Path) -> None:
    """Raise UserError where more than the allowed share of the images that were tried could not be converted.

    ``quarantine`` is only named in the message.
    """
    tried = converted[converted["status"] != "skipped"]
    failed = tried.loc[tried["status"] == "failed", "error"].fillna("unknown")
    if tried.empty:
        raise UserError("no image could be tried: none of the archive's files is present, or all are left out")
    share = len(failed) / len(tried)
    if share > max_failed_fraction:
        kinds = Counter(failed.str.split(":").str[0])  # behind the colon stands what is different from file to file
        common = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(3))
        raise UserError(
            f"{len(failed)} of {len(tried)} images ({share:.1%}) could not be converted, more than "
            f"manifest.max_failed_fraction ({max_failed_fraction:.1%}) allows: {common}. See {quarantine}"
        )


def summarize(
    dataset: str,
    manifest: pd.DataFrame,
    findings: pd.DataFrame,
    converted: pd.DataFrame,
    cropped: pd.DataFrame,
    policy: labels.Policy,
) -> dict[str, Any]:
    """Counts of a dataset. Nothing in it depends on when it is written."""
    part = manifest[manifest["exclude_reason"].isna()]
    seconds = float(converted["seconds"].sum())
    made = int((converted["status"] == "ok").sum())
    timed = int(((converted["status"] == "ok") & converted["seconds"].notna()).sum())  # reused images took no time
    return {
        "dataset": dataset,
        "images": len(manifest),
        "patients": int(manifest["patient_id"].nunique()),
        "present": int(manifest["source_path"].notna().sum()),
        "selected": len(converted),
        "converted": made,
        "failed": int((converted["status"] == "failed").sum()),
        "participating": len(part),
        "participating_patients": int(part["patient_id"].nunique()),
        "exclude_reasons": _counts(manifest["exclude_reason"].dropna()),
        "labels": _counts(part["label_malignant"]),
        "labels_3cat": _counts(part["label_3cat"].fillna("unknown")),
        "label_sources": _counts(part["label_source"].fillna("none")),
        "uncertain": _counts(part["uncertain"].dropna()),
        "findings": len(findings),
        "findings_with_box": int(findings[BOX].notna().all(axis=1).sum()),
        "rois": int((cropped["status"] == "ok").sum()),
        "rois_failed": int((cropped["status"] == "failed").sum()),
        "seconds": round(seconds, 3),
        "images_per_second": round(timed / seconds, 3) if seconds else None,
        "label_policy": {"recipe": settings.recipe("manifest", policy), **policy},
        "recipes": sorted({*converted["recipe"], *cropped["recipe"]}),
    }


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
