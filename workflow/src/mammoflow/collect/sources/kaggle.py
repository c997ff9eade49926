"""RSNA Screening Mammography from Kaggle, by Kaggle's own client: ``pip install kaggle``.

The client finds its credentials itself (KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle) and resumes
by itself. The competition's rules must have been accepted once, in the browser. A single file arrives as it is or
zipped. Kaggle publishes no digest: a file counts when the client says that it is whole and it is a DICOM file.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mammoflow.collect.http import Client, md5_of
from mammoflow.collect.model import BusyError, RefusedError, Series, StoredFile, Table, TransferError, safe_name
from mammoflow.collect.pace import retrying
from mammoflow.collect.sources.external import call
from mammoflow.collect.unzip import unpack
from mammoflow.errors import UserError

COMPETITION = "rsna-breast-cancer-detection"
MEAN_IMAGE = 5_740_000  # about 314 GB of 54,706 images
LARGEST_IMAGE = 128 << 20
LICENCE = "RSNA terms of use: non-commercial, no re-identification, no redistribution"
SIGN_IN = (
    "accept the rules at kaggle.com/competitions/rsna-breast-cancer-detection once, and give the client its "
    "credentials (KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json)"
)


class Kaggle:
    """See :class:`mammoflow.collect.model.Source`. A series is one patient: ``train_images/<patient_id>``."""

    name = "kaggle"

    def __init__(self, dataset: str, settings: dict[str, Any], root: Path, client: Client) -> None:
        self.settings, self.root, self.client = settings, root, client

    def series(self) -> list[Series]:
        with self._table().open(encoding="utf-8", newline="") as handle:
            images = [(safe_name(row["patient_id"]), safe_name(row["image_id"])) for row in csv.DictReader(handle)]
        counts = Counter(patient for patient, _ in images)
        files: dict[str, dict[str, str]] = {patient: {} for patient in counts}
        for patient, image in images:
            files[patient][f"{image}.dcm"] = ""
        return [
            Series(patient, patient, patient, "MG", number, number * MEAN_IMAGE, LICENCE, f"train_images/{patient}",
                   estimated=True, files=files[patient])
            for patient, number in counts.items()
        ]  # fmt: skip

    def tables(self) -> list[Table]:
        return [Table("train.csv", ("train.csv",), b"site_id,")]

    def fetch_table(self, url: str, part: Path) -> None:
        shutil.copyfile(self._table(), part)

    def fetch(self, series: Series, staging: Path, arrived: Callable[[int], None]) -> list[StoredFile]:
        return [self._image(series, name, staging, arrived) for name in sorted(series.files)]

    def _image(self, series: Series, name: str, staging: Path, arrived: Callable[[int], None]) -> StoredFile:
        whole = staging / "files" / name
        if not whole.is_file():
            path = self._client(f"{series.folder}/{name}", staging / f"{name}.parts", arrived)
            with path.open("rb") as handle:
                if handle.read(132)[128:] != b"DICM":
                    shutil.rmtree(path.parent)
                    raise TransferError(f"{name} is no DICOM file")
            whole.parent.mkdir(parents=True, exist_ok=True)
            path.replace(whole)
            shutil.rmtree(staging / f"{name}.parts")
        return StoredFile(name, whole.stat().st_size, md5_of(whole), "size")

    def _table(self) -> Path:
        """``train.csv``, fetched once: it lists the images."""
        path = self.root / ".collect" / "train.csv"
        settings = self.settings
        loop = retrying(self.client.pace, settings["tries"], settings["backoff_s"], 60.0, lambda _: None)
        try:
            for attempt in loop:
                with attempt:
                    if not path.is_file():
                        self._client("train.csv", path.parent / "train.parts", lambda _: None).replace(path)
        except (TransferError, RefusedError) as error:
            raise UserError(f"train.csv of {COMPETITION}: {error}") from None
        return path

    def _client(self, name: str, folder: Path, arrived: Callable[[int], None]) -> Path:
        """Let the client write ``name`` below ``folder`` and return the file, unpacked."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["kaggle", "competitions", "download", COMPETITION, "-f", name, "-p", str(folder), "-q"]
        try:
            status, said = call(command, self.client.pace, self.settings["timeout_s"] * 5, folder, arrived)
        except UserError:
            raise UserError(f"Kaggle's client is not installed: pip install kaggle; then {SIGN_IN}") from None
        plain = folder / name.rsplit("/", 1)[1] if "/" in name else folder / name
        zipped = plain.with_name(f"{plain.name}.zip")
        if status != 0:
            if "429" in said:
                raise BusyError("HTTP 429, Kaggle is busy", None)
            if any(word in said for word in ("401", "403", "Unauthorized", "Forbidden", "Authentication required")):
                raise RefusedError(f"Kaggle does not let us in: {SIGN_IN}")
            if "404" in said:
                raise RefusedError(f"Kaggle has no {name}")
            raise TransferError(f"Kaggle's client ended with status {status}")
        if zipped.is_file():
            try:
                unpack(zipped, folder, 1, LARGEST_IMAGE)
            finally:
                zipped.unlink()
        if not plain.is_file() or plain.stat().st_size == 0:
            raise TransferError(f"Kaggle's client wrote no {plain.name}")
        return plain
