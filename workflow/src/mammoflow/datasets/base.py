"""What every archive's adapter offers, and the helpers they share.

An adapter is a module ``mammoflow.datasets.<name>`` with two functions:

``detect(root) -> Detection | None``
    By content, never by the folder's name: does this directory hold the archive, and how complete is it?

``inventory(root) -> Inventory``
    Tables and headers only, no pixels. Raises UserError with the file and the cure where the tables cannot be read.
    Every image that the tables name becomes a row; one whose file is absent stays with ``missing_file``.

It may offer ``published_tables(inventory) -> {title: frame}``: the counts its paper prints, to be compared by eye.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd

from mammoflow import labels, tables
from mammoflow.errors import UserError
from mammoflow.exams import derive_exams


class Inventory(NamedTuple):
    """Finished tables ``images``, ``findings`` and ``exams`` (see :mod:`mammoflow.tables`)."""

    images: pd.DataFrame
    findings: pd.DataFrame
    exams: pd.DataFrame


@dataclass(frozen=True)
class Detection:
    """An archive found on disk. ``missing`` lists what is absent, in words."""

    dataset: str
    root: Path
    images_found: int
    missing: list[str] = field(default_factory=list)


class Adapter(Protocol):
    """The protocol of an adapter module."""

    def detect(self, root: Path) -> Detection | None: ...

    def inventory(self, root: Path) -> Inventory: ...


def require_directory(root: Path, dataset: str, put_here: str) -> Path:
    """``root`` as a path; UserError with what belongs there when it is not a directory or is empty."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: put {put_here} there, or set datasets.{dataset}.root")
    if not any(root.iterdir()):
        raise UserError(f"{root} is empty: put {put_here} there, or set datasets.{dataset}.root")
    return root


def find_files(root: Path, suffixes: Collection[str] | None, max_depth: int = 8) -> list[Path]:
    """Files below ``root`` whose lower-case suffix is in ``suffixes`` (None: all), sorted; hidden names are skipped.

    One walk. Links to directories are followed, each real directory once, so a loop of links ends. Raises UserError
    where a directory may not be read: half a listing would look like missing files.
    """
    root, found, seen = Path(root), [], set()
    for folder, names, files in os.walk(root, onerror=_unreadable, followlinks=True):
        stat = os.stat(folder)
        depth = len(Path(folder).relative_to(root).parts)
        if (stat.st_dev, stat.st_ino) in seen or depth >= max_depth:
            names.clear()
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [
            Path(folder, name)
            for name in files
            if (suffixes is None or os.path.splitext(name)[1].lower() in suffixes) and not name.startswith(".")
        ]
    return sorted(found)


def files_by_stem(root: Path, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """Path without suffix -> path, both relative to ``root`` with ``/``, of the files below ``folder`` of ``root``.

    For tables that name each image: one listing per folder answers quicker on shared storage than a stat per image.
    Empty where ``folder`` is absent.
    """
    if not (root / folder).is_dir():
        return {}
    paths = [path.relative_to(root).as_posix() for path in find_files(root / folder, suffixes)]
    return {os.path.splitext(path)[0]: path for path in paths}


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): check the permissions of that directory")


def read_csv(path: Path, required_columns: Collection[str], dataset: str, sep: str = ",") -> pd.DataFrame:
    """A source table with every column as text (dtype ``string``): cells and names stripped, empty cells NA.

    Line breaks inside quotes, a byte order mark, CRLF and Windows-1252 text are read too. Words such as ``NA`` or
    ``None`` stay words: only an empty cell is unknown. Raises UserError that names the file, the column and the cure.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: put the {dataset} table of that name there")
    options = {"dtype": "string", "sep": sep, "keep_default_na": False, "na_filter": False}
    try:
        try:
            frame = pd.read_csv(path, encoding="utf-8-sig", **options)
        except UnicodeDecodeError:
            frame = pd.read_csv(path, encoding="cp1252", **options)
    except (OSError, ValueError) as error:  # ParserError, EmptyDataError and UnicodeDecodeError are ValueErrors
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable CSV table ({reason}): download it again from the archive") from None
    frame.columns = frame.columns.str.strip()
    absent = [name for name in required_columns if name not in frame.columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}: put the unchanged {dataset} table of the archive there")
    return frame.apply(lambda column: column.str.strip().replace("", pd.NA))


def require_values(frame: pd.DataFrame, columns: Collection[str], path: Path) -> None:
    """UserError naming file, line and column where a cell of ``columns`` is empty: the table was cut off or edited."""
    for name in columns:
        empty = frame[name].isna().to_numpy()
        if empty.any():
            raise UserError(
                f"{path}, data row {int(empty.argmax()) + 1}: column {name!r} is empty; "
                "the download was cut off or the table was edited: put the archive's unchanged file there"
            )


def map_words(values: pd.Series, words: Mapping[str, object], path: Path) -> pd.Series:
    """Translate native words; NA stays NA. Raises UserError naming file, column and value where a word is unknown."""
    unknown = values[values.notna() & ~values.isin(list(words))]
    if len(unknown):
        raise UserError(
            f"{path}, column {values.name!r}: unknown value {unknown.iloc[0]!r} (known: {', '.join(words)}); "
            "correct the table, or take the archive's unchanged file"
        )
    return values.map(words)


def parse_int(values: pd.Series, path: Path) -> pd.Series:
    """Whole numbers (``61`` and ``61.0`` alike) as Int64; NA stays NA. UserError names file, column and value."""
    numbers = pd.to_numeric(values, errors="coerce").astype("Float64")
    bad = values[values.notna() & (numbers.isna() | (numbers % 1 != 0).fillna(True))]
    if len(bad):
        raise UserError(
            f"{path}, column {values.name!r}: {bad.iloc[0]!r} is not a whole number; "
            "correct the table, or take the archive's unchanged file"
        )
    return numbers.astype("Int64")


def source_keys(images: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Add ``source_size`` (bytes) and ``source_mtime_ns`` for each row that has a ``path`` (relative to ``root``)."""
    stats = [None if pd.isna(path) else (root / path).stat() for path in images["path"]]
    return images.assign(
        source_size=pd.array([pd.NA if stat is None else stat.st_size for stat in stats], dtype="Int64"),
        source_mtime_ns=pd.array([pd.NA if stat is None else stat.st_mtime_ns for stat in stats], dtype="Int64"),
    )


def mark_missing(images: pd.DataFrame) -> pd.DataFrame:
    """Rows without ``path`` become ``use=excluded, excluded_reason=missing_file``; other rows are left as they are."""
    absent = images["path"].isna()
    images = images.copy()
    images.loc[absent, "use"] = "excluded"
    images.loc[absent, "excluded_reason"] = "missing_file"
    return images


def finish_inventory(images: pd.DataFrame, findings: pd.DataFrame) -> Inventory:
    """Apply the default label policy, validate both tables, and derive the exams."""
    images = tables.finish("images", images)
    images = tables.finish("images", labels.apply_policy(images, labels.default_policy()))
    findings = tables.finish("findings", labels.apply_policy_to_findings(findings, labels.default_policy()))
    return Inventory(images, findings, derive_exams(images))
