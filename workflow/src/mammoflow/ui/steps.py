"""Where a project stands, and what to do next: the line on top of every page."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammoflow.collect import progress, start
from mammoflow.collect.state import Store
from mammoflow.errors import UserError
from mammoflow.ui.job import Job
from mammoflow.ui.plan import stale_inventories
from mammoflow.ui.project import Project

BUSY = ("listing", "running")


def job_of(project: Project) -> Job:
    """The project's workflow job. One at a time: Snakemake locks the directory anyway."""
    return Job(project.state / "run")


def checked(project: Project) -> list[str]:
    """Archives whose manifest is written, and no older than what was collected last."""
    stale = set(stale_inventories(project))
    config = project.config()
    return [
        name
        for name in config["datasets"]
        if (project.results / name / "manifest.parquet").is_file()
        and f"{config['results']}/{name}/inventory/images.parquet" not in stale
    ]


def evaluated(project: Project) -> list[str]:
    """Runs that have been trained and evaluated."""
    return sorted(path.parent.parent.name for path in project.results.glob("runs/*/evaluate/metrics.json"))


def next_step(project: Project) -> tuple[str, str]:
    """(key of the page, what to do there) in one sentence, from what lies on disk."""
    datasets = list(project.config()["datasets"])
    job = job_of(project).state()
    if job.status == "running":
        return "train", "The workflow is running. You may close this page; it goes on."
    if not datasets:
        return "collect", "Choose an archive, look at its size, then start collecting."
    states = {name: progress(project.archive_root(name)).status for name in datasets}
    for name, status in states.items():
        if status in BUSY:
            return "collect", f"{name} is being collected. You may close this page; it goes on."
    for name, status in states.items():
        if status in ("paused", "failed", "broken"):
            return "collect", f"Collecting {name} stopped before its end ({status}). Resume it."
    if job.status in ("failed", "broken"):
        return "train", "The last run stopped with an error. Read its last lines, mend the cause, and run it again."
    if len(checked(project)) < len(datasets):
        return "check", "The data are there. Check them: what is missing, unreadable or unlabelled?"
    if not evaluated(project):
        return "train", "The data are checked. Train a first model."
    if not (project.results / "report" / "index.html").is_file():
        return "train", "A model is trained, but the report is not written: run the workflow once more."
    return "results", "Everything is done. Read the report."


def begin(dataset: str, root: Path, section: Mapping[str, Any], wait_s: float = 60.0) -> None:
    """Start (or go on with) collecting, and come back once its progress can be read.

    Raises UserError with what the process said where it ended before it had begun.
    """
    before = progress(root)
    start(dataset, root, section, wait_s)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        alive = Store(root).busy()
        now = progress(root)
        if now.status in BUSY or (now.status, now.updated) != (before.status, before.updated):
            return
        if not alive:
            said = (root / ".collect" / "output.txt").read_text(encoding="utf-8", errors="replace").strip()
            raise UserError(said[-1000:] or f"collecting {dataset} ended before it began: try again")
        time.sleep(0.05)
