"""Tables as plain rows: what a conversion job reads and writes, without pandas.

Importing pandas and pandera takes longer than converting ten images, and a job needs neither: it walks through its rows
once. Schema, rules and files are those of :mod:`mammoflow.tables`; only the container differs. A row is a dictionary of
plain Python values, with None for NA.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.files import replacing

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

_FLAGS = {"True": True, "False": False}
_PARSERS: dict[str, Callable[[str], Any]] = {
    tables.TEXT: str,
    tables.INTEGER: int,
    tables.NUMBER: float,
    tables.FLAG: _FLAGS.__getitem__,
}


def from_frame(frame: "pd.DataFrame") -> list[Row]:
    """The rows of a finished frame."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def read_csv(path: Path, table: str) -> list[Row]:
    """The rows of a CSV that ``tables.write`` wrote, in its order. Raises UserError where it is unreadable."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the step that writes it first")
    columns = tables.TABLES[table]
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path} has no column {missing[0]!r}: it is not a {table} table of this version")
            return [
                {name: _PARSERS[column.dtype](row[name]) if row[name] else None for name, column in columns.items()}
                for row in reader
            ]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a {table} table ({error}): delete it and run again") from None


def finish(table: str, rows: Iterable[Row]) -> list[Row]:
    """Rows with every column of the schema, sorted by key and checked, as ``tables.finish`` does with a frame.

    Raises ValueError for a column that the schema does not know, UserError where a value is not allowed or a key is
    not unique.
    """
    columns, keys = tables.TABLES[table], tables.KEYS[table]
    finished = []
    for row in rows:
        unknown = [name for name in row if name not in columns]
        if unknown:
            raise ValueError(f"{table}: columns not in the schema: {unknown}")
        finished.append({name: row.get(name) for name in columns})
    for name, column in columns.items():
        bad = [row[name] for row in finished if not _allowed(row[name], column)]
        if bad:
            shown = ", ".join(map(repr, bad[:3]))
            raise UserError(f"table {table}, column {name}: not allowed is {shown} ({len(bad)} values in all)")
    names = Counter(tuple(row[key] for key in keys) for row in finished)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"table {table}, column {'/'.join(keys)}: {twice[0]} stands in it more than once")
    return sorted(finished, key=lambda row: tuple(row[key] for key in keys))


def _allowed(value: Any, column: tables.Column) -> bool:
    if value is None:
        return not column.required
    if not column.values or value in column.values:
        return True
    return bool(column.prefix) and value.startswith(column.prefix) and len(value) > len(column.prefix)


def write_parquet(rows: Sequence[Row], path: Path, table: str) -> None:
    """Write finished rows as ``tables.write`` writes a finished frame: parquet (zstd), atomically."""
    import pyarrow as pa  # at the end of a job: nothing waits for it
    from pyarrow import parquet

    kinds = {
        tables.TEXT: pa.large_string(),
        tables.INTEGER: pa.int64(),
        tables.NUMBER: pa.float64(),
        tables.FLAG: pa.bool_(),
    }
    columns = tables.TABLES[table]
    schema = pa.schema(
        [(name, kinds[column.dtype]) for name, column in columns.items()],
        # By this note pandas gives whole numbers with NA back as Int64; as floats, times in ns would be rounded.
        metadata={"pandas": json.dumps(_note(columns))},
    )
    data = pa.Table.from_pylist(list(rows), schema)
    with replacing(path) as handle:
        parquet.write_table(data, handle, compression="zstd")


def _note(columns: dict[str, tables.Column]) -> dict[str, Any]:
    words = {tables.TEXT: "unicode", tables.INTEGER: "int64", tables.NUMBER: "float64", tables.FLAG: "bool"}
    described = [
        {"name": name, "field_name": name, "pandas_type": words[column.dtype], "numpy_type": column.dtype}
        | {"metadata": None}
        for name, column in columns.items()
    ]
    return {"index_columns": [], "column_indexes": [], "columns": described, "pandas_version": "3.0.3"}
