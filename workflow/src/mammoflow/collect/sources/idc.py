"""The NCI Imaging Data Commons: public buckets, one object per image, read without an account.

The index (one row per series: UIDs, sizes, address) is a release file of ``idc-index-data``, fetched once into the
user's cache; where that package is installed, its copy is taken. Listing and objects go through S3's REST interface:
ListObjectsV2 and GET with ranges, so that a broken transfer goes on inside the file. A single-part object's ETag is
its MD5.
"""

import csv
import gzip
import importlib
import importlib.util
import os
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammoflow.collect.http import Client, md5_of
from mammoflow.collect.model import RefusedError, Series, StoredFile, Table, TransferError, safe_name
from mammoflow.collect.pace import retrying
from mammoflow.collect.sources import tcia
from mammoflow.errors import UserError
from mammoflow.files import replacing

S3 = "https://s3.us-east-1.amazonaws.com"
VERSION = "25.0.5"
INDEX = f"https://github.com/ImagingDataCommons/idc-index-data/releases/download/{VERSION}/idc_index.parquet"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# What the adapters read beside the images (datasets/idc.py), and what is needed here.
COLUMNS = [
    "collection_id", "analysis_result_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "SOPClassUID", "instanceCount", "license_short_name", "series_aws_url", "series_size_MB",
]  # fmt: skip
LISTED = "idc_index.csv"
# IDC puts the women's histology beside their radiology: 1.7 TB of slides in tcga_brca, and what was drawn on them.
SLIDES = {"SM", "ANN"}
NO_INDEX = (OSError, EOFError, ValueError, KeyError, csv.Error, zlib.error)  # ArrowInvalid is a ValueError


@dataclass(frozen=True)
class S3Object:
    """One object of a bucket. etag: without quotes; the MD5 where the object was written in one part."""

    key: str
    size: int
    etag: str


class Idc:
    """See :class:`mammoflow.collect.model.Source`."""

    name = "idc"

    def __init__(self, dataset: str, settings: dict[str, Any], root: Path, client: Client) -> None:
        self.dataset, self.settings, self.root, self.client = dataset, settings, root, client
        self.base = (settings["base_url"] or S3).rstrip("/")

    def series(self) -> list[Series]:
        rows = [row for row in self._rows() if row["collection_id"] == self.dataset and not row["analysis_result_id"]]
        rows = [row for row in rows if row["Modality"] not in SLIDES]
        if not rows:
            raise UserError(f"the IDC index has no series of {self.dataset}: check idc_index")
        return [self._series(row) for row in rows]

    def tables(self) -> list[Table]:
        return tcia.tables(self.dataset, self.settings["tables_url"])

    def write_index(self, chosen: Iterable[Series]) -> None:
        """Lay the index rows of what was asked for beside the images: an inventory then names what did not arrive."""
        wanted = {one.uid for one in chosen}
        rows = [row for row in self._rows() if row["SeriesInstanceUID"] in wanted]
        with replacing(self.root / LISTED, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: row["SeriesInstanceUID"]))

    def fetch_table(self, url: str, part: Path) -> None:
        self.client.download(url, part, lambda _: None)

    def fetch(self, series: Series, staging: Path, arrived: Callable[[int], None]) -> list[StoredFile]:
        bucket, prefix = _address(series.location)
        objects = list(self._list(bucket, prefix))
        if len(objects) != series.images:
            raise TransferError(f"{len(objects)} objects are listed, {series.images} images were announced")
        return [self._object(bucket, one, staging, arrived) for one in objects]

    def _object(self, bucket: str, one: S3Object, staging: Path, arrived: Callable[[int], None]) -> StoredFile:
        name = safe_name(one.key.rsplit("/", 1)[1])
        whole, part = staging / "files" / name, staging / f"{name}.part"
        has_md5 = re.fullmatch(r"[0-9a-f]{32}", one.etag) is not None
        checked = "md5" if has_md5 else "size"
        if whole.is_file() and whole.stat().st_size == one.size:
            digest = md5_of(whole)
            if not has_md5 or digest == one.etag:
                return StoredFile(name, one.size, digest, checked)
        self.client.download(f"{self.base}/{bucket}/{one.key}", part, arrived, size=one.size, etag=f'"{one.etag}"')
        digest = md5_of(part)
        if has_md5 and digest != one.etag:
            part.unlink()
            raise TransferError(f"the MD5 of {name} is {digest}, the archive's is {one.etag}")
        whole.parent.mkdir(parents=True, exist_ok=True)
        part.replace(whole)
        return StoredFile(name, one.size, digest, checked)

    def _list(self, bucket: str, prefix: str) -> Iterator[S3Object]:
        """Objects below ``prefix`` (ListObjectsV2: at most 1000 an answer)."""
        params = {"list-type": "2", "prefix": prefix}
        while True:
            answer = self.client.get(f"{self.base}/{bucket}", params)
            try:
                page = ET.fromstring(answer)  # noqa: S314 - expat bounds entities; the address is configured
                for item in page.iter(f"{NAMESPACE}Contents"):
                    key, size, etag = (item.findtext(f"{NAMESPACE}{tag}") for tag in ("Key", "Size", "ETag"))
                    if not key.endswith("/"):
                        yield S3Object(key, int(size), etag.strip('"'))
                token = page.findtext(f"{NAMESPACE}NextContinuationToken")
            except (ET.ParseError, TypeError, ValueError, AttributeError):
                raise TransferError("the bucket's listing is cut off or no XML") from None
            if not token:
                return
            params = params | {"continuation-token": token}

    def _series(self, row: dict[str, str]) -> Series:
        return tcia.series_of(
            self.dataset,
            row,
            images=int(row["instanceCount"]),
            size=round(float(row["series_size_MB"]) * 1e6),
            licence=row["license_short_name"],
            location=row["series_aws_url"],
        )

    # --- the index ---------------------------------------------------------------------------------------------------

    def _rows(self) -> list[dict[str, str]]:
        path = self._index()
        try:
            return read_index(path, self.dataset)
        except NO_INDEX as error:
            raise UserError(f"{path} is no IDC index ({error}): delete it, or name another with idc_index") from None

    def _index(self) -> Path:
        """Path of the index: the file or address of the configuration, the installed package's, or the cached one."""
        where = self.settings["idc_index"]
        if where and "://" not in where:
            return Path(where)
        if not where and importlib.util.find_spec("idc_index_data"):
            # By name: it is used where it happens to be, and no requirement of ours.
            return Path(importlib.import_module("idc_index_data").IDC_INDEX_PARQUET_FILEPATH)
        url = where or INDEX
        # An index of one's own belongs to this archive's directory; the published one is shared.
        folder = self.root / ".collect" if where else _cache()
        path = folder / f"{VERSION}-{url.rsplit('/', 1)[1]}"
        if not path.is_file():
            part = path.with_name(f"{os.getpid()}.part.{path.name}")
            settings = self.settings
            loop = retrying(self.client.pace, settings["tries"], settings["backoff_s"], 60.0, lambda _: None)
            try:
                for attempt in loop:
                    with attempt:
                        self.client.download(url, part, lambda _: None, resume=False)
                        self._check_index(part)
            except (TransferError, RefusedError) as error:
                raise UserError(
                    f"{url}: {error}; get it by hand and name it with idc_index, or "
                    f"pip install idc-index-data=={VERSION}"
                ) from None
            part.replace(path)
        return path

    def _check_index(self, part: Path) -> None:
        """Raise TransferError, and delete ``part``, where it is cut off or something else: it would be kept for
        good."""
        try:
            read_index(part, self.dataset)
        except NO_INDEX as error:
            part.unlink()
            raise TransferError(f"what came is no IDC index ({error})") from None


def read_index(path: Path, collection: str) -> list[dict[str, str]]:
    """Rows of one collection as text, of an index in Parquet or CSV (also gzipped); NA is empty."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=COLUMNS, filters=[("collection_id", "=", collection)])
        return [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as handle:
        return [{k: row[k] for k in COLUMNS} for row in csv.DictReader(handle) if row["collection_id"] == collection]


def _address(url: str) -> tuple[str, str]:
    """Bucket and prefix of ``s3://bucket/<uuid>/*``."""
    match = re.fullmatch(r"s3://([a-z0-9.-]+)/([\w./-]+/)\*?", url)
    if not match:
        raise RefusedError(f"{url!r} is no address of a series")
    return match[1], match[2]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mammoflow"
