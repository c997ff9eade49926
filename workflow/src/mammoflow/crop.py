"""``mammoflow crop``: the lesions of one shard, cut from the original pixels, with a ledger.

Only images that carry findings are read, each once for all its findings. Crops keep the orientation and the pixel size
of the stored image. The box of a finding that the archive gives as a mask becomes known here, and stands in the ledger.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import roi, tables
from mammoflow import settings as config
from mammoflow.convert import TABLE_INPUTS, add_pool_options, read_shard, records, stat_key, writing
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import intensity, store, supervise
from mammoflow.imaging.decode import read_image, read_listed
from mammoflow.imaging.errors import DecodeError, StoreUnwritable, UnreadableFile
from mammoflow.imaging.pool import Result
from mammoflow.imaging.working import grey_table

_INTENSITY = {"intensity": "window", "window_index": 0}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset")
    parser.add_argument("--shard", type=Path, required=True, help="table of images written by `shard`")
    parser.add_argument("--findings", type=Path, required=True, help="table of findings written by `shard`")
    parser.add_argument("--root", type=Path, required=True, help="directory of the archive")
    parser.add_argument("--store", type=Path, required=True, help="directory for the PNG files")
    parser.add_argument("--ledger", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--settings", default="{}", help="section `crop` of the configuration, as JSON")
    add_pool_options(parser)


def run(args: argparse.Namespace) -> None:
    settings = config.parse_section("crop", args.settings)
    images = read_shard(args.shard, args.dataset)
    findings = tables.read(args.findings, "findings")
    label = f"crop {args.dataset} {args.shard.stem}"
    with writing(args.ledger, ledger) as ledger_rows:
        ledger_rows += crop_findings(
            args.dataset, images, findings, args.root, args.store, settings, args.threads, label, args.image_seconds
        )


def ledger(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ledger rows as a finished table."""
    return tables.finish("crop_ledger", pd.DataFrame(rows, columns=list(tables.CROP_LEDGER)))


def crop_findings(
    dataset: str,
    images: pd.DataFrame,
    findings: pd.DataFrame,
    root: Path,
    store_root: Path,
    settings: dict[str, Any],
    threads: int = 1,
    label: str = "crop",
    image_seconds: float = supervise.DEFAULT_SECONDS,
) -> list[dict[str, Any]]:
    """Cut each finding that has a geometry; one ledger row per such finding.

    Failures are rows, as in :func:`mammoflow.convert.convert_images`, which also says what is raised; and UserError
    where a finding's image is not among ``images``.
    """
    located = findings[findings["geometry"] != "none"]
    lost = located.loc[~located["image_id"].isin(images["image_id"]), "image_id"]
    if len(lost):
        raise UserError(
            f"findings name image {lost.iloc[0]}, which the shard does not hold: run `mammoflow shard` again"
        )
    groups = {image_id: records(group) for image_id, group in located.groupby("image_id", sort=False)}
    jobs = [(image, groups[image["image_id"]]) for image in records(images) if image["image_id"] in groups]
    root, store_root = Path(root), Path(store_root)
    recipe = config.crop_recipe(dataset, settings)
    rule = archive(dataset).intensity

    def work(job: tuple[dict[str, Any], list[dict[str, Any]]]) -> list[Result]:
        return crop_image(*job, root, store_root, settings, rule, recipe)

    def blame(job: tuple[dict[str, Any], list[dict[str, Any]]], error: DecodeError) -> list[Result]:
        return [_failed(finding, recipe, store_root, error) for finding in job[1]]

    with store.tidy(store_root, (_relative(finding, recipe) for _, group in jobs for finding in group)):
        return supervise.run_supervised(work, jobs, blame, threads, label, image_seconds)


def crop_image(
    image: dict[str, Any],
    findings: list[dict[str, Any]],
    root: Path,
    store_root: Path,
    settings: dict[str, Any],
    rule: IntensityRule,
    recipe: str,
) -> list[Result]:
    """Cut all findings of one image, reading it at most once. Returns (word, ledger row) per finding."""
    results: list[Result] = []
    pending = []
    for finding in findings:
        inputs = _inputs(image, finding, root, recipe)
        if (kept := store.reusable_row(store_root / _relative(finding, recipe), inputs)) is not None:
            results.append(("reused", kept))
        else:
            pending.append((finding, inputs))
    if not pending:
        return results
    try:
        stored = read_listed(image, root)
    except DecodeError as error:
        return results + [_failed(finding, recipe, store_root, error) for finding, _ in pending]
    extremes, _ = intensity.image_facts(stored.pixels, stored.header)
    table = grey_table(stored, {**_INTENSITY, "bits": settings["bits"]}, rule, extremes)
    for finding, inputs in pending:
        started = time.perf_counter()
        try:
            box, flags = lesion_box(finding, root, stored.pixels.shape)
        except DecodeError as error:
            results.append(_failed(finding, recipe, store_root, error))
            continue
        x0, y0, x1, y1 = roi.roi_window(box, stored.pixels.shape, settings["margin"], settings["min_size_px"])
        flags = (*stored.flags, *table.flags, *flags)
        row = {
            **_base(finding, recipe),
            "status": "ok",
            "path": _relative(finding, recipe),
            "decoder": stored.decoder,
            "transfer_syntax": stored.transfer_syntax,
            "window": tables.to_json(table.window),
            "seconds": round(time.perf_counter() - started, 4),
            "flags": ";".join(flags) or None,
            **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
            **dict(zip(("roi_x0", "roi_y0", "roi_x1", "roi_y1"), (x0, y0, x1, y1), strict=True)),
        }
        pixels = table.apply(stored.pixels[y0:y1, x0:x1])
        # The key of the bytes that were read, should the file have changed meanwhile.
        inputs |= {"source_size": stored.source.size, "source_mtime_ns": stored.source.mtime_ns}
        store.save(store_root / row["path"], np.ascontiguousarray(pixels), row, inputs)
        results.append(("done", row))
    return results


def lesion_box(finding: dict[str, Any], root: Path, shape: tuple[int, int]) -> tuple[roi.Box, tuple[str, ...]]:
    """The finding's box inside an image of ``shape``, from its columns or its mask file, and flags.

    Raises NoBox, EmptyMask, or what reading the mask raises.
    """
    if finding["xmin"] is None and finding["geometry"] == "mask":
        if finding["mask_path"] is None:
            raise UnreadableFile("the mask file is absent")
        mask = read_image(root / finding["mask_path"], "dicom")
        box, flags = roi.mask_box(mask.pixels, shape, lossy=str(finding["mask_path"]).endswith((".jpg", ".jpeg")))
    else:
        box, flags = roi.table_box(finding)
    box, clipped = roi.clip_box(box, shape)
    return box, (*flags, *(("box_clipped",) if clipped else ()))


def _inputs(image: dict[str, Any], finding: dict[str, Any], root: Path, recipe: str) -> dict[str, Any]:
    mask = stat_key(root / finding["mask_path"]) if finding["mask_path"] is not None else None
    annotation = {name: finding[name] for name in ("geometry", "xmin", "ymin", "xmax", "ymax", "points")}
    listed = {name: image[name] for name in TABLE_INPUTS}
    return {"recipe": recipe, **listed, **stat_key(root / image["path"]), "mask": mask, **annotation}


def _base(finding: dict[str, Any], recipe: str) -> dict[str, Any]:
    return {**{name: finding[name] for name in ("dataset", "image_id", "patient_id", "finding_id")}, "recipe": recipe}


def _relative(finding: dict[str, Any], recipe: str) -> str:
    return store.relative_path(finding["dataset"], recipe, finding["patient_id"], finding["finding_id"])


def _failed(finding: dict[str, Any], recipe: str, store_root: Path, error: DecodeError) -> Result:
    if not isinstance(error, StoreUnwritable):
        (store_root / _relative(finding, recipe)).unlink(missing_ok=True)
    return "failed", {**_base(finding, recipe), "status": "failed", "error": error.word}
