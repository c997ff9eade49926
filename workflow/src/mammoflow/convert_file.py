"""``mammoflow convert-file``: one file to PNG, with its ledger row on stdout. What `convert` does to each image."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mammoflow import settings as config
from mammoflow import tables
from mammoflow.convert import convert_stored, failed_row
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ARCHIVES, IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import png, pool, supervise
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.errors import DecodeError, StoreUnwritable
from mammoflow.imaging.working import level_choice

NO_DATASET = "file"  # the ledger's dataset of a file that belongs to no archive


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--dataset", choices=sorted(ARCHIVES), help="archive whose grey-scale rule applies; default DICOM's"
    )
    parser.add_argument("--settings", default="{}", help="section `convert` of the configuration, as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.file.is_file():
        raise UserError(f"{args.file} is not a file: give one DICOM, PGM, PNG, TIFF or JPEG file")
    if args.out.exists() and args.out.samefile(args.file):
        raise UserError(f"{args.out} is the file that is to be converted: give another --out, or it would be lost")
    row = convert_file(args.file, args.out, config.parse_section("convert", args.settings), args.dataset)
    print(json.dumps({name: row.get(name) for name in tables.CONVERT_LEDGER}, indent=2))
    if row["status"] != "ok":
        print(f"mammoflow convert-file: {args.file} could not be converted: {row['error']}", file=sys.stderr)
        return 1
    return 0


def convert_file(file: Path, out: Path, settings: dict[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Convert one file with the rule of ``dataset`` (None: what its header says). Returns the ledger row."""
    rule = archive(dataset).intensity if dataset else IntensityRule()
    base = {
        "dataset": dataset or NO_DATASET,
        "image_id": file.stem,
        "patient_id": file.parent.name or "unknown",
        "recipe": config.recipe("convert", {**settings, "rule": asdict(rule)}),
    }

    def work(file: Path) -> list[pool.Result]:
        started = time.perf_counter()
        try:
            stored = read_image(file, "dicom", levels=level_choice(settings, rule))
            working, row = convert_stored(stored, base, out.name, settings, rule)
        except DecodeError as error:
            return [("failed", failed_row(base, error, file))]
        row["seconds"] = round(time.perf_counter() - started, 4)
        png.write(out, working.pixels, row)
        return [("done", row)]

    try:
        ((_, outcome),) = supervise.supervise(work, [file])
    except StoreUnwritable as error:
        raise UserError(f"{error}: give another --out") from None
    return failed_row(base, outcome, file) if isinstance(outcome, DecodeError) else outcome[0][1]
