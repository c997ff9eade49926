"""Which decoder a thread is in, told to whoever watches: should it end or block the process, its name is known."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_thread = threading.local()


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, :func:`step` of this thread calls ``tell`` with the name of each decoder before its call."""
    _thread.tell = tell
    try:
        yield
    finally:
        del _thread.tell


def step(decoder: str) -> None:
    """Say that ``decoder`` is called next. Without a listener nothing happens."""
    tell = getattr(_thread, "tell", None)
    if tell is not None:
        tell(decoder)
