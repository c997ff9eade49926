"""What is done, failed and quarantined per dataset, read from the ledgers that exist."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.imaging.errors import meaning


def ledger_paths(results: Path, dataset: str, stage: str) -> list[Path]:
    """Ledgers of the newest shard layout of a stage, sorted. Older layouts (another shard count) are ignored."""
    shards = sorted((results / dataset / "shards").glob("*-of-*.csv"), key=lambda path: path.stat().st_mtime)
    count = shards[-1].name.split("-of-")[1].split(".")[0] if shards else "*"
    return sorted((results / dataset / stage).glob(f"*-of-{count}.parquet"))


def shard_count(results: Path, dataset: str) -> int:
    """Number of shards of the newest layout; 0 where none is dealt yet."""
    shards = sorted((results / dataset / "shards").glob("*-of-*.csv"), key=lambda path: path.stat().st_mtime)
    return int(shards[-1].name.split("-of-")[1].split(".")[0]) if shards else 0


def dataset_status(results: Path, dataset: str) -> dict[str, Any]:
    """Counts of one dataset: images listed, present, converted, failed (by reason), shards done of all, lesions cut.

    Raises UserError where a ledger cannot be read.
    """
    images = tables.read(results / dataset / "inventory" / "images.parquet", "images")
    ledgers = ledger_paths(results, dataset, "convert")
    rows = pd.concat([tables.read(path, "convert_ledger") for path in ledgers]) if ledgers else None
    crops = [tables.read(path, "crop_ledger") for path in ledger_paths(results, dataset, "crop")]
    errors = Counter() if rows is None else Counter(rows.loc[rows["status"] == "failed", "error"].str.split(":").str[0])
    return {
        "images": len(images),
        "present": int(images["path"].notna().sum()),
        "shards": shard_count(results, dataset),
        "shards_done": len(ledgers),
        "converted": 0 if rows is None else int((rows["status"] == "ok").sum()),
        "failed": sum(errors.values()),
        "reasons": dict(errors.most_common()),
        "lesions": sum(int((crop["status"] == "ok").sum()) for crop in crops),
        "lesions_failed": sum(int((crop["status"] == "failed").sum()) for crop in crops),
        "manifest": (results / dataset / "manifest.parquet").is_file(),
    }


def known_datasets(results: Path) -> list[str]:
    """Datasets that have an inventory below ``results``. Raises UserError when there is none."""
    found = sorted(path.parent.parent.name for path in results.glob("*/inventory/images.parquet"))
    if not found:
        raise UserError(
            f"{results} holds no inventory: run `snakemake inventory`, or name another directory with --results"
        )
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="directory of the results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> None:
    status = {name: dataset_status(args.results, name) for name in known_datasets(args.results)}
    if args.json:
        print(json.dumps(status, indent=2, sort_keys=True))
        return
    view = Table("dataset", "images", "present", "shards", "converted", "failed", "lesions cut", "manifest")
    for name, row in status.items():
        view.add_row(
            name,
            str(row["images"]),
            str(row["present"]),
            f"{row['shards_done']} of {row['shards']}",
            str(row["converted"]),
            str(row["failed"]),
            f"{row['lesions']} ({row['lesions_failed']} failed)",
            "written" if row["manifest"] else "not yet",
        )
    console = Console()
    console.print(view)
    for name, row in status.items():
        for reason, count in row["reasons"].items():
            console.print(f"{name}: {count} x {reason}: {meaning(reason)}", soft_wrap=True)
        if row["reasons"]:
            retry = f"snakemake -R $(python -m mammoflow failed-shards {name})"
            console.print(f"{name}: each image with its error: quarantine.csv. Try again: {retry}", soft_wrap=True)
