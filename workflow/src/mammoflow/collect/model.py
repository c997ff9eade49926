"""The words of collecting: a series to fetch, the files that came of it, and what goes wrong on the way."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mammoflow.errors import UserError


@dataclass(frozen=True)
class Series:
    """The unit of fetching: it arrives whole and verified, or not at all.

    exam: what no limit may cut (a study; in CBIS-DDSM, whose PatientID is a folder name, the woman).  folder: where its
    files go, relative to the archive's directory, with ``/``.  bytes: as announced; ``estimated`` where the server does
    not say and the archive's mean stands in.  location: the source's own address of it.  files: their names and, where
    the source publishes them, digests (empty: the source says only when asked).
    """

    uid: str
    patient: str
    exam: str
    modality: str
    images: int
    bytes: int
    licence: str
    folder: str
    location: str = ""
    estimated: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table that an archive publishes beside its images. ``begins``: the first bytes of the true file."""

    name: str
    urls: tuple[str, ...]
    begins: bytes


@dataclass(frozen=True)
class StoredFile:
    """One verified file. ``checked``: what it was held against, such as ``md5`` or ``sha256``; ``size`` alone is
    least."""

    path: str
    bytes: int
    md5: str
    checked: str


class TransferError(Exception):
    """A passing failure: cut connection, truncated or wrong content, busy server. The series is tried again."""


class BusyError(TransferError):
    """The server asked to wait (429, 503). ``seconds``: its Retry-After, None where it gave none."""

    def __init__(self, message: str, seconds: float | None) -> None:
        super().__init__(message)
        self.seconds = seconds


class RefusedError(Exception):
    """The server will not give this, however often it is asked (404, 403 ...). The series fails, the others go on."""


class PausedError(Exception):
    """Somebody asked to pause: part files stay where they are."""


class Source(Protocol):
    """Where an archive comes from. ``fetch`` is called from several threads."""

    name: str
    client: Any

    def series(self) -> list[Series]:
        """Everything the source holds of the archive. Raises UserError where it cannot be listed."""
        ...

    def tables(self) -> list[Table]:
        """Tables to fetch beside the images."""
        ...

    def fetch_table(self, url: str, part: Path) -> None:
        """Write what ``url`` (of a table) holds to ``part``. Raises as ``fetch``."""
        ...

    def fetch(self, series: Series, staging: Path, arrived: Callable[[int], None]) -> list[StoredFile]:
        """Bring all files of ``series`` into ``staging`` and verify them; paths are relative to ``staging``.

        May be called again after any interruption and goes on from what lies in ``staging``. ``arrived`` is told the
        bytes as they come. Raises TransferError, RefusedError or PausedError.
        """
        ...


def safe_name(name: str) -> str:
    """``name`` where it can be one part of a path. Raises RefusedError otherwise: ids come from a server."""
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0:") or name.startswith("."):
        raise RefusedError(f"{name!r} is no name for a file or directory")
    return name


def disk_full(error: BaseException) -> None:
    """Raise UserError where ``error`` means a full disk: no server's fault, and trying again does not help."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UserError("the disk is full: free some space, then run the same command again") from None
