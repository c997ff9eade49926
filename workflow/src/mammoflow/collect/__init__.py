"""Collect an archive: choose, estimate, fetch, verify, resume. What the command, the rules and the page call.

``estimate(dataset, root, settings)`` says what would be fetched; ``collect`` fetches it in this process; ``start`` in
one of its own, which ``pause`` ends in good order and ``progress`` looks at from anywhere. ``start`` again goes on.

``settings`` is the ``collect`` section of a dataset's configuration; keys left out have their defaults.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from threading import Event
from typing import Any

from mammoflow import settings as configuration
from mammoflow.collect.index import write_training_manifest
from mammoflow.collect.model import PausedError, RefusedError, Series, Source, TransferError
from mammoflow.collect.pace import retrying
from mammoflow.collect.runner import LOG, Run, fetch_tables, logging_to
from mammoflow.collect.selection import choose
from mammoflow.collect.sources import INTERVALS, open_source, route
from mammoflow.collect.state import Progress, Store
from mammoflow.errors import UserError

__all__ = ["Estimate", "Progress", "collect", "estimate", "pause", "progress", "start"]

# Bytes per second to reckon with before anything is measured: a bucket, and one server for the whole field.
ASSUMED_SPEED = {"idc": 20e6, "nbia": 5e6, "kaggle": 10e6, "physionet": 3e6}


@dataclass(frozen=True)
class Estimate:
    """What a selection holds and costs. bytes: all of it; ``bytes_left``: what is not there yet; ``free``: bytes free
    on the disk. seconds: at the speed of the last run into this directory, else at an assumed one. estimated: the
    archive publishes no sizes, so ``bytes`` rests on its mean."""

    dataset: str
    source: str
    chosen: list[Series]
    patients: int
    exams: int
    images: int
    bytes: int
    bytes_left: int
    free: int
    seconds: float
    estimated: bool


def estimate(dataset: str, root: Path, settings: Mapping[str, Any]) -> Estimate:
    """Ask the source what it holds and choose from it; fetches no image.

    Raises UserError for a wrong selection, an archive without a public route, or a source that does not answer.
    """
    section = configuration.resolve_section("collect", dict(settings))
    store = Store(root)
    source = open_source(dataset, section, store.root, Event())
    return _estimate(dataset, store, source, _choose(source, section), section)


def collect(
    dataset: str,
    root: Path,
    settings: Mapping[str, Any],
    show: Callable[[Progress], None] = lambda _: None,
    stop: Event | None = None,
) -> Progress:
    """Fetch what is not there yet, and write ``collected.json``, ``download_log.txt`` and ``training_manifest.csv``.

    ``stop`` ends it in good order, as a pause does. Returns the last progress: ``done``, ``failed`` (some series or
    tables could not be had; the message says which) or ``paused``. Raises UserError where nothing can be fetched.
    """
    section = configuration.resolve_section("collect", dict(settings))
    store = Store(root)
    source = open_source(dataset, section, store.root, stop or Event())
    with store.locked(), logging_to(store.root / "download_log.txt"):
        store.forget_pause()
        last = Progress("listing", dataset, source.name)
        store.write_progress(last)
        try:
            last = _collect(dataset, store, source, section, show)
        except UserError as error:
            last = replace(store.progress(), status="failed", message=str(error))
            LOG.error("%s", error)
            raise
        except PausedError:  # while listing
            last = replace(last, status="paused")
        finally:
            if last.status in ("listing", "running"):  # an error of ours: the traceback is on its way
                last = replace(last, status="failed", message="the program failed; see its output")
            store.write_progress(last)
            store.forget_pause()
    show(last)
    return last


def start(dataset: str, root: Path, settings: Mapping[str, Any], wait_s: float = 60.0) -> int:
    """Start (or go on with) a collect in a process of its own, which outlives this one. Returns its process id.

    Comes back once that process holds the directory or has ended. Raises UserError where another one holds it.
    """
    configuration.resolve_section("collect", dict(settings))
    store = Store(root)
    if store.busy():
        raise UserError(f"another process collects into {store.root}: wait for it, or pause it")
    store.forget_pause()
    store.hidden.mkdir(parents=True, exist_ok=True)
    source = Path(configuration.__file__).resolve().parents[1]
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "mammoflow", "collect", dataset, "--out", str(store.root)]
    with (store.hidden / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [*command, "--settings", dumps(dict(settings))],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + wait_s
    while process.poll() is None and not store.busy() and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    return process.pid


def pause(root: Path) -> None:
    """Ask the process that collects into ``root`` to end in good order. Its progress then says ``paused``."""
    Store(root).ask_pause()


def progress(root: Path) -> Progress:
    """How far the collect into ``root`` is, read from disk; ``new`` where there was none."""
    return Store(root).progress()


def _collect(
    dataset: str, store: Store, source: Source, section: dict[str, Any], show: Callable[[Progress], None]
) -> Progress:
    run = Run(store, source, _choose(source, section), section, Progress(dataset=dataset, source=source.name))
    run.check_disk()
    tables, missing = fetch_tables(store, source, section)
    last = run.fetch_all(show)
    if hasattr(source, "write_index"):
        source.write_index(run.chosen)
    request = {key: value for key, value in section.items() if value not in (None, [])}
    record = store.write_collected(dataset, tables, request)
    if missing:
        status = last.status if last.status == "paused" else "failed"
        last = replace(last, status=status, message="; ".join([*missing, *filter(None, [last.message])]))
        LOG.error("%s", "; ".join(missing))
    elif record["series_count"] and last.status != "paused":  # a pause must not keep anybody waiting
        try:
            rows = write_training_manifest(dataset, store.root, record)
            LOG.info("training_manifest.csv: %d images", rows)
        except UserError as error:
            LOG.warning("no training_manifest.csv yet: %s", error)
            last = replace(last, message="; ".join([*filter(None, [last.message]), f"not indexed: {error}"]))
    return last


def _choose(source: Source, section: dict[str, Any]) -> list[Series]:
    retry = retrying(source.client.pace, section["tries"], section["backoff_s"], 60.0, LOG.warning)
    found: list[Series] = []
    try:
        for attempt in retry:
            with attempt:
                found = source.series()
    except (TransferError, RefusedError) as error:
        raise UserError(f"{source.name} cannot be listed ({error}): try again later, or take another source") from None
    return choose(found, section["modality"], section["patients"], section["max_series"], section["max_gb"])


def _estimate(dataset: str, store: Store, source: Source, chosen: list[Series], section: dict[str, Any]) -> Estimate:
    there = store.entries()
    left = [one for one in chosen if one.uid not in there]
    size = sum(one.bytes for one in left)
    name = route(dataset, section["source"])
    # One request a file and one more a series, where files are asked for one by one.
    requests = sum(1 if name == "nbia" else one.images + 1 for one in left)
    interval = INTERVALS[name] if section["interval_s"] is None else section["interval_s"]
    folder = next(path for path in (store.root, *store.root.resolve().parents) if path.is_dir())
    return Estimate(
        dataset=dataset,
        source=name,
        chosen=chosen,
        patients=len({one.patient if dataset != "cbis_ddsm" else one.exam for one in chosen}),
        exams=len({one.exam for one in chosen}),
        images=sum(one.images for one in chosen),
        bytes=sum(one.bytes for one in chosen),
        bytes_left=size,
        free=shutil.disk_usage(folder).free,
        seconds=max(size / (store.measured_speed() or ASSUMED_SPEED[name]), requests * interval),
        estimated=any(one.estimated for one in chosen),
    )
