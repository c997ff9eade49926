"""WebDataset tars (https://github.com/webdataset/webdataset): ``train-000000.tar`` and so on, per split.

A sample is ``<key>.png`` (the working image in 8 bits: the library's decoders cut 16 bits at 255), ``<key>.cls`` (1
malignant) and ``<key>.json`` (what the manifest knows, and the lesions' boxes). ``pack`` writes tars of the same kind
for this project's training, at one size and split by its index; these are for others, at the working images' own size.
Images are in random order, the same each time.
"""

import io
import json
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mammoflow import tables
from mammoflow.exports.common import Export, plain_rows
from mammoflow.files import replacing
from mammoflow.imaging import png
from mammoflow.imaging.working_file import read_working_image
from mammoflow.pack import member_name, to_bits

SHARD_BYTES = 512 * 1024**2
COLUMNS = ["dataset", "image_id", "patient_id", "study_id", "laterality", "view_position", "age", "breast_density",
           "breast_birads", "label_malignant", "label_source", "split", "fold"]  # fmt: skip


def write(cohort: Export, out: Path, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write the tars, each of about ``shard_bytes``. Returns notes for the user."""
    notes = []
    for stale in out.glob("*-??????.tar"):
        stale.unlink()  # shards of an earlier, larger export would be read along
    for split in tables.SPLITS:
        rows = plain_rows(cohort.images[cohort.images["split"] == split])
        order = np.random.default_rng(0).permutation(len(rows))  # training reads a tar from its beginning to its end
        shards = _write_shards(cohort, [rows[index] for index in order], out, split, shard_bytes)
        notes.append(f"{split}: {len(rows)} images in {shards} tars")
    return notes


def _write_shards(cohort: Export, rows: list[dict[str, Any]], out: Path, split: str, shard_bytes: int) -> int:
    number, tar = 0, None
    with ExitStack() as stack:
        for row in rows:
            if tar is None or tar.offset >= shard_bytes:
                stack.close()  # ends the tar, then renames it to its final name
                handle = stack.enter_context(replacing(out / f"{split}-{number:06d}.tar"))
                tar = tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (the stack's)
                stack.callback(tar.close)
                number += 1
            key = member_name(row["dataset"], row["image_id"])
            for suffix, data in _members(cohort, row).items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # time 0 and owner 0: the same cohort gives the same bytes
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    return number


def _members(cohort: Export, row: dict[str, Any]) -> dict[str, bytes]:
    image = to_bits(read_working_image(cohort.store / row["image_path"]), 8)
    boxes = [
        {
            "box": np.round(lesion["box"], 2).tolist(),
            **{name: lesion[name] for name in ("finding_id", "categories", "finding_birads", "label_malignant")},
        }
        for lesion in cohort.of_image(row)
    ]
    note = {**{name: row[name] for name in COLUMNS}, "lesions": boxes}
    return {
        "png": png.encode(image),
        "cls": str(row["label_malignant"]).encode(),
        "json": json.dumps(note, sort_keys=True).encode(),
    }
