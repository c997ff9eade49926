"""``mammoflow pseudonymise``: a DICOM tree again, with keyed pseudonyms and without what identifies.

The original is only read. Nothing of the original is printed: counts and new names alone.
"""

import argparse
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.datasets.base import require_directory
from mammoflow.datasets.dicom_folder import dicom_files
from mammoflow.datasets.dicom_labels import FINDINGS, LABELS
from mammoflow.datasets.headers import quiet_validation
from mammoflow.errors import UserError
from mammoflow.files import write_json
from mammoflow.imaging import pool
from mammoflow.pseudonymise.audit import audit
from mammoflow.pseudonymise.keys import Key, read_key
from mammoflow.pseudonymise.pixels import BLANKS, Blanking
from mammoflow.pseudonymise.sidecar import finding_boxes, rewrite_findings, rewrite_labels
from mammoflow.pseudonymise.transform import Source, read_source, transform

SUMMARY = "pseudonymised.json"
CORNERS = Blanking()
# Reasons that a person must look into; the others are objects that are no mammograms.
_WANTED = ("lesion_under_blank", "no_breast_found", "read_back_differs", "exceeds_bits_stored")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="the DICOM tree; it is only read")
    parser.add_argument("out", type=Path, metavar="DST", help="directory for the new tree")
    parser.add_argument("--key-file", type=Path, required=True, help="secret, at least 32 characters, chmod 600")
    parser.add_argument("--findings", type=Path, help=f"table of boxes; default SRC/{FINDINGS} where it exists")
    parser.add_argument("--labels", type=Path, help=f"table of labels; default SRC/{LABELS} where it exists")
    parser.add_argument("--blank", choices=BLANKS, default="corners", help="what to blank; the breast never is")
    parser.add_argument("--corner", default="0.5x0.15", metavar="WxH", help="corner rectangles, shares of the frame")
    parser.add_argument("--compress", action="store_true", help="JPEG Lossless instead of uncompressed")
    parser.add_argument("--mapping", type=Path, help="CSV of old and new ids, for your vault; chmod 600")
    parser.add_argument("--threads", type=int, default=pool.default_threads())


def run(args: argparse.Namespace) -> int:
    root = require_directory(args.source, "dicom_folder", "the DICOM tree")
    check_places(root, args.out, args.key_file, args.mapping)
    side = {"labels": args.labels or root / LABELS, "findings": args.findings or root / FINDINGS}
    for name, given in (("labels", args.labels), ("findings", args.findings)):
        if not side[name].is_file():
            if given:
                raise UserError(f"{given} does not exist: correct --{name}")
            side[name] = None
    result = pseudonymise(
        root,
        args.out,
        read_key(args.key_file),
        blanking=parse_corner(args.blank, args.corner),
        compress=args.compress,
        threads=args.threads,
        **side,
    )
    if args.mapping:
        write_private(result["mapping"], args.mapping)
    return report(args.out, result)


def check_places(root: Path, out: Path, key_file: Path, mapping: Path | None) -> None:
    """UserError where the new tree and the old one, or the new tree and a secret, lie in each other."""
    old, new = root.resolve(), out.resolve()
    if old == new or old in new.parents or new in old.parents:
        raise UserError(f"{out} and {root} lie in each other: choose a directory elsewhere")
    for secret in (key_file, mapping):
        if secret is not None and new in secret.resolve().parents:
            raise UserError(f"{secret} would be passed on with {out}: keep it elsewhere")


def parse_corner(mode: str, text: str) -> Blanking:
    """``0.5x0.15``: width and height of a corner as shares of the frame, at most a half."""
    match = re.fullmatch(r"(0?\.\d+)x(0?\.\d+)", text)
    if not match or not all(0 < float(share) <= 0.5 for share in match.groups()):
        raise UserError(f"--corner {text} is not WIDTHxHEIGHT with shares up to 0.5 of the frame, such as 0.5x0.15")
    return Blanking(mode, *map(float, match.groups()))


def pseudonymise(
    root: Path,
    out: Path,
    key: Key,
    labels: Path | None = None,
    findings: Path | None = None,
    blanking: Blanking = CORNERS,
    compress: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Write the new tree, its tables and the summary, and audit all of it.

    Returns ``written``, ``patients`` and ``reused`` (counts), ``writing`` (new paths that still seem to carry writing),
    ``reasons`` (Counter of what was left out), ``dropped`` rows of the tables, ``problems`` of the audit (with any,
    there is no summary file), and ``mapping`` (old and new ids; keep it secret).
    """
    with quiet_validation():
        sources = _read_sources(root, key, threads)
        wanted = [source for source in sources if source.reason is None]
        (out / SUMMARY).unlink(missing_ok=True)  # it vouches for a finished, audited tree
        settings = {"blanking": blanking, "compress": compress, "boxes": finding_boxes(findings)}
        work = partial(transform, root=root, out=out, key=key, **settings)
        words: Counter[str] = Counter()

        def one(source: Source) -> list[tuple[str, dict[str, Any]]]:
            word, row = work(source)
            words[word] += 1
            return [(word, row)]

        rows = pool.run_jobs(one, wanted, threads, "pseudonymise")
        ended = [replace(source, reason=row["reason"]) for source, row in zip(wanted, rows, strict=True)]
        written = [source for source in ended if source.reason is None]
        beside, dropped = _write_tables(out, written, labels, findings, key)
        problems = audit(out, sources, written, beside)
    left_out = [source for source in (*sources, *ended) if source.reason]
    result = {
        "written": len(written),
        "patients": len({source.new_path.split("/")[0] for source in written}),
        "reused": words["reused"],
        "writing": sorted(source.new_path for source, row in zip(wanted, rows, strict=True) if row["written"]),
        "reasons": Counter(source.reason for source in left_out),
        "dropped": dropped,
        "problems": problems,
        "mapping": _mapping([*written, *left_out]),
    }
    if not problems:
        summary = {name: result[name] for name in ("written", "patients", "writing", "reasons", "dropped")}
        write_json(out / SUMMARY, {**summary, "blanking": asdict(blanking), "compress": compress, "audit": "passed"})
    return result


def _read_sources(root: Path, key: Key, threads: int) -> list[Source]:
    files = dicom_files(root)
    if not files:
        raise UserError(f"no DICOM file lies below {root}: name the tree that your archive exported")
    foreign = sum(not _is_utf8(path) for path in files)
    if foreign:  # a count, since such a path is often a woman's name
        raise UserError(
            f"{foreign} of {len(files)} DICOM files below {root} have a path that is not UTF-8, which no table could "
            "hold: rename them, such as by `convmv -r -f latin1 -t utf8 --notest DIR`"
        )
    with ThreadPoolExecutor(threads) as readers:
        sources = list(readers.map(lambda path: read_source(path, root, key), files))
    seen: set[str] = set()
    for number, source in enumerate(sources):
        if source.reason is None and source.image_id in seen:
            sources[number] = replace(source, reason="duplicate_file")
        seen.add(source.image_id)
    return sources


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_tables(
    out: Path, written: list[Source], labels: Path | None, findings: Path | None, key: Key
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    columns = ["path", "image_id", "patient_id", "new_path", "new_image_id", "new_patient_id"]
    images = pd.DataFrame([{name: getattr(source, name) for name in columns} for source in written], columns=columns)
    made: dict[str, pd.DataFrame] = {}
    dropped: dict[str, int] = {}
    if labels is not None:
        made[LABELS], dropped[LABELS] = rewrite_labels(labels, images, key)
    if findings is not None:
        made[FINDINGS], dropped[FINDINGS] = rewrite_findings(findings, images)
    for name, table in made.items():
        tables.write(table, out / name)
    return made, dropped


def _mapping(sources: list[Source]) -> pd.DataFrame:
    names = ["path", "patient_id", "image_id", "new_path", "new_patient_id", "new_image_id", "reason"]
    return pd.DataFrame([{name: getattr(source, name) for name in names} for source in sources], columns=names)


def write_private(table: pd.DataFrame, path: Path) -> None:
    """Write CSV that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        table.to_csv(handle, index=False, lineterminator="\n")
    os.replace(temporary, path)


def report(out: Path, result: dict[str, Any]) -> int:
    """Print the counts. Returns 1 where the audit failed or an image needs a person."""
    print(f"{out}: {result['written']} images of {result['patients']} patients ({result['reused']} were there)")
    for reason, count in sorted(result["reasons"].items()):
        print(f"  left out, {reason}: {count}")
    for name, count in result["dropped"].items():
        print(f"  {name}: {count} rows of images that were not written are left out")
    if result["writing"]:
        first = result["writing"][0]
        print(f"  {len(result['writing'])} images still seem to carry writing, look at them; the first is {first}")
    if result["problems"]:
        shown = "".join(f"\n  {problem}" for problem in result["problems"][:10])
        raise UserError(f"the audit found {len(result['problems'])} problems; do not pass {out} on:{shown}")
    print("  audit passed: no original id, name, date or UID in any file, table or path")
    return int(any(result["reasons"][reason] for reason in _WANTED))
