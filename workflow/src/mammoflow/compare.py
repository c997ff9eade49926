"""``mammoflow compare RUN_A RUN_B ...``: paired differences between runs, as a table and as a page.

Negative controls are left out and named.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from mammoflow import settings
from mammoflow.comparison import compare, controls_sentence, read_scores
from mammoflow.console import stdout_console
from mammoflow.errors import UserError
from mammoflow.files import write_json, write_text
from mammoflow.levels import LEVELS
from mammoflow.metrics import LOWER_IS_BETTER, METRIC_NAMES

MODEL_NAMES = {"image": "image model", "fused": "image + metadata", "metadata": "metadata-only floor"}
# A table of more would not be read in a terminal; the page and the JSON file hold all.
TERMINAL_METRICS = ("auc", "average_precision", "partial_auc", "pf1", "sensitivity_at_specificity_90", "brier")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="directory of a run, or its name below RESULTS/runs; the first is the reference",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="directory of the results")
    parser.add_argument("--level", choices=[*LEVELS, "all"], default="breast", help="level of the terminal's table")
    parser.add_argument("--bootstrap", type=int, default=2000, help="replicates of the patient-clustered bootstrap")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="HTML",
        help="the page; its numbers lie beside it as JSON (default RESULTS/compare.html)",
    )


def run(args: argparse.Namespace) -> None:
    from mammoflow.report import comparison_page  # draws curves: not needed to print a usage

    given = {"bootstrap": args.bootstrap, "confidence": args.confidence}
    options = settings.resolve_section("evaluate", given)
    runs = [read_scores(find_run(name, args.results)) for name in args.runs]
    found = compare(runs, options, args.seed)
    out = args.out or args.results / "compare.html"
    write_json(out.with_suffix(".json"), found)
    write_text(out, comparison_page(found))
    console = stdout_console()
    for level in LEVELS if args.level == "all" else [args.level]:
        for part in level_tables(found, level):
            console.print(part)
    if found["controls"]:
        print(f"left out: {controls_sentence(found['controls'])}")
    print(f"page: {out}")


def find_run(name: str, results: Path) -> Path:
    """Directory of a run that is given as a directory or as a name below ``results``/runs. Raises UserError."""
    for path in (Path(name), results / "runs" / name):
        if path.is_dir():
            return path
    known = sorted(path.name for path in (results / "runs").glob("*") if path.is_dir())
    raise UserError(
        f"{name!r} is neither a directory nor a run of {results} (runs there: {', '.join(known) or 'none'}): name the "
        "directory of the results with --results"
    )


def level_tables(found: dict[str, Any], level: str) -> list[Table | str]:
    """One table per model of a level, and a line on the units; a sentence where no unit is shared."""
    counts = next(row for row in found["units"] if row["level"] == level)
    own = ", ".join(f"{name} {size}" for name, size in counts["own"].items())
    left_out = f"; {counts['other_label']} with another label left out" if counts["other_label"] else ""
    parts: list[Table | str] = [f"{level} level: {counts['shared']} shared test units (of {own}{left_out})"]
    confidence = f"{100 * found['settings']['confidence']:g} %"
    for model, title in MODEL_NAMES.items():
        numbers = _pick(found["numbers"], level, model)
        if not numbers:
            continue
        table = Table(title=f"{title}, {level} level", title_justify="left", caption_justify="left")
        table.add_column("metric", no_wrap=True)
        for row in numbers:
            table.add_column(f"{row['run']} ({confidence})", no_wrap=True)
        for row in numbers[1:]:
            table.add_column(f"{row['run']} - {found['reference']}", no_wrap=True)
        table.add_column("DeLong p", justify="right", no_wrap=True)
        for metric in TERMINAL_METRICS:
            better = " (lower is better)" if metric in LOWER_IS_BETTER else ""
            cells = [_words(row["metrics"].get(metric), "") for row in numbers]
            differences = [row for row in _pick(found["differences"], level, model) if row["metric"] == metric]
            tests = [d["delong"]["p"] for d in differences if d.get("delong")]
            p_values = ", ".join(f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in tests)
            table.add_row(METRIC_NAMES[metric] + better, *cells, *[_words(d, "+") for d in differences], p_values)
        parts.append(table)
    return parts


def _pick(rows: list[dict[str, Any]], level: str, model: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["level"], row["dataset"], row["model"]) == (level, None, model)]


def _words(number: dict[str, Any] | None, sign: str) -> str:
    if number is None or number["value"] is None:
        return "n/a"
    if number["low"] is None:
        return f"{number['value']:{sign}.3f} (no interval)"
    return f"{number['value']:{sign}.3f} ({number['low']:{sign}.3f} to {number['high']:{sign}.3f})"
