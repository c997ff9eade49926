"""A lock file that tells whether a process lives: the system frees it when the process dies, however it dies."""

import fcntl
import random
import time
from pathlib import Path
from typing import IO

ATTEMPTS = 100  # somebody's look at ``is_held`` holds the lock for an instant


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file at ``path`` now."""
    if not path.is_file():
        return False
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not see each other
        except OSError:
            return True
    return False


def take(lock: IO[str]) -> None:
    """Hold the opened lock file until it is closed, here and in processes that inherit it.

    Raises BlockingIOError while another process holds it.
    """
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.02))  # noqa: S311 - no secret depends on it
