"""What a person types into the page, checked before it goes anywhere. Each function raises UserError in one sentence.

Nothing typed ever reaches a shell: commands are argument lists. These checks keep ids, names and paths what they are.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from mammoflow.errors import UserError

PATIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,126}")
MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&\"'=^@])")


def patients(text: str) -> list[str]:
    """PatientIDs separated by commas or white space, each once, in order."""
    words = [word for word in re.split(r"[,\s]+", text) if word]
    for word in words:
        if not PATIENT.fullmatch(word) or ".." in word:
            raise UserError(
                f"Patients: {word!r} is no PatientID: letters, digits, '_', '-' and '.', such as D1-0001 or P_00001"
            )
    return list(dict.fromkeys(words))


def name(text: str, what: str) -> str:
    """The name of a cohort or run, which becomes a directory's name."""
    if not NAME.fullmatch(text):
        raise UserError(f"{what}: {text!r} is no name: small letters, digits and '_', such as baseline_1")
    return text


def address(text: str, what: str) -> str | None:
    """An http(s) address without an account in it; None where the field is empty."""
    text = text.strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f<>\"'`\\{}|^]", text):
        raise UserError(f"{what}: {text!r} is no address: give one such as https://mirror.example.org/nbia")
    if parts.username or parts.password:
        raise UserError(f"{what}: an address here must not hold an account; use the environment or ~/.netrc")
    return text


def folder(text: str, base: Path) -> str:
    """A directory below ``base``, relative to it, with ``/``. A link the owner laid there may lead elsewhere."""
    parts = text.strip().split("/")
    if not all(PART.fullmatch(part) for part in parts) or any(".." in part for part in parts):
        raise UserError(
            f"Folder: {text!r} is no folder below {base}: give its name there, without '/' in front or '..'"
        )
    return "/".join(parts)


def plain(text: str) -> str:
    """``text`` as Markdown that shows just these characters: no link, picture, HTML or formula is made of it."""
    return MARKS.sub(r"\\\1", text).replace("\n", "  \n")
