"""How much memory does a step of training take under each of the options that save memory?

    python benchmarks/training_memory.py [--encoder convnext_nano] [--size 1024 512] [--write docs/benchmarks.md]

Every row is a real training in a process of its own: one step on 4 breasts with 2 views each, then validation. On a GPU
the memory is what torch allocated at most, on a CPU what the process took at most above what it had before training.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
from pathlib import Path

from document import write_section

TESTS = Path(__file__).resolve().parents[1] / "tests"
OPTIONS = {
    "none": {},
    "`accumulate: 2`": {"accumulate": 2},
    "`accumulate: 4`": {"accumulate": 4},
    "`gradient_checkpointing: true`": {"gradient_checkpointing": True},
    "`gradient_checkpointing: true, accumulate: 4`": {"gradient_checkpointing": True, "accumulate": 4},
}
GPU_OPTIONS = {
    "`precision: bf16`": {"precision": "bf16"},
    "all three": {"precision": "bf16", "gradient_checkpointing": True, "accumulate": 4},
}


def make_data(root: Path, size: tuple[int, int]) -> None:
    """A cohort of 5 synthetic patients below ``root``, packed: 4 breasts to train, 4 to validate."""
    sys.path.insert(0, str(TESTS))
    from mammoflow import pack, tables
    from training_cohort import write_cohort

    cohort, store = write_cohort(root, patients=20, size=size, lesion=size[0] // 20)
    manifest = tables.read(cohort / "manifest.parquet", "manifest")
    manifest = manifest[manifest["patient_id"].isin(["p002", "p003", "p004", "p014", "p015"])].reset_index(drop=True)
    tables.write(manifest, cohort / "manifest.parquet")
    pack.pack(manifest, store, root / "pack", size)


def train_once(root: Path, name: str, section: dict) -> float:
    """MiB of one training."""
    import torch

    from mammoflow import settings
    from mammoflow.train import command

    torch.zeros(8, 8) @ torch.zeros(8, 8)  # what the libraries take for themselves
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out = root / name
    command.train("bench", 0, root / "cohort", root / "pack", settings.resolve_section("run", section), 1, out)
    cuda = json.loads((out / "train.json").read_text())["device"] != "cpu"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return torch.cuda.max_memory_allocated() / 2**20 if cuda else peak


def main() -> None:
    """Print the section; with --write put it into its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="convnext_nano")
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 512], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--write", type=Path, metavar="PAGE")
    args = parser.parse_args()
    import torch

    common = {"cohort": "bench", "encoder": args.encoder, "image_size": args.size, "batch_size": 4, "workers": 0}
    common |= {"epochs": 1, "sampler": "natural"}
    gpu = torch.cuda.is_available()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), tuple(args.size))
        for number, (name, changes) in enumerate((OPTIONS | (GPU_OPTIONS if gpu else {})).items()):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append((name, pool.apply(train_once, (Path(folder), str(number), common | changes))))
    device = torch.cuda.get_device_name() if gpu else f"CPU, OMP_NUM_THREADS={torch.get_num_threads()}"
    lines = [
        f"`python benchmarks/training_memory.py --encoder {args.encoder} --size {args.size[0]} {args.size[1]}`; "
        f"{device}, torch {torch.__version__}, Python {platform.python_version()}. One step of classify on 4 breasts "
        "with 2 views each.",
        "",
        "| option | memory, MiB | of none |",
        "|---|---|---|",
        *(f"| {name} | {mib:.0f} | {mib / rows[0][1]:.2f} |" for name, mib in rows),
        "",
        "Above what the process took before training: weights, optimiser and moving average are in it, and validation.",
    ]
    print("\n".join(lines))
    if args.write:
        write_section(args.write, "Memory of a training", "\n".join(lines))


if __name__ == "__main__":
    main()
