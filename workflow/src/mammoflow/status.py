"""What is done, failed, quarantined and running per dataset, read from the ledgers and the records of jobs."""

import argparse
import json
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from mammoflow import tables
from mammoflow.console import stdout_console
from mammoflow.errors import UserError
from mammoflow.imaging.errors import meaning
from mammoflow.job_record import JobRecord, read_records
from mammoflow.layout import add_options, ledger_paths, place_of, shard_count

JOBS_SHOWN = 20


def dataset_status(results: Path, dataset: str, shards: int | None = None) -> dict[str, Any]:
    """Counts of one dataset: images listed, present, converted, failed (by reason), quarantined; shards done, running,
    stopped and waiting of all; lesions cut; what became of the manifest; and the jobs that run or did not end well.

    ``shards``: of the configuration; None: see :func:`mammoflow.layout.shard_count`.
    Raises UserError where a ledger cannot be read.
    """
    images = tables.read(results / dataset / "inventory" / "images.parquet", "images")
    shards = shards or shard_count(results, dataset)
    ledgers = ledger_paths(results, dataset, "convert", shards)
    rows = pd.concat([tables.read(path, "convert_ledger") for path in ledgers]) if ledgers else None
    crops = [tables.read(path, "crop_ledger") for path in ledger_paths(results, dataset, "crop", shards)]
    errors = Counter() if rows is None else Counter(rows.loc[rows["status"] == "failed", "error"].str.split(":").str[0])
    jobs = {stage: read_records(results, dataset, stage, shards) for stage in ("convert", "crop")}
    states = Counter(job.state for job in jobs["convert"])
    # A shard that is converted again keeps its old ledger until the new one is written.
    waiting = {f"{index:04d}-of-{shards:04d}" for index in range(shards)}
    waiting -= {path.stem for path in ledgers} | {job.shard for job in jobs["convert"]}
    return {
        "images": len(images),
        "present": int(images["path"].notna().sum()),
        "shards": shards,
        "shards_done": len(ledgers),
        "shards_running": states["running"],
        "shards_stopped": states["failed"] + states["killed"],
        "shards_waiting": len(waiting),
        "converted": 0 if rows is None else int((rows["status"] == "ok").sum()),
        "failed": sum(errors.values()),
        "reasons": dict(errors.most_common()),
        "quarantined": _quarantined(results / dataset),
        "lesions": sum(int((crop["status"] == "ok").sum()) for crop in crops),
        "lesions_failed": sum(int((crop["status"] == "failed").sum()) for crop in crops),
        "manifest": (results / dataset / "manifest.parquet").is_file(),
        "refused": (results / dataset / "quarantine.failed.csv").is_file(),
        "jobs": [
            {**asdict(job), "log": str(results / "logs" / stage / dataset / f"{job.shard}.log")}
            for stage, records in jobs.items()
            for job in records
        ],
    }


def _quarantined(directory: Path) -> int:
    """Rows of the list that the last manifest wrote: images and lesions that it leaves out as unreadable."""
    lists = [directory / name for name in ("quarantine.failed.csv", "quarantine.csv")]
    newest = next((path for path in lists if path.is_file()), None)
    return 0 if newest is None else len(pd.read_csv(newest))


def known_datasets(results: Path) -> list[str]:
    """Datasets that have an inventory below ``results``. Raises UserError when there is none."""
    found = sorted(path.parent.parent.name for path in results.glob("*/inventory/images.parquet"))
    if not found:
        raise UserError(
            f"{results} holds no inventory: run `snakemake inventory`, or name your configuration with --config"
        )
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> None:
    place = place_of(args)
    results = Path(place.results)
    status = {name: dataset_status(results, name, place.shards.get(name)) for name in known_datasets(results)}
    if args.json:
        print(json.dumps(status, indent=2, sort_keys=True))
        return
    stdout_console().print(_table(status))
    for name, row in status.items():
        # Plain print: lines that people copy must not be wrapped or coloured.
        for job in row["jobs"][:JOBS_SHOWN]:
            values = {key: value for key, value in job.items() if key != "log"}
            print(f"{JobRecord(**values).sentence()}; log {job['log']}")
        if len(row["jobs"]) > JOBS_SHOWN:
            print(f"{name}: {len(row['jobs']) - JOBS_SHOWN} more jobs; --json lists them all")
        for reason, count in row["reasons"].items():
            print(f"{name}: {count} x {reason}: {meaning(reason)}")
        if row["reasons"]:
            print(f"{name}: each image with its error: quarantine.csv. Try again: {_retry(name, args)}")
        if row["refused"]:
            print(f"{name}: too many images failed for a manifest; see {results / name / 'quarantine.failed.csv'}")


def _retry(dataset: str, args: argparse.Namespace) -> str:
    """The command that tries a dataset's failed images again."""
    given, configured = "", ""
    if args.results is not None:
        given = f" --results {shlex.quote(args.results)}"
    elif args.config is not None:
        given, configured = (f" {word} {shlex.quote(str(args.config))}" for word in ("--config", "--configfile"))
    return f"python -m mammoflow failed-shards {dataset}{given} | xargs -r snakemake --cores all{configured} -R"


def _table(status: dict[str, dict[str, Any]]) -> Table:
    names = ("dataset", "images", "present", "shards done", "running", "stopped", "converted", "failed", "quarantined")
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (*names, "lesions cut", "manifest"):
        view.add_column(name, overflow="fold")  # in a narrow window on two lines, never cut off
    for name, row in status.items():
        view.add_row(
            name,
            str(row["images"]),
            str(row["present"]),
            f"{row['shards_done']} of {row['shards']}",
            str(row["shards_running"]),
            str(row["shards_stopped"]),
            str(row["converted"]),
            str(row["failed"]),
            str(row["quarantined"]),
            f"{row['lesions']} ({row['lesions_failed']} failed)",
            "refused" if row["refused"] else "written" if row["manifest"] else "not yet",
        )
    return view
