"""Does a training learn what is there to learn, and nothing else? On a phantom archive the answer is known.

    python benchmarks/curriculum.py [--cores 2] [--work .] [--write docs/benchmarks.md]

Draws the archive, takes config/examples/curriculum.yaml through the whole workflow, and says which targets were met;
exit status 1 where one was not. Run again it goes on where it stopped.
"""

import argparse
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from document import write_section

from mammoflow import phantom, settings
from mammoflow.comparison import compare, read_scores
from mammoflow.costs.rates import benchmark
from mammoflow.files import read_json
from mammoflow.headline import in_words, select

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "config" / "examples" / "curriculum.yaml"
HEADING = "Phantom curriculum"
DATASET, WOMEN, SEED = "cbis_ddsm", 600, 11
LEARNED = ("classify", "control", "segment")
AUC, HEAT = "classify: AUC of breasts", "classify: the heat map's highest point hits a malignant lesion"
DICE, HITS = "segment: mean Dice of lesions", "segment: the highest candidate hits a lesion"
CONTROL = "shuffled labels: AUC of "
WANTED, CHANCE = {AUC: 0.95, HEAT: 0.8, DICE: 0.7, HITS: 0.8}, 0.5
Number = dict[str, Any]


def draw(data: Path, women: int = WOMEN) -> None:
    """The archive, unless it is there already."""
    phantom.write(DATASET, data / DATASET, women, SEED)


def workflow(work: Path, cores: int) -> None:
    """Everything up to the evaluations; raises CalledProcessError where a job fails."""
    command = [sys.executable, "-m", "snakemake", "evaluate", "--snakefile", REPOSITORY / "Snakefile"]
    command += ["--directory", work, "--configfile", CONFIG, "--cores", str(cores), "--quiet", "rules", "progress"]
    subprocess.run(command, check=True)


def auc(metrics: dict[str, Any], level: str) -> Number:
    """Of the image model on the test split."""
    (block,) = select(metrics["results"], split="test", level=level, model="image")
    return block["metrics"]["auc"]


def measure(runs: dict[str, dict[str, Any]]) -> dict[str, Number]:
    """What was found on the test split, by the names of :data:`WANTED`. ``runs``: metrics.json by run."""
    classify, control, segment = (runs[name] for name in LEARNED)
    heat, masks = (run["lesions"]["splits"]["test"] for run in (classify, segment))
    return {
        AUC: auc(classify, "breast"),
        "classify: AUC of images": auc(classify, "image"),
        HEAT: heat["hit_rate"],
        DICE: masks["dice"]["dice"],
        HITS: masks["hit_rate"],
        "segment: sensitivity at 1 false positive per image": next(
            row for row in masks["froc"] if row["false_positives"] == 1.0
        ),
        **{f"{CONTROL}{level}s": auc(control, level) for level in ("breast", "image")},
    }


def is_met(name: str, number: Number) -> bool | None:
    """Whether a number is what it should be; None where nothing is asked of it."""
    if name.startswith(CONTROL):
        return number["low"] < CHANCE < number["high"]
    return number["value"] >= WANTED[name] if name in WANTED else None


def pairs(results: Path, config: dict[str, Any]) -> list[tuple[int, Number, Number, Number]]:
    """Seed, and AUC of breasts with the localisation loss, without it, and the paired difference, for each pair."""
    options = settings.resolve_section("evaluate", {})
    found = []
    for name in sorted(name for name in config["runs"] if name.startswith("few_with_")):
        without = name.replace("with", "without")
        both = compare([read_scores(results / "runs" / run) for run in (without, name)], options, SEED)
        numbers = {
            row["run"]: row["metrics"]["auc"]
            for row in both["numbers"]
            if (row["level"], row["dataset"], row["model"]) == ("breast", None, "image")
        }
        (difference,) = [
            row
            for row in both["differences"]
            if (row["level"], row["dataset"], row["model"], row["metric"]) == ("breast", None, "image", "auc")
        ]
        found.append((config["runs"][name]["seed"], numbers[name], numbers[without], difference))
    return found


def cpu_minutes(results: Path, run: str) -> tuple[float, float]:
    """Of a run's trainings, and of all of its jobs."""
    jobs = {path: sum(row["cpu_time"] for row in benchmark(path)) / 60 for path in _benchmarks(results, run)}
    return sum(spent for path, spent in jobs.items() if path.parent.parent.name == "train"), sum(jobs.values())


def _benchmarks(results: Path, run: str) -> list[Path]:
    folder = results / "benchmarks"
    return [*(folder / "train" / run).glob("*.jsonl"), *folder.glob(f"*/{run}.jsonl")]


def line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def report(results: Path, config: dict[str, Any]) -> tuple[str, bool]:
    """The section's text, and whether every target was met."""
    runs = {name: read_json(results / "runs" / name / "evaluate" / "metrics.json") for name in config["runs"]}
    measured, paired = measure(runs), pairs(results, config)
    helped = sum(difference["value"] > 0 for *_, difference in paired)
    met = helped == len(paired) and all(is_met(name, number) is not False for name, number in measured.items())
    words = {True: "yes", False: "**no**", None: ""}
    rows = [line("test split", "wanted", "found (95 %)", "met"), line(*["---"] * 4)]
    for name, number in measured.items():
        wanted = f"{CHANCE} inside the interval" if name.startswith(CONTROL) else f"at least {WANTED.get(name)}"
        good = is_met(name, number)
        rows.append(line(name, "" if good is None else wanted, in_words(number), words[good]))
    count = {name: _trained(results / "runs" / name) for name in runs}
    few = next(name for name in runs if name.startswith("few_with_"))
    rows += [
        "",
        f"With few breasts to learn from ({count[few]} in a fold), the localisation loss helped with {helped} of "
        f"{len(paired)} seeds. AUC of breasts, test split, paired by patients:",
        "",
        line("seed", "with", "without", "difference"),
        line(*["---"] * 4),
        *(line(seed, *map(in_words, numbers)) for seed, *numbers in paired),
        "",
        line("run", "trained on, each fold", "image size", "epochs", "CPU min, training", "CPU min, all its jobs"),
        line(*["---"] * 6),
    ]
    for name, section in settings.resolve(config)["runs"].items():
        training, everything = cpu_minutes(results, name)
        size = "x".join(map(str, section["image_size"]))
        rows.append(line(name, count[name], size, section["epochs"], f"{training:.1f}", f"{everything:.1f}"))
    head = (
        f"`python benchmarks/curriculum.py`: {WOMEN} women of {DATASET}, drawn; settings of "
        f"`config/examples/curriculum.yaml`; torch {version('torch')}, timm {version('timm')}, "
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores. Intervals are over patients."
    )
    return "\n".join([head, "", *rows]), met


def _trained(run: Path) -> str:
    """Samples that each fold learned from, malignant (or with a lesion) and others."""
    samples = [read_json(path)["samples"]["train"] for path in sorted(run.glob("*/train.json"))]
    return " and ".join(f"{one['1']} + {one['0']}" for one in samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(), help="where data, store and results come to lie")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="put the tables into the file's own section")
    args = parser.parse_args()
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    draw(args.work / config["data"])
    workflow(args.work, args.cores)
    text, met = report(args.work / config["results"], config)
    print(text)
    if args.write:
        write_section(args.write, HEADING, text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
