"""How long Snakemake plans at the size of the public archives, and at twenty times that.

``python benchmarks/scale.py [--repeats 5]`` writes a configuration of eight archives, three cohorts and three runs of
five folds; the number of shards follows from the published number of images. It measures, in fresh processes: the first
dry run, the dry run when everything is there ("no-op"), and the same for one archive alone; median seconds of wall time
and of CPU, and the highest peak of memory. The plan knows shards, not images: a million images is 20 times the shards.
The first row is an empty Snakefile: what Snakemake and its plugins take to start.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "workflow" / "src")]
from mammoflow.costs import CONVERT_THREADS  # noqa: E402
from mammoflow.costs.estimate import GOOD_SHARD_MINUTES, published_images  # noqa: E402

ARCHIVES = ["rsna", "vindr_mammo", "cbis_ddsm", "cmmd", "ddsm", "inbreast", "bcdr", "mias"]
COHORTS = {
    "main": {"datasets": ["rsna", "vindr_mammo", "cbis_ddsm", "cmmd", "inbreast", "bcdr", "mias"]},
    "film": {"datasets": ["ddsm", "mias"]},
    "digital": {"datasets": ["rsna", "vindr_mammo", "inbreast"]},
}
LAYOUTS = ("20 minutes", "400 images")
BCDR_IMAGES = 3800  # seven sub-sets; nobody states the sum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each command (default %(default)s)")
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS, help="what a shard holds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 20], help="times the archives (default 1 20)")
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, median of {args.repeats}\n")
    print("| shards of | archives | jobs | target | dry run: s (CPU s) | MB | no-op: s (CPU s) | MB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text('rule all:\n    output: "a"\n    shell: "touch a"\n')
        (Path(folder) / "config.yaml").write_text("{}")
        print(f"| nothing | | 1 | | {timed(Path(folder), 'all', args.repeats, Path(folder) / 'Snakefile')} | | |")
    for layout in args.layouts:
        for times in args.sizes:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder), layout, times, args.repeats)


def measure(folder: Path, layout: str, times: int, repeats: int) -> None:
    """Print the rows of one configuration."""
    config = {
        "datasets": {name: {"shards": shards(name, layout) * times} for name in ARCHIVES},
        "cohorts": COHORTS,
        "runs": {name: {"cohort": name} for name in COHORTS},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    jobs = count_jobs(folder)
    first = {target: timed(folder, target, repeats) for target in ("all", "rsna")}
    finish(folder)
    assert count_jobs(folder) == 0, "the made-up results are not what Snakemake expects"
    for target in first:
        again = timed(folder, target, repeats)
        name = "everything" if target == "all" else target
        print(f"| {layout} | x{times} | {jobs:,} | {name} | {first[target]} | {again} |", flush=True)


def shards(name: str, layout: str) -> int:
    """Shards of an archive so that each is about 20 minutes of two threads, or 400 images."""
    images = published_images(name, None)
    if layout == "400 images":
        return max(1, round((BCDR_IMAGES if images is None else len(images)) / 400))
    return 1 if images is None else max(1, round(images["seconds"].sum() / CONVERT_THREADS / 60 / GOOD_SHARD_MINUTES))


def command(folder: Path, *arguments: str, snakefile: Path = REPOSITORY / "Snakefile") -> list[str]:
    return [
        sys.executable, "-m", "snakemake", *arguments, "--snakefile", str(snakefile), "--directory",
        str(folder), "--configfile", str(folder / "config.yaml"), "--cores", "2", "--scheduler", "greedy",
    ]  # fmt: skip


def timed(folder: Path, target: str, repeats: int, snakefile: Path = REPOSITORY / "Snakefile") -> str:
    """``wall (CPU) | MB`` of a dry run."""
    walls, seconds, peaks = [], [], []
    for _ in range(repeats):
        process = subprocess.Popen(
            command(folder, target, "--dry-run", "--quiet", "all", snakefile=snakefile),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = os.times().elapsed
        _, status, usage = os.wait4(process.pid, 0)
        walls.append(os.times().elapsed - started)
        assert status == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss / 1024)
    return f"{statistics.median(walls):.1f} ({statistics.median(seconds):.1f}) | {max(peaks):.0f}"


def count_jobs(folder: Path) -> int:
    done = subprocess.run(command(folder, "--dry-run"), capture_output=True, text=True, check=True)
    if "Nothing to be done" in done.stdout + done.stderr:
        return 0
    (total,) = [line for line in (done.stdout + done.stderr).split("Job stats:", 1)[1].splitlines() if "total" in line][
        :1
    ]
    return int(total.split()[1])


def finish(folder: Path) -> None:
    """Make every file that the plan declares, and let Snakemake believe that it made them."""
    done = subprocess.run(command(folder, "--summary"), capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    subprocess.run(command(folder, "--touch", "--quiet", "all"), check=True, capture_output=True)


if __name__ == "__main__":
    main()
