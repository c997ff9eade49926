"""``mammoflow model-card``: what a run learned from, how well it does, where it ends, and how its weights are used.

Markdown with a YAML head, as Hugging Face's model cards are (https://huggingface.co/docs/hub/model-cards; the idea is
Mitchell et al., FAT* 2019). Every figure is read from the run's result files; what they do not hold, the card says it
does not know.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from mammoflow import card_facts
from mammoflow.calibration import METHOD_NAMES
from mammoflow.card_facts import LEVELS, MODELS
from mammoflow.card_limits import limits
from mammoflow.errors import UserError
from mammoflow.files import read_json, write_text
from mammoflow.headline import in_words, select, thousands
from mammoflow.lesions import CLASS_SETS
from mammoflow.metrics import METRIC_NAMES
from mammoflow.report.collect import is_synthetic, read_cohort, read_config
from mammoflow.truth import label_sources, truth_of

NAME = "model_card.md"
FIGURES = ["auc", "average_precision", "partial_auc", "pf1", "brier", "ece"]
AT_THRESHOLD = ["sensitivity", "specificity", "ppv", "npv"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow model-card``."""
    parser.add_argument("directory", type=Path, metavar="RUN_DIR", help="directory of a trained run, below its results")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"file to write, RUN_DIR/{NAME} without it")


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow model-card``."""
    out = args.out or args.directory / NAME
    write_text(out, build(args.directory))
    print(f"model card: {out}")


def build(directory: Path) -> str:
    """The card of the run in ``directory`` (``<results>/runs/<run>``).

    Raises UserError where no fold is trained, or the cohort or the configuration is missing.
    """
    view = collect(directory.resolve())
    environment = Environment(
        loader=PackageLoader("mammoflow.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown; what is not ours goes through `plain`)
    )
    environment.filters["plain"] = plain
    environment.globals |= {"words": words, "brief": brief, "thousands": thousands}
    try:
        body = environment.get_template("model_card.md.j2").render(view)
    except UndefinedError as error:
        raise UserError(f"the records of {directory} are of an older version ({error}): train the run again") from error
    head = yaml.safe_dump(front_matter(view), sort_keys=False, allow_unicode=True, width=1000)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{head}---\n\n{body}\n"


def collect(directory: Path) -> dict[str, Any]:
    """Everything the card says, as plain values."""
    results = directory.parents[1]
    folds = card_facts.read_folds(directory)
    record = folds[0]
    section = record["settings"]
    config = read_config(results / "config.yaml")
    cohort = read_cohort(results / "cohorts" / section["cohort"])
    metrics = read_json(directory / "evaluate" / "metrics.json") or None
    learned = card_facts.learned_from(directory, folds, cohort.manifest)
    names = sorted(set(learned) | set(cohort.manifest["dataset"]))
    blocks = metrics["results"] if metrics else []
    return {
        "run": record["run"],
        "task": section["task"],
        "classes": CLASS_SETS[section["segment"]["classes"]] if section["task"] == "segment" else (),
        "section": section,
        "record": record,
        "folds": folds,
        "chain": card_facts.chain(results, record),
        "learned": learned,
        "synthetic": [name for name in names if is_synthetic(name, config)],
        "archives": card_facts.archives(names),
        "strictest": card_facts.strictest(names),
        "truth": truth_of(metrics.get("label_sources", {}) if metrics else {}),
        "data_truth": truth_of(label_sources(cohort.manifest)),
        "counts": card_facts.counts(cohort.manifest),
        "audit": cohort.audit,
        "policies": card_facts.policies(results, names),
        "convert": card_facts.differing("convert", config.get("convert") or {}),
        "own_grey_scale": card_facts.own_grey_scale(names),
        "metrics": metrics,
        "tested": bool(select(blocks, split="test", level="breast", model="image", reason=None)),
        "results": [
            block
            for level in LEVELS
            for name in MODELS
            for block in select(blocks, split="test", level=level, model=name)
        ],
        "subgroups": card_facts.subgroups(blocks),
        "calibrations": [row for row in metrics["calibrations"] if row["model"] == "image"] if metrics else [],
        "differences": [row for row in metrics["differences"] if row["split"] == "test"] if metrics else [],
        "lesions": card_facts.lesions(metrics),
        "limits": limits(cohort.manifest, blocks, folds, set(learned)),
        "figures": FIGURES,
        "at_threshold": AT_THRESHOLD,
        "metric_names": METRIC_NAMES,
        "method_names": METHOD_NAMES,
        "model_names": MODELS,
        "cohort_folds": cohort.digest.get("folds", len(folds)),
        "reproduction": record["reproduction"],
    }


def front_matter(view: dict[str, Any]) -> dict[str, Any]:
    """The card's head. The metrics of ``model-index`` are those of the image model on the test split."""
    segment = view["task"] == "segment"
    task = "image-segmentation" if segment else "image-classification"
    found = []
    for block in view["results"]:
        number = block["metrics"].get("auc") or {"value": None}
        if block["model"] == "image" and number["value"] is not None:
            found.append({
                "type": "roc_auc",
                "value": round(number["value"], 4),
                "name": f"AUC, {block['level']} level: {in_words(number)}",
            })  # fmt: skip
    head: dict[str, Any] = {
        "license": "other",
        "license_name": "bound-by-the-data",
        "license_link": "#licences",
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": ["mammography", "breast-cancer", "medical", "not-for-diagnosis", "onnx", "safetensors", "mammoflow"],
        "datasets": [archive["name"] for archive in view["archives"] if archive["name"] in view["learned"]],
        "metrics": ["roc_auc", "brier_score"],
    }
    if view["synthetic"]:
        head["tags"].append("synthetic-data")
    if found:
        dataset = {
            "type": view["section"]["cohort"],
            "name": f"{view['section']['cohort']}, test split",
            "split": "test",
        }
        results = [{"task": {"type": task}, "dataset": dataset, "metrics": found}]
        head["model-index"] = [{"name": view["run"], "results": results}]
    return head


def plain(text: object) -> str:
    """Text that is not ours (of headers and tables) without any meaning in Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~!])", r"\\\1", " ".join(str(text).split()))


def words(number: dict[str, Any] | None) -> str:
    """A figure with its interval, or why there is none; a dash where it was not measured."""
    return "–" if number is None else in_words(number)


def brief(number: dict[str, Any] | None) -> str:
    """As :func:`words`, without the reason."""
    return "–" if number is None or number["value"] is None else in_words(number)
