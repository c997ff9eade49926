"""``mammoflow inspect``: what the converter sees in one file, as a table and a picture.

Tags, window, decoder, orientation, breast box, the numbers behind the flags, and, where the file's archive has an
inventory, what its tables say: side, view, truth and marked lesions.
"""

import argparse
import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammoflow import roi, tables
from mammoflow import settings as config
from mammoflow.crop import locate
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ARCHIVES, IntensityRule
from mammoflow.errors import UserError
from mammoflow.imaging import quality
from mammoflow.imaging.decode import StoredImage, read_image, read_listed
from mammoflow.imaging.errors import DecodeError
from mammoflow.imaging.flags import FLAGS
from mammoflow.imaging.working import WorkingImage, make_working_image
from mammoflow.rows import from_frame

# Shown of the table's row, where it says something.
LISTED = ("dataset", "image_id", "patient_id", "laterality", "view_position", "age", "breast_density", "breast_birads",
          "pathology", "label_malignant", "use", "excluded_reason")  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """What an inventory says of a file: its row of ``images`` (None for NA), its findings, and the archive's root."""

    image: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)
    root: Path = Path()


@dataclass(frozen=True)
class Mark:
    """A finding in stored pixels. box: xmin, ymin, xmax, ymax.  text: number, category, pathology."""

    box: roi.Box
    text: str
    finding: dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="PNG to write: all that was found in the stored image, and the result")
    parser.add_argument(
        "--dataset", choices=sorted(ARCHIVES), help="archive whose grey-scale rule applies; default DICOM's"
    )
    parser.add_argument("--inventory", type=Path, help="directory of the archive's inventory: labels, lesions")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where inventories are looked for")
    parser.add_argument("--settings", default="{}", help="section `convert` of the configuration, as JSON")


def run(args: argparse.Namespace) -> None:
    if not args.file.is_file():
        raise UserError(f"{args.file} is not a file: give one DICOM, PGM, PNG, TIFF or JPEG file")
    settings = config.parse_section("convert", args.settings)
    listed = find_listed(args.file, args.inventory, args.results, args.dataset)
    dataset = args.dataset or (listed.image["dataset"] if listed else None)
    rule = archive(dataset).intensity if dataset else IntensityRule()
    try:
        stored, working = see(args.file, listed, settings, rule)
    except DecodeError as error:
        raise UserError(f"{args.file} cannot be converted: {error.word}") from None
    marks = marks_of(listed, stored.pixels.shape) if listed else []
    print_table(args.file.name, facts(stored, working, listed, marks))
    if args.out is not None:
        from mammoflow.inspect_picture import draw, save

        save(draw(args.file.name, stored, working, rule, marks), args.out)
        print(f"picture: {args.out}")


def find_listed(file: Path, inventory: Path | None, results: Path, dataset: str | None = None) -> Listed | None:
    """The row of ``file`` in the given inventory, or in any below ``results``; None where none has it.

    A row is the file's where its path ends the file's and its size is the same. Raises UserError where the inventory
    that was named does not know the file.
    """
    given = [inventory] if inventory else sorted(path.parent for path in results.glob("*/inventory/images.parquet"))
    full, size = file.resolve(), file.stat().st_size
    for folder in given:
        images = tables.read(folder / "images.parquet", "images")
        near = images[images["path"].notna() & (images["source_size"] == size).fillna(False)]
        for row in from_frame(near):
            parts = Path(row["path"]).parts
            if full.parts[-len(parts) :] == parts and dataset in (None, row["dataset"]):
                findings = tables.read(folder / "findings.parquet", "findings")
                own = from_frame(findings[findings["image_id"] == row["image_id"]])
                return Listed(row, own, Path(*full.parts[: -len(parts)]))
    if inventory:
        raise UserError(f"{inventory} does not list {file}: name the inventory of its archive, made of this very file")
    return None


def see(
    file: Path, listed: Listed | None, settings: dict[str, Any], rule: IntensityRule
) -> tuple[StoredImage, WorkingImage]:
    """Read and convert as `convert` does. Raises what decoding raises."""
    if listed is None:
        stored = read_image(file, "dicom")
        side = stored.header.shown.get("ImageLaterality") or stored.header.shown.get("Laterality")
        return stored, make_working_image(stored, settings, rule, side if side in ("L", "R") else None)
    stored = read_listed(listed.image, listed.root)
    known = listed.image["laterality"], listed.image["pixel_spacing_mm"]
    return stored, make_working_image(stored, settings, rule, *known)


def marks_of(listed: Listed, shape: tuple[int, int]) -> list[Mark]:
    """The findings that have a place. One that cannot be read says why in its text and covers nothing."""
    marks = []
    for number, finding in enumerate(listed.findings, 1):
        if finding["geometry"] == "none":
            continue
        names = ast.literal_eval(finding["finding_categories"]) if finding["finding_categories"] else []
        words = [finding["finding_native"] or " + ".join(names), finding["pathology"], finding["finding_birads"]]
        text = f"{number} " + ", ".join(str(word) for word in words if word)
        try:
            box, _, flags = locate(finding, listed.root, shape)
        except DecodeError as error:
            marks.append(Mark((0.0, 0.0, 0.0, 0.0), f"{text} ({error.word})", finding))
            continue
        marks.append(Mark(box, " ".join([text, *(f"({flag})" for flag in flags)]), finding))
    return marks


def facts(
    stored: StoredImage, working: WorkingImage, listed: Listed | None = None, marks: list[Mark] | None = None
) -> dict[str, str]:
    """What the converter read and decided, as text by name. Of a person nothing but the archive's ids."""
    geometry = working.geometry
    rows = {f"tag {name}": value for name, value in stored.header.shown.items() if value not in ("", "None")}
    if listed:
        shown = {name: listed.image[name] for name in LISTED if listed.image[name] is not None}
        rows |= {f"table {name}": str(value) for name, value in shown.items()}
    spacing = "unknown" if working.spacing is None else " x ".join(f"{step:g}" for step in working.spacing) + " mm"
    rows |= {
        "decoder": stored.decoder,
        "transfer syntax": stored.transfer_syntax or "-",
        "stored pixels": f"{stored.pixels.shape[0]} x {stored.pixels.shape[1]} {stored.pixels.dtype}, "
        f"{stored.header.bits_stored} bits, {int(stored.pixels.min())} to {int(stored.pixels.max())}",
        "pixel spacing": spacing,
        "grey scale": json.dumps(working.window),
        "chest wall": ("right" if geometry.flip else "left") + " in the stored image",
        "breast box": f"x {geometry.crop_x0} to {geometry.crop_x1}, y {geometry.crop_y0} to {geometry.crop_y1}",
        "working image": f"{geometry.out_height} x {geometry.out_width}, scale {geometry.scale_y:.4f}, "
        f"{'mirrored' if geometry.flip else 'not mirrored'}",
    }
    bounds = {name: (flag, bound, above) for flag, (name, bound, above) in quality.THRESHOLDS.items()}
    for name, value in working.measures.as_row().items():
        flag, bound, above = bounds.get(name, ("", 0.0, True))
        limit = f"   ({flag} {'above' if above else 'below'} {bound:g})" if flag else ""
        rows[name] = ("-" if value is None else f"{value:g}") + limit
    for mark in marks or []:
        rows[f"finding {mark.text.split()[0]}"] = (
            mark.text.partition(" ")[2] + "; box " + ", ".join(f"{corner:.0f}" for corner in mark.box)
        )
    rows |= {f"flag {flag}": FLAGS[flag] for flag in working.flags} or {"flags": "none"}
    rows["sha256"] = stored.source.sha256
    return rows


def print_table(title: str, rows: dict[str, str]) -> None:
    """Print name and value of each row."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", title=title)
    for name, value in rows.items():
        table.add_row(name, value, style="bold yellow" if name.startswith("flag ") else None)
    Console().print(table)
