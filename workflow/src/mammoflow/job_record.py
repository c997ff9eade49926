"""What the job of a shard is doing, beside the ledger that it will write: ``0003-of-0008.job.json``.

A scheduler knows that a job runs but not how far it is, and forgets it soon after its end. The record is there from the
job's start, is renewed by a thread of its own (so also while one file keeps all others waiting), and goes when the
ledger is written. After a failure it keeps the reason. A record that is no longer renewed is that of a job that was
killed without a word: for its memory, or with its node.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mammoflow.errors import UserError
from mammoflow.files import read_json, sweep, write_json

Watch = Callable[[Mapping[str, int]], None]  # told the counts of done, reused and failed so far

SUFFIX = ".job.json"
RENEWED_EVERY = 20.0  # seconds
SILENT_AFTER = 120.0  # seconds: several renewals, should the shared filesystem be slow to show them


@dataclass
class JobRecord:
    """State of one job: ``running``, ``failed`` or, when nobody renews the record any more, ``killed``."""

    shard: str
    stage: str
    total: int
    node: str
    slurm_job: str | None
    done: int = 0
    reused: int = 0
    failed: int = 0
    state: str = "running"
    reason: str | None = None
    silent_seconds: float = 0.0

    def sentence(self) -> str:
        """One line for people: where the job is or was, how far it came, and why it stopped."""
        where = f"on {self.node}" + (f", SLURM job {self.slurm_job}" if self.slurm_job else "")
        ready = self.done + self.reused + self.failed
        text = f"{self.stage} {self.shard} {self.state} {where}, {ready} of {self.total} ready"
        if self.state == "killed":
            return f"{text}, no sign of life for {self.silent_seconds / 60:.0f} min: memory limit or dead node?"
        return f"{text}: {self.reason}" if self.reason else text


def ignore(counts: Mapping[str, int]) -> None:
    """The watch of a caller who keeps no record."""


@contextmanager
def job_record(ledger: Path, stage: str, total: int) -> Iterator[Watch]:
    """Keep the record of the job that writes ``ledger``; yields what to call with the counts so far.

    The record goes when the block ends well, and keeps the reason otherwise: also SIGTERM, which a scheduler sends
    before it kills, where the block makes SystemExit of it.
    """
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    record = JobRecord(Path(ledger).stem, stage, total, node, os.environ.get("SLURM_JOB_ID"))
    keeper = _Keeper(path_of(ledger), record)
    print(f"{record.sentence()}, process {os.getpid()}", file=sys.stderr, flush=True)
    try:
        with keeper:
            yield keeper.watch
    except BaseException as error:
        keeper.close(_reason(error))
        raise
    keeper.path.unlink(missing_ok=True)


def path_of(ledger: Path) -> Path:
    """The record beside a ledger."""
    return Path(ledger).with_suffix(SUFFIX)


def read_records(results: Path, dataset: str, stage: str, shards: int) -> list[JobRecord]:
    """Records of the jobs of a stage that run or did not end well, in the order of the shards.

    Raises UserError where a record is broken.
    """
    found = []
    for path in sorted((results / dataset / stage).glob(f"*-of-{shards:04d}{SUFFIX}")):
        try:
            silent = time.time() - path.stat().st_mtime
            values = read_json(path)
        except FileNotFoundError:
            continue  # the job ended while we looked
        if not values:
            continue
        record = JobRecord(**values)
        if record.state == "running" and silent > SILENT_AFTER:
            record.state, record.silent_seconds = "killed", silent
        found.append(record)
    return found


class _Keeper:
    """Writes the record now, every few seconds, and at the end."""

    def __init__(self, path: Path, record: JobRecord) -> None:
        self.path = path
        self._record = record
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path.parent, self.path.name)
            self._write()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror or error}. Mend that and run again"
            ) from None
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def watch(self, counts: Mapping[str, int]) -> None:
        for word in ("done", "reused", "failed"):
            setattr(self._record, word, counts.get(word, 0))

    def close(self, reason: str) -> None:
        self._record.state, self._record.reason = "failed", reason
        try:
            self._write()
        except OSError as error:  # the disk, it may be: this must not hide why the job itself failed
            print(f"{self.path} cannot be written: {error.strerror or error}", file=sys.stderr)

    def _renew(self) -> None:
        lost = False
        while not self._stopped.wait(RENEWED_EVERY):
            try:
                self._write()
                lost = False
            except OSError as error:  # a stale handle, a quota: the next try may do, and the job has not stopped
                if not lost:
                    text = f"{self.path} cannot be renewed: {error.strerror or error}. The job goes on and tries again"
                    print(text, file=sys.stderr, flush=True)
                lost = True

    def _write(self) -> None:
        write_json(self.path, asdict(self._record))


def _reason(error: BaseException) -> str:
    """One line. What is meant for people is not preceded by the name of its class."""
    if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
        return "stopped by SIGTERM: cancelled, or over its time limit"
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]
