"""``mammoflow convert``: the images of one shard to PNG, with a ledger.

The ledger (``tables.CONVERT_LEDGER``) is written last and names every image of the shard: ``ok`` with its PNG in the
store, or ``failed`` with the reason. A second call decodes only what is missing, failed or changed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import files, tables
from mammoflow import settings as config
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import pool, store, supervise
from mammoflow.imaging.decode import StoredImage, read_listed
from mammoflow.imaging.errors import DecodeError, StoreUnwritable
from mammoflow.imaging.working import WorkingImage, make_working_image
from mammoflow.job_record import Watch, ignore, job_record

# What the table says of an image and its PNG depends on; a change makes the PNG anew.
TABLE_INPUTS = ("laterality", "member", "height", "width", "bits_stored", "machine", "pixel_spacing_mm")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset")
    parser.add_argument("--shard", type=Path, required=True, help="table of images written by `shard`")
    parser.add_argument("--root", type=Path, required=True, help="directory of the archive")
    parser.add_argument("--store", type=Path, required=True, help="directory for the PNG files")
    parser.add_argument("--ledger", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--settings", default="{}", help="section `convert` of the configuration, as JSON")
    add_pool_options(parser)


def add_pool_options(parser: argparse.ArgumentParser) -> None:
    """How the images of a shard are worked on; the same for `convert` and `crop`. No result depends on it."""
    parser.add_argument("--threads", type=int, default=pool.default_threads())
    parser.add_argument(
        "--image-seconds",
        type=float,
        default=supervise.DEFAULT_SECONDS,
        help="a decoder that takes longer for one image counts as hung (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> None:
    settings = config.parse_section("convert", args.settings)
    images = read_shard(args.shard, args.dataset)
    label = f"convert {args.dataset} {args.shard.stem}"
    with job_record(args.ledger, f"convert {args.dataset}", len(images)) as watch, writing(args.ledger, ledger) as rows:
        rows += convert_images(
            args.dataset, images, args.root, args.store, settings, args.threads, label, args.image_seconds, watch
        )


@contextmanager
def writing(path: Path, table: Callable[[list[dict[str, Any]]], pd.DataFrame]) -> Iterator[list[dict[str, Any]]]:
    """A list for ledger rows, written as ``table`` of them when the block ends; also where the store was unwritable.

    Raises UserError where the ledger cannot be written.
    """
    rows: list[dict[str, Any]] = []
    unfinished = None
    try:
        yield rows
    except supervise.Unfinished as error:
        rows, unfinished = error.rows, error
    try:
        files.sweep(path.parent, path.name)
        tables.write(table(rows), path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Mend that and run again") from None
    if unfinished:
        raise unfinished


def read_shard(path: Path, dataset: str) -> pd.DataFrame:
    """The images of a shard, in the order of their paths. Raises UserError for another dataset's shard."""
    images = tables.read(path, "images")
    others = sorted(set(images["dataset"]) - {dataset})
    if others:
        raise UserError(f"{path} holds images of {others[0]}, not of {dataset}: give the shard of {dataset}")
    lost = images.loc[images["path"].isna(), "image_id"]
    if len(lost):
        raise UserError(f"{path}: image {lost.iloc[0]} has no path; run `mammoflow shard` again")
    # Neighbours on disk are read one after the other.
    return images.sort_values(["path", "image_id"], kind="stable").reset_index(drop=True)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, with None for NA."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def ledger(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ledger rows as a finished table."""
    return tables.finish("convert_ledger", pd.DataFrame(rows, columns=list(tables.CONVERT_LEDGER)))


def convert_images(
    dataset: str,
    images: pd.DataFrame,
    root: Path,
    store_root: Path,
    settings: dict[str, Any],
    threads: int = 1,
    label: str = "convert",
    image_seconds: float = supervise.DEFAULT_SECONDS,
    watch: Watch = ignore,
) -> list[dict[str, Any]]:
    """Convert each row of ``images``; one ledger row per image. Paths of the rows are relative to ``root``.

    Whatever is wrong with one image becomes a failed row, also when its decoder crashes or takes more than
    ``image_seconds``. Raises supervise.Unfinished, which holds all rows, where the store cannot be written.
    """
    root, store_root = Path(root), Path(store_root)
    recipe = config.convert_recipe(dataset, settings)
    rule = archive(dataset).intensity

    def work(image: dict[str, Any]) -> list[pool.Result]:
        return [convert_image(image, root, store_root, settings, rule, recipe)]

    def blame(image: dict[str, Any], error: DecodeError) -> list[pool.Result]:
        return [fail_image(image, error, root, store_root, recipe)]

    jobs = records(images)
    with store.tidy(store_root, (store_path(image, recipe) for image in jobs)):
        return supervise.run_supervised(work, jobs, blame, threads, label, image_seconds, watch)


def convert_image(
    image: dict[str, Any], root: Path, store_root: Path, settings: dict[str, Any], rule: IntensityRule, recipe: str
) -> tuple[str, dict[str, Any]]:
    """Convert one image of an ``images`` table (a dict with None for NA), or take the PNG that is there already.

    Returns ``done``, ``reused`` or ``failed``, and the ledger row.
    """
    path = root / image["path"]
    relative = store_path(image, recipe)
    inputs = {"recipe": recipe, **{name: image[name] for name in TABLE_INPUTS}, **stat_key(path)}
    if (kept := store.reusable_row(store_root / relative, inputs)) is not None:
        return "reused", kept
    started = time.perf_counter()
    try:
        base = ledger_base(image, recipe)
        stored = read_listed(image, root)
        known = image["laterality"], image["pixel_spacing_mm"]
        working, row = convert_stored(stored, base, relative, settings, rule, *known)
    except DecodeError as error:
        return fail_image(image, error, root, store_root, recipe)
    row["seconds"] = round(time.perf_counter() - started, 4)
    # The key of the bytes that were read, should the file have changed since.
    inputs |= {name: row[name] for name in ("source_size", "source_mtime_ns")}
    store.save(store_root / relative, working.pixels, row, inputs)
    return "done", row


def fail_image(
    image: dict[str, Any], error: DecodeError, root: Path, store_root: Path, recipe: str
) -> tuple[str, dict[str, Any]]:
    """``failed`` and the ledger row of one row of an ``images`` table, whose PNG, if any, is deleted."""
    if not isinstance(error, StoreUnwritable):
        # What lies there was made from other bytes, and no ledger names it any more.
        (store_root / store_path(image, recipe)).unlink(missing_ok=True)
    return "failed", failed_row(ledger_base(image, recipe), error, root / image["path"])


def store_path(image: dict[str, Any], recipe: str) -> str:
    """Where the PNG of one row of an ``images`` table lies below the store."""
    return store.relative_path(image["dataset"], recipe, image["patient_id"], image["image_id"])


def ledger_base(image: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The columns of a ledger row that are known before the file is read."""
    return {**{name: image[name] for name in ("dataset", "image_id", "patient_id")}, "recipe": recipe}


def convert_stored(
    stored: StoredImage,
    base: dict[str, Any],
    relative: str,
    settings: dict[str, Any],
    rule: IntensityRule,
    laterality: str | None = None,
    table_spacing: float | None = None,
) -> tuple[WorkingImage, dict[str, Any]]:
    """The working image of one decoded image, and its ledger row around the columns of ``base``. Writes nothing."""
    working = make_working_image(stored, settings, rule, laterality, table_spacing)
    return working, {
        **base,
        "status": "ok",
        "path": relative,
        "decoder": stored.decoder,
        "transfer_syntax": stored.transfer_syntax,
        "window": tables.to_json(working.window),
        "flags": ";".join(working.flags) or None,
        "source_size": stored.source.size,
        "source_mtime_ns": stored.source.mtime_ns,
        "source_sha256": stored.source.sha256,
        "header_spacing_mm": stored.header.spacing and stored.header.spacing[0],
        **working.geometry.as_row(),
        **working.measures.as_row(),
    }


def failed_row(base: dict[str, Any], error: DecodeError, path: Path) -> dict[str, Any]:
    """The ledger row of an image that cannot be used."""
    return {**base, "status": "failed", "error": error.word, **stat_key(path)}


def stat_key(path: Path) -> dict[str, int | None]:
    """Size and time of change of a file as they are now; None where it is absent."""
    try:
        stat = path.stat()
    except OSError:
        return {"source_size": None, "source_mtime_ns": None}
    return {"source_size": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}
