"""How many planted copies does the search for near-duplicate pictures find, how many unrelated pairs does it accuse?

    python benchmarks/near_duplicates.py [--patients 100] [--real DIR_OF_MINI_MIAS] [--write docs/benchmarks.md]

Every film of a synthetic mini-MIAS, and of the real one where it is given, is compared with every other film: the two
breasts of a woman and films of different women are unrelated exposures. Then copies of every tenth film are planted,
each changed in six ways.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from document import write_section
from threadpoolctl import threadpool_limits

from mammoflow import phantom
from mammoflow.fingerprint import Fingerprint, candidates, fingerprint, shrink
from mammoflow.neardup import compare
from mammoflow.phantom.copies import CHANGES

EVERY = 10
Films = list[np.ndarray]


def read_films(folder: Path) -> Films:
    """The films of a mini-MIAS, 8 bit, in the order of their names."""
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.glob("*.pgm"))]


def hash_all(films: Films) -> tuple[Films, list[Fingerprint], float]:
    """(small copies, fingerprints, CPU seconds)."""
    start = time.process_time()
    small = [shrink(film) for film in films]
    with threadpool_limits(1, "blas"):
        prints = [fingerprint(one) for one in small]
    return small, prints, time.process_time() - start


def false_alarms(small: Films, prints: list[Fingerprint]) -> tuple[int, int, int]:
    """(pairs of different films, those the hash brings up, those the second look still calls duplicates)."""
    found = candidates(prints, np.arange(len(prints)))
    wrong = sum(compare(small[a], small[b], (prints[a], prints[b]), flip).duplicate for a, b, flip in found)
    return len(prints) * (len(prints) - 1) // 2, len(found), wrong


def planted(films: Films, small: Films, prints: list[Fingerprint]) -> dict[str, tuple[int, int]]:
    """Kind of change -> (copies found, copies planted); the search sees one copy among all films at a time."""
    result = {}
    for change in CHANGES:
        found = 0
        chosen = range(0, len(films), EVERY)
        for index in chosen:
            copy = shrink(change(films[index]))
            own = fingerprint(copy)
            pairs = candidates([*prints, own], np.arange(len(prints) + 1))
            hits = {first for first, second, flip in pairs if second == len(prints)
                    and compare(small[first], copy, (prints[first], own), flip).duplicate}  # fmt: skip
            found += hits == {index}
        result[change.__name__] = found, len(chosen)
    return result


def rows_of(name: str, films: Films) -> tuple[str, str, float]:
    """(row of false alarms, row of copies, CPU seconds of hashing per image)."""
    small, prints, seconds = hash_all(films)
    pairs, brought_up, wrong = false_alarms(small, prints)
    # With no false alarm among n pairs, the true rate lies below 3 / n with 95 % confidence.
    rate = f"below {3 / pairs:.1e}" if wrong == 0 else f"{wrong / pairs:.1e}"
    copies = planted(films, small, prints)
    cells = " | ".join(f"{found} of {asked}" for found, asked in copies.values())
    return (
        f"| {name} | {len(films)} | {pairs:,} | {brought_up} | {wrong} | {rate} |",
        f"| {name} | {cells} |",
        (seconds / len(films)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100, help="women of the synthetic archive")
    parser.add_argument("--real", type=Path, help="folder with films of the real mini-MIAS")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the tables into the file's own section")
    args = parser.parse_args()
    sources = {}
    with tempfile.TemporaryDirectory() as scratch:
        phantom.write("mias", Path(scratch) / "mias", args.patients, seed=9)
        sources["synthetic"] = read_films(Path(scratch) / "mias")
    if args.real:
        sources["real mini-MIAS"] = read_films(args.real)
    alarms, copies, seconds = zip(*(rows_of(name, films) for name, films in sources.items()), strict=True)
    kinds = " | ".join(change.__name__ for change in CHANGES)
    body = "\n".join([
        f"`python benchmarks/near_duplicates.py --patients {args.patients} --real DIR`; "
        f"OpenCV {cv2.__version__}, Python {platform.python_version()}.",
        "",
        "| films | images | unrelated pairs | brought up by hash | called duplicates | false-positive rate, 95 % |",
        "|---|---|---|---|---|---|",
        *alarms,
        "",
        f"| copies found | {kinds} |",
        "|---|" + "---|" * len(CHANGES),
        *copies,
        "",
        "Unrelated are all pairs of different films, the two breasts of a woman included. A copy counts as found only "
        f"where it is matched with its original and with nothing else. Hashing one image takes "
        f"{1000 * max(seconds):.0f} ms of one core, so 10,000 images {1e4 * max(seconds) / 60:.1f} minutes, reading "
        "apart.",
    ])  # fmt: skip
    print(body)
    if args.write:
        write_section(args.write, "Near-duplicate pictures", body)


if __name__ == "__main__":
    main()
