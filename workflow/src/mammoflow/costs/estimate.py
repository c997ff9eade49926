"""Costs of datasets, cohorts and runs of a configuration. Gigabytes are 1e9 bytes, hours are of one core or GPU."""

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import settings, tables
from mammoflow.costs import CONVERT_LIMIT_MINUTES, CONVERT_THREADS, rates
from mammoflow.costs import done as done_already
from mammoflow.costs.images import has_inventory, listed_images, no_inventory, published_images
from mammoflow.datasets import archive
from mammoflow.shard import shard_of

GOOD_SHARD_MINUTES = 20


def plan(config: dict[str, Any]) -> dict[str, Any]:
    """Costs of everything a resolved configuration names, as plain values for JSON.

    Keys: ``datasets``, ``cohorts`` and ``runs`` (name -> row), ``total``, ``disks``, ``notes`` (sentences). What cannot
    be known before the archive is listed is None, and a note says so. Raises UserError for a broken table.
    """
    notes = no_inventory(config)
    datasets = {name: dataset_cost(name, section, config, notes) for name, section in config["datasets"].items()}
    cohorts = {name: cohort_cost(name, section, config, datasets) for name, section in config["cohorts"].items()}
    runs = {name: run_cost(name, section, config, cohorts, notes) for name, section in config["runs"].items()}
    packs = pack_costs(config, cohorts)
    rows = [*datasets.values(), *cohorts.values(), *packs.values(), *runs.values()]
    total = {
        key: round(sum(row.get(key) or 0 for row in rows), 3)
        for key in ("read_gb", "write_gb", "core_hours", "core_hours_left", "gpu_hours", "gpu_hours_left")
    }
    if any(row["done"] for row in [*cohorts.values(), *packs.values()]):
        notes.append(done_already.EXISTENCE)
    total["images"] = sum(row["images"] or 0 for row in datasets.values())
    store_gb = sum(row["write_gb_left"] or 0 for row in datasets.values())
    results_gb = sum(row["write_gb_left"] or 0 for row in packs.values())
    disks = free_space([(config["store"], store_gb), (config["results"], results_gb)])
    notes += [
        f"{disk['path']}: {disk['need_gb']:.1f} GB are needed and {disk['free_gb']:.1f} GB are free: make room, or "
        "name another directory for `store` and `results`"
        for disk in disks
        if disk["need_gb"] > disk["free_gb"]
    ]
    parts = {"datasets": datasets, "cohorts": cohorts, "packs": packs, "runs": runs}
    return {**parts, "total": total, "disks": disks, "notes": notes}


# --- datasets ---------------------------------------------------------------------------------------------------------


def dataset_cost(name: str, section: dict[str, Any], config: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Images, bytes and core-hours of one dataset's inventory, conversion and lesion crops."""
    results, shards = Path(config["results"]), section["shards"]
    images = listed_images(results, name, section["max_images"]) if has_inventory(results, name) else None
    if images is None:
        images = published_images(name, section["max_images"])
    row: dict[str, Any] = dict.fromkeys(_DATASET_KEYS)
    row.update(shards=shards, source="inventory" if has_inventory(results, name) else "published")
    if images is None:
        return row

    recipe = settings.convert_recipe(name, config["convert"])
    known = rates.conversion(results, Path(config["store"]), name, shards, recipe)
    seconds = images["seconds"] if known.seconds is None else pd.Series(known.seconds, images.index)
    done = images["image_id"].isin(known.ids)
    lesions = images["lesion"] if archive(name).localised else pd.Series(False, images.index)
    # Images are never enlarged, so that a small one gives no more bytes than it has.
    assumed = (images["megabytes"] * 1e6).clip(upper=_png_bytes(config["convert"]))
    png = assumed if known.written_bytes is None else pd.Series(known.written_bytes, images.index)
    crop_seconds = float(seconds[lesions].sum())
    crops_done = done_already.crops_done(results, name, shards, settings.crop_recipe(name, config["crop"]))
    hours = (len(images) * rates.SECONDS_PER_HEADER + seconds.sum() + crop_seconds) / 3600
    left = (
        (0 if has_inventory(results, name) else len(images) * rates.SECONDS_PER_HEADER)
        + seconds[~done].sum()
        + (0 if crops_done else crop_seconds)
    ) / 3600
    homes = {patient: shard_of(patient, shards) for patient in images["patient_id"].unique()}
    per_shard = seconds.groupby(images["patient_id"].map(homes)).sum()
    longest = float(per_shard.max()) / CONVERT_THREADS / 60 if len(per_shard) else 0.0
    megabytes = images["megabytes"]
    row.update(
        images=len(images),
        images_done=int(done.sum()),
        shards_done=known.shards_done,
        longest_shard_minutes=round(longest, 1),
        read_gb=_gb(megabytes.sum() + megabytes[lesions].sum(), 1e6),
        write_gb=_gb(png.sum() + lesions.sum() * rates.CROP_BYTES),
        write_gb_left=_gb(png[~done].sum() + (0 if crops_done else lesions.sum() * rates.CROP_BYTES)),
        core_hours=round(hours, 3),
        core_hours_left=round(left, 3),
        seconds_per_image=round(float(seconds.mean()), 4) if len(images) else None,
        rate_source=f"measured on {known.timed} images" if known.seconds is not None else "assumed",
    )
    notes += _shard_advice(name, row, float(seconds.sum()))
    return row


_DATASET_KEYS = (
    "images", "images_done", "shards", "shards_done", "longest_shard_minutes", "read_gb", "write_gb", "write_gb_left",
    "core_hours", "core_hours_left", "seconds_per_image", "source", "rate_source",
)  # fmt: skip


def _png_bytes(section: dict[str, Any]) -> float:
    side = section["long_side"] or 3000
    return side * side * rates.WORKING_ASPECT * rates.PNG_BYTES_PER_PIXEL[section["bits"]]


def _shard_advice(name: str, row: dict[str, Any], seconds: float) -> list[str]:
    """A sentence where shards are too long for their time limit, or so short that starting them is most of the work."""
    good = min(9999, max(1, round(seconds / CONVERT_THREADS / 60 / GOOD_SHARD_MINUTES)))
    longest = row["longest_shard_minutes"]
    advice = f"datasets.{name}.shards: {good} would give jobs of about {GOOD_SHARD_MINUTES} minutes"
    if longest > CONVERT_LIMIT_MINUTES / 2:
        return [f"{name}: the longest shard takes {longest:.0f} of its {CONVERT_LIMIT_MINUTES} minutes; {advice}"]
    if longest < 5 and row["shards"] > max(8, 2 * good):
        return [f"{name}: {row['shards']} jobs of at most {longest:.1f} minutes on a cluster mostly wait; {advice}"]
    return []


# --- cohorts, packs, runs ---------------------------------------------------------------------------------------------


def cohort_cost(
    name: str, section: dict[str, Any], config: dict[str, Any], datasets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Images of the pool and core-hours of its split; comparing pictures is nearly all of it."""
    counts = [datasets[dataset]["images"] for dataset in section["datasets"]]
    images = sum(count or 0 for count in counts)
    folder = Path(config["results"]) / "cohorts" / name
    measured = rates.job_hours(Path(config["results"]), "cohort", name)
    compares = section["near_duplicates"] != "ignore"
    hours = measured.value if measured else images * compares * rates.SECONDS_PER_COMPARED_IMAGE / 3600
    share = section["splits"]
    train, val = round(images * share["train"]), round(images * share["val"])
    if (folder / "manifest.parquet").is_file():
        split = tables.read(folder / "manifest.parquet", "manifest")["split"]
        images, train, val = int(split.notna().sum()), int((split == "train").sum()), int((split == "val").sum())
    done = (folder / "digest.json").is_file()
    return {
        "images": images,
        "train_images": train,
        "val_images": val,
        "folds": section["folds"],
        "core_hours": round(hours, 3),
        "core_hours_left": 0.0 if done else round(hours, 3),
        "done": done,
        "rate_source": "measured" if measured else "assumed",
    }


def pack_costs(config: dict[str, Any], cohorts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One row per cohort and image size that a run wants."""
    found = {}
    for run in config["runs"].values():
        height, width = run["image_size"]
        name = f"{run['cohort']}-{height}x{width}"
        images = cohorts[run["cohort"]]["images"]
        measured = rates.job_hours(Path(config["results"]), "pack", name)
        hours = measured.value if measured else images * rates.SECONDS_PER_PACKED_IMAGE / 3600
        done = (Path(config["results"]) / "packs" / name / "index.parquet").is_file()
        gigabytes = _gb(images * height * width * rates.PACKED_BYTES_PER_PIXEL)
        found[name] = {
            "images": images,
            "read_gb": _gb(images * _png_bytes(config["convert"])),
            "write_gb": gigabytes,
            "write_gb_left": 0.0 if done else gigabytes,
            "core_hours": round(hours, 3),
            "core_hours_left": 0.0 if done else round(hours, 3),
            "done": done,
            "rate_source": "measured" if measured else "assumed",
        }
    return found


def run_cost(
    name: str, section: dict[str, Any], config: dict[str, Any], cohorts: dict[str, dict[str, Any]], notes: list[str]
) -> dict[str, Any]:
    """Hours of all folds of a run and of its predictions, on GPUs or on cores.

    Every epoch of a fold sees the training images of the other folds once, and the validation images; the patience
    that may end a training early is not counted on.
    """
    results, cohort = Path(config["results"]), cohorts[section["cohort"]]
    speed = rates.training(results, name, section)
    seen = (
        cohort["train_images"] * (cohort["folds"] - 1) / cohort["folds"] + cohort["val_images"] / rates.PREDICT_SPEEDUP
    )
    fold_hours = section["epochs"] * seen / speed.images_per_second / 3600
    predict_hours = cohort["images"] * cohort["folds"] / (rates.PREDICT_SPEEDUP * speed.images_per_second) / 3600
    folder = results / "runs" / name
    seed = config["seed"] if section["seed"] is None else section["seed"]
    finished = sum(done_already.fold_done(folder / str(fold), section, seed) for fold in range(cohort["folds"]))
    predicted = (folder / "predictions.parquet").is_file()
    unit = "gpu_hours" if speed.on_gpu else "core_hours"
    # Devices, not wall time: a fold on four GPUs takes a quarter of the hours four times.
    hours = section["processes"] * (fold_hours * cohort["folds"] + predict_hours)
    left = section["processes"] * (fold_hours * (cohort["folds"] - finished) + (0 if predicted else predict_hours))
    if speed.source.startswith("assumed"):
        notes.append(f"{name}: training speed is {speed.source}; one epoch on your machine gives the true one")
    return {
        "epochs": section["epochs"],
        "folds": cohort["folds"],
        "folds_done": finished,
        "processes": section["processes"],
        "hours_per_fold": round(fold_hours, 3),
        "read_gb": None,
        unit: round(hours, 3),
        f"{unit}_left": round(left, 3),
        "rate_source": speed.source,
    }


# --- disks ------------------------------------------------------------------------------------------------------------


def free_space(needs: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """(directory, GB) grouped by filesystem: path, need_gb, free_gb. Directories need not exist yet."""
    by_device: dict[int, dict[str, Any]] = {}
    for directory, gigabytes in needs:
        there = Path(directory).absolute()
        while not there.exists():
            there = there.parent
        disk = by_device.setdefault(
            os.stat(there).st_dev,
            {"path": str(directory), "need_gb": 0.0, "free_gb": round(shutil.disk_usage(there).free / 1e9, 1)},
        )
        disk["need_gb"] = round(disk["need_gb"] + gigabytes, 3)
        if str(directory) not in disk["path"].split(", "):
            disk["path"] += f", {directory}"
    return list(by_device.values())


def _gb(amount: float, unit: float = 1.0) -> float:
    return round(float(amount) * unit / 1e9, 3)
