"""How fast training is fed: the packed images' loader beside the usual one of PNG files, and how fast a pack is built.

    PYTHONPATH=workflow/src python benchmarks/feed.py --write docs/benchmarks.md

Both loaders read the same pictures of 2048 x 1024 with the same number of processes and the same batches, turn about
in one run, their files in the page cache. The usual loader is what tutorials and most published code do: Pillow, RGB,
float32, torch's own collation. Ours is the one that `train` builds: a pack, one channel of 8 bits until the device.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import torch
from document import write_section
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mammoflow import pack, settings, tables
from mammoflow.imaging import png
from mammoflow.phantom.anatomy import Woman, draw_breast
from mammoflow.train.common import loader_options
from mammoflow.train.data import Units, collate
from mammoflow.train.model import to_unit_range
from mammoflow.train.sampler import GlobalBatches
from mammoflow.train.units import build_units, participants

LARGER = 1.25  # working images than the pack's: 2560 x 1280, the breast's crop of a large detector
DRAWN = 8  # breasts; the other pictures are these with grain of their own
BATCH = 8  # breasts of two views
PASSES = 4  # of the faster loader over the pictures, in a round: its epoch would be over as it begins
DATASET = "synthetic"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="an even number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes of each loader")
    parser.add_argument("--size", type=int, nargs=2, default=(2048, 1024), metavar=("H", "W"))
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the tables into the file's own section")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        body = measure(Path(scratch), args, load)
    print(body)
    if args.write:
        write_section(args.write, "Feed", body)


def measure(scratch: Path, args: argparse.Namespace, load: float) -> str:
    size = tuple(args.size)
    working = tuple(round(LARGER * length) for length in size)
    manifest = draw(scratch, args.images, size, working)
    build = {}
    for threads in (1, len(os.sched_getaffinity(0))):
        start = time.perf_counter()
        index = pack.pack(manifest, scratch / "store", scratch / "pack", size, threads=threads)
        build[threads] = args.images / (time.perf_counter() - start)
    loaders = {
        "PNG, Pillow, RGB, float32": usual(scratch, args.workers),
        "pack, uint8": packed(scratch / "pack", manifest, args.workers),
    }
    naive, ours = loaders
    rates = {name: [] for name in loaders}
    costs = {name: [] for name in loaders}
    for number in range(args.rounds + 1):
        for name in list(loaders)[:: 1 if number % 2 else -1]:
            rate, cost = epoch(loaders[name], args.images * (1 if name == naive else PASSES))
            if number:  # the first round starts the processes and warms the page cache
                rates[name].append(rate)
                costs[name].append(cost)
    cores = len(os.sched_getaffinity(0))
    built = ", ".join(f"{rate:.0f} images/s with {n} thread{'s' if n > 1 else ''}" for n, rate in build.items())
    ratios = [one / other for one, other in zip(rates[ours], rates[naive], strict=True)]
    files = {
        naive: sum(path.stat().st_size for path in (scratch / "png").iterdir()),
        ours: int(index["size"].sum()),
    }
    rows = [
        f"| {name} | {statistics.median(rates[name]):.0f} | {min(rates[name]):.0f} to {max(rates[name]):.0f} "
        f"| {1000 * statistics.median(costs[name]):.1f} | {files[name] / args.images / 1024:.0f} |"
        for name in loaders
    ]
    to_float = conversion(loaders[ours])
    return "\n".join([
        f"`python benchmarks/feed.py`; torch {torch.__version__}, Pillow {Image.__version__}, OpenCV "
        f"{cv2.__version__}, Python {platform.python_version()}; {args.images} drawn breasts of "
        f"{size[0]} x {size[1]}, batches of {BATCH} breasts with two views, {args.workers} loader processes on {cores} "
        f"cores, load {load:.1f} at the start; {args.rounds} rounds, files in the page cache.",
        "",
        "| loader | images/s, median | smallest to largest | CPU ms per image | KiB per image |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Ratio of each round: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}. The "
        f"pack's pixels become float32 on the training's device; done on one core here it takes {to_float:.2f} ms more "
        "per image.",
        "",
        f"Building the pack out of 16-bit working images of {working[0]} x {working[1]}: {built}.",
    ])  # fmt: skip


def draw(scratch: Path, count: int, size: tuple[int, int], working: tuple[int, int]) -> pd.DataFrame:
    """Write ``count`` images of ``working`` size (store, 16 bits), the same as 8-bit PNG of ``size``; the manifest."""
    rng = np.random.default_rng(1)
    women = [Woman.draw(rng, letter) for letter in "ABCD" * (DRAWN // 4)]
    breasts = [
        draw_breast(working, "L", ("CC", "MLO")[number % 2], woman.density, [], rng, woman=woman).pixels
        for number, woman in enumerate(women)
    ]
    (scratch / "png").mkdir()
    rows = []
    for number in range(count):
        patient, view = f"p{number // 2:04d}", ("CC", "MLO")[number % 2]
        drawn = breasts[number % DRAWN]
        grain = rng.normal(0, 0.008, working).astype(np.float32)
        pixels = np.where(drawn > 0, np.clip((drawn + grain) * 65535, 1, 65535), 0).astype(np.uint16)
        name = f"{DATASET}/r0/{patient}/{view}.png"
        png.write(scratch / "store" / name, pixels)
        small = pack.to_bits(pack.fit(pixels, *size)[0], 8)
        cv2.imwrite(str(scratch / "png" / f"{number:05d}.png"), small)
        rows.append({
            "dataset": DATASET, "image_id": f"{patient}_{view}", "study_id": patient, "patient_id": patient,
            "group_id": f"{DATASET}|{patient}", "laterality": "L", "view_position": view, "image_path": name,
            "label_malignant": number // 2 % 2, "label_policy": "benchmark", "split": "train", "fold": 0,
        })  # fmt: skip
    return tables.finish("manifest", pd.DataFrame(rows))


class PngFiles(Dataset):
    """What most training code does: open, RGB, float32 in 0..1, channels first."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = np.asarray(image.convert("RGB"))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float().div(255), index


def usual(scratch: Path, workers: int) -> DataLoader:
    files = PngFiles(scratch / "png")
    return DataLoader(files, 2 * BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def packed(directory: Path, manifest: pd.DataFrame, workers: int) -> DataLoader:
    """As `mammoflow train` makes it."""
    section = settings.resolve_section("run", {"cohort": "benchmark", "workers": workers, "accelerator": "cpu"})
    units = PASSES * build_units(participants(manifest), "breast")
    batches = GlobalBatches([unit.label for unit in units], BATCH, mode="natural")
    return DataLoader(
        Units(units, pack.PackedImages(directory)), batch_sampler=batches, **loader_options(section, collate)
    )


def epoch(loader: DataLoader, expected: int) -> tuple[float, float]:
    """Images per second, and CPU seconds per image over all processes."""
    before, start, count = cpu_seconds(), time.perf_counter(), 0
    for batch in loader:
        views = batch["views"] if isinstance(batch, dict) else batch[0]
        count += len(views)
    seconds = time.perf_counter() - start
    if count != expected:
        raise RuntimeError(f"the loader gave {count} images, not {expected}")
    return count / seconds, (cpu_seconds() - before) / count


def cpu_seconds() -> float:
    """User and system time of this process and of those it started. Resource trackers and idle loaders use none."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def conversion(loader: DataLoader) -> float:
    """Milliseconds per image that making float32 in 0..1 takes on one core here."""
    views = next(iter(loader))["views"]
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        to_unit_range(views)
        taken.append((time.perf_counter() - start) / len(views))
    return 1000 * statistics.median(taken)


if __name__ == "__main__":
    main()
