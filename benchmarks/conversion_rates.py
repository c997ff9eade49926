"""Core-seconds to convert a mammogram by coding: what ``python -m mammoflow plan`` assumes before it has measured.

``python benchmarks/conversion_rates.py [--patients 3]`` draws full-size phantoms of four archives, converts each image
as a shard's job does (one thread, default settings, PNG included). CPU seconds (user + system), medians, beside what
``costs/rates.py`` says. They grow by half on a busy machine, so its load is printed too.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import pandas as pd

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "workflow" / "src")]
from mammoflow import convert, phantom, settings  # noqa: E402
from mammoflow.costs import rates  # noqa: E402
from mammoflow.inventory import take_inventory  # noqa: E402
from mammoflow.rows import from_frame  # noqa: E402

ARCHIVES = ("rsna", "vindr_mammo", "ddsm", "mias")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=3, help="women per archive (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in ARCHIVES for row in timings(name, Path(folder), args.patients)]
    table = pd.DataFrame(rows).groupby(["archive", "coding"]).agg(
        images=("seconds", "size"), megapixels=("megapixels", "median"), megabytes=("megabytes", "median"),
        seconds=("seconds", "median"), assumed=("assumed", "median"),
    )  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {args.patients} patients each\n")
    print("| archive | coding | images | Mpx | MB of file | core-s per image | assumed by `plan` |")
    print("|---|---|---|---|---|---|---|")
    for (name, coding), row in table.iterrows():
        figures = f"{row.megapixels:.1f} | {row.megabytes:.1f} | {row.seconds:.3f} | {row.assumed:.3f}"
        print(f"| {name} | {coding} | {row.images:.0f} | {figures} |")


def cpu_seconds() -> float:
    """Of this process and its children: a conversion runs in a worker of its own."""
    return sum(os.times()[:4])


def timings(name: str, folder: Path, patients: int) -> list[dict[str, object]]:
    """One row per converted image of a full-size phantom."""
    root = folder / name
    phantom.write(name, root, patients, seed=1, size="full")
    images = take_inventory(name, root, []).images
    images = images[images["path"].notna() & (images["use"] != "excluded")]
    section = settings.resolve_section("convert", {})
    rows = []
    for number in range(len(images)):
        one = images.iloc[[number]]
        (row,) = from_frame(one)
        spent = []
        for repeat in range(3):  # a store of its own each time: a finished image would be reused
            started = cpu_seconds()
            (ledger,) = convert.convert_images(name, [row], root, folder / f"store{repeat}", section)
            spent.append(cpu_seconds() - started)
        if ledger["status"] != "ok":
            continue
        coding = rates.coding_of(ledger["transfer_syntax"], one["file_format"].iloc[0])
        megabytes = float(one["source_size"].iloc[0]) / 1e6
        rows.append(
            {
                "archive": name, "coding": coding, "megabytes": megabytes,
                "megapixels": ledger["stored_height"] * ledger["stored_width"] / 1e6,
                "seconds": statistics.median(spent), "assumed": rates.image_seconds(megabytes, coding),
            }
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
