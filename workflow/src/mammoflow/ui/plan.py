"""From choices on the page to a configuration, and to the Snakemake command it stands for."""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammoflow import settings
from mammoflow.datasets import archive
from mammoflow.errors import UserError
from mammoflow.ui.job import environment
from mammoflow.ui.project import WORKFLOW, Project

IMAGES_PER_SHARD = 300  # the schema advises 200 to 500
TARGETS = {"manifests": "Check the data", "cohorts": "Split", "all": "Train and report"}


@dataclass(frozen=True)
class Preset:
    """Where a training starts from; every number can be changed on the page."""

    title: str
    note: str
    run: Mapping[str, Any]


PRESETS = {
    "quick": Preset(
        "First try",
        "Small pictures, a tiny model: minutes on a laptop. It shows that everything works, not how good it can get.",
        {"encoder": "test_efficientnet", "image_size": [256, 128], "epochs": 8, "batch_size": 8, "workers": 0,
         "learning_rate": 0.004},
    ),
    "full": Preset(
        "In earnest",
        "1024 x 512 pixels and ConvNeXt: hours on one GPU.",
        {"encoder": "convnext_nano", "image_size": [1024, 512], "epochs": 20, "batch_size": 8},
    ),
}  # fmt: skip


def with_archive(config: Mapping[str, Any], dataset: str, images: int, root: str | None = None) -> dict[str, Any]:
    """``config`` with an archive. images: how many are expected, for the number of shards, where none is given yet.

    Its ``collect`` key is left alone: the page fetches by itself, so the workflow may run where no network is.
    """
    archive(dataset)
    changed = copy.deepcopy(dict(config))
    section = changed.setdefault("datasets", {})
    section[dataset] = entry = dict(section.get(dataset) or {})
    entry.setdefault("shards", min(9999, max(1, math.ceil(images / IMAGES_PER_SHARD))))
    if root is not None:
        entry["root"] = root
    return changed


def collect_section(**values: Any) -> dict[str, Any]:
    """The ``collect`` section of what was chosen, validated, without the keys that are at their defaults."""
    given = {key: value for key, value in values.items() if value not in (None, "", [], "auto")}
    settings.resolve_section("collect", given)
    return given


def with_run(
    config: Mapping[str, Any],
    name: str,
    datasets: Sequence[str],
    folds: int,
    splits: Mapping[str, float],
    long_side: int | None,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """``config`` with one cohort and one run, both called ``name``. Raises UserError where no archive was chosen.

    long_side: of the working images, None for their native size; another one than before converts anew.
    """
    if not datasets:
        raise UserError("choose at least one archive to learn from")
    changed = copy.deepcopy(dict(config))
    changed.setdefault("convert", {})
    changed["convert"] = {**(changed["convert"] or {}), "long_side": long_side}
    cohort = {"datasets": list(datasets), "splits": dict(splits), "folds": folds}
    changed["cohorts"] = {**(changed.get("cohorts") or {}), name: cohort}
    changed["runs"] = {**(changed.get("runs") or {}), name: {"cohort": name, **run}}
    return changed


def supervised(datasets: Sequence[str]) -> list[str]:
    """Those of ``datasets`` that a cohort may learn from."""
    return [name for name in datasets if not archive(name).not_supervised]


def profiles() -> list[str]:
    """Names of the workflow's profiles that send jobs elsewhere, such as ``slurm``."""
    return sorted(path.parent.name for path in WORKFLOW.glob("profiles/*/profile.yaml") if path.parent.name != "local")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(project: Project, target: str, cores: int, profile: str | None = None) -> list[str]:
    """The Snakemake command as an argument list. Raises UserError for a target or profile that does not exist."""
    if target not in TARGETS:
        raise UserError(f"{target!r} is no target: {', '.join(TARGETS)}")
    if profile is not None and profile not in profiles():
        raise UserError(f"{profile!r} is no profile: {', '.join(profiles())}")
    stale = stale_inventories(project)
    again = ["--forcerun", *stale] if stale else []
    where = ["--cores", str(int(cores))] if profile is None else ["--profile", str(WORKFLOW / "profiles" / profile)]
    return [*_snakemake(project), *again, *where, "--rerun-incomplete", "--show-failed-logs", target]


def stale_inventories(project: Project) -> list[str]:
    """Inventories older than the last collect of their archive: the raw files are no input of the workflow, so it must
    be told. Named as the rules name them."""
    config = project.config()
    names = []
    for dataset in config["datasets"]:
        listed = Path(config["results"]) / dataset / "inventory" / "images.parquet"
        collected = project.archive_root(dataset) / "collected.json"
        inventory = project.root / listed
        if collected.is_file() and inventory.is_file() and collected.stat().st_mtime > inventory.stat().st_mtime:
            names.append(str(listed))
    return names


def unlock_command(project: Project) -> list[str]:
    """What frees a directory whose run was killed."""
    return [*_snakemake(project), "--cores", "1", "--unlock"]


def dry_run(words: Sequence[str], project: Project, timeout_s: float = 300.0) -> str:
    """The jobs Snakemake would run and why, as it prints them. Raises UserError with its last lines where it fails."""
    done = subprocess.run(
        [*words, "--dry-run", "--quiet", "rules"],
        cwd=project.root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    output = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise UserError(output[-2000:])
    return output


def _snakemake(project: Project) -> list[str]:
    words = [sys.executable, "-m", "snakemake"]
    if project.root.resolve() != WORKFLOW:
        words += ["--snakefile", str(WORKFLOW / "Snakefile"), "--directory", str(project.root)]
    return [*words, "--configfile", str(project.config_path)]
