"""Registry of the archives. Import stays light: an adapter is loaded when it is asked for."""

import importlib

from mammoflow.datasets.catalog import ARCHIVES, Archive
from mammoflow.errors import UserError


def archive(name: str) -> Archive:
    """The catalogue entry of a dataset. Raises UserError that lists the known names."""
    if name not in ARCHIVES:
        raise UserError(f"unknown dataset {name!r}; known: {', '.join(sorted(ARCHIVES))}")
    return ARCHIVES[name]


def adapter(name: str):
    """The adapter module of a dataset (see :class:`mammoflow.datasets.base.Adapter`)."""
    archive(name)
    return importlib.import_module(f"mammoflow.datasets.{name}")
