"""Run a download program of somebody else: its own way of signing in, our pause, and its answer in our words."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mammoflow.collect.model import PausedError, TransferError
from mammoflow.collect.pace import Pace
from mammoflow.errors import UserError

POLL = 0.2


def call(
    command: Sequence[str],
    pace: Pace,
    timeout: float,
    growing: Path,
    arrived: Callable[[int], None],
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> tuple[int, str]:
    """Exit status and everything the program said. ``growing``: the file, or the directory of files, that it writes.

    Its command line is visible to every user of the machine: never put a secret there. A program that writes nothing
    for ``timeout`` seconds is ended (TransferError); so is it when a pause is asked for (PausedError).
    """
    pace.wait()
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(os.environ if environment is None else environment),
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: install it, then run the same command again") from None
    size, quiet = _size(growing), 0.0
    try:
        while True:
            try:
                said, _ = process.communicate(timeout=POLL)
                break
            except subprocess.TimeoutExpired:
                size, before = _size(growing), size
                arrived(max(size - before, 0))
                quiet = 0.0 if size != before else quiet + POLL
            if pace.stop.is_set():
                raise PausedError
            if quiet > timeout:
                raise TransferError(f"{command[0]} wrote nothing for {timeout:.0f} s")
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()
    arrived(max(_size(growing) - size, 0))
    return process.returncode, said


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
