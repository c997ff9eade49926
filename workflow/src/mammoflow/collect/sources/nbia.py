"""The NBIA REST service of the Cancer Imaging Archive: one zip per series, made anew for each request.

Written after the service's own source (CBIIT/NBIA-TCIA, ``nbia-api``): ``getSeries`` lists a collection with image
counts and sizes; nothing found is HTTP 200 with an empty body. ``getImage`` streams a zip without a length, and an
error on the way ends the stream with HTTP 200, so only the zip's own test tells. Version 4 adds ``md5hashes.csv`` to
the zip when asked (``IncludeMD5``), older versions by ``getImageWithMD5Hash``. Where a zip has no digests,
``getMD5Hierarchy`` gives one for the series: the MD5 of its images' MD5s, sorted and joined.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mammoflow.collect.http import Client, md5_of
from mammoflow.collect.model import RefusedError, Series, StoredFile, Table, TransferError
from mammoflow.collect.sources import tcia
from mammoflow.collect.unzip import unpack

BASE = "https://nbia.cancerimagingarchive.net/nbia-api/services/v4"
COLLECTIONS = {"cbis_ddsm": "CBIS-DDSM", "cmmd": "CMMD", "tcga_brca": "TCGA-BRCA"}
HASHES = "md5hashes.csv"


class Nbia:
    """See :class:`mammoflow.collect.model.Source`."""

    name = "nbia"

    def __init__(self, dataset: str, settings: dict[str, Any], root: Path, client: Client) -> None:
        self.dataset, self.settings, self.client = dataset, settings, client
        self.base = (settings["base_url"] or BASE).rstrip("/")
        self.with_hashes = {"IncludeMD5": "Yes"}

    def series(self) -> list[Series]:
        collection = COLLECTIONS[self.dataset]
        answer = self.client.get(f"{self.base}/getSeries", {"Collection": collection, "format": "json"})
        if not answer.strip():
            raise TransferError(
                f"the answer was empty: a passing failure, or the service knows no collection {collection}"
            )
        try:
            return [self._series(row) for row in json.loads(answer)]
        except (ValueError, KeyError, TypeError) as error:
            raise TransferError(f"what came is no list of series ({type(error).__name__})") from None

    def tables(self) -> list[Table]:
        return tcia.tables(self.dataset, self.settings["tables_url"])

    def fetch_table(self, url: str, part: Path) -> None:
        self.client.download(url, part, lambda _: None)

    def fetch(self, series: Series, staging: Path, arrived: Callable[[int], None]) -> list[StoredFile]:
        archive = staging / "series.zip.part"
        shutil.rmtree(staging / "files", ignore_errors=True)  # of a killed run
        request, params = "getImageWithMD5Hash", {"SeriesInstanceUID": series.uid}
        if self.base.endswith("v4"):
            request, params = "getImage", params | {"NewFileNames": "Yes"} | self.with_hashes
        try:
            self.client.download(f"{self.base}/{request}", archive, arrived, params, resume=False)
        except RefusedError:
            if "IncludeMD5" not in params:
                raise
            # Version 4 refuses parameters that it does not know, and learned this one late.
            params.pop("IncludeMD5")
            self.client.download(f"{self.base}/{request}", archive, arrived, params, resume=False)
            self.with_hashes = {}
        target = staging / "files"
        try:
            files = self._verify(series, target, unpack(archive, target, series.images, series.bytes))
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        archive.unlink()
        return files

    def _verify(self, series: Series, target: Path, paths: list[Path]) -> list[StoredFile]:
        images = [path for path in paths if path.name not in ("LICENSE", HASHES)]
        if len(images) != series.images:
            raise TransferError(f"{len(images)} images came, {series.images} were announced")
        for path in images:
            with path.open("rb") as handle:
                if handle.read(132)[128:] != b"DICM":
                    raise TransferError(f"{path.name} is no DICOM file")
        found = {path.name: md5_of(path) for path in images}
        if (target / HASHES).is_file():
            due = _read_hashes(target / HASHES)
            wrong = sorted(name for name in due.keys() | found.keys() if due.get(name) != found.get(name))
            if wrong:
                raise TransferError(f"the MD5 of {wrong[0]} is not the one in {HASHES}")
            checked = "md5"
        else:
            checked = "md5" if self._hierarchy_agrees(series, found.values()) else "size"
        for extra in set(paths) - set(images):
            extra.unlink()
        return [StoredFile(path.relative_to(target).as_posix(), path.stat().st_size, found[path.name], checked)
                for path in images]  # fmt: skip

    def _hierarchy_agrees(self, series: Series, digests: Any) -> bool:
        """Whether the service has a digest of the series and it agrees. Raises TransferError where it differs."""
        try:
            due = self.client.post(f"{self.base}/getMD5Hierarchy", {"SeriesInstanceUID": series.uid})
        except RefusedError:  # older services give it to accounts only
            return False
        joined = "".join(sorted(digests)).encode()
        due = due.decode("ascii", "replace").strip().lower()
        if due and due != hashlib.md5(joined, usedforsecurity=False).hexdigest():
            raise TransferError("the MD5 of the series is not the one of getMD5Hierarchy")
        return bool(due)

    def _series(self, row: dict[str, Any]) -> Series:
        return tcia.series_of(
            self.dataset,
            row,
            images=int(row["ImageCount"]),
            size=int(row["FileSize"]),
            licence=row.get("LicenseName") or "",
        )


def _read_hashes(path: Path) -> dict[str, str]:
    """``Filename,MD5Hash``: name -> digest; the file's order is random."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, skipinitialspace=True))
    try:
        return {row["Filename"].strip(): row["MD5Hash"].strip().lower() for row in rows}
    except (KeyError, AttributeError):
        raise TransferError(f"{HASHES} is no table of Filename and MD5Hash") from None
