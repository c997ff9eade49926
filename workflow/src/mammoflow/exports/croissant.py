"""Croissant 1.0 metadata (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) of a cohort's tables.

``croissant.json`` describes ``manifest.csv`` and ``findings.csv`` beside it: every column with its type, and the
archives' licences and citations. Pictures are not part of it: most archives do not allow to pass them on.
"""

import hashlib
from pathlib import Path
from typing import Any

from mammoflow import __version__, tables
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.exports.common import Export
from mammoflow.files import write_json

TYPES = {tables.TEXT: "sc:Text", tables.INTEGER: "sc:Integer", tables.NUMBER: "sc:Float", tables.FLAG: "sc:Boolean"}
URLS = {
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
}
# The context that the specification prescribes, word for word.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def write(cohort: Export, out: Path) -> list[str]:
    """Write both tables and ``croissant.json``. Returns notes for the user."""
    parts = [("manifest", cohort.manifest, "manifest"), ("findings", cohort.findings, "manifest_findings")]
    for name, table, _ in parts:
        tables.write(table, out / f"{name}.csv")
    archives = [ARCHIVES[name] for name in sorted(cohort.manifest["dataset"].unique())]
    licences = {archive.name: archive.licence for archive in archives}
    write_json(out / "croissant.json", {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": cohort.name,
        "description": f"Cohort {cohort.name}, split by patient: {', '.join(archive.title for archive in archives)}. "
        + " ".join(f"Licence of {name}: {text}." for name, text in licences.items()),
        "license": sorted({URLS.get(text, text) for text in licences.values()}),
        "citeAs": " ".join(archive.citation for archive in archives if archive.citation),
        "creator": {"@type": "sc:Organization", "name": f"mammoflow {__version__}"},
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [_file(out / f"{name}.csv", rows=len(table)) for name, table, _ in parts],
        "recordSet": [_records(name, schema) for name, _, schema in parts],
    })  # fmt: skip
    return [f"licence of {name}: {text}" for name, text in licences.items()]


def _file(path: Path, rows: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "description": f"{rows} rows",
        "contentUrl": path.name,
        "encodingFormat": "text/csv",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _records(name: str, schema: str) -> dict[str, Any]:
    keys = tables.KEYS[schema]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": [{"@id": f"{name}/{key}"} for key in keys],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": _describe(column, kind),
                "dataType": TYPES[kind.dtype],
                "source": {"fileObject": {"@id": f"{name}.csv"}, "extract": {"column": column}},
            }
            for column, kind in tables.TABLES[schema].items()
        ],
    }


def _describe(column: str, kind: tables.Column) -> str:
    text = column.replace("_", " ")
    return f"{text}; one of {', '.join(map(str, kind.values))}" if kind.values else text
