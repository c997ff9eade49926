"""``mammoflow headline``: the main result of each run in a few lines, with the metadata-only floor beside it."""

import argparse
import json
from pathlib import Path
from typing import Any

from mammoflow.errors import UserError
from mammoflow.truth import truth_of

NAMES = {"image": "image model alone", "metadata": "metadata-only floor", "fused": "image + metadata"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="directory of the results")


def run(args: argparse.Namespace) -> None:
    found = sorted(args.results.glob("runs/*/evaluate/metrics.json"))
    if not found:
        raise UserError(f"{args.results} holds no evaluated run: run `snakemake` first, or name another directory")
    for path in found:
        print("\n".join(lines(json.loads(path.read_text(encoding="utf-8")))))
    report = args.results / "report" / "index.html"
    if report.is_file():
        print(f"report: {report}")


def lines(metrics: dict[str, Any]) -> list[str]:
    """Test AUC of a run (the content of metrics.json) per level; breast level with the floor and the difference. A last
    line says so where labels are a reader's opinion.
    """
    shown, truth = [], truth_of(metrics.get("label_sources", {}))
    for block in select(metrics["results"], split="test"):
        if block["model"] == "calibrated":
            continue
        counts = f"{block['n_units']} units, {block['n_positive']} {truth.called}, {block['n_patients']} patients"
        number = in_words(block["metrics"].get("auc", {"value": None, "reason": block["reason"]}))
        shown.append(f"{metrics['run']}: test AUC, {block['level']:<7} {NAMES[block['model']]:<19} {number} ({counts})")
    for row in metrics["differences"]:
        if (row["level"], row["split"]) == ("breast", "test"):
            names = f"{NAMES[row['first']]} minus {NAMES[row['second']]}"
            shown.append(f"{metrics['run']}: test AUC, {row['level']:<7} {names}: {in_words(row)}")
    return shown + ([f"{metrics['run']}: {truth.note}"] if truth.note else [])


def select(blocks: list[dict[str, Any]], subgroup: str | None = None, **wanted: str) -> list[dict[str, Any]]:
    """Blocks of metrics.json whose keys have the ``wanted`` values; of all units, or of the ``subgroup`` column."""
    return [
        block
        for block in blocks
        if (block["subgroup"] or {}).get("column") == subgroup
        and all(block[key] == value for key, value in wanted.items())
    ]


def chosen_model(metrics: dict[str, Any]) -> str:
    """``image`` or ``fused``: whichever has the higher breast-level AUC on val. Test has no say in the choice."""
    aucs = {}
    for name in ("image", "fused"):
        for block in select(metrics["results"], level="breast", split="val", model=name):
            aucs[name] = block["metrics"].get("auc", {}).get("value")
    return "fused" if (aucs.get("fused") or 0) > (aucs.get("image") or 0) else "image"


def in_words(number: dict[str, Any]) -> str:
    """``0.812 (0.744 to 0.871)``, or why there is no number."""
    if number["value"] is None:
        return f"not stated: {number['reason']}"
    if number["low"] is None:
        return f"{number['value']:.3f} (no interval)"
    return f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def thousands(value: int) -> str:
    """``54 706``."""
    return f"{value:,}".replace(",", " ")
