"""``plan``: what a configuration will cost, before anything is submitted: images, gigabytes, core-hours, GPU-hours.

Rates are those of earlier runs below the same ``results`` where there are any, else assumptions; each row says which.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mammoflow import settings
from mammoflow.costs.estimate import plan

Rows = tuple[str, list[str], list[list[str]]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--config", type=Path, default=settings.DEFAULT, metavar="YAML", help="configuration (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    costs = plan(settings.read_config(args.config))
    if args.json:
        print(json.dumps(costs, indent=2))
    elif sys.stdout.isatty():
        _print_rich(costs)
    else:
        print("\n\n".join(_plain(*rows) for rows in tables_of(costs)))
        print("\n" + "\n".join(costs["notes"]))


def tables_of(costs: dict[str, Any]) -> list[Rows]:
    """(title, header, rows) of each table, as text."""
    datasets = [
        [
            name,
            number(row["images"]),
            number(row["images_done"]),
            f"{row['shards_done'] or 0} of {row['shards']}",
            duration(row["longest_shard_minutes"]),
            number(row["read_gb"], 1),
            number(row["write_gb"], 1),
            number(row["core_hours"], 1),
            number(row["core_hours_left"], 1),
            ", ".join(filter(None, [row["source"], row["rate_source"]])),
        ]
        for name, row in costs["datasets"].items()
    ]
    header = ["dataset", "images", "done", "shards done", "longest", "GB read", "GB written", "core-h", "left", "from"]
    shown: list[Rows] = [("Archives: inventory, conversion, lesion crops", header, datasets)]
    training = [
        [
            f"{kind} {name}",
            number(row["images"]) if "images" in row else f"{row['folds']} folds x {row['epochs']} epochs",
            _state(row),
            *(number(row[key], 1) if key in row else "" for key in ("write_gb", "core_hours", "gpu_hours")),
            number(row.get("gpu_hours_left", row.get("core_hours_left")), 1),
            row["rate_source"].split(";")[0],
        ]
        for kind, part in (("cohort", "cohorts"), ("pack", "packs"), ("run", "runs"))
        for name, row in costs[part].items()
    ]
    header = ["step", "size", "done", "GB written", "core-h", "GPU-h", "left", "from"]
    if training:
        shown.append(("Splits and training", header, training))
    total = costs["total"]
    shown.append(
        (
            "Total",
            ["images", "GB read", "GB written", "core-h", "left", "GPU-h", "left"],
            [
                [
                    number(total["images"]),
                    *(number(total[key], 1) for key in ("read_gb", "write_gb", "core_hours", "core_hours_left")),
                    *(number(total[key], 1) for key in ("gpu_hours", "gpu_hours_left")),
                ]
            ],
        )
    )
    disks = [[disk["path"], number(disk["need_gb"], 1), number(disk["free_gb"], 1)] for disk in costs["disks"]]
    return [*shown, ("Disks", ["directory", "GB still needed", "GB free"], disks)]


def number(value: float | None, digits: int = 0) -> str:
    """``54,706``, ``0.02`` (small numbers keep a figure that is not zero), ``?`` for None."""
    if value is None:
        return "?"
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1g}"
    return f"{value:,.{digits}f}"


def duration(minutes: float | None) -> str:
    """``12 min``, ``3.5 h``."""
    if minutes is None:
        return "?"
    return f"{minutes / 60:.1f} h" if minutes >= 120 else f"{number(minutes, 0 if minutes >= 10 else 1)} min"


def _state(row: dict[str, Any]) -> str:
    if "folds_done" in row:
        return f"{row['folds_done']} of {row['folds']}"
    return "yes" if row["done"] else "no"


def _plain(title: str, header: list[str], rows: list[list[str]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    last = len(header) - 1
    # Text to the left, numbers to the right: the first column and the last are text.
    text = [
        "  ".join(
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *text])


def _print_rich(costs: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, header, rows in tables_of(costs):
        view = Table(title=title, title_justify="left")
        for column, word in enumerate(header):
            view.add_column(word, justify="left" if column in (0, len(header) - 1) else "right")
        for row in rows:
            view.add_row(*row)
        console.print(view)
    for note in costs["notes"]:
        console.print(f"[yellow]{note}[/yellow]", highlight=False)
