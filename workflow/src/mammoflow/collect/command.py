"""``collect``: fetch an archive, or say how to get it. The same command goes on after any interruption."""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mammoflow import settings
from mammoflow.collect import Estimate, Progress, collect, estimate
from mammoflow.collect.selection import read_patients
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ROUTES
from mammoflow.files import write_json

PAUSED, INTERRUPTED = 3, 130  # exit statuses


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command. Each stands for the key of that name in the configuration's ``collect`` section."""
    parser.add_argument("dataset", metavar="DATASET", help="name of the archive, as `mammoflow datasets` lists it")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory of the archive")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="the collect section; options go before it")
    parser.add_argument("--modality", help="such as MG; several: MG,MR")
    parser.add_argument("--patients", metavar="FILE|LIST", help="PatientIDs: a file, one a line, or A,B,C")
    parser.add_argument("--max-series", type=int, metavar="N", help="whole exams, N series at most")
    parser.add_argument("--max-gb", type=float, metavar="X", help="whole exams, X GB at most")
    parser.add_argument("--jobs", type=int, metavar="N", help="series fetched at once")
    parser.add_argument("--rate", dest="interval_s", type=float, metavar="S", help="seconds between two requests")
    parser.add_argument("--source", help="auto, idc, nbia, kaggle or physionet")
    parser.add_argument("--base-url", metavar="URL", help="another address of the source")
    parser.add_argument("--tables-url", metavar="URL", help="another address of TCIA's tables")
    parser.add_argument("--idc-index", metavar="PATH|URL", help="another IDC index, Parquet or CSV")
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write collected.json there, when complete")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be fetched, how large it is and how long it takes"
    )


def run(args: argparse.Namespace) -> int:
    """0: complete. 1: something could not be had. 2: nothing can be done. 3: paused. 130: interrupted."""
    archive(args.dataset)
    section = request(args)
    if args.dataset not in ROUTES:
        from mammoflow.collect.sources.manual import check  # the adapters take a second to load

        status = check(args.dataset, args.out)
        if status == 0 and args.record and not args.dry_run:
            write_json(args.record, {"dataset": args.dataset, "source": "manual"})
        return status
    if args.dry_run:
        print(describe(estimate(args.dataset, args.out, section)))
        return 0
    with _signals() as stop, _display() as show:
        last = collect(args.dataset, args.out, section, show, stop)
    print(f"{args.dataset}: {last.status}, {last.series_done} of {last.series} series in {args.out}")
    if last.message:
        print(f"mammoflow collect: {last.message}", file=sys.stderr)
    if last.status == "paused":
        print("the same command goes on where this one stopped", file=sys.stderr)
        return INTERRUPTED if stop.signalled else PAUSED
    if last.status != "done":
        return 1
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.out / "collected.json", args.record)
    return 0


def request(args: argparse.Namespace) -> dict[str, Any]:
    """The ``collect`` section that the options and ``--settings`` make. Raises UserError for a wrong value."""
    try:
        values = json.loads(args.settings)
    except json.JSONDecodeError:
        return settings.parse_section("collect", args.settings)  # says what is wrong
    for name in ("max_series", "max_gb", "jobs", "interval_s", "source", "base_url", "tables_url", "idc_index"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    if args.modality:
        values["modality"] = [word.strip() for word in args.modality.split(",")]
    if args.patients:
        values["patients"] = read_patients(args.patients)
    return settings.resolve_section("collect", values)


def describe(found: Estimate) -> str:
    """Four lines for a person."""
    about = "about " if found.estimated else ""
    return "\n".join([
        f"{found.dataset} from {found.source}: {found.patients} patients, {found.exams} exams, "
        f"{len(found.chosen)} series, "
        f"{found.images} images",
        f"  size: {about}{size(found.bytes)}, of which {size(found.bytes - found.bytes_left)} are there",
        f"  disk: {size(found.free)} free",
        f"  time: about {duration(found.seconds)}",
    ])  # fmt: skip


def size(number: float) -> str:
    """Bytes in GB or MB of powers of ten, as archives and disks are sold."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds."""
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
        if minutes
        else f"{seconds:.0f} s"
    )


class _Stop(threading.Event):
    signalled = False


@contextmanager
def _signals() -> Iterator[_Stop]:
    """An event that Ctrl-C and SIGTERM set. A second one ends the program at once, which the state on disk survives."""
    stop = _Stop()

    def handle(number: int, _: object) -> None:
        if stop.signalled:
            os._exit(INTERRUPTED)
        stop.signalled = True
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display() -> Iterator[Any]:
    """A progress bar on a terminal; elsewhere a line for each tenth."""
    if not sys.stdout.isatty():
        seen = [-1]

        def say(now: Progress) -> None:
            tenth = 10 * now.bytes_done // max(now.bytes, 1)
            if now.status == "running" and tenth > seen[0]:
                seen[0] = tenth
                print(f"{now.dataset}: {now.series_done} of {now.series} series, {size(now.bytes_done)}", flush=True)

        yield say
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns) as bar:
        task = bar.add_task("listing", total=None)
        yield lambda now: bar.update(
            task, total=now.bytes, completed=now.bytes_done, description=f"{now.dataset} {now.series_done}/{now.series}"
        )
