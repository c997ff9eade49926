"""``mammoflow convert``: the images of one shard to PNG, with a ledger.

The ledger (``tables.CONVERT_LEDGER``) is written last and names every image of the shard: ``ok`` with its PNG in the
store, or ``failed`` with the reason. A second call decodes only what is missing, failed or changed.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mammoflow import files, tables
from mammoflow import rows as plain
from mammoflow import settings as config
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import pool, store, supervise
from mammoflow.imaging.decode import StoredImage, read_listed
from mammoflow.imaging.errors import DecodeError, StoreUnwritable
from mammoflow.imaging.working import WorkingImage, level_choice, make_working_image
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
    require_archive(args.root, images, args.shard)
    label = f"convert {args.dataset} {args.shard.stem}"
    with (
        job_record(args.ledger, f"convert {args.dataset}", len(images)) as watch,
        writing(args.ledger, "convert_ledger") as ledger_rows,
    ):
        ledger_rows += convert_images(
            args.dataset, images, args.root, args.store, settings, args.threads, label, args.image_seconds, watch
        )


@contextmanager
def writing(path: Path, table: str) -> Iterator[list[plain.Row]]:
    """A list for the rows of ledger ``table``, written when the block ends; also where the store was unwritable.

    Raises UserError where the ledger cannot be written.
    """
    rows: list[plain.Row] = []
    unfinished = None
    try:
        yield rows
    except supervise.Unfinished as error:
        rows, unfinished = error.rows, error
    try:
        files.sweep(path.parent, path.name)
        plain.write_parquet(plain.finish(table, rows), path, table)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Mend that and run again") from None
    if unfinished:
        raise unfinished


def read_shard(path: Path, dataset: str) -> list[plain.Row]:
    """The images of a shard, in the order of their paths. Raises UserError for another dataset's shard."""
    images = plain.read_csv(path, "images")
    others = sorted({image["dataset"] for image in images} - {dataset})
    if others:
        raise UserError(f"{path} holds images of {others[0]}, not of {dataset}: give the shard of {dataset}")
    lost = [image["image_id"] for image in images if image["path"] is None]
    if lost:
        raise UserError(f"{path}: image {lost[0]} has no path; run `mammoflow shard` again")
    # Neighbours on disk are read one after the other.
    return sorted(images, key=lambda image: (image["path"], image["image_id"]))


def require_archive(root: Path, images: Sequence[plain.Row], shard: Path) -> None:
    """Raise UserError where not one of the shard's images is below ``root``.

    The inventory saw them all, so here the archive is not mounted, or it was moved: another node may see it, and
    nothing may be written down as damaged.
    """
    if images and not any((root / image["path"]).is_file() for image in images):
        raise UserError(
            f"{root} holds none of the {len(images)} images of {shard.name}, as {os.uname().nodename} sees it: mount "
            "the archive there, correct `data` or `datasets.<name>.root`, or, if the files were moved on purpose, list "
            "the archive again (snakemake -R list_archive)"
        )


def convert_images(
    dataset: str,
    images: Sequence[plain.Row],
    root: Path,
    store_root: Path,
    settings: dict[str, Any],
    threads: int = 1,
    label: str = "convert",
    image_seconds: float = supervise.DEFAULT_SECONDS,
    watch: Watch = ignore,
) -> list[dict[str, Any]]:
    """Convert each row of an ``images`` table; one ledger row per image. Paths of the rows are relative to ``root``.

    Whatever is wrong with one image becomes a failed row, also when its decoder crashes or takes more than
    ``image_seconds``. Raises supervise.Unfinished, which holds all rows, where the store cannot be written.
    """
    root, store_root = Path(root), Path(store_root)
    recipe = config.convert_recipe(dataset, settings)
    rule = archive(dataset).intensity

    def work(image: plain.Row) -> list[pool.Result]:
        return [convert_image(image, root, store_root, settings, rule, recipe)]

    def blame(image: plain.Row, error: DecodeError) -> list[pool.Result]:
        return [fail_image(image, error, root, store_root, recipe)]

    work_ahead = pool.reading_ahead(work, images, threads, lambda image: root / image["path"])
    with store.tidy(store_root, (store_path(image, recipe) for image in images)):
        return supervise.run_supervised(work_ahead, images, blame, threads, label, image_seconds, watch)


def convert_image(
    image: dict[str, Any], root: Path, store_root: Path, settings: dict[str, Any], rule: IntensityRule, recipe: str
) -> tuple[str, dict[str, Any]]:
    """Convert one image of an ``images`` table (a dict with None for NA), or take the PNG that is there already.

    Returns ``done``, ``reused`` or ``failed``, and the ledger row.
    """
    relative = store_path(image, recipe)
    inputs = png_inputs(image, root, recipe)
    if (kept := store.reusable_row(store_root / relative, inputs)) is not None:
        return "reused", kept
    started = time.perf_counter()
    try:
        base = ledger_base(image, recipe)
        stored = read_listed(image, root, level_choice(settings, rule))
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
    """``failed`` and the ledger row of one row of an ``images`` table. A PNG made from other bytes is deleted."""
    if not isinstance(error, StoreUnwritable):
        store.forget_stale(store_root / store_path(image, recipe), png_inputs(image, root, recipe))
    return "failed", failed_row(ledger_base(image, recipe), error, root / image["path"])


def png_inputs(image: dict[str, Any], root: Path, recipe: str) -> dict[str, Any]:
    """What the PNG of one row of an ``images`` table is made from, with the file's key as it is now."""
    return {"recipe": recipe, **{name: image[name] for name in TABLE_INPUTS}, **stat_key(root / image["path"])}


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
