"""Phantom archives as the services hold them: series, zips, buckets, indexes, tables."""

import csv
import gzip
import hashlib
import io
import uuid
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pydicom

from mammoflow.collect.sources.idc import COLUMNS
from mammoflow.collect.sources.nbia import COLLECTIONS

BUCKET = "idc-open-data"
LICENCES = {"cmmd": "CC BY 4.0", "cbis_ddsm": "CC BY 3.0", "tcga_brca": "CC BY 3.0"}


@dataclass
class ServedSeries:
    """One series of a phantom. files: paths on disk, in the order of their names."""

    dataset: str
    uid: str
    patient: str
    study: str
    modality: str
    sop_class: str
    files: list[Path] = field(default_factory=list)

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.uid))

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files]


class Catalogue:
    """Everything one phantom archive below ``root`` has to give."""

    def __init__(self, dataset: str, root: Path) -> None:
        self.dataset, self.root = dataset, Path(root)
        self.series: dict[str, ServedSeries] = {}
        for path in sorted(self.root.rglob("*.dcm")):
            tags = ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SOPClassUID"]
            with pydicom.config.disable_value_validation():
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            uid = str(header.SeriesInstanceUID)
            served = self.series.setdefault(
                uid,
                ServedSeries(dataset, uid, str(header.PatientID), str(header.StudyInstanceUID), str(header.Modality),
                             str(header.SOPClassUID)),
            )  # fmt: skip
            served.files.append(path)
        self.by_uuid = {one.uuid: one for one in self.series.values()}
        self.tables = {path.name: path.read_bytes() for path in self.root.glob("*.csv")}
        if "CMMD_clinicaldata_revision.csv" in self.tables:
            workbook = io.BytesIO()
            table = pd.read_csv(self.root / "CMMD_clinicaldata_revision.csv", dtype=str, keep_default_na=False)
            table.to_excel(workbook, index=False)
            self.tables["CMMD_clinicaldata_revision.xlsx"] = workbook.getvalue()

    def nbia_rows(self) -> list[dict[str, object]]:
        """``getSeries``: the fields that matter, spelt as the service does."""
        return [
            {
                "SeriesInstanceUID": one.uid,
                "StudyInstanceUID": one.study,
                "Modality": one.modality,
                "Collection": COLLECTIONS[self.dataset],
                "PatientID": one.patient,
                "ImageCount": len(one.files),
                "FileSize": sum(path.stat().st_size for path in one.files),
                "LicenseName": LICENCES[self.dataset],
                "LicenseURI": "",
            }
            for one in self.series.values()
        ]

    def zip_of(self, uid: str, new_names: bool, hashes: bool, damage: bool = False) -> bytes:
        """``getImage``: LICENSE, the images and, when asked, md5hashes.csv. damage: one image is not what it was."""
        contents = self.series[uid].contents()
        digits = len(str(len(contents)))
        names = [f"1-{k:0{digits}d}.dcm" if new_names else f"{k:08d}.dcm" for k in range(1, len(contents) + 1)]
        digests = [hashlib.md5(content).hexdigest() for content in contents]
        if damage:
            contents[-1] = contents[-1][:-1] + bytes([contents[-1][-1] ^ 1])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("LICENSE", "synthetic")
            for name, content in zip(names, contents, strict=True):
                archive.writestr(name, content)
            if hashes:
                rows = "".join(f"{name},{digest}\n" for name, digest in zip(names, digests, strict=True))
                archive.writestr("md5hashes.csv", f"Filename,MD5Hash\n{rows}")
        return buffer.getvalue()

    def hierarchy(self, uid: str) -> str:
        """``getMD5Hierarchy`` of a series: MD5 of its images' MD5s, sorted and joined."""
        digests = sorted(hashlib.md5(content).hexdigest() for content in self.series[uid].contents())
        return hashlib.md5("".join(digests).encode()).hexdigest()

    def objects(self, prefix: str) -> dict[str, Path]:
        """Key -> file of the bucket, below ``prefix`` (``<series uuid>/``)."""
        one = self.by_uuid.get(prefix.split("/")[0])
        if one is None:
            return {}
        keys = {f"{one.uuid}/{uuid.uuid5(uuid.NAMESPACE_OID, path.as_posix())}.dcm": path for path in one.files}
        return {key: path for key, path in sorted(keys.items()) if key.startswith(prefix)}

    def index_rows(self) -> list[dict[str, object]]:
        """Rows of the IDC index."""
        return [
            dict(zip(COLUMNS, [
                self.dataset, "", one.patient, one.study, one.uid, one.modality, one.sop_class, len(one.files),
                LICENCES[self.dataset], f"s3://{BUCKET}/{one.uuid}/*",
                sum(path.stat().st_size for path in one.files) / 1e6,
            ], strict=True))
            for one in self.series.values()
        ]  # fmt: skip

    def digests(self) -> set[str]:
        """MD5 of every image."""
        return {hashlib.md5(content).hexdigest() for one in self.series.values() for content in one.contents()}


def index_csv(catalogues: list[Catalogue]) -> bytes:
    """The IDC index of several collections, gzipped CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in catalogues:
        writer.writerows(one.index_rows())
    return gzip.compress(text.getvalue().encode(), mtime=0)


def physionet_files(root: Path) -> dict[str, bytes]:
    """``/files/vindr-mammo/1.0.0``: the tables, the images, and their SHA-256."""
    names = defaultdict(bytes)
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in (".csv", ".dicom"):
            names[path.relative_to(root).as_posix()] = path.read_bytes()
    names["LICENSE.txt"] = b"synthetic\n"
    names.setdefault("metadata.csv", b"SOPInstanceUID\n")
    sums = "".join(f"{hashlib.sha256(content).hexdigest()} {name}\n" for name, content in names.items())
    return {**names, "SHA256SUMS.txt": sums.encode()}
