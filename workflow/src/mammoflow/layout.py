"""Where the ledgers of a dataset lie, and which of several shard layouts counts after ``shards`` was changed.

Each number of shards has files of its own, and Snakemake does not touch those that are up to date: after a change back,
the newest files are not those of the configuration. So the configuration is asked.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mammoflow import settings
from mammoflow.errors import UserError


@dataclass(frozen=True)
class Place:
    """``results``: as the rules' file names begin. ``shards``: by dataset, empty where the last run's count.
    ``config``: as it was named."""

    results: str
    shards: dict[str, int] = field(default_factory=dict)
    config: Path | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--config``, or ``--results`` instead."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help=f"configuration (default: {settings.DEFAULT}, or what its results hold)",
    )
    which.add_argument(
        "--results", metavar="DIR", help="directory of results instead, with the configuration that its last run saved"
    )


def place_of(args: argparse.Namespace) -> Place:
    """What the options of a command name. Raises UserError where the configuration cannot be read or is wrong.

    Without options the default configuration says where the results are. Which shards count it says only where the last
    run was its own, since a run of another file may share its results.
    """
    if args.results is not None or not (args.config or settings.DEFAULT.is_file()):
        return Place(args.results or "results")
    config = settings.read_config(args.config or settings.DEFAULT)
    if not args.config and not _same_but_for_shards(config, _saved_config(Path(config["results"]) / "config.yaml")):
        return Place(config["results"])
    return Place(config["results"], {name: row["shards"] for name, row in config["datasets"].items()}, args.config)


def _same_but_for_shards(config: dict[str, Any], saved: dict[str, Any]) -> bool:
    def masked(values: dict[str, Any]) -> dict[str, Any]:
        rows = values.get("datasets") or {}
        return {**values, "datasets": {name: {**(row or {}), "shards": None} for name, row in rows.items()}}

    return masked(config) == masked(saved)


def shard_count(results: Path, dataset: str) -> int:
    """Number of shards of a dataset by the configuration that the last run saved below ``results``, else that of the
    newest shard files; 0 where there are none.

    A run that finds nothing to do saves nothing: who knows the configuration asks that.
    Raises UserError where the saved configuration is broken.
    """
    saved = _saved_config(results / "config.yaml").get("datasets") or {}
    if count := (saved.get(dataset) or {}).get("shards"):
        return int(count)
    files = sorted((results / dataset / "shards").glob("*-of-*.csv"), key=lambda path: path.stat().st_mtime)
    return int(files[-1].name.split("-of-")[1].split(".")[0]) if files else 0


def ledger_paths(results: Path, dataset: str, stage: str, shards: int | None = None) -> list[Path]:
    """Ledgers of a stage that are written, sorted. ``shards``: of the configuration; None: see :func:`shard_count`."""
    count = shards or shard_count(results, dataset)
    return sorted((results / dataset / stage).glob(f"*-of-{count:04d}.parquet" if count else "*-of-*.parquet"))


def _saved_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML ({error}): delete it, the next run writes it again") from None
