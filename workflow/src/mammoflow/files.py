"""Atomic writing: a file with its final name is always whole.

Everything the workflow writes goes to a temporary name in the same directory, is flushed to disk and renamed
(POSIX ``rename`` is atomic), so that a killed job never leaves a half-written file that a rerun would trust.
"""

import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from mammoflow.errors import UserError


@contextmanager
def replacing(path: Path, mode: str = "wb", **open_options: Any) -> Iterator[Any]:
    """Open a temporary file beside ``path``; rename it to ``path`` when the block ends well, delete it otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = NamedTemporaryFile(  # noqa: SIM115 - closed below, before the rename
        mode,
        dir=path.parent,
        prefix=f".{path.name[:80]}.{_MACHINE}-{os.getpid()}.",
        suffix=_TEMPORARY,
        delete=False,
        **open_options,
    )
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o666 & ~_UMASK)
        os.replace(handle.name, path)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise


def sweep(directory: Path, name: str = "") -> None:
    """Delete the temporary files that killed processes left in ``directory``, for the file ``name`` or for any.

    A file is left over when its process, named in it, runs no more; of another machine, when it is a day old. What may
    not be deleted stays: it may be another user's, in a shared store, and disturbs nobody.
    """
    for path in Path(directory).glob(f".{glob.escape(name[:80])}*{_TEMPORARY}"):
        machine, _, number = path.name.removesuffix(_TEMPORARY).rpartition(".")[0].rpartition("-")
        with suppress(OSError):  # another process sweeps as well; or it is not ours
            if machine.endswith(f".{_MACHINE}") and number.isdecimal():
                left_over = not _runs(int(number))
            else:
                left_over = time.time() - path.stat().st_mtime > _DAY
            if left_over:
                path.unlink()


def _runs(pid: int) -> bool:
    try:
        if Path("/proc/self").exists():  # a dead process without a parent to collect it still has its number
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:  # of another user
        return True
    return True


_TEMPORARY = ".tmp"
_MACHINE = re.sub(r"[^A-Za-z0-9-]", "_", os.uname().nodename)[:60]
_DAY = 86400.0
# Read once at import: NamedTemporaryFile makes files private, which breaks shared storage, and reading the umask means
# setting it for a moment, which is not safe once threads run.
_UMASK = os.umask(0)
os.umask(_UMASK)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two-space indent, NaN refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Digest of a file's bytes, in hex. MD5 is for what archives and DVC publish: against accidents only."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds; an empty dictionary where there is no file. Raises UserError where it is broken."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run its step again") from None


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML atomically, keys in the given order."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
