"""How fast and how large is conversion, beside the naive pipeline, a peer's, and what no converter can avoid?

    python benchmarks/conversion.py [--write docs/benchmarks.md] [--quick]      (or: make bench)

Phantom mammograms of four sizes in six transfer syntaxes; each pipeline (conversion_pipelines.py) lives in a process of
its own and they take turns file by file, so that a busy machine slows all of them alike. CPU seconds, user and system;
a ratio is formed within a round, and the median over the rounds is given.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from conversion_inputs import QUICK_SIZES, SIZES, SYNTAXES, Input, write
from conversion_pipelines import DATASET, SAME_PRODUCT
from document import write_section

from mammoflow import tables

HERE = Path(__file__).parent
HEADING = "Conversion"
# What is measured: column -> (pipeline, its options).
SAME = {"naive": ("naive", {}), "peer": ("peer", {}), "ours": ("ours", {}), "floor": ("floor", {})}
DEEP = {"naive": ("naive", {"bits": 16}), "ours": ("ours", {"bits": 16})}
DEFAULT = {"crop": True, "long_side": 1536, "bits": 16}
WORKING = {"default": ("ours", DEFAULT), "fast_j2k": ("ours", {**DEFAULT, "fast_j2k": True})}
# A job, and then what it took, child processes included.
_JOB = """
import json, resource, sys
from mammoflow.cli import main
status = main(sys.argv[1:])
from conversion_pipelines import peak_memory
own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
print(json.dumps({"cpu": cpu, "peak": peak_memory() + others.ru_maxrss / 1024}))
sys.exit(status)
"""
Times = dict[tuple[str, str], list[dict[str, float]]]  # (column, file name) -> one answer per round


class Worker:
    """One pipeline in its own process."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "conversion_pipelines.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, path: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
        request = {"path": str(path), "out": str(out), "options": options}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the pipeline ended with status {self._process.wait()} at {path.name}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def interleaved(files: list[Input], columns: dict[str, tuple[str, dict]], rounds: int, scratch: Path) -> Times:
    """Every column on every file, ``rounds`` times, in turns; the order is reversed in every other round."""
    workers = {column: Worker(name) for column, (name, _) in columns.items()}
    times: Times = defaultdict(list)
    try:
        for number in range(-1, rounds):  # the first round warms up: imports, the page cache
            order = list(columns)[:: 1 if number % 2 else -1]
            for file in files if number >= 0 else files[:1]:
                for column in order:
                    answer = workers[column].measure(file.path, scratch / f"{column}.png", columns[column][1])
                    if number >= 0:
                        times[column, file.path.name].append(answer)
    finally:
        for worker in workers.values():
            worker.close()
    return times


def seconds(times: Times, column: str, files: list[Input], key: str = "cpu") -> list[float]:
    """Sum over ``files``, per round."""
    return [
        sum(values) for values in zip(*([one[key] for one in times[column, f.path.name]] for f in files), strict=True)
    ]


def ratio(times: Times, above: str, below: str, files: list[Input], key: str = "cpu") -> float:
    """Median over the rounds."""
    pairs = zip(seconds(times, above, files, key), seconds(times, below, files, key), strict=True)
    return statistics.median(a / b for a, b in pairs)


def median(times: Times, column: str, files: list[Input], key: str = "cpu") -> float:
    return statistics.median(seconds(times, column, files, key))


def of(files: list[Input], syntax: str) -> list[Input]:
    return [file for file in files if file.syntax == syntax]


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def same_product(files: list[Input], times: Times) -> str:
    """One row per syntax and size, and one per syntax."""
    rows = [
        line("syntax", "size", "bits/pixel", "naive", "peer", "ours", "floor", "naive/ours", "ours/floor", "images/s"),
        line(*["---"] * 10),
    ]
    for syntax in SYNTAXES:
        group = of(files, syntax)
        for part, name in [*(([file], file.size) for file in group), (group, "**all**")]:
            cpu = [f"{1000 * median(times, column, part) / len(part):.0f}" for column in SAME]
            rate = len(part) / median(times, "ours", part)
            bits = statistics.mean(file.bits_per_pixel for file in part)
            ratios = f"{ratio(times, 'naive', 'ours', part):.1f}", f"{ratio(times, 'ours', 'floor', part):.2f}"
            rows.append(line(syntax, name, f"{bits:.1f}", *cpu, *ratios, f"{rate:.1f}"))
    return "\n".join(rows)


def wall_and_memory(files: list[Input], times: Times) -> str:
    rows = [line("", *SAME), line(*["---"] * 5)]
    rows.append(
        line("wall, ms per image", *(f"{1000 * median(times, c, files, 'wall') / len(files):.0f}" for c in SAME))
    )
    peaks = {
        column: max(one["peak"] for (c, _), many in times.items() if c == column for one in many) for column in SAME
    }
    rows.append(line("largest memory, MiB", *(f"{peaks[column]:.0f}" for column in SAME)))
    return "\n".join(rows) + f"\n\nMemory of ours is {peaks['ours'] / peaks['naive']:.2f} of the naive pipeline's."


def deep(files: list[Input], rounds: int, scratch: Path) -> str:
    times = interleaved(files, DEEP, rounds, scratch)
    rows = [line("16-bit PNG", "naive, ms", "ours, ms", "naive/ours"), line(*["---"] * 4)]
    for syntax in dict.fromkeys(file.syntax for file in files):
        part = of(files, syntax)
        cpu = [f"{1000 * median(times, column, part) / len(part):.0f}" for column in DEEP]
        rows.append(line(syntax, *cpu, f"{ratio(times, 'naive', 'ours', part):.1f}"))
    return "\n".join(rows)


def working_images(files: list[Input], rounds: int, scratch: Path) -> str:
    """The default product, and J2K with ``fast_j2k``, beside the naive pipeline's whole frame."""
    rows = [line("working image (1536, crop, 16 bits)", "ms", "naive/ours"), line(*["---"] * 3)]
    for column, options in WORKING.items():
        part = [file for file in files if column == "default" or "J2K" in file.syntax]
        times = interleaved(part, {"naive": ("naive", {}), column: options}, rounds, scratch)
        for syntax in dict.fromkeys(file.syntax for file in part):
            group = of(part, syntax)
            cpu = f"{1000 * median(times, column, group) / len(group):.0f}"
            rows.append(line(f"{syntax}, {column}", cpu, f"{ratio(times, 'naive', column, group):.1f}"))
    return "\n".join(rows)


def job(files: list[Input], threads: int, scratch: Path, copies: int) -> dict[str, float]:
    """Run `mammoflow convert` over a shard of ``files`` in ``scratch``, each ``copies`` times: seconds and MiB."""
    rows = [
        {"dataset": DATASET, "image_id": f"{file.path.stem}-{copy}", "study_id": "s", "patient_id": "p"}
        | {"path": file.path.name, "file_format": "dicom", "laterality": "L", "group_id": "g", "use": "labelled"}
        for copy in range(copies)
        for file in files
    ]
    frame = pd.DataFrame(rows, columns=["dataset", "image_id", "study_id", "patient_id", "path", "file_format",
                                        "laterality", "group_id", "use"])  # fmt: skip
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        shard = Path(folder) / "0000-of-0001.csv"
        tables.write(tables.finish("images", frame), shard)
        command = [sys.executable, "-c", _JOB, "convert", DATASET, "--root", str(scratch), "--store", folder]
        command += ["--shard", str(shard), "--ledger", f"{folder}/ledger.parquet", "--threads", str(threads)]
        command += ["--settings", json.dumps(SAME_PRODUCT)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
        wall = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"convert ended with {done.returncode}: {done.stderr}")
        return {"wall": wall, **json.loads(done.stdout.splitlines()[-1])}


def side_by_side(files: list[Input], scratch: Path, copies: int) -> float:
    """Wall seconds until two jobs of one thread, started together, have both ended."""
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: job(files, 1, scratch, copies), range(2)))
    return time.perf_counter() - started


def threads(files: list[Input], rounds: int, scratch: Path) -> str:
    """Whole jobs with one, two and four threads: speed, and memory on the largest size.

    Two jobs of one thread side by side show what the machine's second core is worth to anybody.
    """
    rows = [line("job of `convert`", "1 thread", "2 threads", "4 threads"), line(*["---"] * 4)]
    for syntax in dict.fromkeys(file.syntax for file in files):
        part = of(files, syntax)
        copies = 3 if "J2K" in syntax else 6  # with few images, the threads would wait for the last of them
        start = statistics.median(job([], 1, scratch, 0)["wall"] for _ in range(rounds))
        made = [[job(part, count, scratch, copies) for count in (1, 2)] for _ in range(rounds)]
        gain = statistics.median((one["wall"] - start) / (two["wall"] - start) for one, two in made)
        pairs = [side_by_side(part, scratch, copies) - start for _ in range(rounds)]
        worth = statistics.median(2 * (one["wall"] - start) / pair for (one, _), pair in zip(made, pairs, strict=True))
        more = statistics.median(two["cpu"] / one["cpu"] for one, two in made)
        rows.append(line(f"{syntax}: speed, wall without start-up", 1, f"{gain:.2f}", ""))
        rows.append(line(f"{syntax}: speed of two jobs of one thread at a time", 1, f"{worth:.2f}", ""))
        rows.append(line(f"{syntax}: CPU seconds", 1, f"{more:.2f}", ""))
        largest = [file for file in part if file.size == max(file.size for file in part)]
        peaks = [job(largest, count, scratch, 2 * count)["peak"] for count in (1, 2, 4)]
        rows.append(line(f"{syntax}: memory on the largest size, MiB", *(f"{peak:.0f}" for peak in peaks)))
    return "\n".join(
        [*rows, "", "The rules `convert_shard` and `crop_shard` ask for 400 MiB and 300 more for each thread."]
    )


def start_up(rounds: int, scratch: Path) -> str:
    """Interpreter to first image, beside Python alone and the bare libraries, in turns."""
    first_image = "from mammoflow import convert, settings; settings.parse_section('convert', '{}')"
    programs = {
        "Python alone": "pass",
        "pydicom, OpenCV, imagecodecs, isal": "import pydicom, cv2, imagecodecs, isal.isal_zlib",
        "`convert` up to its first image": first_image,
        "pandas and pandera, for comparison": "import pandas, pandera.pandas",
    }
    found = defaultdict(list)
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", program])
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            found[name].append((time.perf_counter() - started, usage.ru_utime + usage.ru_stime))
        empty = job([], 1, scratch, 0)
        found["a whole job with an empty shard, ledger included"].append((empty["wall"], empty["cpu"]))
    rows = [line("start-up", "wall, s", "CPU, s"), line(*["---"] * 3)]
    for name, many in found.items():
        wall, cpu = (statistics.median(values) for values in zip(*many, strict=True))
        rows.append(line(name, f"{wall:.2f}", f"{cpu:.2f}"))
    return "\n".join(rows)


def report(sizes: dict[str, tuple[int, int, int]], rounds: int, scratch: Path, quick: bool) -> str:
    load = os.getloadavg()
    files = write(scratch, sizes)
    prepare = Worker("ours")
    for file in files:  # the finished picture, which the floor deflates
        prepare.measure(file.path, file.path.with_suffix(".png"), {})
    prepare.close()
    times = interleaved(files, SAME, rounds, scratch)
    fewer = max(1, rounds // 2)
    some = ("uncompressed",) if quick else ("JPEG lossless (.70)", "J2K lossless (.90)", "uncompressed")
    parts = [
        "CPU ms per image, one thread; whole frame, 8-bit PNG (peer: the breast's crop).",
        same_product(files, times),
        wall_and_memory(files, times),
        deep([file for file in files if "(.57)" not in file.syntax], fewer, scratch),
        working_images(files, fewer, scratch),
        threads([file for file in files if file.syntax in some], fewer, scratch),
        start_up(1 if quick else rounds + 2, scratch),
    ]
    names = ("pydicom", "python-gdcm", "imagecodecs", "dicomsdl", "opencv-python-headless", "isal", "numpy")
    shapes = ", ".join(f"{size} {rows} x {columns} x {bits} bits" for size, (rows, columns, bits) in sizes.items())
    head = (
        f"`python benchmarks/conversion.py` (`make bench`); Python {platform.python_version()}, "
        f"{', '.join(f'{name} {version(name)}' for name in names)}; {len(os.sched_getaffinity(0))} cores, load "
        f"{load[0]:.1f} at the start and {os.getloadavg()[0]:.1f} at the end; {rounds} rounds. Where the load exceeds "
        f"the cores, wall times and the gain of threads mean nothing.\nSizes: {shapes}."
    )
    return "\n\n".join([head, *parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the tables into the file's own section")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small pictures, one round: does it run? No number holds")
    args = parser.parse_args()
    sizes, rounds = (QUICK_SIZES, 1) if args.quick else (SIZES, args.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        text = report(sizes, rounds, Path(scratch), args.quick)
    print(text)
    if args.write:
        write_section(args.write, HEADING, text)


if __name__ == "__main__":
    main()
