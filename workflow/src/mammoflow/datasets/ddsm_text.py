"""The two text files of a DDSM case: ``.ics`` (the films) and ``.OVERLAY`` (the lesions of one film).

Grammar after DDSM's page "Overlay and .ics file formats" (Heath et al. 2000) and the files themselves: whitespace
separates words, keys may be absent or empty, and ``TOTAL_OUTLINES`` is sometimes too high, so the chains that are there
count. A chain is a start pixel (column, row, origin top left) and steps of one pixel, clockwise from 0 = up:

    7 0 1
    6 . 2
    5 4 3
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = np.array([(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)])
_KEYWORDS = {
    "TOTAL_ABNORMALITIES",
    "ABNORMALITY",
    "LESION_TYPE",
    "ASSESSMENT",
    "SUBTLETY",
    "PATHOLOGY",
    "TOTAL_OUTLINES",
    "BOUNDARY",
    "CORE",
}
_FILM = re.compile(r"^\s*((?:LEFT|RIGHT)_(?:CC|MLO))\s+(.*)$", re.MULTILINE)
_FILM_FIELDS = {
    "lines": "LINES",
    "samples": "PIXELS_PER_LINE",
    "bits": "BITS_PER_PIXEL",
    "resolution": "RESOLUTION",
}


@dataclass(frozen=True)
class Film:
    """One line of SEQUENCE. lines and samples in pixels, resolution in micron; None where the line does not say."""

    name: str  # LEFT_CC, LEFT_MLO, RIGHT_CC, RIGHT_MLO
    lines: int | None
    samples: int | None
    bits: int | None
    resolution: float | None
    overlay: bool


@dataclass(frozen=True)
class Case:
    """An ``.ics`` file. age in years, density 1..4; None where the key is absent or empty."""

    age: int | None
    density: int | None
    digitizer: str | None
    films: tuple[Film, ...]


@dataclass(frozen=True)
class Abnormality:
    """One lesion. Outlines are closed polygons of pixel indices, int (N, 2) as column, row; they may leave the film.

    lesion_types: per LESION_TYPE the words as given, ``{"": "MASS", "SHAPE": .., "MARGINS": ..}``.
    """

    number: int
    lesion_types: list[dict[str, str]] = field(default_factory=list)
    assessment: int | None = None
    subtlety: int | None = None
    pathology: str | None = None
    boundaries: list[NDArray[np.int64]] = field(default_factory=list)
    cores: list[NDArray[np.int64]] = field(default_factory=list)


def read_ics(text: str) -> Case:
    """Parse an ``.ics`` file. Raises ValueError where it lists no film."""
    keys = dict(re.findall(r"^[ \t]*([A-Z_]+)[ \t]*(.*?)[ \t\r]*$", text, re.MULTILINE))
    films = tuple(_film(name, rest.split()) for name, rest in _FILM.findall(text))
    if not films:
        raise ValueError("it lists no film below SEQUENCE")
    return Case(
        age=_integer(keys.get("PATIENT_AGE")),
        density=_integer(keys.get("DENSITY")),
        digitizer=keys.get("DIGITIZER") or None,
        films=films,
    )


def _film(name: str, words: list[str]) -> Film:
    pairs = dict(itertools.pairwise(words))
    values = {key: _number(pairs.get(word)) for key, word in _FILM_FIELDS.items()}
    whole = {key: None if value is None else int(value) for key, value in values.items() if key != "resolution"}
    return Film(name, **whole, resolution=values["resolution"], overlay="OVERLAY" in words)


def read_overlay(text: str) -> list[Abnormality]:
    """Parse an ``.OVERLAY`` file. Raises ValueError with abnormality and reason where it breaks the grammar."""
    found: list[dict] = []
    for key, words in _statements(text):
        if key == "ABNORMALITY":
            number = _integer(words[0] if words else None)
            found.append({"number": len(found) + 1 if number is None else number})
        elif key.startswith("TOTAL_"):
            continue
        elif not found:
            raise ValueError(f"{key} stands before the first ABNORMALITY")
        else:
            _add(found[-1], key, words)
    if not found:
        raise ValueError("it holds no ABNORMALITY")
    return [Abnormality(**values) for values in found]


def _statements(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each keyword with the words up to the next one; line breaks and tabs mean nothing. A chain's ``#`` is a word."""
    words = text.replace("#", " # ").split()
    starts = [place for place, word in enumerate(words) if word in _KEYWORDS]
    for start, end in itertools.pairwise([*starts, len(words)]):
        yield words[start], words[start + 1 : end]


def _add(values: dict, key: str, words: list[str]) -> None:
    if key == "LESION_TYPE":
        if not words:
            raise ValueError(f"abnormality {values['number']}: LESION_TYPE is empty")
        pairs = dict(zip(words[1::2], words[2::2], strict=False))
        values.setdefault("lesion_types", []).append({"": words[0], **pairs})
    elif key in ("ASSESSMENT", "SUBTLETY"):
        values[key.lower()] = _integer(words[0] if words else None)
    elif key == "PATHOLOGY":
        values["pathology"] = words[0] if words else None
    else:
        outlines = values.setdefault("boundaries" if key == "BOUNDARY" else "cores", [])
        try:
            outlines.append(chain_to_points(words))
        except ValueError as error:
            raise ValueError(f"abnormality {values['number']}, {key}: {error}") from None


def chain_to_points(words: list[str]) -> NDArray[np.int64]:
    """``["10", "20", "2", "4", "#"]`` -> int (N, 2) columns and rows: the start and the pixel after each step.

    Raises ValueError for a chain without its closing ``#`` (the file was cut off) or with a step that is none.
    """
    if "#" not in words:
        raise ValueError("the chain has no closing '#'")
    words = words[: words.index("#")]
    if len(words) < 2 or not all(word.lstrip("-").isdigit() for word in words[:2]):
        raise ValueError("the chain has no start pixel")
    bad = [word for word in words[2:] if word not in set("01234567")]
    if bad:
        raise ValueError(f"{bad[0]!r} is not a step of a chain (0 to 7)")
    steps = STEPS[np.array(words[2:], dtype=int)].reshape(-1, 2)
    return np.cumsum(np.vstack([[int(words[0]), int(words[1])], steps]), axis=0)


def points_to_chain(points: ArrayLike) -> str:
    """The chain through ``points`` (int (N, 2), each a neighbour of the one before): inverse of chain_to_points.

    Raises ValueError where two successive points are not neighbours.
    """
    points = np.asarray(points, dtype=int)
    codes = {tuple(step): str(code) for code, step in enumerate(STEPS.tolist())}
    try:
        steps = [codes[tuple(step)] for step in np.diff(points, axis=0).tolist()]
    except KeyError as error:
        raise ValueError(f"successive points of a chain must be neighbours, not {error.args[0]} apart") from None
    return " ".join([str(points[0, 0]), str(points[0, 1]), *steps, "#"])


def _integer(word: str | None) -> int | None:
    number = _number(word)
    return None if number is None else int(number)


def _number(word: str | None) -> float | None:
    return float(word) if word and re.fullmatch(r"\d+(\.\d+)?", word.strip()) else None
