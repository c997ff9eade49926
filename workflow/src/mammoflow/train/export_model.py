"""``mammoflow export-model``: a trained run in files that anybody can load, each checked against the run itself.

Per fold ``<fold>/model.safetensors`` (the weights as training wrote them) and ``<fold>/model.onnx``, which takes grey
values and needs nothing of this project; ``export.json`` says what goes in, what comes out, how the folds are put
together, by how much ONNX Runtime and torch differ, and how the run was trained. It is written last: without it a
directory holds no export. ``model_card.md`` comes along where the run has one.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mammoflow import files, lesions, provenance
from mammoflow.errors import UserError
from mammoflow.pack import PackedImages
from mammoflow.train.common import RECORD, WEIGHTS, say, set_threads
from mammoflow.train.model import to_unit_range
from mammoflow.train.onnx_graph import AUXILIARY, GRAPHS, INPUT, OPSET, OUTPUTS, STRIDE, TOLERANCE, compare, export
from mammoflow.train.predict import load_fold

EXPORT = "export.json"
SAFETENSORS, ONNX, CARD = "model.safetensors", "model.onnx", "model_card.md"
REAL_IMAGES = 4  # of the run's pack that both runtimes are fed with
PACKAGES = ("torch", "timm", "safetensors", "onnx", "onnxscript", "onnxruntime", "numpy")
COMBINE = {
    "classify": "the run's own scores of new images are the mean over the folds of sigmoid(breast_logit)",
    "segment": "the run's own maps of new images are the mean over the folds of probability",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow export-model``."""
    parser.add_argument("directory", type=Path, metavar="RUN_DIR", help="directory of a trained run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="DIR",
        help="packed images to compare on; else those of the run's cohort, where they lie in its results",
    )


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow export-model``."""
    set_threads(1)
    folds = trained_folds(args.directory)
    record = folds[0][1]
    images = find_pack(args.directory, record["settings"], args.pack)
    args.out.mkdir(parents=True, exist_ok=True)
    # Everything is made and checked beside its final place, on the same file system.
    with TemporaryDirectory(dir=args.out, prefix=".export-") as scratch:
        made = [export_fold(path, one, images, Path(scratch) / path.name) for path, one in folds]
        description = describe(record, made, images is not None)
        (args.out / EXPORT).unlink(missing_ok=True)
        for path, _ in folds:
            (args.out / path.name).mkdir(exist_ok=True)
            for name in (SAFETENSORS, ONNX):
                os.replace(Path(scratch) / path.name / name, args.out / path.name / name)
    card = args.directory / CARD
    if card.is_file():
        files.write_text(args.out / CARD, card.read_text(encoding="utf-8"))
    files.write_json(args.out / EXPORT, description)
    compared = [outputs for one in made for outputs in one["compared"].values()]
    worst = max(number["largest_difference"] for outputs in compared for number in outputs.values())
    size = sum(part["bytes"] for one in made for part in one["files"].values())
    print(
        f"{len(made)} fold{'' if len(made) == 1 else 's'}, {size / 1024**2:.1f} MiB, ONNX Runtime and torch differ by "
        f"{worst:.1g} at most: {args.out}"
    )


def trained_folds(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Directory and train.json of each fold, by number. Raises UserError where there is none, or one is unfinished."""
    found = []
    paths = [path for path in directory.glob("*") if path.name.isdigit() and path.is_dir()]
    for path in sorted(paths, key=lambda path: int(path.name)):
        if not (path / RECORD).is_file() or not (path / WEIGHTS).is_file():
            raise UserError(f"{path} is not trained to its end ({RECORD} or {WEIGHTS} is missing): train it first")
        found.append((path, json.loads((path / RECORD).read_text(encoding="utf-8"))))
    if not found:
        raise UserError(
            f"{directory} holds no trained fold: name the directory of a run, such as results/runs/baseline"
        )
    for path, record in found[1:]:
        if record["settings_digest"] == found[0][1]["settings_digest"]:
            raise UserError(f"{path} and {found[0][0]} are the same fold: keep one of them")
        for key in ("settings", "cohort_digest", "seed"):
            if record[key] != found[0][1][key]:
                raise UserError(
                    f"{path} was trained with another {key.split('_')[0]} than {found[0][0]}: train it again"
                )
    return found


def find_pack(directory: Path, section: dict[str, Any], given: Path | None) -> PackedImages | None:
    """The pack that the run was trained on, or ``given``; None where neither is there."""
    height, width = section["image_size"]
    usual = directory.resolve().parents[1] / "packs" / f"{section['cohort']}-{height}x{width}"
    path = given or usual
    if given is None and not (usual / "index.parquet").is_file():
        say(f"{usual} does not exist: compared on random images only; name a pack with --pack")
        return None
    images = PackedImages(path)
    if images.image_size != (height, width):
        raise UserError(f"{path} holds images of {images.image_size}, the run was trained on {(height, width)}")
    return images


def export_fold(directory: Path, record: dict[str, Any], images: PackedImages | None, out: Path) -> dict[str, Any]:
    """Write a fold's two files into ``out`` and compare them with the fold. Returns its part of export.json."""
    settings = record["settings"]
    out.mkdir(parents=True)
    shutil.copyfile(directory / WEIGHTS, out / SAFETENSORS)
    model = load_fold(directory, record, torch.device("cpu")).model.to(memory_format=torch.contiguous_format)
    graph = GRAPHS[settings["task"]](model).eval()
    say(f"{record['run']} fold {record['fold']}: {settings['encoder']} to ONNX")
    export(graph, seen_at_once(settings), out / ONNX, metadata(record))
    compared = compare(out / ONNX, graph, inputs(settings, images))
    kept = {
        name: {"bytes": (out / name).stat().st_size, "sha256": files.file_digest(out / name)}
        for name in (SAFETENSORS, ONNX)
    }
    return {"fold": record["fold"], "files": kept, "compared": compared, "record": record}


def seen_at_once(settings: dict[str, Any]) -> tuple[int, int]:
    """(H, W) that the model was trained on: of the image, or of a window of it."""
    windowed = settings["task"] == "segment" and settings["segment"]["sampling"] != "image"
    return tuple(settings["segment"]["window"] if windowed else settings["image_size"])


def inputs(settings: dict[str, Any], images: PackedImages | None) -> list[tuple[str, Tensor]]:
    """What both runtimes are fed with: noise in several numbers and sizes, and images of the run."""
    height, width = seen_at_once(settings)
    noise = torch.Generator().manual_seed(0)
    found = [
        ("two random images", torch.rand(2, 1, height, width, generator=noise)),
        ("one random image", torch.rand(1, 1, height, width, generator=noise)),
        ("three of another size", torch.rand(3, 1, other(height), other(width), generator=noise)),
    ]
    if images is not None:
        keys = images.keys()
        chosen = keys[:: max(1, len(keys) // REAL_IMAGES)][:REAL_IMAGES]
        real = to_unit_range(torch.stack([torch.from_numpy(images[key])[None] for key in chosen]))
        found.append(("images of the run", real))
    return found


def other(length: int) -> int:
    """Another multiple of the stride: half as long, where half is one and not too little."""
    return length // 2 if length % (2 * STRIDE) == 0 and length > 2 * STRIDE else length + STRIDE


def metadata(record: dict[str, Any]) -> dict[str, str]:
    """What the ONNX file says of itself."""
    settings = record["settings"]
    told = {
        "run": record["run"],
        "fold": str(record["fold"]),
        "task": settings["task"],
        "encoder": settings["encoder"],
        "image_size": "x".join(map(str, settings["image_size"])),
        "values": INPUT["values"],
        "notice": "Research only. Not a medical device, not for diagnosis.",
    }
    if settings["task"] == "segment":
        told["classes"] = ", ".join(class_names(settings))
        told["window"] = "x".join(map(str, seen_at_once(settings)))
    return told


def class_names(settings: dict[str, Any]) -> list[str]:
    """Of the channels of a segmentation."""
    return ["background", *lesions.CLASS_SETS[settings["segment"]["classes"]]]


def describe(record: dict[str, Any], folds: list[dict[str, Any]], on_images: bool) -> dict[str, Any]:
    """The content of export.json. ``on_images``: whether the comparison saw images of the run, too."""
    settings, task = record["settings"], record["settings"]["task"]
    outputs = [*GRAPHS[task].outputs, *(AUXILIARY[name] for name in settings["auxiliary"])]
    told = {
        "run": record["run"],
        "task": task,
        "notice": "Research only. Not a medical device, not for diagnosis.",
        "input": {**INPUT, "image_size": settings["image_size"]},
        "outputs": {name: OUTPUTS[name] for name in outputs},
        "combine": COMBINE[task],
        "opset": OPSET,
        "tolerance": TOLERANCE,
        "compared_on_images_of_the_run": on_images,
        "folds": folds,
        "reproduction": provenance.record("export", settings, record["seed"], packages=PACKAGES),
    }
    if task == "segment":
        told |= {"classes": class_names(settings), "window": list(seen_at_once(settings))}
    else:
        told["heat_learned"] = all(
            bool(one["record"]["images_with_boxes"] and settings["localisation_weight"]) for one in folds
        )
    return told
