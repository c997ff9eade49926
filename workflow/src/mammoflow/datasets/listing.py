"""``datasets``: the catalogue of archives: licence, access, what to put where, how to cite."""

import argparse
import json
from dataclasses import asdict

from mammoflow.datasets import ARCHIVES


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="print the catalogue as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the catalogue."""
    if args.json:
        print(json.dumps([asdict(archive) for archive in ARCHIVES.values()], indent=2, ensure_ascii=False))
    else:
        _print_table()


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    # Two columns: the texts are sentences, and five columns of them do not fit a terminal.
    table = Table(show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for archive in ARCHIVES.values():
        facts = {
            "Licence": archive.licence,
            "Access": archive.access,
            f"Put below data/{archive.name}": archive.put_here,
            "Cite": archive.citation,
        }
        lines = [
            f"[bold]{archive.title}[/bold]",
            *(f"[bold]{name}:[/bold] {text}" for name, text in facts.items() if text),
        ]
        table.add_row(archive.name, "\n".join(lines))
    Console().print(table)
