"""Read what exists below the results, as plain values. Whatever a stage has not written yet is simply absent."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammoflow import tables
from mammoflow.datasets.catalog import ARCHIVES, Archive
from mammoflow.errors import UserError
from mammoflow.files import read_json
from mammoflow.layout import ledger_paths

# Written into the root of every synthetic archive by `mammoflow phantom`.
PHANTOM_STAMP = "phantom.json"


@dataclass
class Dataset:
    name: str
    archive: Archive | None
    summary: dict[str, Any]
    quarantine: pd.DataFrame
    convert: pd.DataFrame
    synthetic: bool


@dataclass
class Cohort:
    name: str
    manifest: pd.DataFrame
    findings: pd.DataFrame
    audit: dict[str, Any]
    balance: pd.DataFrame
    digest: dict[str, Any]


@dataclass
class Run:
    """``folds``: fold -> (its metrics.csv, its train.json).  ``heatmaps``: rows of heatmaps.json with full paths."""

    name: str
    metrics: dict[str, Any]
    curves: list[dict[str, Any]]
    fuse: dict[str, Any]
    predictions: pd.DataFrame | None
    folds: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = field(default_factory=dict)
    heatmaps: list[dict[str, Any]] = field(default_factory=list)
    targets: pd.DataFrame | None = None  # marked lesions and how they were drawn
    masks: dict[tuple[str, str], str] = field(default_factory=dict)  # class maps of test images: names in mask_tar
    mask_tar: Path | None = None


def read_dataset(directory: Path, config: dict[str, Any]) -> Dataset:
    """A dataset's directory below the results (it holds ``summary.json``)."""
    name = directory.name
    ledgers = [tables.read(path, "convert_ledger") for path in ledger_paths(directory.parent, name, "convert")]
    empty = pd.DataFrame(columns=list(tables.CONVERT_LEDGER))
    quarantine = directory / "quarantine.csv"
    return Dataset(
        name=name,
        archive=ARCHIVES.get(name),
        summary=read_json(directory / "summary.json"),
        quarantine=pd.read_csv(quarantine, dtype="string") if quarantine.is_file() else pd.DataFrame(),
        convert=pd.concat(ledgers, ignore_index=True) if ledgers else empty,
        synthetic=is_synthetic(name, config),
    )


def is_synthetic(name: str, config: dict[str, Any]) -> bool:
    """Does the archive's root carry the stamp of a phantom? The root is ``datasets.<name>.root`` below ``data``."""
    section = (config.get("datasets") or {}).get(name) or {}
    root = Path(config.get("data", "data")) / (section.get("root") or name)
    return bool(read_json(root / PHANTOM_STAMP).get("synthetic"))


def read_cohort(directory: Path) -> Cohort:
    """A cohort's directory. Raises UserError where its manifest is missing."""
    balance = directory / "balance.csv"
    return Cohort(
        name=directory.name,
        manifest=tables.read(directory / "manifest.parquet", "manifest"),
        findings=tables.read(directory / "findings.parquet", "manifest_findings"),
        audit=read_json(directory / "audit.json"),
        balance=pd.read_csv(balance) if balance.is_file() else pd.DataFrame(),
        digest=read_json(directory / "digest.json"),
    )


def read_run(directory: Path) -> Run:
    """A run's directory, evaluated or still on its way."""
    predictions = directory / "predictions.parquet"
    run = Run(
        name=directory.name,
        metrics=read_json(directory / "evaluate" / "metrics.json"),
        curves=read_json(directory / "evaluate" / "curves.json").get("curves", []),
        fuse=read_json(directory / "fuse" / "fuse.json"),
        predictions=tables.read(predictions, "predictions") if predictions.is_file() else None,
    )
    for path in sorted(directory.glob("*/metrics.csv")):
        if path.parent.name.isdigit():
            run.folds[path.parent.name] = (pd.read_csv(path), read_json(path.parent / "train.json"))
    listed = read_json(directory / "heatmaps" / "heatmaps.json")
    if (directory / "lesions" / "targets.parquet").is_file():
        run.targets = tables.read(directory / "lesions" / "targets.parquet", "targets")
    drawn = read_json(directory / "masks" / "masks.json").get("images", [])
    run.masks = {(row["dataset"], row["image_id"]): row["file"] for row in drawn}
    if (directory / "masks" / "masks.tar").is_file():
        run.mask_tar = directory / "masks" / "masks.tar"
    run.heatmaps = [{**row, "file": directory / "heatmaps" / row["file"]} for row in listed]
    return run


def read_timings(results: Path) -> list[dict[str, Any]]:
    """Per stage the jobs that Snakemake timed, their seconds in all and of the longest, and the most memory in MB."""
    rows = []
    for path in sorted((results / "benchmarks").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            measured = json.loads(line)
            stage = path.relative_to(results / "benchmarks").parts[0].removesuffix(".jsonl")
            memory = pd.to_numeric(measured.get("max_rss"), errors="coerce")
            rows.append({"stage": stage, "seconds": float(measured["s"]), "memory": memory})
    if not rows:
        return []
    table = pd.DataFrame(rows).groupby("stage", sort=False)
    found = pd.DataFrame({
        "jobs": table.size(),
        "seconds": table["seconds"].sum(),
        "longest": table["seconds"].max(),
        "memory": table["memory"].max(),
    }).reset_index()  # fmt: skip
    return found.sort_values("seconds", ascending=False).astype(object).where(found.notna(), None).to_dict("records")


def read_config(path: Path) -> dict[str, Any]:
    """The merged configuration. Raises UserError where the file is missing or broken."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the configuration of the results with --config")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML ({error})") from None
