"""How fast a server may be asked: a polite interval, Retry-After, exponential back-off with jitter, and pauses."""

import random
import threading
import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from mammoflow.collect.model import BusyError, PausedError, TransferError

LONGEST_WAIT = 3600.0  # a server that sends us away for longer gets its wish: the run ends and says so


class Pace:
    """One per server, shared by all threads. ``interval``: seconds between the starts of two requests."""

    def __init__(self, interval: float, stop: threading.Event) -> None:
        self.interval = interval
        self.stop = stop
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until the next request may start. Raises PausedError as soon as a stop is asked for."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self.interval
        # A Retry-After that came in meanwhile holds for those who wait already.
        while (remaining := max(start, self._held) - time.monotonic()) > 0:
            self.sleep(min(remaining, 1.0))
        if self.stop.is_set():
            raise PausedError

    _held = 0.0

    def hold(self, seconds: float) -> None:
        """Nobody asks this server for ``seconds``: one thread was told so, and it holds for all."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)
            self._next = max(self._next, self._held)

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when a stop is asked for. Raises PausedError then."""
        if self.stop.wait(seconds):
            raise PausedError


def retrying(
    pace: Pace,
    tries: int,
    backoff: float,
    longest: float,
    note: Callable[[str], None],
    kept: Callable[[], int] = lambda: 0,
) -> Retrying:
    """A tenacity loop over TransferError failures: ``for attempt in retrying(...): with attempt: ...``.

    It ends after ``tries`` failures in a row between which nothing was gained; ``kept`` says what there is, in bytes.
    So a large series over a bad line goes on as long as each attempt brings it further.

    The n-th wait is ``backoff * 2**(n-1)``, at most ``longest`` seconds, times a random factor of 0.5 to 1.5 so that
    many clients do not come back together; a server's Retry-After is a lower bound and holds for all threads.
    """
    failures, best = 0, kept()

    def count(state: RetryCallState) -> bool:
        nonlocal failures, best
        now = kept()
        failures, best = (1 if now > best else failures + 1), max(now, best)
        return failures >= tries

    def seconds(state: RetryCallState) -> float:
        error = state.outcome.exception()
        # tenacity asks for the wait before it asks whether to stop: this failure is not counted yet.
        wait = min(backoff * 2**failures, longest) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret depends on it
        if isinstance(error, BusyError) and error.seconds is not None:
            pace.hold(error.seconds)
            wait = max(wait, error.seconds)
        return wait

    def say(state: RetryCallState) -> None:
        note(f"failure {failures} of {tries}: {state.outcome.exception()}; again in {state.next_action.sleep:.2f} s")

    return Retrying(
        retry=retry_if_exception_type(TransferError),
        stop=count,
        wait=seconds,
        sleep=pace.sleep,
        before_sleep=say,
        reraise=True,
    )
