"""``shard``: deal the patients of an inventory to a fixed number of jobs.

The shard of a patient depends on the patient's id and the number of shards alone, so a patient who is added changes one
shard file and leaves every other job's input as it was.
"""

import argparse
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from mammoflow import tables
from mammoflow.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="name of the archive")
    parser.add_argument("--inventory", required=True, type=Path, help="directory that `mammoflow inventory` wrote")
    parser.add_argument("--out", required=True, type=Path, help="directory for the shard files")
    parser.add_argument("--shards", required=True, type=int, metavar="N", help="number of shards, 1 to 9999")
    parser.add_argument("--first", default=0, type=int, metavar="K", help="write the shards from number K on (from 0)")
    parser.add_argument("--last", default=None, type=int, metavar="K", help="write the shards up to number K (all)")
    parser.add_argument(
        "--max-images", default=0, type=int, metavar="M", help="whole patients until about M images; 0 takes all"
    )


def run(args: argparse.Namespace) -> None:
    """Write ``0000-of-0008.csv`` and ``0000-of-0008.findings.csv`` ..., all of them, some perhaps without rows."""
    if not 1 <= args.shards <= 9999:
        raise UserError(
            f"--shards {args.shards} is not a number from 1 to 9999: correct datasets.{args.dataset}.shards"
        )
    last = args.shards - 1 if args.last is None else args.last
    if not 0 <= args.first <= last < args.shards:
        raise UserError(f"--first {args.first} --last {last}: name shards from 0 to {args.shards - 1}, in this order")
    images = tables.read(args.inventory / "images.parquet", "images")
    findings = tables.read(args.inventory / "findings.parquet", "findings")
    if not (images["dataset"] == args.dataset).all():
        raise UserError(f"{args.inventory} is not an inventory of {args.dataset}: name the directory of that dataset")
    dealt = choose(images, args.max_images)
    shards = dealt["patient_id"].map(lambda patient: shard_of(patient, args.shards))
    by_image = dict(zip(dealt["image_id"], shards, strict=True))
    homes = findings["image_id"].map(by_image)  # NA: the finding's image is not dealt
    for number in range(args.first, last + 1):
        name = shard_name(number, args.shards)
        tables.write(dealt[shards == number], args.out / f"{name}.csv")
        tables.write(findings[(homes == number).fillna(False)], args.out / f"{name}.findings.csv")
    written = dealt[shards.between(args.first, last)]
    which = f"{last + 1 - args.first} of " if last + 1 - args.first < args.shards else ""
    print(
        f"{args.dataset}: {len(written)} images of {written['patient_id'].nunique()} patients "
        f"in {which}{args.shards} shards"
    )


def shard_name(number: int, count: int) -> str:
    """``0003-of-0008``: shard ``number`` of ``count``, counted from 0."""
    return f"{number:04d}-of-{count:04d}"


def shard_of(patient_id: str, count: int) -> int:
    """The shard of a patient: the same on every machine and in every run."""
    return _hash(patient_id) % count


def choose(images: pd.DataFrame, max_images: int = 0) -> pd.DataFrame:
    """The rows that will be converted: present on disk and not excluded, in the order of the inventory.

    ``max_images`` > 0 takes whole patients, in an order that depends on their ids alone, until that many images are
    reached; the last patient may exceed the number.
    """
    usable = images[images["path"].notna() & (images["use"] != "excluded")]
    if not max_images:
        return usable
    sizes = usable.groupby("patient_id").size()
    sizes = sizes.loc[sorted(sizes.index, key=lambda patient: _hash(patient, b"choose"))]
    taken = sizes.index[sizes.cumsum() - sizes < max_images]
    return usable[usable["patient_id"].isin(taken)]


def _hash(text: str, purpose: bytes = b"") -> int:
    # `person` makes the two uses independent: else the patients chosen first would crowd into few shards.
    return int.from_bytes(blake2b(text.encode(), digest_size=8, person=purpose).digest())
