"""``export FORMAT``: a cohort in the files that other people's tools read.

Every export holds the rows that take part, in the cohort's own split. Coordinates are pixels of the working images,
save in ``vindr``, whose tables speak of the archive's own files. A licence that forbids redistribution forbids it for
an export, too: ``croissant`` lists the licences.
"""

import argparse
import importlib
import sys
from pathlib import Path

from mammoflow import tables
from mammoflow.exports.common import Export

FORMATS = {
    "coco": "COCO detection JSON, one per split; images are named below the store",
    "nnunet": "nnU-Net v2 raw layout: images, label maps of the lesions, dataset.json, splits_final.json",
    "monai": "MONAI (Medical Segmentation Decathlon) JSON with labels, boxes and folds",
    "webdataset": "WebDataset tars per split: 8-bit PNG, JSON and class of each image",
    "croissant": "Croissant metadata of the tables, with licences and citations",
    "vindr": "VinDr-Mammo's two CSVs, in pixels of the archive's own files",
}


def configure(parser: argparse.ArgumentParser) -> None:
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=formats)
    parser.add_argument("--cohort", type=Path, required=True, metavar="DIR")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="directory of the working images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> None:
    manifest = tables.read(args.cohort / "manifest.parquet", "manifest")
    findings = tables.read(args.cohort / "findings.parquet", "manifest_findings")
    cohort = Export(args.cohort.resolve().name, manifest, findings, args.store)
    module = importlib.import_module(f"mammoflow.exports.{args.format}")
    for note in module.write(cohort, args.out):
        print(note, file=sys.stderr)
    print(f"{args.format}: {args.out}")
