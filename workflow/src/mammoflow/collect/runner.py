"""Fetch the chosen series: several at once, each verified and renamed whole; pause, resume, progress, log."""

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mammoflow.collect.http import md5_of
from mammoflow.collect.model import PausedError, RefusedError, Series, Source, TransferError
from mammoflow.collect.pace import retrying
from mammoflow.collect.state import Progress, Store, now
from mammoflow.errors import UserError

LOG = logging.getLogger("mammoflow.collect")
ANEW = "series.zip.part"  # fetched from its start at each attempt: what lies there is no gain
TICK = 0.5  # seconds between two looks at pause and progress
RESERVE = 1 << 30  # bytes that must stay free on the disk


class Run:
    """One run over ``chosen``. Made under the store's lock."""

    def __init__(
        self, store: Store, source: Source, chosen: list[Series], settings: dict[str, Any], progress: Progress
    ) -> None:
        self.store, self.source, self.chosen, self.settings = store, source, chosen, settings
        self.stop: threading.Event = source.client.pace.stop
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = {}  # of series under way; a try that starts anew counts from there
        self._speed: deque[tuple[float, int]] = deque(maxlen=60)  # the last half minute
        self._received, self._began = 0, time.monotonic()
        store.mend_journal()
        there = store.entries()
        self.todo = [one for one in chosen if one.uid not in there]
        self.failed: dict[str, str] = {}
        done = [one for one in chosen if one.uid in there]
        self._done, self._done_bytes = len(done), sum(one.bytes for one in done)
        self.progress = replace(
            progress, status="running", series=len(chosen), bytes=sum(one.bytes for one in chosen), message=""
        )

    def check_disk(self) -> None:
        """Raise UserError where the rest does not fit on the disk. Called before the first byte."""
        # A zip lies beside its files for a while, in each thread.
        largest = sorted((one.bytes for one in self.todo), reverse=True)[: self.settings["jobs"]]
        needed = sum(one.bytes for one in self.todo) + sum(largest) + RESERVE
        free = shutil.disk_usage(self.store.root).free
        if self.todo and free < needed:
            raise UserError(
                f"{self.store.root}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
                "free some space, or choose less with max_gb or max_series"
            )

    def fetch_all(self, show: Callable[[Progress], None]) -> Progress:
        """Fetch everything that is not there. Returns the final progress: ``done``, ``failed`` or ``paused``.

        A failing series does not stop the others. Raises UserError where nothing can go on (full disk, no program).
        """
        LOG.info("start: %d series, %d there already, source %s", self.progress.series, self._done, self.source.name)
        for one in list(self.store.parts.iterdir()) if self.store.parts.is_dir() else ():
            if one.name not in {series.uid for series in self.todo}:
                shutil.rmtree(one)  # of another selection, or of a series that was finished after all
        pool = ThreadPoolExecutor(self.settings["jobs"], thread_name_prefix="collect")
        waiting, running = deque(self.todo), set()
        try:
            self._tick(show)
            while (waiting and not self.stop.is_set()) or running:
                while waiting and len(running) < self.settings["jobs"] and not self.stop.is_set():
                    running.add(pool.submit(self._one, waiting.popleft()))
                done, running = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
                self._raise_fatal(done)
                self._tick(show)
                if self.stop.is_set():
                    self.source.client.hang_up()
        finally:
            if waiting or running:
                self.stop.set()
                self.source.client.hang_up()
            pool.shutdown(wait=True)
        unfinished = self._done + len(self.failed) < len(self.chosen)
        status = "paused" if unfinished else "failed" if self.failed else "done"
        message = "; ".join(f"{uid}: {reason}" for uid, reason in list(self.failed.items())[:3])
        self.progress = replace(
            self._measure(), status=status, message=message, bytes_per_second=0.0, seconds_left=None
        )
        LOG.info("%s: %d of %d series", status, self.progress.series_done, self.progress.series)
        return self.progress

    def _raise_fatal(self, futures: set[Future[None]]) -> None:
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, PausedError):
                self.stop.set()
                raise error

    def _one(self, series: Series) -> None:
        """One series: fetch and verify below parts/, journal, then move the files to their place."""
        staging = self.store.parts / series.uid
        staging.mkdir(parents=True, exist_ok=True)
        settings = self.settings

        def note(text: str) -> None:
            LOG.warning("%s %s", series.uid, text)

        def arrived(number: int) -> None:
            with self._lock:
                self._received += number
                self._bytes[series.uid] = min(self._bytes.get(series.uid, 0) + number, series.bytes)

        def kept() -> int:
            return sum(path.stat().st_size for path in staging.rglob("*") if path.is_file() and path.name != ANEW)

        pace, tries, backoff = self.source.client.pace, settings["tries"], settings["backoff_s"]
        try:
            for attempt in retrying(pace, tries, backoff, 120.0, note, kept):
                with attempt:
                    files = self.source.fetch(series, staging, arrived)
        except (TransferError, RefusedError) as error:
            LOG.error("%s failed: %s", series.uid, error)
            with self._lock:
                self.failed[series.uid] = str(error)
                self._bytes.pop(series.uid, None)
            return
        self.store.add(series, files, self.source.name)
        place(staging / "files", self.store.root / series.folder)
        shutil.rmtree(staging)
        LOG.info("%s done: %d files, %d bytes", series.uid, len(files), sum(one.bytes for one in files))
        with self._lock:
            self._bytes.pop(series.uid, None)
            self._done += 1
            self._done_bytes += series.bytes

    def _tick(self, show: Callable[[Progress], None]) -> None:
        if self.store.pause_wanted():
            self.stop.set()
        self.progress = self._measure()
        self.store.write_progress(self.progress)
        show(self.progress)

    def _measure(self) -> Progress:
        with self._lock:
            done = self._done_bytes + sum(self._bytes.values())
            self._speed.append((time.monotonic(), self._received))
            (then, before), (last, received) = self._speed[0], self._speed[-1]
            speed = (received - before) / (last - then) if last > then else 0.0
            whole_run = self._received / max(last - self._began, TICK)
            return replace(
                self.progress,
                series_done=self._done,
                series_failed=len(self.failed),
                bytes_done=done,
                bytes_per_second=speed,
                seconds_left=(self.progress.bytes - done) / speed if speed > 0 else None,
                speed=whole_run or self.progress.speed,
            )


def place(files: Path, folder: Path) -> None:
    """Rename the directory ``files`` to ``folder``; what an earlier run left there makes room."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    files.rename(folder)


def fetch_tables(store: Store, source: Source, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Fetch the tables that are not there. Returns (records, sentences about those that cannot be had)."""
    records, missing = [], []
    for table in source.tables():
        target = store.root / table.name
        part = store.hidden / f"{table.name}.part"
        reasons = [] if target.is_file() else _try_addresses(source, table.urls, part, table.begins, settings)
        if not target.is_file() and not reasons:
            part.replace(target)
            LOG.info("%s done: %d bytes", table.name, target.stat().st_size)
        if target.is_file():
            records.append({"path": table.name, "bytes": target.stat().st_size, "md5": md5_of(target)})
        else:
            missing.append(
                f"{table.name} could not be fetched ({'; '.join(reasons)}): get it by hand from {table.urls[0]} and "
                f"put it into {store.root}"
            )
    return records, missing


def _try_addresses(
    source: Source, urls: tuple[str, ...], part: Path, begins: bytes, settings: dict[str, Any]
) -> list[str]:
    """Reasons why no address gave the table; empty when ``part`` holds it."""
    reasons = []
    for url in urls:
        try:
            for attempt in retrying(source.client.pace, settings["tries"], settings["backoff_s"], 60.0, LOG.warning):
                with attempt:
                    source.fetch_table(url, part)
                    with part.open("rb") as handle:
                        head = handle.read(256)
                    if not head.removeprefix(b"\xef\xbb\xbf").startswith(begins):
                        part.unlink()
                        raise RefusedError("what came is not that table")
        except (TransferError, RefusedError) as error:
            reasons.append(str(error))
        else:
            return []
    return reasons


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what happens to ``path``, one line each, with the time in UTC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Utc("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    before, LOG.level, LOG.propagate = (LOG.level, LOG.propagate), logging.INFO, False
    try:
        yield
    finally:
        LOG.level, LOG.propagate = before
        LOG.removeHandler(handler)
        handler.close()


class _Utc(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return now()
