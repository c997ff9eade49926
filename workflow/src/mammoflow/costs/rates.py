"""How fast the stages run: measured by earlier runs where there are any, else stated assumptions.

Assumptions without another source were measured on one core of an AMD EPYC (Zen 4): docs/benchmarks.md, "Cost preview".
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.files import read_json
from mammoflow.layout import ledger_paths

# Core-seconds to decode one megabyte (1e6) of source file, and for the rest of one image: window, crop, size, PNG.
SECONDS_PER_MB = {"uncompressed": 0.001, "jpeg_lossless": 0.02, "jpeg_ls": 0.025, "jpeg2000": 0.15, "pvrg": 0.035}
SECONDS_PER_IMAGE = 0.04
SECONDS_PER_MB_READ = 0.01  # two threads that share 200 MB/s of a network filesystem: a job cannot be faster than this
SECONDS_PER_HEADER = 0.01  # inventory
SECONDS_PER_PACKED_IMAGE = 0.06  # read a 16-bit PNG, resize, compress
SECONDS_PER_COMPARED_IMAGE = 0.05  # cohort: 22 ms to hash a picture (docs/benchmarks.md), and to read it

# Bytes per pixel of what is written. PNG by its bits; a packed image is 8 bits, compressed with zstd.
PNG_BYTES_PER_PIXEL = {8: 0.35, 16: 1.02}
PACKED_BYTES_PER_PIXEL = 0.35
CROP_BYTES = 200_000
WORKING_ASPECT = 0.6  # width by height of a breast cropped out of its film

# Training: million pixels per second. An encoder of ConvNeXt-S's size trains 15 to 60 images of 2048 x 1024 a second on
# an A100 or H100 (published training logs; the geometric middle is taken). On a CPU: ConvNeXt-atto, one core.
TRAIN_MPX_PER_GPU_SECOND = 63.0
TRAIN_MPX_PER_CORE_SECOND = 0.8
PREDICT_SPEEDUP = 3.0  # forward only
SPEED_KEYS = ("task", "encoder", "image_size", "processes", "accelerator")  # of a run: what its speed hangs on most

# DICOM transfer syntaxes whose decoding is slow enough to matter.
_CODINGS = {
    "1.2.840.10008.1.2.4.57": "jpeg_lossless",
    "1.2.840.10008.1.2.4.70": "jpeg_lossless",
    "1.2.840.10008.1.2.4.80": "jpeg_ls",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
}


@dataclass(frozen=True)
class Rate:
    """A number and where it comes from, in words."""

    value: float
    source: str


def coding_of(transfer_syntax: str | None, file_format: str | None) -> str:
    """Key of :data:`SECONDS_PER_MB` for one row of an inventory."""
    if file_format == "ljpeg":
        return "pvrg"
    return _CODINGS.get(transfer_syntax or "", "uncompressed")


def image_seconds(megabytes: float, coding: str) -> float:
    """Seconds of one thread to convert one image of ``megabytes`` (1e6 bytes) by the assumed rates."""
    return max(megabytes * SECONDS_PER_MB[coding] + SECONDS_PER_IMAGE, megabytes * SECONDS_PER_MB_READ)


@dataclass(frozen=True)
class Conversion:
    """What the ledgers of one dataset tell. ``ids``: images with a row (done or given up). ``shards_done``: ledgers
    whose images all are. ``timed``: images whose time is known.

    ``seconds``, ``written_bytes``: core-seconds and bytes of PNG per image; None where nothing tells.
    """

    ids: frozenset[str]
    shards_done: int
    timed: int
    seconds: float | None
    written_bytes: float | None


def conversion(results: Path, store: Path, dataset: str, shards: int, recipe: str) -> Conversion:
    """Read the convert ledgers of the layout of ``shards`` shards, and the benchmark file of each.

    Rows of another ``recipe`` are made anew, and their time and size say little of this one: they do not count. Nor
    has an image a time that a repeated job found in the store: its benchmark file, which knows the last job alone,
    counts only where that job made all images itself.
    """
    done: set[str] = set()
    shards_done, spent, timed, sizes = 0, 0.0, 0, []
    for path in ledger_paths(results, dataset, "convert", shards):
        ledger = tables.read(path, "convert_ledger")
        mine = ledger[ledger["recipe"] == recipe]
        shards_done += len(mine) == len(ledger)
        done.update(mine["image_id"])
        ok = mine[mine["status"] == "ok"]
        known = ok["seconds"].dropna()
        jobs = benchmark(results / "benchmarks" / "convert" / dataset / f"{path.stem}.jsonl")
        whole = sum(job["cpu_time"] for job in jobs) if len(known) == len(mine) == len(ledger) else 0.0
        spent += max(whole, float(known.sum()))
        timed += len(known)
        # A handful per shard is enough for a mean, and a shared filesystem is spared a look at every file.
        sizes += [(store / name).stat().st_size for name in ok["path"].head(20) if (store / name).is_file()]
    return Conversion(
        frozenset(done),
        shards_done,
        timed,
        spent / timed if timed else None,
        sum(sizes) / len(sizes) if sizes else None,
    )


def benchmark(path: Path) -> list[dict[str, Any]]:
    """Lines of one of Snakemake's benchmark files (.jsonl): ``s`` wall, ``cpu_time`` core-seconds, ``max_rss`` MB.

    Empty where there is no file. ``NA`` (a job too short to be measured) becomes 0. Raises UserError for a broken one.
    """
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise UserError(f"{path} is not a benchmark file of Snakemake ({error}): delete it") from None
    return [{key: 0.0 if value in ("NA", None) else value for key, value in row.items()} for row in rows]


def job_hours(results: Path, *parts: str) -> Rate | None:
    """Core-hours of one finished job by its benchmark file ``benchmarks/<parts>.jsonl``; None where there is none."""
    path = (results / "benchmarks").joinpath(*parts).with_suffix(".jsonl")
    rows = benchmark(path)
    return Rate(sum(row["cpu_time"] for row in rows) / 3600, str(path)) if rows else None


@dataclass(frozen=True)
class Training:
    """Speed of a run: images per second over all its processes, and whether they sit on GPUs."""

    images_per_second: float
    on_gpu: bool
    source: str


def training(results: Path, name: str, run: dict[str, Any]) -> Training:
    """Median speed of the finished epochs of any fold (the first left out: it warms up), else the assumption.

    A fold that was trained with other settings of :data:`SPEED_KEYS` tells nothing.
    """
    for path in sorted((results / "runs" / name).glob("[0-9]*/metrics.csv")):
        speeds = pd.read_csv(path)["images_per_s"]
        made = read_json(path.with_name("train.json"))
        if len(speeds) and made and all(made["settings"][key] == run[key] for key in SPEED_KEYS):
            device = made["device"]
            speed = float(speeds.iloc[1:].median() if len(speeds) > 1 else speeds.iloc[0])
            return Training(speed, device != "cpu", f"measured: {path} on {device}")
    megapixels = run["image_size"][0] * run["image_size"][1] / 1e6
    on_gpu = run["accelerator"] != "cpu"
    one = TRAIN_MPX_PER_GPU_SECOND if on_gpu else TRAIN_MPX_PER_CORE_SECOND
    what = "A100 or H100, encoder of ConvNeXt-S's size" if on_gpu else "one core, encoder of ConvNeXt-atto's size"
    return Training(one * run["processes"] / megapixels, on_gpu, f"assumed: {what}; good to a factor of 2 or 3")
