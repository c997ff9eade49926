"""``cohort``: pool manifests, split by patient, and prove that nothing leaks.

The unit of the split is the group: a patient, or several who share a byte-identical file or a near-duplicate picture. A
published test split is kept
(``official: keep``): its validation set is carved out of the published training patients. Everything else is stratified
over the cohort's attributes into train, val and test; train is then dealt into folds. Rows that do not take part keep
their place and their ``exclude_reason``.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mammoflow import provenance, settings, tables
from mammoflow.assignment import assign, resolve_official_conflicts
from mammoflow.audit import audit, first_leak
from mammoflow.balance import balance_table
from mammoflow.datasets.same_films import refuse_same_films
from mammoflow.duplicates import copies, merge_groups, merge_near_duplicates
from mammoflow.errors import UserError
from mammoflow.files import write_json, write_text

# When a file was written: copying an archive changes no image. Which policy labelled: the labels themselves count.
# Where the lesion crops lie, and what was said of cutting them: models see the working images, outlines and boxes.
NOT_LEARNED_FROM = {
    "manifest": ["source_mtime_ns", "label_policy"],
    "findings": ["roi_path", "roi_outline_path", "flags"],
}


class Cohort(NamedTuple):
    """manifest: finished, with ``split`` and ``fold``; audit: what audit.json holds; balance: see balance_table()."""

    manifest: pd.DataFrame
    audit: dict[str, Any]
    balance: pd.DataFrame
    warnings: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument(
        "--manifests", type=Path, nargs="+", required=True, metavar="DIR", help="directories of datasets"
    )
    parser.add_argument("--settings", metavar="JSON", help="the cohort's section; default: all datasets, all defaults")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="working images, searched for near-duplicate pictures"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> int:
    manifests = [tables.read(path / "manifest.parquet", "manifest") for path in args.manifests]
    findings = [tables.read(path / "findings.parquet", "manifest_findings") for path in args.manifests]
    found = sorted({name for manifest in manifests for name in manifest["dataset"].unique()})
    if args.settings is None:
        config = settings.resolve_section("cohort", {"datasets": found})
    else:
        config = settings.parse_section("cohort", args.settings)
    pooled = pool(manifests, config["datasets"])
    pooled_findings = tables.finish(
        "manifest_findings", pd.concat([table[table["dataset"].isin(config["datasets"])] for table in findings])
    )
    pairs = search_pictures(pooled, config["near_duplicates"], args.store, args.threads)
    try:
        cohort = build_cohort(pooled, config, args.seed, pairs)
    except UserError as error:
        raise UserError(f"cohort {args.name}: {error}") from None
    for warning in cohort.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    failed = args.out / "audit.failed.json"  # no declared output of the rule: Snakemake leaves it where it is
    if not cohort.audit["ok"]:
        write_json(failed, cohort.audit)
        print(f"cohort {args.name} leaks: {first_leak(cohort.audit)}. See {failed}", file=sys.stderr)
        return 1
    failed.unlink(missing_ok=True)
    digest = summarize(args.name, cohort.manifest, pooled_findings)
    tables.write(pooled_findings, args.out / "findings.parquet")
    tables.write(cohort.balance, args.out / "balance.csv")
    from mammoflow.report import balance_page  # loads the drawing library: not needed to refuse a bad cohort
    from mammoflow.report.balance import balance_view

    view = balance_view(args.name, cohort.manifest, cohort.audit, cohort.balance)
    write_text(args.out / "balance.html", balance_page(view))
    tables.write(cohort.manifest, args.out / "manifest.csv")
    tables.write(cohort.manifest, args.out / "manifest.parquet")
    inputs = {path.name: path / "manifest.parquet" for path in args.manifests}
    record = provenance.record("cohort", config, args.seed, inputs=inputs)
    write_json(args.out / "audit.json", {**cohort.audit, "reproduction": record})
    write_json(args.out / "digest.json", digest)
    print(f"cohort {args.name}: clean, {digest['patients']} patients, images {digest['images']}")
    return 0


def pool(manifests: list[pd.DataFrame], datasets: list[str]) -> pd.DataFrame:
    """The manifests of ``datasets`` as one. Raises UserError where one of them is not among ``manifests``."""
    found = sorted({name for manifest in manifests for name in manifest["dataset"].unique()})
    absent = [name for name in datasets if name not in found]
    if absent:
        raise UserError(f"dataset {absent[0]!r} is not among the given manifests ({', '.join(found)})")
    refuse_same_films(datasets)
    return tables.finish("manifest", pd.concat([table[table["dataset"].isin(datasets)] for table in manifests]))


def search_pictures(manifest: pd.DataFrame, mode: str, store: Path | None, threads: int) -> pd.DataFrame | None:
    """Near-duplicate pairs of a pooled manifest; None where ``mode`` is ignore. Raises UserError without a store."""
    if mode == "ignore":
        return None
    if store is None:
        raise UserError("give the working images with --store, or set near_duplicates: ignore in the cohort's settings")
    from mammoflow.neardup import find_near_duplicates  # OpenCV, and only here

    grouped = manifest.assign(group_id=merge_groups(manifest["group_id"], manifest["source_sha256"]))
    return find_near_duplicates(grouped, store, threads)


def build_cohort(
    manifest: pd.DataFrame, config: dict[str, Any], seed: int, near_duplicates: pd.DataFrame | None = None
) -> Cohort:
    """Split a pooled manifest under a resolved ``cohort`` section, and audit the result.

    near_duplicates: pairs of neardup.find_near_duplicates(), None where the pictures were not compared. Raises
    UserError where no sound split exists. A leak is no exception here: see ``audit["ok"]``.
    """
    manifest = manifest.assign(group_id=merge_groups(manifest["group_id"], manifest["source_sha256"]))
    merging = config["near_duplicates"] == "merge"
    if near_duplicates is not None and merging:
        manifest = manifest.assign(group_id=merge_near_duplicates(manifest, near_duplicates))
    if config["duplicates"] == "exclude":
        doubled = copies(manifest) & manifest["exclude_reason"].isna()
        manifest["exclude_reason"] = manifest["exclude_reason"].mask(doubled, "duplicate")
    conflicts: list[dict[str, Any]] = []
    if config["official"] == "keep":
        manifest, conflicts = resolve_official_conflicts(manifest, config["official_conflict"])
    manifest, counts, warnings = assign(manifest, config, seed)
    manifest = tables.finish("manifest", manifest)
    split = manifest.dropna(subset="split").groupby("group_id")["split"].first()
    balance = balance_table(counts, split.loc[counts.ids].to_numpy(dtype=object), tables.SPLITS)
    result = audit(manifest, conflicts, near_duplicates, enforce_near_duplicates=merging)
    return Cohort(manifest, result, balance, warnings + _picture_warnings(result["near_duplicates"], merging))


def _picture_warnings(pairs: list[dict[str, Any]] | None, merged: bool) -> list[str]:
    if not pairs:
        return []
    example = f"for example {pairs[0]['first']} and {pairs[0]['second']}"
    if merged:
        return [f"{len(pairs)} pair(s) of near-duplicate pictures made their patients one group, {example}"]
    crossing = sum(pair["crosses"] for pair in pairs)
    return [f"{len(pairs)} pair(s) of near-duplicate pictures, {crossing} of them on two sides, {example}"]


def summarize(name: str, manifest: pd.DataFrame, findings: pd.DataFrame) -> dict[str, Any]:
    """What digest.json holds: equal for equal cohorts, and different as soon as training would see another thing.

    See NOT_LEARNED_FROM for what is left out: a change of it must not train anew.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    counts = part.groupby(["split", "label_malignant"]).size()
    return {
        "cohort": name,
        "version": settings.STAGE_VERSIONS["cohort"],
        "manifest_sha256": _content_hash(manifest.drop(columns=NOT_LEARNED_FROM["manifest"])),
        "findings_sha256": _content_hash(findings.drop(columns=NOT_LEARNED_FROM["findings"])),
        "images": {
            split: {str(label): int(counts.get((split, label), 0)) for label in (0, 1)} for split in tables.SPLITS
        },
        "patients": int(part["group_id"].nunique()),
        "folds": int(part["fold"].max()) + 1,
    }


def _content_hash(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
