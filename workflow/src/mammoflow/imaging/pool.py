"""Run one function over the images of a shard in threads, and say how it goes.

Threads suffice: decoding, resizing and deflating release the interpreter lock. Every library is held to one thread,
so that a job uses the cores it asked for and no more.
"""

import ctypes
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cv2

from mammoflow.errors import UserError
from mammoflow.job_record import Watch, ignore

Job = TypeVar("Job")
Result = tuple[str, Any]  # done, reused or failed; and the row
_SECONDS_BETWEEN_LINES = 30.0
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 30  # bytes

cv2.setNumThreads(1)


def default_threads() -> int:
    """Cores this process may use, at most 8: beyond that, reading headers holds the interpreter lock too often."""
    return min(len(os.sched_getaffinity(0)), 8)


@cache
def keep_buffers() -> None:
    """Let this process keep the memory of freed pixels for the next image, in one arena for all threads.

    glibc gives each large buffer back to the kernel, which then clears every page of the next one again: a quarter of
    the time of an uncompressed image. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE), (_M_ARENA_MAX, 1)):
            mallopt(parameter, value)


def reading_ahead(
    work: Callable[[Job], list[Result]], jobs: Sequence[Job], threads: int, source: Callable[[Job], Path]
) -> Callable[[Job], list[Result]]:
    """``work`` that also asks the kernel for the file of a later job, as long as jobs do read theirs.

    jobs: in the order in which they are begun, in ``threads`` threads.  source: the file that a job reads.
    """
    places = {id(job): place for place, job in enumerate(jobs)}

    def work_ahead(job: Job) -> list[Result]:
        results = work(job)
        # This thread takes the job `threads` further on; the one behind that is fetched meanwhile.
        ahead = places[id(job)] + 2 * threads
        if ahead < len(jobs) and any(word != "reused" for word, _ in results):
            read_ahead(source(jobs[ahead]))
        return results

    return work_ahead


def read_ahead(path: Path) -> None:
    """Ask the kernel to read a file that is wanted soon, while others are being decoded (posix_fadvise(2))."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us up
    except OSError:
        return  # its own job will say what is wrong with it
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass  # nothing that can be read ahead
    finally:
        os.close(handle)


def run_jobs(work: Callable[[Job], list[Result]], jobs: Sequence[Job], threads: int, label: str) -> list[Any]:
    """Call ``work`` on each job in threads; it returns rows, each with the word ``done``, ``reused`` or ``failed``.

    Returns all rows in the order of the jobs. Prints progress and a summary to stderr. An exception of ``work`` stops
    the run. For files that are not ours, see :func:`mammoflow.imaging.supervise.run_supervised`.
    """
    with ThreadPoolExecutor(threads) as pool, Tally(label, len(jobs)) as tally:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                tally.add(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [row for future in futures for _, row in future.result()]


class Tally:
    """Counts of a run: progress on stderr and to ``watch`` while it goes on, and a summary when its block ends well."""

    def __init__(self, label: str, total: int, watch: Watch = ignore) -> None:
        self._watch = watch
        self._label = label
        self._counts: Counter[str] = Counter()
        self._progress = _progress(label, total)
        self._started = time.monotonic()

    def __enter__(self) -> "Tally":
        self._advance = self._progress.__enter__()
        return self

    def add(self, results: list[Result]) -> None:
        """Count the results of one job."""
        self._counts.update(word for word, _ in results)
        self._advance(self._counts)
        self._watch(self._counts)

    def say(self, sentence: str) -> None:
        """Print something that a person should know of."""
        print(f"{self._label}: {sentence}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._progress.__exit__(kind, *rest)
        if kind is None or issubclass(kind, UserError):
            seconds = max(time.monotonic() - self._started, 1e-9)
            rate = (self._counts["done"] + self._counts["failed"]) / seconds
            print(f"{self._label}: {_spell(self._counts)} ({rate:.1f} images/s)", file=sys.stderr)


def _spell(counts: Counter[str]) -> str:
    return " ".join(f"{word}={counts[word]}" for word in ("done", "reused", "failed"))


def _progress(label: str, total: int):
    """Context manager giving ``advance(counts)``: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        return _Bar(label, total)
    last = time.monotonic()

    def line(counts: Counter[str]) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{label}: {_spell(counts)} of {total}", file=sys.stderr, flush=True)

    return nullcontext(line)


class _Bar:
    def __init__(self, label: str, total: int) -> None:
        from rich.console import Console  # only where somebody watches
        from rich.progress import Progress

        # No thread of its own, which a fork would not take along: it is redrawn when something got done.
        self._bar = Progress(console=Console(stderr=True), transient=True, auto_refresh=False)
        self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> Callable[[Counter[str]], None]:
        self._bar.start()
        return self._advance

    def _advance(self, counts: Counter[str]) -> None:
        self._bar.advance(self._task)
        self._bar.refresh()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
