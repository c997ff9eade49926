"""Start from another run's weights: which of its folds, whether that would leak, and which weights fit.

What a fold has seen is written beside its weights (``seen.parquet``), with what its own source has seen, so that a
chain of runs is checked to its beginning. The rule:

- Patients that the source was fitted on may not be in this run's val or test split, nor in the fold held out here.
- Patients that the source looked at to choose its epoch may not be in this run's test split or held-out fold.
- On the same cohort the same fold is taken. From another cohort the best fold that breaks neither rule is taken.

A patient is known by id, by group and by identical files; archives made of the same films under other ids are refused
as a whole (:mod:`mammoflow.datasets.same_films`). Where no fold is clean the training is refused: leaving patients out
of val or test here would silently change what the run is compared on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file
from torch import Tensor, nn

from mammoflow import settings, tables
from mammoflow.datasets.same_films import refuse_seen_films
from mammoflow.errors import UserError
from mammoflow.files import file_digest
from mammoflow.train.common import RECORD, WEIGHTS

SEEN = "seen.parquet"
# Where two tasks keep the same encoder.
_PREFIXES = ("net.encoder.model.", "encoder.")
_CHECKED = ("patient_id", "group_id", "source_sha256")


@dataclass(frozen=True)
class Source:
    """A trained fold of another run: its directory, its train.json, and what it has seen (table ``seen``)."""

    directory: Path
    record: dict[str, Any]
    seen: pd.DataFrame

    @property
    def name(self) -> str:
        return f"{self.record['run']} fold {self.record['fold']}"

    @classmethod
    def open(cls, directory: Path) -> "Source":
        """Raises UserError where the fold is not trained, or by a version that did not write what it saw."""
        if not (directory / RECORD).is_file() or not (directory / WEIGHTS).is_file():
            raise UserError(f"{directory} holds no trained fold: train the run it belongs to first")
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        return cls(directory, record, tables.read(directory / SEEN, "seen"))


def seen_rows(run: str, train: pd.DataFrame, val: pd.DataFrame, sources: list[Source]) -> pd.DataFrame:
    """The ``seen`` table of a training: its own rows of the manifest, and what its sources saw before."""
    columns = ["dataset", "image_id", "patient_id", "group_id", "source_sha256"]
    own = [rows[columns].assign(role=role, run=run) for role, rows in (("train", train), ("val", val))]
    before = [source.seen for source in sources]
    every = pd.concat([*own, *before], ignore_index=True).drop_duplicates(tables.KEYS["seen"])
    return tables.finish("seen", every)


def overlap(seen: pd.DataFrame, manifest: pd.DataFrame, fold: int | None) -> pd.DataFrame:
    """Rows of a cohort's ``manifest`` that may not be held out after ``seen``; see the module's text for the rule.

    ``fold``: the fold of train that is held out here, None where none is (a cohort that is only scored).
    """
    strict = (manifest["split"] == "test") | ((manifest["split"] == "train") & (manifest["fold"] == fold)).fillna(False)
    fitted = seen[seen["role"] == "train"]
    broken = (strict & known_in(manifest, seen)) | ((manifest["split"] == "val") & known_in(manifest, fitted))
    return manifest[broken.fillna(False).astype(bool)]


def known_in(rows: pd.DataFrame, seen: pd.DataFrame) -> pd.Series:
    """Whether each row's patient, group or file is among ``seen``."""
    found = pd.Series(False, index=rows.index)
    for name in _CHECKED:
        # A group carries its archive's name, a file needs none; a patient id is unique within its archive only.
        of = (
            (lambda frame: frame["dataset"] + "|" + frame["patient_id"])
            if name == "patient_id"
            else (lambda frame, name=name: frame[name])
        )
        found |= of(rows).isin(set(of(seen).dropna())) & of(rows).notna()
    return found


def choose(directories: list[Path], manifest: pd.DataFrame, fold: int, cohort_digest: str) -> Source:
    """The fold to start from. Raises UserError where none is clean, naming a patient and the ways out."""
    sources = [Source.open(directory) for directory in directories]
    same = [one for one in sources if one.record["cohort_digest"] == cohort_digest]
    sources = [one for one in same if one.record["fold"] == fold] if same else sources
    refuse_films_of("from_run", sources, manifest)
    if not sources:
        raise UserError(f"--from-run lacks fold {fold}: on the same cohort a fold starts from the same fold")
    leaks = [overlap(one.seen, manifest, fold) for one in sources]
    clean = [one for one, leak in zip(sources, leaks, strict=True) if leak.empty]
    if not clean:
        least = min(range(len(sources)), key=lambda number: len(leaks[number]))
        leak, one = leaks[least], leaks[least].iloc[0]
        raise UserError(
            f"from_run: {sources[least].name} has seen {leak['patient_id'].nunique()} patients that this run holds out "
            f"(first: {one['dataset']} {one['patient_id']}, split {one['split']}): its scores would be too good. Use "
            "one cohort for both runs, or leave that archive out of one of them"
        )
    return max(clean, key=_merit)


def refuse_films_of(key: str, sources: list[Source], manifest: pd.DataFrame) -> None:
    """Raise UserError where a source has seen the films of the cohort ``manifest`` under other ids.

    key: of the run's section that names the source.
    """
    for one in sources:
        for before, rows in one.seen.groupby("run"):
            refuse_seen_films(f"{key}: run {before!r}", rows["dataset"], "this run's cohort", manifest["dataset"])


def _merit(source: Source) -> tuple[float, int]:
    figure = source.record.get("best_" + source.record["selected_by"])
    sign = -1 if source.record["selected_by"] == "val_loss" else 1
    return sign * figure, -source.record["fold"]


def fitting(model: nn.Module, source: Source) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The source's weights that fit ``model``, by the model's names, and what was done with all of them.

    The second value lists parameters that are ``loaded``, ``started_anew`` (no weight of that name, or of another
    shape, as where a head has other classes) and ``not_used`` of the source. Raises UserError where nothing fits.
    """
    given = load_file(source.directory / WEIGHTS)
    by_name = {**{_canonical(name): name for name in given}, **{name: name for name in given}}
    found: dict[str, Tensor] = {}
    used = set()
    anew = []
    for name, value in model.state_dict().items():
        origin = by_name.get(name) or by_name.get(_canonical(name))
        if origin is not None and given[origin].shape == value.shape:
            found[name] = given[origin]
            used.add(origin)
        else:
            anew.append(name)
    learned = [name for name, _ in model.named_parameters() if name in found]
    if not learned:
        raise UserError(f"from_run: no weight of {source.name} fits this model: take the same encoder")
    return found, {"loaded": sorted(found), "started_anew": anew, "not_used": sorted(set(given) - used)}


def _canonical(name: str) -> str:
    """An encoder's parameter under one name for both tasks; others keep theirs."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return "encoder:" + name.removeprefix(prefix)
    return name


def account(source: Source, what: dict[str, list[str]], section: dict[str, Any], policy: list[str]) -> dict[str, Any]:
    """What train.json says about the start: the source, what changed on the way, and what was loaded.

    ``policy``: the label policies of this run's rows.
    """
    before = settings.resolve_section("run", source.record["settings"])  # of an older version: without the newest keys
    changed = {
        name: {"from": old, "to": new}
        for name, old, new in [
            ("task", before["task"], section["task"]),
            ("image_size", before["image_size"], section["image_size"]),
            ("unit", before["unit"], section["unit"]),
            ("classes", _classes(before), _classes(section)),
            ("auxiliary", sorted(before["auxiliary"]), sorted(section["auxiliary"])),
            ("label_policy", source.record["label_policy"], policy),
        ]
        if old != new
    }
    return {
        "run": source.record["run"],
        "fold": source.record["fold"],
        "weights_sha256": file_digest(source.directory / WEIGHTS),
        "cohort": before["cohort"],
        "changed": changed,
        "loaded": len(what["loaded"]),
        "started_anew": what["started_anew"],
        "not_used": what["not_used"],
        "images_seen_before": len(source.seen),
    }


def _classes(section: dict[str, Any]) -> str | None:
    return section["segment"]["classes"] if section["task"] == "segment" else None
