"""``mammoflow report``: one self-contained HTML page on what entered, how it was split, and what came out.

The page needs no network and no other file: styles are inline, curves are SVG, pictures are data URIs. It grows with
the results: with datasets only it tells of them; trainings and evaluations appear as they are done.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mammoflow import __version__, provenance
from mammoflow.calibration import METHOD_NAMES
from mammoflow.comparison import compare, read_scores
from mammoflow.errors import UserError
from mammoflow.files import write_text
from mammoflow.headline import lines, thousands
from mammoflow.report import page
from mammoflow.report.collect import read_cohort, read_config, read_dataset, read_run, read_timings
from mammoflow.report.comparison import comparison_view


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--datasets", type=Path, nargs="*", default=[], metavar="DIR", help="directories of datasets")
    parser.add_argument("--cohorts", type=Path, nargs="*", default=[], metavar="DIR", help="directories of cohorts")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR", help="directories of runs")
    parser.add_argument("--store", type=Path, required=True, help="directory of the converted images")
    parser.add_argument("--config", type=Path, required=True, help="the merged configuration, YAML")
    parser.add_argument("--out", type=Path, required=True, metavar="HTML", help="the page to write")


def run(args: argparse.Namespace) -> None:
    html, evaluated = build(args.datasets, args.cohorts, args.runs, args.store, args.config)
    write_text(args.out, html)
    for metrics in evaluated:
        print("\n".join(lines(metrics)))
    print(f"report: {args.out}")


def build(
    datasets: list[Path], cohorts: list[Path], runs: list[Path], store: Path, config_path: Path
) -> tuple[str, list[dict[str, Any]]]:
    """The page, and the metrics of the evaluated runs. Raises UserError where a file cannot be read."""
    config = read_config(config_path)
    pools = {path.name: read_cohort(path) for path in cohorts}
    trained = [read_run(path) for path in runs]
    context = {
        "datasets": [page.dataset_view(read_dataset(path, config)) for path in datasets],
        "cohorts": [page.cohort_view(cohort) for cohort in pools.values()],
        "runs": [page.run_view(one, pools, store) for one in trained],
        "comparison": compare_evaluated(runs),
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "versions": _versions(trained),
        "timings": read_timings(config_path.parent),
        "level_metrics": page.LEVEL_METRICS,
        "threshold_metrics": page.THRESHOLD_METRICS,
        "method_names": METHOD_NAMES,
        "model_names": {"image": "image", "metadata": "metadata only", "fused": "image + metadata"},
        "splits": ["train", "val", "test"],
    }
    return _environment().get_template("index.html.j2").render(context), [one.metrics for one in trained if one.metrics]


def compare_evaluated(directories: list[Path]) -> dict[str, Any] | None:
    """View of the evaluated runs compared with the first of them that is no negative control; None where there are
    fewer than two.
    """
    evaluated = [path for path in directories if (path / "evaluate" / "metrics.json").is_file()]
    if len(evaluated) < 2:
        return None
    runs = [read_scores(path) for path in evaluated]
    first = next((run for run in runs if not run.control), runs[0]).metrics
    try:
        found = compare(runs, first["settings"], first["reproduction"]["seed"])
    except UserError as error:
        return {"reason": f"{str(error)[0].upper()}{str(error)[1:]}."}
    return comparison_view(found)


def comparison_page(found: dict[str, Any]) -> str:
    """The page of a comparison alone. ``found``: what :func:`mammoflow.comparison.compare` returned."""
    return _environment().get_template("compare.html.j2").render(c=comparison_view(found), version=__version__)


def balance_page(view: dict[str, Any]) -> str:
    """The page of a cohort's split. ``view``: what :func:`mammoflow.report.balance.balance_view` returned."""
    return _environment().get_template("balance.html.j2").render(**view, version=__version__)


def _versions(runs: list[Any]) -> dict[str, str]:
    found = {"mammoflow": __version__, "python": sys.version.split()[0]}
    for one in runs:
        for _, record in one.folds.values():
            found |= record.get("versions", {})
        found |= {name: one.metrics["reproduction"][name] for name in provenance.PACKAGES if one.metrics}
    return found


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _environment() -> Environment:
    loader = PackageLoader("mammoflow.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = thousands
    environment.filters["number"] = lambda value, digits=3, signed=False: (
        "–" if value is None else f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    )
    environment.filters["duration"] = _duration
    environment.filters["percent"] = lambda value, digits=0: "–" if value is None else f"{100 * value:.{digits}f} %"
    environment.globals["style"] = Markup(loader.get_source(environment, "style.css")[0])  # noqa: S704 (our own file)
    return environment
