"""What a job asks of its machine: minutes, twice as many with each attempt up to what is allowed, and a GPU."""

import os
from pathlib import Path

from mammoflow.errors import UserError

LONGEST = "MAMMOFLOW_MAX_RUNTIME"


def longest() -> int | None:
    """The most minutes a job may ask for, from the environment (the SLURM profile sets it); None without a limit.

    Raises UserError where it is not a number of minutes.
    """
    text = os.environ.get(LONGEST, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{LONGEST} is {text!r}: give whole minutes, such as 2880, or unset it")
    return int(text)


def minutes_of(minutes: int, attempt: int) -> int:
    """What a rule of ``minutes`` asks for at an attempt, counted from 1. Raises UserError as :func:`longest`."""
    asked, most = minutes * 2 ** (attempt - 1), longest()
    return asked if most is None else min(asked, most)


def sees_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU. By its device files: to ask torch would cost each dry run seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
