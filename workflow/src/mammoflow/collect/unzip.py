"""Unpack a series' zip from a server nobody should have to trust: nothing outside the target, nothing without end."""

import stat
import zipfile
import zlib
from pathlib import Path

from mammoflow.collect.model import RefusedError, TransferError, disk_full

CHUNK = 1 << 20
EXTRA_ENTRIES = 8  # LICENSE, md5hashes.csv
SLACK = 16 << 20


def unpack(archive: Path, target: Path, images: int, announced: int) -> list[Path]:
    """Test ``archive`` and unpack it into the new directory ``target``; return the files.

    images, announced: number of images and their bytes as the server said beforehand. Raises TransferError where the
    zip is truncated or a checksum is wrong (it comes with HTTP 200: the server finds out after it has begun),
    RefusedError where an entry points outside ``target``, is a link, is encrypted, comes twice, or where it holds far
    more than announced.
    """
    limit = 2 * announced + SLACK
    try:
        with zipfile.ZipFile(archive) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            if len(entries) > images + EXTRA_ENTRIES or sum(entry.file_size for entry in entries) > limit:
                raise RefusedError(
                    f"the zip holds {len(entries)} files where {images} images of {announced} bytes were due"
                )
            paths = [_inside(target, entry) for entry in entries]
            if len(set(paths)) != len(paths):
                raise RefusedError("the zip holds a name twice")
            for entry, path in zip(entries, paths, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                limit -= _copy(source, entry, path, limit)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, zlib.error) as error:
        disk_full(error)
        raise TransferError(f"the zip is truncated or damaged ({error})") from None
    return paths


def _inside(target: Path, entry: zipfile.ZipInfo) -> Path:
    name, mode = entry.filename, entry.external_attr >> 16
    parts = name.split("/")
    if "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise RefusedError(f"the zip's entry {name!r} points outside its directory")
    if stat.S_ISLNK(mode):
        raise RefusedError(f"the zip's entry {name!r} is a link")
    if entry.flag_bits & 1:
        raise RefusedError(f"the zip's entry {name!r} is encrypted")
    return target.joinpath(*parts)


def _copy(source: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, limit: int) -> int:
    """Bytes written. The sizes in the directory may lie, so what comes out is counted."""
    written = 0
    with source.open(entry) as stream, path.open("wb") as handle:
        while block := stream.read(CHUNK):
            written += len(block)
            if written > limit:
                raise RefusedError(f"the zip's entry {entry.filename!r} unpacks to far more than announced")
            handle.write(block)
    return written
