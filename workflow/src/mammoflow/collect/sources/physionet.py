"""VinDr-Mammo from PhysioNet, by wget: the archive's documented way, and one of two programs it lets sign in.

PhysioNet asks for HTTP credentials only of wget and its own tools (``HTTP_AUTH_USER_AGENT`` in physionet-build), so
another client cannot stand in. wget finds the credentials in ``~/.netrc`` (machine physionet.org) by itself; those of
the variables PHYSIONET_USERNAME and PHYSIONET_PASSWORD reach it through a file in memory that has no name. Neither way
puts them on disk, on a command line or in a log. ``SHA256SUMS.txt`` names every file with its digest; sizes are not
published.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mammoflow.collect.http import Client, md5_of
from mammoflow.collect.model import BusyError, RefusedError, Series, StoredFile, Table, TransferError, safe_name
from mammoflow.collect.pace import retrying
from mammoflow.collect.sources.external import call
from mammoflow.errors import UserError
from mammoflow.files import file_digest

BASE = "https://physionet.org/files/vindr-mammo/1.0.0"
MEAN_IMAGE = 16_900_000  # about 338 GB of 20,000 images
LICENCE = "PhysioNet Credentialed Health Data Use Agreement 1.5.0"
SUMS = "SHA256SUMS.txt"
TABLES = {
    "breast-level_annotations.csv": b"study_id,",
    "finding_annotations.csv": b"image_id,",
    "metadata.csv": b"",
    "LICENSE.txt": b"",
}
SIGN_IN = (
    "sign in with PhysioNet's account (`machine physionet.org login NAME password PASSWORD` in ~/.netrc, chmod 600, "
    "or PHYSIONET_USERNAME and PHYSIONET_PASSWORD in the environment); the project's data use agreement must be signed"
)


class PhysioNet:
    """See :class:`mammoflow.collect.model.Source`. A series is one exam: ``images/<study_id>``."""

    name = "physionet"

    def __init__(self, dataset: str, settings: dict[str, Any], root: Path, client: Client) -> None:
        self.settings, self.root, self.client = settings, root, client
        self.base = (settings["base_url"] or BASE).rstrip("/")

    def series(self) -> list[Series]:
        part = self.root / ".collect" / SUMS
        settings = self.settings
        loop = retrying(self.client.pace, settings["tries"], settings["backoff_s"], 60.0, lambda _: None)
        try:
            for attempt in loop:
                with attempt:
                    self._wget(SUMS, part, lambda _: None)
        except (TransferError, RefusedError) as error:
            raise UserError(f"{self.base}/{SUMS}: {error}") from None
        exams = defaultdict(dict)
        for line in part.read_text(encoding="utf-8").splitlines():
            match = re.fullmatch(r"([0-9a-f]{64}) [ *]?images/([0-9A-Za-z]+)/([0-9A-Za-z]+\.dicom)", line.strip())
            if match:
                exams[match[2]][match[3]] = match[1]
        if not exams:
            raise UserError(f"{self.base}/{SUMS} lists no image: check base_url")
        return [
            Series(study, study, study, "MG", len(files), len(files) * MEAN_IMAGE, LICENCE, f"images/{study}",
                   estimated=True, files=files)
            for study, files in sorted(exams.items())
        ]  # fmt: skip

    def tables(self) -> list[Table]:
        return [Table(name, (name,), begins) for name, begins in TABLES.items()]

    def fetch_table(self, url: str, part: Path) -> None:
        self._wget(url, part, lambda _: None)

    def fetch(self, series: Series, staging: Path, arrived: Callable[[int], None]) -> list[StoredFile]:
        return [self._image(series, name, due, staging, arrived) for name, due in sorted(series.files.items())]

    def _image(self, series: Series, name: str, due: str, staging: Path, arrived: Callable[[int], None]) -> StoredFile:
        whole, part = staging / "files" / safe_name(name), staging / f"{name}.part"
        if not (whole.is_file() and file_digest(whole) == due):
            self._wget(f"images/{series.uid}/{name}", part, arrived)
            if file_digest(part) != due:
                part.unlink()
                raise TransferError(f"the SHA-256 of {name} is not the one in {SUMS}")
            whole.parent.mkdir(parents=True, exist_ok=True)
            part.replace(whole)
        return StoredFile(name, whole.stat().st_size, md5_of(whole), "sha256")

    def _wget(self, path: str, part: Path, arrived: Callable[[int], None]) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        timeout = self.settings["timeout_s"]
        command = ["wget", "--no-verbose", "--server-response", "--tries=1", f"--timeout={timeout:g}", "--continue"]
        with _credentials() as (environment, descriptors):
            status, said = call(
                [*command, f"--output-document={part}", f"{self.base}/{path}"],
                self.client.pace, timeout * 2, part, arrived, environment, descriptors,
            )  # fmt: skip
        if status == 0:
            if not part.is_file() or part.stat().st_size == 0:
                raise TransferError("the answer was empty")
            return
        codes = re.findall(r"HTTP/[\d.]+ (\d{3})", said)
        code = int(codes[-1]) if codes else 0
        if code in (429, 503):
            seconds = re.findall(r"(?i)retry-after: *(\d+)", said)
            raise BusyError(f"HTTP {code}, the server is busy", float(seconds[-1]) if seconds else None)
        if status == 6 or code in (401, 403):
            raise RefusedError(f"HTTP {code}: {SIGN_IN}")
        if 400 <= code < 500:
            raise RefusedError(f"HTTP {code}")
        raise TransferError(
            f"HTTP {code}" if code else f"wget ended with status {status}: no answer, or it was cut off"
        )


@contextmanager
def _credentials():
    """Environment and open descriptors for wget. Without the two variables it looks into ``~/.netrc`` itself."""
    environment = dict(os.environ)
    name, password = (environment.pop(f"PHYSIONET_{word}", "") for word in ("USERNAME", "PASSWORD"))
    if not name:
        yield environment, ()
        return
    if "\n" in name + password:
        raise UserError("PHYSIONET_USERNAME and PHYSIONET_PASSWORD must be one line each")
    descriptor = os.memfd_create("wgetrc")
    try:
        os.write(descriptor, f"user = {name}\npassword = {password}\n".encode())
        yield environment | {"WGETRC": f"/proc/self/fd/{descriptor}"}, (descriptor,)
    finally:
        os.close(descriptor)
