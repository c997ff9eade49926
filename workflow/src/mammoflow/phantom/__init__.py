"""Synthetic archives: the exact files, tables and quirks of a real one, with drawn mammograms a model can learn from.

One module per archive, ``mammoflow.phantom.<dataset>``, with ``write(root, patients, seed, size)``; a module may name
several ways the archive is found on disk in ``LAYOUTS`` (the first is the default) and then takes ``layout`` as well.
The same arguments give the same bytes.
"""

import importlib
import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

from mammoflow import __version__
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.errors import UserError
from mammoflow.files import write_json

SIZES = ("small", "full")
STAMP = "phantom.json"


def names() -> list[str]:
    """Archives of the catalogue that can be drawn."""
    here = Path(__file__).parent
    return [name for name in sorted(ARCHIVES) if (here / f"{name}.py").is_file()]


def writer(dataset: str) -> ModuleType:
    """The module that writes ``dataset``. Raises UserError that lists what can be drawn."""
    archive(dataset)
    if dataset not in names():
        raise UserError(f"no phantom of {dataset!r} exists; phantoms: {', '.join(names())}")
    return importlib.import_module(f"mammoflow.phantom.{dataset}")


def write(
    dataset: str, root: Path, patients: int, seed: int, size: str = "small", layout: str | None = None
) -> dict[str, object]:
    """Write a synthetic archive to ``root`` and return its stamp, what was asked for and the number of files.

    The stamp is kept in ``root/phantom.json``: a directory that already holds the very same phantom is left alone. The
    archive is written beside ``root`` and renamed, so it is never half there.

    Raises UserError for an unknown dataset, size or layout, for no patients, and where ``root`` holds something else.
    """
    module, root = writer(dataset), Path(root).resolve()
    layouts = getattr(module, "LAYOUTS", (None,))
    layout = layout or layouts[0]
    if layout not in layouts:
        known = ", ".join(layouts) if layouts != (None,) else "none, leave --layout out"
        raise UserError(f"{dataset} has no layout {layout!r}; known: {known}")
    if patients < 1 or seed < 0 or size not in SIZES:
        raise UserError("a phantom needs at least one patient, a seed of 0 or more, and size small or full")
    asked = {"synthetic": True, "mammoflow": __version__, "dataset": dataset, "patients": patients, "seed": seed}
    asked |= {"size": size, "layout": layout}
    stamp = _stamp(root)
    if stamp is not None and {**stamp, **asked} == stamp:
        return stamp
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} already holds something else: choose a new directory, or remove it first")

    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(mkdtemp(prefix=f".{root.name[:80]}.", dir=root.parent))
    try:
        module.write(building, patients, seed, size, **({} if layout is None else {"layout": layout}))
        files = sum(path.is_file() for path in building.rglob("*"))
        write_json(building / STAMP, {**asked, "files": files})
        building.chmod(0o755)
        building.replace(root)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return {**asked, "files": files}


def _stamp(root: Path) -> dict[str, object] | None:
    """The stamp in ``root``, None where there is none."""
    path = root / STAMP
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def configure(parser) -> None:
    """Arguments of ``mammoflow phantom``."""
    parser.add_argument("dataset", metavar="DATASET", help=f"one of: {', '.join(names())}")
    parser.add_argument("root", metavar="DIR", type=Path, help="new directory for the archive")
    parser.add_argument("--patients", type=int, default=40, metavar="N", help="number of women (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default %(default)s)")
    parser.add_argument("--size", choices=SIZES, default="small", help="small images, or the archive's own size")
    parser.add_argument("--layout", help="how the files lie on disk, where the archive is found in several ways")


def run(args) -> None:
    """Write the phantom and say what was written."""
    stamp = write(args.dataset, args.root, args.patients, args.seed, args.size, args.layout)
    print(f"{args.root}: synthetic {args.dataset}, {stamp['patients']} patients, {stamp['files']} files")
