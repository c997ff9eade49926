"""``mammoflow crop``: the lesions of one shard, cut from the original pixels, with a ledger.

Only images that carry findings are read, each once for all its findings. Crops keep the orientation and the pixel size
of the stored image. The window is the lesion's box with a border, or of a fixed size in pixels or millimetres about its
centre. The lesion's outline (box, polygon, circle or mask) may go into a mask beside the crop, or cut the rest away.
The box of a finding that the archive gives as a mask becomes known here, and stands in the ledger.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mammoflow import roi, tables
from mammoflow import rows as plain
from mammoflow import settings as config
from mammoflow.convert import add_pool_options, png_inputs, read_shard, require_archive, stat_key, writing
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import intensity, store, supervise
from mammoflow.imaging.decode import StoredImage, read_image, read_listed
from mammoflow.imaging.errors import DecodeError, NoSpacing, StoreUnwritable, UnreadableFile
from mammoflow.imaging.pool import Result, reading_ahead
from mammoflow.imaging.working import grey_table
from mammoflow.job_record import Watch, ignore, job_record
from mammoflow.outlines import mask_points

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
    require_archive(args.root, images, args.shard)
    findings = plain.read_csv(args.findings, "findings")
    label = f"crop {args.dataset} {args.shard.stem}"
    located = sum(finding["geometry"] != "none" for finding in findings)
    with (
        job_record(args.ledger, f"crop {args.dataset}", located) as watch,
        writing(args.ledger, "crop_ledger") as ledger_rows,
    ):
        ledger_rows += crop_findings(
            args.dataset,
            images,
            findings,
            args.root,
            args.store,
            settings,
            args.threads,
            label,
            args.image_seconds,
            watch,
        )


def crop_findings(
    dataset: str,
    images: Sequence[plain.Row],
    findings: Sequence[plain.Row],
    root: Path,
    store_root: Path,
    settings: dict[str, Any],
    threads: int = 1,
    label: str = "crop",
    image_seconds: float = supervise.DEFAULT_SECONDS,
    watch: Watch = ignore,
) -> list[dict[str, Any]]:
    """Cut each finding that has a geometry; one ledger row per such finding.

    Failures are rows, as in :func:`mammoflow.convert.convert_images`, which also says what is raised; and UserError
    where a finding's image is not among ``images``.
    """
    groups: dict[str, list[plain.Row]] = {}
    for finding in findings:
        if finding["geometry"] != "none":
            groups.setdefault(finding["image_id"], []).append(finding)
    lost = groups.keys() - {image["image_id"] for image in images}
    if lost:
        raise UserError(f"findings name image {min(lost)}, which the shard does not hold: run `mammoflow shard` again")
    jobs = [(image, groups[image["image_id"]]) for image in images if image["image_id"] in groups]
    root, store_root = Path(root), Path(store_root)
    recipe = config.crop_recipe(dataset, settings)
    rule = archive(dataset).intensity

    def work(job: tuple[plain.Row, list[plain.Row]]) -> list[Result]:
        return crop_image(*job, root, store_root, settings, rule, recipe)

    def blame(job: tuple[plain.Row, list[plain.Row]], error: DecodeError) -> list[Result]:
        return [_failed(finding, _inputs(job[0], finding, root, recipe), store_root, error) for finding in job[1]]

    work_ahead = reading_ahead(work, jobs, threads, lambda job: root / job[0]["path"])
    with store.tidy(store_root, (_relative(finding, recipe) for _, group in jobs for finding in group)):
        return supervise.run_supervised(work_ahead, jobs, blame, threads, label, image_seconds, watch)


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
        if (kept := _kept(store_root, finding, inputs, recipe)) is not None:
            results.append(("reused", kept))
        else:
            pending.append((finding, inputs))
    if not pending:
        return results
    try:
        stored = read_listed(image, root)
    except DecodeError as error:
        return results + [_failed(finding, inputs, store_root, error) for finding, inputs in pending]
    extremes, _ = intensity.image_facts(stored.pixels, stored.header)
    table = grey_table(stored, {**_INTENSITY, "bits": settings["bits"]}, rule, extremes)
    for finding, inputs in pending:
        started = time.perf_counter()
        try:
            box, marked, flags = locate(finding, root, stored.pixels.shape, settings["outline"] != "ignore")
            window, cut = cut_window(box, stored, settings, image["pixel_spacing_mm"])
        except DecodeError as error:
            results.append(_failed(finding, inputs, store_root, error))
            continue
        x0, y0, x1, y1 = window
        flags = (*stored.flags, *table.flags, *flags, *cut)
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
            **dict(zip(("roi_x0", "roi_y0", "roi_x1", "roi_y1"), window, strict=True)),
            "points": tables.to_json(mask_points(marked > 0)) if marked is not None else None,
        }
        pixels = np.ascontiguousarray(table.apply(stored.pixels[y0:y1, x0:x1]))
        # The key of the bytes that were read, should the file have changed meanwhile.
        inputs |= {"source_size": stored.source.size, "source_mtime_ns": stored.source.mtime_ns}
        if settings["outline"] != "ignore":
            outline = roi.outline_mask(finding, box, window, marked)
            if settings["outline"] == "zero":
                pixels[outline == 0] = 0
            else:
                row["outline_path"] = _relative(finding, recipe, "outline")
                store.save(store_root / row["outline_path"], outline, {"finding_id": finding["finding_id"]}, inputs)
        store.save(store_root / row["path"], pixels, row, inputs)  # last: it vouches for the mask, too
        results.append(("done", row))
    return results


def locate(
    finding: dict[str, Any], root: Path, shape: tuple[int, int], outline: bool = False
) -> tuple[roi.Box, np.ndarray | None, tuple[str, ...]]:
    """The finding's box inside an image of ``shape``, its mask of that size (0/1), and flags.

    The mask file is read where the table gives no box, or where the ``outline`` is wanted; else the mask is None.
    Raises NoBox, EmptyMask, or what reading the mask raises.
    """
    marked: np.ndarray | None = None
    if finding["geometry"] == "mask" and (finding["xmin"] is None or outline):
        if finding["mask_path"] is None:
            raise UnreadableFile("the mask file is absent")
        mask = read_image(root / finding["mask_path"], "dicom")
        lossy = str(finding["mask_path"]).endswith((".jpg", ".jpeg"))
        marked, flags = roi.marked_pixels(mask.pixels, shape, lossy)
        box = roi.mask_box(marked) if finding["xmin"] is None else roi.table_box(finding)[0]
    else:
        box, flags = roi.table_box(finding)
    box, clipped = roi.clip_box(box, shape)
    return box, marked, (*flags, *(("box_clipped",) if clipped else ()))


def cut_window(
    box: roi.Box, stored: StoredImage, settings: dict[str, Any], table_spacing: float | None
) -> tuple[tuple[int, int, int, int], tuple[str, ...]]:
    """The window to cut in stored pixels, and flags. Raises NoSpacing where ``size_mm`` is set and nothing tells it."""
    shape = stored.pixels.shape
    if settings["size_mm"] is not None:
        spacing = stored.header.spacing or (table_spacing and (table_spacing, table_spacing))
        if not spacing:
            raise NoSpacing("neither header nor table gives the pixel spacing: set crop.size_px instead of size_mm")
        sides = (max(1, round(settings["size_mm"] / step)) for step in spacing)
        return roi.fixed_window(box, shape, *sides)
    if settings["size_px"] is not None:
        return roi.fixed_window(box, shape, settings["size_px"], settings["size_px"])
    return roi.roi_window(box, shape, settings["margin"], settings["min_size_px"]), ()


def _kept(store_root: Path, finding: dict[str, Any], inputs: dict[str, Any], recipe: str) -> dict[str, Any] | None:
    """The row of a crop that is there, with its mask if it has one, and was made from ``inputs``."""
    row = store.reusable_row(store_root / _relative(finding, recipe), inputs)
    if row and row.get("outline_path") and store.reusable_row(store_root / row["outline_path"], inputs) is None:
        return None
    return row


def _inputs(image: dict[str, Any], finding: dict[str, Any], root: Path, recipe: str) -> dict[str, Any]:
    mask = stat_key(root / finding["mask_path"]) if finding["mask_path"] is not None else None
    annotation = {name: finding[name] for name in ("geometry", "xmin", "ymin", "xmax", "ymax", "points")}
    return {**png_inputs(image, root, recipe), "mask": mask, **annotation}


def _base(finding: dict[str, Any], recipe: str) -> dict[str, Any]:
    return {**{name: finding[name] for name in ("dataset", "image_id", "patient_id", "finding_id")}, "recipe": recipe}


def _relative(finding: dict[str, Any], recipe: str, kind: str = "") -> str:
    path = store.relative_path(finding["dataset"], recipe, finding["patient_id"], finding["finding_id"])
    return path.removesuffix(".png") + f".{kind}.png" if kind else path


def _failed(finding: dict[str, Any], inputs: dict[str, Any], store_root: Path, error: DecodeError) -> Result:
    recipe = inputs["recipe"]
    if not isinstance(error, StoreUnwritable):
        for kind in ("", "outline"):
            store.forget_stale(store_root / _relative(finding, recipe, kind), inputs)
    return "failed", {**_base(finding, recipe), "status": "failed", "error": error.word}
