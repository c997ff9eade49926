"""One line of a check: how good it is, what was found, and the cure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """``level`` ok, warn or fail; ``cure`` says what to do, empty where nothing is to be done."""

    level: Literal["ok", "warn", "fail"]
    text: str
    cure: str = ""


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warn(text: str, cure: str) -> Finding:
    return Finding("warn", text, cure)


def fail(text: str, cure: str) -> Finding:
    return Finding("fail", text, cure)
