"""Pack a cohort's images for training: few large tars instead of many small files.

A cluster's file system pays per opened file, so training reads shards of half a gigabyte by ``pread``: one call per
image, no open, in any order. A shard is a plain webdataset tar (``NNNN.tar`` with ``<key>.tif`` and ``<key>.json``), so
``tar xf`` opens it too. Members are TIFF with zstd and a horizontal predictor: as small as PNG and several times faster
to decode. Pixels stay one-channel integers until they reach the device.

Placement: the working image is fitted into height x width without changing its aspect, the chest wall (left edge) stays
at the left edge, and the free rows are shared between top and bottom. The rest is 0, the value of the background.
"""

import argparse
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pandas as pd
import tifffile

from mammoflow import files, tables
from mammoflow.errors import UserError
from mammoflow.imaging.working_file import read_working_image

SHARD_BYTES = 512 * 1024**2
INDEX = "index.parquet"
RECORD = 512  # a tar's block


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow pack``."""
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--store", type=Path, required=True, help="directory of the working images")
    parser.add_argument("--out", type=Path, required=True, help="directory for NNNN.tar and index.parquet")
    parser.add_argument("--image-size", type=int, nargs=2, required=True, metavar=("H", "W"), help="pixels")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="bits per packed pixel")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow pack``."""
    manifest = tables.read(args.cohort / "manifest.parquet", "manifest")
    index = pack(manifest, args.store, args.out, tuple(args.image_size), bits=args.bits, threads=args.threads)
    shards, total = index["shard"].nunique(), index["size"].sum()
    print(f"{len(index)} images in {shards} shards, {total / 1024**2:.1f} MiB: {args.out}")


def fit(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Place ``image`` (h, w) in a (height, width) frame of zeros, same dtype; see the module's text for where.

    Returns the frame and the placement: ``packed = working * scale + offset`` for x and y in pixels.
    """
    rows, columns = image.shape
    scale = min(height / rows, width / columns)
    content_height, content_width = max(1, round(rows * scale)), max(1, round(columns * scale))
    # INTER_AREA averages when it shrinks, but repeats pixels when it enlarges.
    method = cv2.INTER_AREA if scale <= 1 else cv2.INTER_LINEAR
    top = (height - content_height) // 2
    frame = np.zeros((height, width), image.dtype)
    frame[top : top + content_height, :content_width] = cv2.resize(
        image, (content_width, content_height), interpolation=method
    )
    return frame, {
        "height": height,
        "width": width,
        "content_height": content_height,
        "content_width": content_width,
        # The content is a whole number of pixels, so the true scales differ a little from each other.
        "scale_x": content_width / columns,
        "scale_y": content_height / rows,
        "offset_x": 0,
        "offset_y": top,
    }


def to_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """Scale grey values between 8 and 16 bits so that white stays white (65535 = 255 * 257), rounding to nearest."""
    if image.dtype == np.uint16 and bits == 8:
        return cv2.convertScaleAbs(image, alpha=1 / 257)
    if image.dtype == np.uint8 and bits == 16:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def member_name(dataset: str, image_id: str) -> str:
    """``<dataset>__<image_id>`` fit for a webdataset key, which ends at the first dot and cannot hold a slash.

    An id with other characters (a DICOM UID has dots) gets them replaced and a hash of the true id appended, so that
    two ids never share a name. The index and the member's JSON keep the true id.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", image_id)
    if safe != image_id:
        safe += "-" + hashlib.blake2b(image_id.encode(), digest_size=4).hexdigest()
    return f"{dataset}__{safe}"


def encode(image: np.ndarray) -> bytes:
    """One TIFF, zstd level 1 with horizontal predictor, in one strip."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image,
        compression="zstd",
        compressionargs={"level": 1},
        predictor=True,
        rowsperstrip=image.shape[0],
        photometric="minisblack",
        metadata=None,
    )
    return buffer.getvalue()


def pack(
    manifest: pd.DataFrame,
    store: Path,
    out: Path,
    image_size: tuple[int, int],
    *,
    bits: int = 8,
    threads: int = 1,
    shard_bytes: int = SHARD_BYTES,
) -> pd.DataFrame:
    """Pack every image of a cohort's ``manifest`` that takes part. Returns the index, which is written last.

    The bytes depend on the arguments only, not on ``threads``. A rerun packs everything anew: without its index a
    directory counts as empty. Raises UserError where an image cannot be read or none takes part.
    """
    rows = manifest.loc[manifest["exclude_reason"].isna() & manifest["image_path"].notna()]
    if rows.empty:
        raise UserError("the cohort has no image that takes part: look at exclude_reason in its manifest.csv")
    out.mkdir(parents=True, exist_ok=True)
    for stale in [out / INDEX, *out.glob("[0-9]*.tar")]:
        stale.unlink(missing_ok=True)
    cv2.setNumThreads(1)  # the thread pool is the parallelism
    height, width = image_size

    def one(row: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
        # Resize first: a 16-bit source keeps its precision through the averaging.
        frame, placement = fit(read_working_image(store / row["image_path"]), height, width)
        pixels = encode(to_bits(frame, bits))
        entry = {name: row[name] for name in ("dataset", "image_id", "image_path")}
        entry |= {"member": f"{member_name(row['dataset'], row['image_id'])}.tif", **placement}
        entry |= {"size": len(pixels), "crc32": zlib.crc32(pixels)}
        note = {**_note(row), **placement}
        return entry, pixels, json.dumps(note, sort_keys=True).encode()

    jobs = _in_order(one, rows.to_dict("records"), threads)
    index = tables.finish("pack_index", pd.DataFrame(_write_shards(jobs, out, shard_bytes)))
    tables.write(index, out / INDEX)
    return index


def _note(row: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the tar alone wants to know. Training reads labels from the cohort's manifest instead."""
    names = ("dataset", "image_id", "patient_id", "laterality", "view_position", "split", "fold", "label_malignant")
    return {name: None if pd.isna(row[name]) else row[name] for name in names}


def _in_order(function: Any, items: Iterable[Any], threads: int) -> Iterator[Any]:
    """Map over a thread pool in order, with a bounded number of results waiting."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _write_shards(jobs: Iterable[tuple[dict, bytes, bytes]], out: Path, shard_bytes: int) -> list[dict[str, Any]]:
    """Write the members into NNNN.tar files of about ``shard_bytes``; returns their index entries."""
    entries, number, tar = [], 0, None
    with ExitStack() as stack:
        for entry, pixels, note in jobs:
            if tar is not None and tar.offset + len(pixels) + len(note) > shard_bytes:
                stack.close()  # ends the tar, then renames it to its final name
                tar = None
            if tar is None:
                shard = f"{number:04d}.tar"
                tar = tarfile.open(  # noqa: SIM115 (the stack closes it)
                    fileobj=stack.enter_context(files.replacing(out / shard)), mode="w", format=tarfile.PAX_FORMAT
                )
                stack.callback(tar.close)
                number += 1
            offset = _add(tar, entry["member"], pixels)
            _add(tar, f"{entry['member'].removesuffix('.tif')}.json", note)
            entries.append({**entry, "shard": shard, "offset": offset})
    return entries


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append one member and return where its data begin."""
    member = tarfile.TarInfo(name)  # time 0 and owner 0: the same cohort gives the same bytes
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // RECORD) * RECORD


class PackedImages:
    """Random access to a pack: ``images["rsna", "123_456"]`` is a (H, W) uint8 or uint16 array.

    Safe to use from forked or spawned loader processes. Raises UserError when opened on a pack with a missing or
    truncated shard, or when read where a member's checksum does not fit.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.index = tables.read(self.directory / INDEX, "pack_index")
        ends = (self.index["offset"] + self.index["size"]).groupby(self.index["shard"]).max()
        for shard, end in ends.items():
            path = self.directory / shard
            if not path.is_file() or path.stat().st_size < end:
                raise UserError(f"{path} is {'cut short' if path.is_file() else 'missing'}: run pack again")
        self._shards = self.index["shard"].to_list()
        self._spans = self.index[["offset", "size", "crc32"]].to_numpy(np.int64)
        self._places = self.index[["scale_x", "scale_y", "offset_x", "offset_y"]].to_numpy(np.float64)
        self._rows = {
            key: row for row, key in enumerate(zip(self.index["dataset"], self.index["image_id"], strict=True))
        }
        self._descriptors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}  # a file descriptor means nothing in another process

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every packed image in pixels."""
        return int(self.index["height"].iloc[0]), int(self.index["width"].iloc[0])

    def keys(self) -> list[tuple[str, str]]:
        """(dataset, image_id) of every image."""
        return list(self._rows)

    @cached_property
    def dtype(self) -> np.dtype:
        """Of every image: uint8 or uint16."""
        with tifffile.TiffFile(io.BytesIO(self._member(next(iter(self._rows))))) as tiff:
            return tiff.pages.first.dtype

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        image = np.empty(self.image_size, self.dtype)
        self.read_into(key, image)
        return image

    def read_into(self, key: tuple[str, str], out: np.ndarray) -> None:
        """Decode an image into ``out``, a contiguous (H, W) array of :attr:`dtype`: no copy on the way.

        What tifffile would do in a new array: :func:`encode` always writes one strip, so one call undoes zstd and
        another, in place, the horizontal predictor.
        """
        data = self._member(key)
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            (offset,), (size,) = page.dataoffsets, page.databytecounts
        flat = out.reshape(-1).view(np.uint8)
        decoded = imagecodecs.zstd_decode(memoryview(data)[offset : offset + size], out=flat)
        if len(decoded) != flat.nbytes:
            raise ValueError(f"{'/'.join(key)} is not of shape {out.shape} and type {out.dtype}")
        imagecodecs.delta_decode(out, axis=-1, out=out)

    def _member(self, key: tuple[str, str]) -> bytes:
        row = self._rows[key]
        shard, (offset, size, checksum) = self._shards[row], self._spans[row]
        data = os.pread(self._descriptor(shard), int(size), int(offset))
        if zlib.crc32(data) != checksum:
            raise UserError(f"{self.directory / shard} is damaged at {'/'.join(key)}: run pack again")
        return data

    def place(self, key: tuple[str, str], boxes: np.ndarray) -> np.ndarray:
        """Map (n, 4) boxes xmin, ymin, xmax, ymax from working-image pixels to packed pixels."""
        scale_x, scale_y, offset_x, offset_y = self._places[self._rows[key]]
        scale, offset = np.array([scale_x, scale_y] * 2), np.array([offset_x, offset_y] * 2)
        return np.asarray(boxes, np.float64).reshape(-1, 4) * scale + offset

    def lift(self, key: tuple[str, str], boxes: np.ndarray) -> np.ndarray:
        """The reverse of :meth:`place`: from packed pixels to working-image pixels."""
        scale_x, scale_y, offset_x, offset_y = self._places[self._rows[key]]
        scale, offset = np.array([scale_x, scale_y] * 2), np.array([offset_x, offset_y] * 2)
        return (np.asarray(boxes, np.float64).reshape(-1, 4) - offset) / scale

    def content(self, key: tuple[str, str]) -> tuple[slice, slice]:
        """Rows and columns of the packed image that the working image fills."""
        row = self.index.iloc[self._rows[key]]
        top, left = int(row["offset_y"]), int(row["offset_x"])
        return slice(top, top + int(row["content_height"])), slice(left, left + int(row["content_width"]))

    def _descriptor(self, shard: str) -> int:
        if shard not in self._descriptors:
            self._descriptors[shard] = os.open(self.directory / shard, os.O_RDONLY)
        return self._descriptors[shard]

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)
