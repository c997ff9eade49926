"""``inventory``: which images, findings and exams an archive holds. Reads tables and headers, never pixels.

(One exception, in the CBIS-DDSM adapter: where headers leave open which file is a mask, its pixels are looked at.)
"""

import argparse
import difflib
import sys
from pathlib import Path

import pandas as pd

from mammoflow import settings, tables
from mammoflow.datasets import adapter, archive
from mammoflow.datasets.base import Inventory
from mammoflow.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="name of the archive, as `mammoflow datasets` lists it")
    parser.add_argument("root", metavar="ROOT", type=Path, help="directory of the archive; it is only read")
    parser.add_argument("--out", required=True, type=Path, help="directory for the three tables")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="the dataset's section of the configuration")


def run(args: argparse.Namespace) -> None:
    """Write images, findings and exams.parquet; counts to stdout, differences from the published counts to stderr."""
    section = settings.parse_section("dataset", args.settings)
    listed = take_inventory(args.dataset, args.root, section["exclude"], section["for_processing"])
    for name, frame in listed._asdict().items():
        tables.write(frame, args.out / f"{name}.parquet")
    counted = counts(listed)
    print(f"{args.dataset}: " + ", ".join(f"{number} {name}" for name, number in counted.items()))
    for name, number in _breakdown(listed.images).items():
        print(f"  {name}: {number}")
    for title, table in published_tables(args.dataset, listed).items():
        print(f"\n{title}\n{table.to_string()}")
    for warning in differences(counted, archive(args.dataset).expected):
        print(f"mammoflow inventory: {args.dataset}: {warning}", file=sys.stderr)


def take_inventory(dataset: str, root: Path, exclude: list[str], for_processing: str = "exclude") -> Inventory:
    """The adapter's inventory with the images of ``exclude`` marked.

    Raises UserError for an unusable archive, and where an image's path is not UTF-8: no table could hold it.
    """
    try:
        listed = adapter(dataset).inventory(Path(root))
        for path in pd.concat([listed.images["path"], listed.findings["mask_path"]]).dropna():
            path.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{error.object!a}, below {root}, is not a UTF-8 name (where it says \\udcfc there is a byte fc): rename "
            "it, or the whole tree with `convmv -r -f latin1 -t utf8 --notest DIR`"
        ) from None
    listed = listed._replace(images=keep_one_presentation(listed.images, for_processing))
    return listed._replace(images=exclude_images(listed.images, exclude)) if exclude else listed


def published_tables(dataset: str, listed: Inventory) -> dict[str, pd.DataFrame]:
    """The tables that an archive's paper prints, counted again from the inventory; none where its adapter has none."""
    count_again = getattr(adapter(dataset), "published_tables", None)
    return count_again(listed) if count_again else {}


def keep_one_presentation(images: pd.DataFrame, for_processing: str) -> pd.DataFrame:
    """Unprocessed detector data and images made for reading never take part together.

    for_processing: ``exclude`` leaves out what the archive lists as For Processing (reason ``for_processing``);
    ``only`` takes just these, and leaves out the images made for reading (reason ``for_presentation``). What only the
    converter learns from the header is sorted in the same way by the manifest.
    """
    if for_processing == "only":
        back = (images["excluded_reason"] == "for_processing").fillna(False)
        use = images["label_malignant"].notna().map({True: "labelled", False: "unlabelled"}).astype("string")
        images = images.assign(
            use=images["use"].mask(back, use), excluded_reason=images["excluded_reason"].mask(back, pd.NA)
        )
    unwanted, reason = {"only": ("presentation", "for_presentation"), "exclude": ("processing", "for_processing")}[
        for_processing
    ]
    out = (images["presentation"] == unwanted).fillna(False) & (images["use"] != "excluded")
    return images.assign(
        use=images["use"].mask(out, "excluded"), excluded_reason=images["excluded_reason"].mask(out, reason)
    )


def exclude_images(images: pd.DataFrame, exclude: list[str]) -> pd.DataFrame:
    """Mark ``exclude`` (image_ids) as ``use=excluded, excluded_reason=excluded_by_config``; rows are never dropped.

    Raises UserError for an id that the archive does not hold: a typing error would let the image through.
    """
    known = set(images["image_id"])
    for image_id in exclude:
        if image_id not in known:
            near = difflib.get_close_matches(image_id, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"exclude: the archive has no image {image_id!r}{hint}; correct the dataset's exclude list")
    chosen = images["image_id"].isin(exclude)
    return images.assign(
        use=images["use"].mask(chosen, "excluded"),
        excluded_reason=images["excluded_reason"].mask(chosen, "excluded_by_config"),
    )


def counts(listed: Inventory) -> dict[str, int]:
    """Rows of the three tables and the number of patients; the names that ``Archive.expected`` uses."""
    return {
        "images": len(listed.images),
        "findings": len(listed.findings),
        "exams": len(listed.exams),
        "patients": listed.images["patient_id"].nunique(),
    }


def differences(counted: dict[str, int], expected: dict[str, int]) -> list[str]:
    """Sentences for counts that differ from the archive's published ones. Archives get revised: never an error."""
    return [
        f"{counted[name]} {name}, the published archive has {number}"
        for name, number in expected.items()
        if counted[name] != number
    ]


def _breakdown(images: pd.DataFrame) -> dict[str, int]:
    excluded = images["excluded_reason"].fillna("other reason")[images["use"] == "excluded"]
    labels = images["label_malignant"].map({0: "not malignant", 1: "malignant"}).fillna("no label")
    return {
        "files on disk": int(images["path"].notna().sum()),
        **{f"excluded, {reason}": number for reason, number in sorted(excluded.value_counts().items())},
        **{f"label, {word}": number for word, number in sorted(labels.value_counts().items())},
    }
