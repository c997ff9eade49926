"""Ledgers that hold failed images.

``python -m mammoflow failed-shards DATASET | xargs -r snakemake --cores 8 -R`` tries just those again. Within such a
shard the images that are already converted are reused; only the failed ones are decoded again.
"""

import argparse
import shlex
import sys
from pathlib import Path

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.layout import add_options, ledger_paths, place_of
from mammoflow.status import known_datasets


def failed_ledgers(results: str, dataset: str, shards: int | None = None) -> list[str]:
    """Convert and crop ledgers with at least one failed row, in order, by the names that the rules give them.

    ``shards``: of the configuration; None: see :func:`mammoflow.layout.shard_count`.
    """
    found = []
    for stage, table in (("convert", "convert_ledger"), ("crop", "crop_ledger")):
        paths = ledger_paths(Path(results), dataset, stage, shards)
        failed = [path for path in paths if (tables.read(path, table)["status"] == "failed").any()]
        found += [f"{results}/{dataset}/{stage}/{path.name}" for path in failed]
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset")
    add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Print one name per line, quoted where ``xargs`` needs it."""
    place = place_of(args)
    if place.config and args.dataset not in place.shards:
        raise UserError(f"{place.config} does not name {args.dataset!r}: give your configuration with --config")
    if args.dataset not in known_datasets(Path(place.results)):
        raise UserError(f"{place.results} holds no inventory of {args.dataset!r}: run `snakemake {args.dataset}` first")
    ledgers = failed_ledgers(place.results, args.dataset, place.shards.get(args.dataset))
    for name in ledgers:
        print(shlex.quote(name))
    if not ledgers:
        print(f"{args.dataset}: no image failed below {place.results}, nothing to try again", file=sys.stderr)
