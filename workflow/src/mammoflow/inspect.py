"""``mammoflow inspect``: what the converter sees in one file: tags, window, decoder, orientation, breast box."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from mammoflow import settings as config
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ARCHIVES, IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import intensity, png
from mammoflow.imaging.decode import StoredImage, read_image
from mammoflow.imaging.errors import DecodeError
from mammoflow.imaging.working import WorkingImage, make_working_image


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="PNG to write: the whole stored image with the breast box drawn in")
    parser.add_argument(
        "--dataset", choices=sorted(ARCHIVES), help="archive whose grey-scale rule applies; default DICOM's"
    )
    parser.add_argument("--settings", default="{}", help="section `convert` of the configuration, as JSON")


def run(args: argparse.Namespace) -> None:
    rule = archive(args.dataset).intensity if args.dataset else IntensityRule()
    settings = {**config.parse_section("convert", args.settings), "crop": True}
    try:
        stored = read_image(args.file, "dicom")
        working = make_working_image(stored, settings, rule)
    except DecodeError as error:
        raise UserError(f"{args.file} cannot be converted: {error.word}") from None
    _print_table(args.file.name, facts(stored, working))
    if args.out is not None:
        png.write(args.out, drawing(stored, working, rule))


def facts(stored: StoredImage, working: WorkingImage) -> dict[str, str]:
    """What the converter read and decided, as text by name. No name, date or number of a person."""
    geometry = working.geometry
    return {
        **{f"tag {name}": value for name, value in stored.header.shown.items()},
        "decoder": stored.decoder,
        "transfer syntax": stored.transfer_syntax or "-",
        "stored pixels": f"{stored.pixels.shape[0]} x {stored.pixels.shape[1]} {stored.pixels.dtype}, "
        f"{stored.header.bits_stored} bits, {int(stored.pixels.min())} to {int(stored.pixels.max())}",
        "grey scale": json.dumps(working.window),
        "chest wall": ("right" if geometry.flip else "left") + " in the stored image",
        "breast box": f"x {geometry.crop_x0} to {geometry.crop_x1}, y {geometry.crop_y0} to {geometry.crop_y1}",
        "working image": f"{geometry.out_height} x {geometry.out_width}, scale {geometry.scale_y:.4f}, "
        f"{'mirrored' if geometry.flip else 'not mirrored'}",
        "flags": ", ".join(working.flags) or "-",
        "sha256": stored.source.sha256,
    }


def drawing(stored: StoredImage, working: WorkingImage, rule: IntensityRule) -> np.ndarray:
    """The stored image in displayed grey, (rows, columns) uint8, with the breast box drawn in white on black."""
    extremes, _ = intensity.image_facts(stored.pixels, stored.header)
    table = intensity.window_table(stored.header, stored.pixels.dtype.itemsize, rule, 8, extremes=extremes)
    picture = np.array(table.apply(stored.pixels))
    geometry = working.geometry
    corners = (geometry.crop_x0, geometry.crop_y0), (geometry.crop_x1 - 1, geometry.crop_y1 - 1)
    thick = max(1, max(picture.shape) // 500)
    cv2.rectangle(picture, *corners, 0, 3 * thick)
    cv2.rectangle(picture, *corners, 255, thick)
    return picture


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", title=title)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
