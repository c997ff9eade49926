"""The pixel store: where a PNG lies, and whether the one that lies there may be kept.

A PNG carries its ledger row and the inputs it was made from. A rerun compares those inputs, so that a killed job, a
repaired source file or a changed annotation redoes exactly what it must.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammoflow import files
from mammoflow.imaging import png

_INPUTS = "inputs"


def safe_name(name: str) -> str:
    """``name`` with only ``[A-Za-z0-9._-]``, as a file name. Different names stay different."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if cleaned == name and not name.startswith(".") and 0 < len(name) <= 120:
        return name
    return f"{cleaned[:120].lstrip('.')}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"


def relative_path(dataset: str, recipe: str, patient_id: str, name: str) -> str:
    """Path of a PNG below the store, with forward slashes."""
    return f"{dataset}/{recipe}/{safe_name(patient_id)}/{safe_name(name)}.png"


def reusable_row(path: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The ledger row inside the PNG at ``path`` if it is whole and was made from ``inputs``; else None."""
    row = png.read_row(path)
    if row is None or row.pop(_INPUTS, None) != inputs:
        return None
    return row


def forget_stale(path: Path, inputs: dict[str, Any]) -> None:
    """Delete the PNG at ``path`` if it was made from something else than ``inputs``, which hold the source's key.

    Without a source to look at nothing is deleted: it may only be out of sight of this machine, and another job, or
    another user of a shared store, counts on the PNG.
    """
    if inputs["source_size"] is not None and reusable_row(path, inputs) is None:
        path.unlink(missing_ok=True)


def save(path: Path, pixels: NDArray[np.unsignedinteger], row: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Write the PNG atomically, over whatever older one lies there.

    How long it took stays in the ledger alone: equal inputs give equal files, byte for byte.
    """
    lasting = {key: value for key, value in row.items() if key != "seconds"}
    png.write(path, pixels, {**lasting, _INPUTS: inputs})


@contextmanager
def tidy(root: Path, relative_paths: Iterable[str]) -> Iterator[None]:
    """Sweep what killed processes left beside these files, before and after the block."""
    directories = sorted({(root / relative).parent for relative in relative_paths})
    try:
        for directory in directories:
            files.sweep(directory)
        yield
    finally:
        for directory in directories:
            files.sweep(directory)
