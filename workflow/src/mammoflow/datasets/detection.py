"""``detect``: which known archives lie below a directory, how complete they are, and what is missing."""

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from mammoflow.datasets import ARCHIVES, adapter
from mammoflow.datasets.base import Detection
from mammoflow.datasets.dicom_labels import LABELS
from mammoflow.errors import UserError

MAX_DEPTH = 5
MAX_DIRECTORIES = 5000  # a tree of single patients must not be searched folder by folder for ever
MAX_CHILDREN = 50  # a folder with more is part of an archive, not a shelf of archives
OWN_FOLDER = "dicom_folder"  # answers to any DICOM file, so it is asked last: where its table lies, and about the top


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to look; it is only read")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of text")


def run(args: argparse.Namespace) -> int:
    """Print what was found. Returns 1 when nothing was."""
    if not args.directory.is_dir():
        raise UserError(f"{args.directory} is not a directory: name the one that holds your archives")
    found = search(args.directory)
    if args.json:
        print(json.dumps([as_dict(detection) for detection in found], indent=2))
    else:
        for detection in found:
            print(describe(detection))
    if not found:
        print(
            f"mammoflow detect: no known archive below {args.directory}; `mammoflow datasets` says what each one holds",
            file=sys.stderr,
        )
    return 0 if found else 1


def search(top: Path, max_depth: int = MAX_DEPTH, max_directories: int = MAX_DIRECTORIES) -> list[Detection]:
    """Ask every adapter about ``top`` and the directories below it, nearest first; found archives are not entered.

    Linked directories are followed, each real directory once. A damaged archive (the adapter raises UserError) is
    reported with that sentence as what is missing. Directories that may not be read are passed over with a note on
    stderr, and so is the rest of the tree after ``max_directories``. A DICOM folder of one's own is known by its table
    of labels; where nothing is found, ``top`` may still be one without.
    """
    found = list(_below(Path(top), max_depth, max_directories))
    own = None if found else _ask(OWN_FOLDER, Path(top))
    return found or ([own] if own else [])


def _below(top: Path, max_depth: int, max_directories: int) -> Iterator[Detection]:
    queue, seen = deque([(top, 0)]), set()
    while queue:
        folder, depth = queue.popleft()
        try:
            stat, children = folder.stat(), sorted(_subdirectories(folder))
        except OSError as error:
            print(f"mammoflow detect: {folder} was passed over: {error.strerror}", file=sys.stderr)
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        if len(seen) >= max_directories:
            print(
                f"mammoflow detect: stopped after {max_directories} directories; name one nearer to the archive",
                file=sys.stderr,
            )
            return
        seen.add((stat.st_dev, stat.st_ino))
        answers = [_ask(name, folder) for name in ARCHIVES if name != OWN_FOLDER]
        detections = [answer for answer in answers if answer and not _lies_deeper(answer, children)]
        if not detections and (folder / LABELS).is_file() and (own := _ask(OWN_FOLDER, folder)):
            detections = [own]
        yield from detections
        if not detections and depth < max_depth:
            queue.extend((child, depth + 1) for child in children)


def _lies_deeper(detection: Detection, children: list[Path]) -> bool:
    """True when a child alone holds all that was found: the parent, which may hold other archives, is not the root."""
    if len(children) > MAX_CHILDREN:
        return False
    inner = [answer for child in children if (answer := _ask(detection.dataset, child))]
    return any(
        answer.images_found >= detection.images_found and len(answer.missing) <= len(detection.missing)
        for answer in inner
    )


def _subdirectories(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _ask(name: str, folder: Path) -> Detection | None:
    try:
        return adapter(name).detect(folder)
    except UserError as error:
        return Detection(name, folder, 0, [str(error)])


def describe(detection: Detection) -> str:
    """Two lines: what is where, with how many images; what is missing."""
    state = f"missing: {'; '.join(detection.missing)}" if detection.missing else "complete"
    return f"{detection.dataset}: {detection.root} ({detection.images_found} images)\n  {state}"


def as_dict(detection: Detection) -> dict[str, object]:
    """Plain values for JSON."""
    return {
        "dataset": detection.dataset,
        "root": str(detection.root),
        "images_found": detection.images_found,
        "complete": not detection.missing,
        "missing": detection.missing,
    }
