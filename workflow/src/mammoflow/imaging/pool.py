"""Run one function over the images of a shard in threads, and say how it goes.

Threads suffice: decoding, resizing and deflating release the interpreter lock. Every library is held to one thread,
so that a job uses the cores it asked for and no more.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from typing import Any, TypeVar

import cv2

Job = TypeVar("Job")
_SECONDS_BETWEEN_LINES = 30.0

cv2.setNumThreads(1)


def default_threads() -> int:
    """Cores this process may use, at most 8: beyond that, reading headers holds the interpreter lock too often."""
    return min(len(os.sched_getaffinity(0)), 8)


def run_jobs(
    work: Callable[[Job], list[tuple[str, dict[str, Any]]]], jobs: Sequence[Job], threads: int, label: str
) -> list[dict[str, Any]]:
    """Call ``work`` on each job; it returns ledger rows, each with the word ``done``, ``reused`` or ``failed``.

    Returns all rows in the order of the jobs. Prints progress and a summary to stderr. An exception of ``work`` (a full
    disk, say) stops the run: what is wrong with one file must come as a row.
    """
    started = time.monotonic()
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool, _progress(label, len(jobs)) as advance:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                counts.update(word for word, _ in future.result())
                advance(counts)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    seconds = max(time.monotonic() - started, 1e-9)
    rate = (counts["done"] + counts["failed"]) / seconds
    print(f"{label}: {_spell(counts)} ({rate:.1f} images/s)", file=sys.stderr)
    return [row for future in futures for _, row in future.result()]


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

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> Callable[[Counter[str]], None]:
        self._bar.start()
        return lambda counts: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
