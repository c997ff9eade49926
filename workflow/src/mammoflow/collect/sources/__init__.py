"""Where each archive comes from. One module per service; ``open_source`` makes the right one."""

from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from mammoflow.collect.http import Client
from mammoflow.collect.model import Source
from mammoflow.collect.pace import Pace
from mammoflow.datasets.catalog import ROUTES
from mammoflow.errors import UserError

# Seconds between two requests. The bucket is made for many readers; the others are one machine for the whole field.
INTERVALS = {"idc": 0.05, "nbia": 1.0, "kaggle": 1.0, "physionet": 1.0}


def route(dataset: str, source: str) -> str:
    """The source to take for ``dataset``, where ``auto`` is its first. Raises UserError where it has no such route."""
    routes = ROUTES.get(dataset, ())
    if source == "auto" and routes:
        return routes[0]
    if source in routes:
        return source
    known = ", ".join(routes) or "no public route"
    raise UserError(f"{dataset} cannot be collected from {source!r}; known: {known}")


def open_source(dataset: str, settings: dict[str, Any], root: Path, stop: Event) -> Source:
    """The source of ``dataset``. settings: the resolved ``collect`` section.  root: where its small files may go."""
    name = route(dataset, settings["source"])
    for key in ("base_url", "tables_url", "idc_index"):
        if "@" in urlsplit(settings[key] or "").netloc:
            raise UserError(f"{key}: no name or password in an address, it would be kept in logs and records")
    interval = INTERVALS[name] if settings["interval_s"] is None else settings["interval_s"]
    client = Client(Pace(interval, stop), settings["timeout_s"])
    if name == "idc":
        from mammoflow.collect.sources.idc import Idc as Chosen
    elif name == "nbia":
        from mammoflow.collect.sources.nbia import Nbia as Chosen
    elif name == "kaggle":
        from mammoflow.collect.sources.kaggle import Kaggle as Chosen
    else:
        from mammoflow.collect.sources.physionet import PhysioNet as Chosen
    return Chosen(dataset, settings, root, client)
