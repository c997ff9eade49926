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

from mammoflow import __version__
from mammoflow.files import write_text
from mammoflow.headline import lines
from mammoflow.report import page
from mammoflow.report.collect import read_cohort, read_config, read_dataset, read_run


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
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "versions": _versions(trained),
        "level_metrics": page.LEVEL_METRICS,
        "threshold_metrics": page.THRESHOLD_METRICS,
        "model_names": {"image": "image", "metadata": "metadata only", "fused": "image + metadata"},
        "splits": ["train", "val", "test"],
    }
    return _environment().get_template("index.html.j2").render(context), [one.metrics for one in trained if one.metrics]


def _versions(runs: list[Any]) -> dict[str, str]:
    found = {"mammoflow": __version__, "python": sys.version.split()[0]}
    for one in runs:
        for _, record in one.folds.values():
            found |= record.get("versions", {})
        found |= {name: one.metrics["reproduction"][name] for name in ("numpy", "pandas") if one.metrics}
    return found


def _environment() -> Environment:
    loader = PackageLoader("mammoflow.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = lambda value: f"{value:,}".replace(",", " ")
    environment.filters["number"] = lambda value, digits=3: (
        "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
    )
    environment.filters["percent"] = lambda value, digits=0: "–" if value is None else f"{100 * value:.{digits}f} %"
    environment.globals["style"] = Markup(loader.get_source(environment, "style.css")[0])  # noqa: S704 (our own file)
    return environment
