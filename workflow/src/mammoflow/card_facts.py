"""What a model card states, gathered from the files of a run, its cohort and its datasets. No words on layout here."""

from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import settings, tables
from mammoflow.datasets.catalog import ARCHIVES, TERMS, IntensityRule
from mammoflow.errors import UserError
from mammoflow.files import read_json
from mammoflow.headline import select

LEVELS = ("image", "breast", "patient")
MODELS = {"image": "image model", "metadata": "metadata only", "fused": "image + metadata"}
SUBGROUPS = {
    "dataset": "archive",
    "density": "density",
    "age_band": "age",
    "view": "view",
    "site": "site",
    "manufacturer": "manufacturer",
    "finding": "marked finding",
    "lesion_size": "largest marked lesion",
}


def read_folds(directory: Path) -> list[dict[str, Any]]:
    """train.json of each finished fold, by number. Raises UserError where there is none."""
    records = [read_json(path) for path in directory.glob("*/train.json") if path.parent.name.isdigit()]
    if not records:
        raise UserError(
            f"{directory} holds no trained fold: name the directory of a run, such as results/runs/baseline"
        )
    return sorted(records, key=lambda record: record["fold"])


def learned_from(directory: Path, folds: list[dict[str, Any]], manifest: pd.DataFrame) -> dict[str, list[str]]:
    """Dataset -> the runs that saw its images: this one, and those whose weights or labels it started from."""
    found: dict[str, set[str]] = {}
    for record in folds:
        path = directory / str(record["fold"]) / "seen.parquet"
        if path.is_file():
            seen = tables.read(path, "seen")[["dataset", "run"]].drop_duplicates()
        else:  # written by an older version
            names = manifest.loc[manifest["split"].isin(["train", "val"]), "dataset"].unique()
            seen = pd.DataFrame({"dataset": names, "run": record["run"]})
        for row in seen.itertuples():
            found.setdefault(row.dataset, set()).add(row.run)
    return {name: sorted(runs) for name, runs in sorted(found.items())}


def chain(results: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """``started_from`` of a fold, of the fold it started from, and so on to the first."""
    steps: list[dict[str, Any]] = []
    start = record.get("started_from")
    while start and start not in steps:
        steps.append(start)
        start = read_json(results / "runs" / start["run"] / str(start["fold"]) / "train.json").get("started_from")
    return steps


def archives(names: list[str]) -> list[dict[str, Any]]:
    """Title, licence, kind of terms and citation of each dataset."""
    found = []
    for name in names:
        entry = ARCHIVES.get(name)
        unknown = {"title": name, "licence": "unknown: not in the catalogue", "terms": TERMS[-1], "citation": ""}
        known = entry and {key: getattr(entry, key) for key in unknown}
        found.append({"name": name, **(known or unknown)})
    return found


def strictest(names: list[str]) -> dict[str, Any]:
    """The strictest kind of terms among the datasets, and which of them have it."""
    entries = archives(names)
    terms = max((entry["terms"] for entry in entries), key=TERMS.index)
    return {"terms": terms, "archives": [entry for entry in entries if entry["terms"] == terms]}


def counts(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Images, those with a positive label, and patients of each dataset and split that take part; the sum last."""
    part = manifest[manifest["exclude_reason"].isna()]
    rows = []
    for split in tables.SPLITS:
        inside = part[part["split"] == split]
        sides = (
            [*inside.groupby("dataset"), ("all", inside)]
            if inside["dataset"].nunique() > 1
            else [*inside.groupby("dataset")]
        )
        for name, images in sides:
            malignant = images[images["label_malignant"] == 1]
            rows.append({
                "split": split,
                "dataset": name,
                "images": len(images),
                "patients": int(images["group_id"].nunique()),
                "malignant": len(malignant),
                "malignant_patients": int(malignant["group_id"].nunique()),
                "unlabelled": int(images["label_malignant"].isna().sum()),
            })  # fmt: skip
    return rows


def policies(results: Path, names: list[str]) -> list[dict[str, Any]]:
    """Label policy and sources of each dataset, out of its summary; a dataset without one is left out."""
    found = []
    for name in names:
        summary = read_json(results / name / "summary.json")
        if summary:
            policy = {key: value for key, value in summary["label_policy"].items() if key != "recipe"}
            found.append({"name": name, "policy": policy, "sources": summary["label_sources"]})
    return found


def own_grey_scale(names: list[str]) -> list[str]:
    """The datasets whose stored values are not read by DICOM's rule: ``convert-file`` has to be told of them."""
    return [name for name in names if name in ARCHIVES and ARCHIVES[name].intensity != IntensityRule()]


def differing(section: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section of the configuration that are not at their defaults."""
    default = settings.resolve_section(section, {})
    return {key: value for key, value in given.items() if value != default.get(key)}


def subgroups(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test blocks of the image model by subgroup: per breast, views per image."""
    found = []
    for column, title in SUBGROUPS.items():
        level = "image" if column == "view" else "breast"
        rows = select(blocks, column, split="test", level=level, model="image")
        found += [{**row, "title": title} for row in rows]
    return found


def lesions(metrics: dict[str, Any] | None) -> dict[str, Any]:
    """What the maps find of the marked lesions on test, or the ``reason`` why nothing is known."""
    measured = (metrics or {}).get("lesions") or {"reason": "the run is not evaluated"}
    return measured if measured["reason"] else measured["splits"]["test"]
