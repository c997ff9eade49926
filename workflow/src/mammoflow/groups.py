"""From a table with many rows per group (images per patient) to the count matrix that stratification works on.

Numeric attributes are counts and are summed; text is a category, and its rows are counted value by value; a column of
Python list literals (VinDr's ``finding_categories``) counts each word. A missing value is a category of its own:
where density is known only at one site, the unknown must be balanced too.
"""

import ast
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from mammoflow.errors import UserError

MISSING = "(missing)"
ROWS = "(rows)"
MAX_VALUES = 200  # a text attribute with more is an identifier, not a category


@dataclass(frozen=True)
class Counts:
    """counts[i, j]: how many rows of group ``ids[i]`` have attribute value ``columns[j]`` (attribute, value)."""

    ids: np.ndarray
    counts: np.ndarray
    columns: list[tuple[str, str]]


def count_matrix(table: pd.DataFrame, group: str, attributes: list[str]) -> Counts:
    """Count every value of ``attributes`` per group, groups sorted by id.

    A column ``(rows)`` is added where groups differ in their number of rows, so that subsets are fair in rows as well.
    Raises UserError for a column that is not there, rows without a group, numbers that are no counts, and text that
    looks like an identifier.
    """
    require_columns(table, [group, *attributes])
    if table[group].isna().any():
        raise UserError(
            f"column {group!r} is empty in {int(table[group].isna().sum())} row(s): every row needs a group"
        )
    ids, codes = np.unique(table[group].astype(str).to_numpy(dtype=object), return_inverse=True)
    blocks, columns = [], []
    for attribute in attributes:
        for value, row, weight in _values(table[attribute], attribute):
            blocks.append(np.bincount(codes[row], weights=weight, minlength=len(ids)).astype(np.int64))
            columns.append((attribute, value))
    rows = np.bincount(codes, minlength=len(ids))
    if len(rows) and rows.min() != rows.max():
        blocks.append(rows)
        columns.append((ROWS, ""))
    counts = np.stack(blocks, axis=1) if blocks else np.zeros((len(ids), 0), dtype=np.int64)
    return Counts(ids, counts, columns)


def require_columns(table: pd.DataFrame, names: list[str]) -> None:
    """Raise UserError that lists the table's columns where one of ``names`` is not among them."""
    for name in names:
        if name not in table.columns:
            raise UserError(f"there is no column {name!r}; the columns are: {', '.join(map(str, table.columns))}")


def _values(column: pd.Series, name: str):
    """Yield (value, rows that have it, weights of those rows or None), values sorted."""
    known = column.notna().to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = column[known].to_numpy(dtype=np.float64)
        if (numbers < 0).any() or (numbers != np.floor(numbers)).any():
            raise UserError(
                f"column {name!r} holds numbers that are not counts (negative or fractional): turn them into text bands"
            )
        yield "sum", np.flatnonzero(known), numbers
    else:
        text = column[known].astype(str)
        where = np.flatnonzero(known)
        words = _list_words(text)
        if words is None:
            labels, inverse = np.unique(text.to_numpy(dtype=object), return_inverse=True)
        else:
            where = np.repeat(where, [len(entry) for entry in words])
            labels, inverse = np.unique(np.array(list(chain.from_iterable(words)), dtype=object), return_inverse=True)
        if len(labels) > MAX_VALUES:
            raise UserError(f"column {name!r} has {len(labels)} different values: it looks like an identifier")
        for index, label in enumerate(labels):
            yield str(label), where[inverse == index], None
    if not known.all() and known.any():
        yield MISSING, np.flatnonzero(~known), None


def _list_words(text: pd.Series) -> list[list[str]] | None:
    """The distinct words of each cell where all cells are Python list literals, else None."""
    if text.empty or not (text.str.startswith("[") & text.str.endswith("]")).all():
        return None
    parsed = {}
    for cell in text.unique():
        try:
            parsed[cell] = sorted({str(word) for word in ast.literal_eval(cell)})
        except (ValueError, SyntaxError):
            return None
    return [parsed[cell] for cell in text]
