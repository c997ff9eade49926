"""Ledgers that hold failed images.

``snakemake -R $(python -m mammoflow failed-shards DATASET)`` tries just those again. Within such a shard the images
that are already converted are reused; only the failed ones are decoded again.
"""

import argparse
from pathlib import Path

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.status import known_datasets, ledger_paths


def failed_ledgers(results: Path, dataset: str) -> list[Path]:
    """Convert and crop ledgers with at least one failed row, in order."""
    found = []
    for stage, table in (("convert", "convert_ledger"), ("crop", "crop_ledger")):
        paths = ledger_paths(results, dataset, stage)
        found += [path for path in paths if (tables.read(path, table)["status"] == "failed").any()]
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset")
    parser.add_argument("--results", type=Path, default=Path("results"), help="directory of the results")


def run(args: argparse.Namespace) -> None:
    if args.dataset not in known_datasets(args.results):
        raise UserError(f"{args.results} holds no inventory of {args.dataset!r}: run `snakemake {args.dataset}` first")
    for path in failed_ledgers(args.results, args.dataset):
        print(path)
