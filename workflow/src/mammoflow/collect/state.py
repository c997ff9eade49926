"""What a collect leaves on disk, so that the same command goes on after anything, and another process can look on.

Below the archive's directory::

    collected.json      what is there: series, bytes, digests, source, licence, time
    download_log.txt    what happened, line by line
    .collect/           journal.jsonl   one line per verified series, flushed before its files get their final place
                        state.json      progress of the run (or of the last one)
                        lock            held by the running process, freed by the system when it dies
                        pause           a wish to pause; the process ends in good order
                        parts/          what is under way
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammoflow import locks
from mammoflow.collect.model import Series, StoredFile
from mammoflow.errors import UserError
from mammoflow.files import read_json, write_json

HIDDEN = ".collect"


@dataclass(frozen=True)
class Progress:
    """How far a run is. status: ``new``, ``listing``, ``running``, ``paused``, ``failed``, ``done`` or ``broken`` (its
    process died). bytes are those of the selection, ``bytes_done`` those verified and under way; seconds_left: None
    while unknown; speed: bytes per second over the whole run, which later estimates reckon with."""

    status: str = "new"
    dataset: str = ""
    source: str = ""
    series: int = 0
    series_done: int = 0
    series_failed: int = 0
    bytes: int = 0
    bytes_done: int = 0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    speed: float = 0.0
    message: str = ""
    updated: str = ""


class Store:
    """The directory of one archive being collected."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.hidden = self.root / HIDDEN
        self.parts = self.hidden / "parts"
        self.journal = self.hidden / "journal.jsonl"
        self._writing = threading.Lock()

    # --- one process at a time ---------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory. Raises UserError while another process collects into it."""
        self.hidden.mkdir(parents=True, exist_ok=True)
        with (self.hidden / "lock").open("a") as handle:
            try:
                locks.take(handle)
            except BlockingIOError:
                raise UserError(f"another process collects into {self.root}: wait for it, or pause it") from None
            yield

    def busy(self) -> bool:
        """Whether a process collects into the directory now."""
        return locks.is_held(self.hidden / "lock")

    # --- wishes and progress -----------------------------------------------------------------------------------------

    def ask_pause(self) -> None:
        """Ask the running process to end in good order; without one, nothing happens."""
        if self.busy():
            (self.hidden / "pause").touch()

    def forget_pause(self) -> None:
        (self.hidden / "pause").unlink(missing_ok=True)

    def pause_wanted(self) -> bool:
        return (self.hidden / "pause").exists()

    def write_progress(self, progress: Progress) -> None:
        """Write ``state.json`` with the present time."""
        write_json(self.hidden / "state.json", asdict(progress) | {"updated": now()})

    def progress(self) -> Progress:
        """What the run, or the last one, wrote. A run whose process is gone is ``broken``: the same command goes on."""
        values = read_json(self.hidden / "state.json")
        if values.get("status") in ("running", "listing") and not self.busy():
            values |= {"status": "broken", "bytes_per_second": 0.0, "seconds_left": None}
        return Progress(**values)

    def measured_speed(self) -> float:
        """Bytes per second of the last run that moved anything; 0 where there was none."""
        return float(read_json(self.hidden / "state.json").get("speed", 0.0))

    # --- what is there -----------------------------------------------------------------------------------------------

    def add(self, series: Series, files: Iterable[StoredFile], source: str) -> dict[str, Any]:
        """Write a verified series to the journal, to disk, before its files get their final place."""
        entry = {
            "series": series.uid,
            "patient": series.patient,
            "exam": series.exam,
            "modality": series.modality,
            "folder": series.folder,
            "source": source,
            "licence": series.licence,
            "collected": now(),
            "files": [asdict(one) for one in sorted(files, key=lambda one: one.path)],
        }
        with self._writing, self.journal.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        return entry

    def entries(self) -> dict[str, dict[str, Any]]:
        """Verified series by uid whose files lie on disk with the right size. The last entry of a series counts.

        Read from ``collected.json`` and the journal; a line that a killed process left half is not counted.
        """
        found = {entry["series"]: entry for entry in read_json(self.root / "collected.json").get("series", [])}
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            found[entry["series"]] = entry
        return {uid: entry for uid, entry in found.items() if self._present(entry)}

    def mend_journal(self) -> None:
        """End a line that a killed process left half, so that the next one begins on its own."""
        if self.journal.is_file() and (text := self.journal.read_bytes()) and not text.endswith(b"\n"):
            with self.journal.open("ab") as handle:
                handle.write(b"\n")

    def _present(self, entry: dict[str, Any]) -> bool:
        folder = self.root / entry["folder"]
        try:
            return all((folder / one["path"]).stat().st_size == one["bytes"] for one in entry["files"])
        except OSError:
            return False

    def write_collected(self, dataset: str, tables: list[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
        """Write ``collected.json`` and return it."""
        series = sorted(self.entries().values(), key=lambda entry: (entry["patient"], entry["series"]))
        files = [one for entry in series for one in entry["files"]]
        record = {
            "dataset": dataset,
            "request": request,
            "series_count": len(series),
            "file_count": len(files),
            "bytes": sum(one["bytes"] for one in files),
            "sources": sorted({entry["source"] for entry in series}),
            "licences": sorted({entry["licence"] for entry in series}),
            "tables": tables,
            "series": series,
        }
        write_json(self.root / "collected.json", record)
        return record


def now() -> str:
    """The present time in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")
