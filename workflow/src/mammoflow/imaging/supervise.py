"""The images of a shard in a process of their own, so that a decoder that crashes or hangs cannot end the shard.

The command forks ONE worker, which does all images in threads and says through a pipe which image it begins, which
decoder it calls and what came of it. When the worker dies, or an image passes its time limit, another worker goes on
with the images not yet begun; those in hand are then tried one by one, each in a process of its own. So the guilty one
is known and the innocent are converted. Forking costs some milliseconds per shard, the messages some microseconds per
image; nothing is imported or read twice.
"""

import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from mammoflow.errors import UserError
from mammoflow.imaging import trace
from mammoflow.imaging.errors import (
    DecodeError,
    DecoderCrashed,
    InternalError,
    OutOfMemory,
    StoreUnwritable,
    TookTooLong,
)
from mammoflow.imaging.isolated import die_with_parent
from mammoflow.imaging.pool import Result, Tally, keep_buffers
from mammoflow.job_record import Watch, ignore

Job = TypeVar("Job")
Work = Callable[[Job], list[Result]]

DEFAULT_SECONDS = 300.0
# Several times what the largest image that is read takes (layout.MAX_PIXELS): a stream that makes its decoder ask for
# more gets a MemoryError, not the whole machine.
_BYTES_PER_THREAD = 4 << 30
# A person or the batch system asks the worker to end: nothing that an image did.
_ASKED_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_FORK = multiprocessing.get_context("fork")


class Unfinished(UserError):  # noqa: N818 - what became of the shard, not of a call
    """The store could not be written. ``rows``: of all jobs; those not done are failed with StoreUnwritable."""

    def __init__(self, message: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.rows = rows


def run_supervised(
    work: Work[Job],
    jobs: Sequence[Job],
    blame: Callable[[Job, DecodeError], list[Result]],
    threads: int,
    label: str,
    seconds: float = DEFAULT_SECONDS,
    watch: Watch = ignore,
) -> list[dict[str, Any]]:
    """As :func:`pool.run_jobs`, in a process of its own; ``blame`` makes the rows of a job that ended its process.
    ``watch`` is told the counts so far.

    Raises Unfinished, with all rows, where the store cannot be written; SystemExit on SIGTERM, when no process is left.
    """
    results: dict[int, list[Result]] = {}
    with _sigterm_raises(), Tally(label, len(jobs), watch) as tally:
        try:
            for index, outcome in supervise(work, jobs, threads, seconds, tally.say):
                results[index] = blame(jobs[index], outcome) if isinstance(outcome, DecodeError) else outcome
                tally.add(results[index])
        except StoreUnwritable as error:
            for index in set(range(len(jobs))) - set(results):
                results[index] = blame(jobs[index], error)
                tally.add(results[index])
            rows = [row for index in range(len(jobs)) for _, row in results[index]]
            raise Unfinished(
                f"{label}: the store cannot be written ({error}). Mend that and run again; finished images are kept",
                rows,
            ) from None
    return [row for index in range(len(jobs)) for _, row in results[index]]


def supervise(
    work: Work[Job],
    jobs: Sequence[Job],
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[int, list[Result] | DecodeError]]:
    """Call ``work`` on each job in another process; yield (index of the job, its rows or why there are none).

    seconds: the longest time one job may take. say: gets a sentence whenever a worker has to be replaced.
    A job that ends its process yields DecoderCrashed, one that passes the limit TookTooLong, one without enough memory
    OutOfMemory, and an exception that nobody foresaw InternalError.
    Raises StoreUnwritable on an OSError of ``work``: that is about the run, and what was not yielded was not done.
    """
    waiting = list(range(len(jobs)))
    suspects: list[int] = []
    while waiting:
        worker = _Worker(work, jobs, waiting, threads)
        yield from worker.results(seconds)
        waiting = [index for index in waiting if index not in worker.begun]
        suspects += worker.suspects
        if worker.death:
            say(f"{worker.death}; {len(worker.suspects)} images that it had in hand are tried again one by one")
        if worker.killed:  # most likely for lack of memory, which fewer images at a time need less of
            threads = max(1, threads // 2)
    for index in suspects:
        worker = _Worker(work, jobs, [index], 1)
        yield from worker.results(seconds)
        yield from worker.suspects.items()


@dataclass
class _InHand:
    since: float
    decoder: str = "the reader"


class _Worker:
    """A forked process that does ``jobs[index]`` for each of ``indices``, in order, in threads.

    After :meth:`results`: ``begun`` holds the indices that were taken up, ``suspects`` those without a result and what
    to say of them should they fail alone, ``death`` how the process ended (None: by itself, when all was done).
    """

    def __init__(self, work: Work[Job], jobs: Sequence[Job], indices: Sequence[int], threads: int) -> None:
        self.begun: set[int] = set()
        self.suspects: dict[int, DecodeError] = {}
        self.death: str | None = None
        self.killed = False
        self._in_hand: dict[int, _InHand] = {}
        self._overdue = False
        self._reader, writer = _FORK.Pipe(duplex=False)
        arguments = (self._reader, writer, os.getpid(), work, jobs, indices, threads)
        self._process = _FORK.Process(target=_serve, args=arguments, daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns when a process with threads forks. These here are idle ones of BLAS, which minds forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        writer.close()  # so that the pipe ends with the worker

    def results(self, seconds: float) -> Iterator[tuple[int, list[Result] | DecodeError]]:
        """Yield what gets done, until the worker has ended, or was ended because a job passed the limit."""
        try:
            while (message := self._receive(seconds)) is not None:
                kind, index, value = message
                if kind == "begin":
                    self.begun.add(index)
                    self._in_hand[index] = _InHand(time.monotonic())
                elif kind == "decoder":
                    self._in_hand[index].decoder = value
                elif kind == "memory":
                    decoder = self._in_hand.pop(index).decoder
                    self.suspects[index] = OutOfMemory(f"{decoder} got no memory")
                elif kind == "store":
                    raise StoreUnwritable(value)
                else:
                    del self._in_hand[index]
                    yield index, value
            if not self._overdue:
                self._process.join()
        finally:
            self._process.kill()
            self._process.join()
            self._reader.close()
        self._judge(seconds)

    def _receive(self, seconds: float) -> tuple[str, int, Any] | None:
        """The next message; None when there is none because the worker has ended or a job is overdue."""
        left = None
        if self._in_hand:
            left = max(0.0, min(job.since for job in self._in_hand.values()) + seconds - time.monotonic())
        if not self._reader.poll(left):
            self._overdue = True
            return None
        try:
            return self._reader.recv()
        except (EOFError, OSError):  # also in the middle of a message
            return None

    def _judge(self, seconds: float) -> None:
        code = self._process.exitcode
        if code == 0:
            return
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"status {code}"
        self.death = f"an image took longer than {seconds:g} s" if self._overdue else f"the worker ended with {how}"
        self.killed = code == -signal.SIGKILL and not self._overdue
        if not self._overdue and -code in _ASKED_TO_END:
            raise UserError(f"{self.death}, which somebody sent: run the command again, finished images are kept")
        if not self.begun:
            raise UserError(f"{self.death} before it began an image: look at the memory and the processes it may use")
        for index, job in self._in_hand.items():
            if self._overdue:
                self.suspects[index] = TookTooLong(f"no result of {job.decoder} after {seconds:g} s")
            elif self.killed:
                self.suspects[index] = OutOfMemory(f"the system killed the process that {job.decoder} was in ({how})")
            else:
                self.suspects[index] = DecoderCrashed(f"{job.decoder} ended its process with {how}")


def _serve(
    reader: Connection,
    writer: Connection,
    parent: int,
    work: Work[Job],
    jobs: Sequence[Job],
    indices: Sequence[int],
    threads: int,
) -> None:
    """The life of a worker. It never writes to the store for a supervisor that is gone."""
    reader.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the supervisor ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    _limit_memory(threads)
    keep_buffers()
    lock = threading.Lock()
    stop = threading.Event()

    def send(kind: str, index: int, value: Any = None) -> None:
        try:
            with lock:
                writer.send((kind, index, value))
        except BrokenPipeError:
            os._exit(1)

    def do(index: int) -> None:
        if stop.is_set():
            return
        send("begin", index)
        try:
            with trace.telling(partial(send, "decoder", index)):
                rows = work(jobs[index])
        except MemoryError:
            send("memory", index)
        except OSError as error:
            stop.set()
            send("store", index, f"{error.filename or 'the store'}: {error.strerror or error}")
        except Exception as error:
            traceback.print_exc()
            send("done", index, InternalError(f"{type(error).__name__}: {error}"))
        else:
            send("done", index, rows)

    with ThreadPoolExecutor(threads) as pool:
        for index in indices:
            pool.submit(do, index)


def _limit_memory(threads: int) -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now + threads * _BYTES_PER_THREAD
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as SystemExit, so that the worker is ended and temporary files are deleted before we go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
