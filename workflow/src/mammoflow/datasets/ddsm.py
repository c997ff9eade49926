"""DDSM: 2,620 cases (about 10,480 digitised films) of four sites, in lossless JPEG of Stanford's PVRG codec.

Layout (figment.csee.usf.edu/pub/DDSM/cases): ``cancers/cancer_01/case1234/`` with ``A-1234-1.ics``, one
``A_1234_1.LEFT_CC.LJPEG`` per film and an ``.OVERLAY`` beside each film that carries lesions. Copies hold junk
(``*.LJPEG.1``, ``*.ics~``, ``*.OVERLAYu``), which is passed over; one film of benign_01 is gzip-compressed.

A case is patient and group. Truth is per lesion; DDSM's pages say that a benign lesion was proven mostly, but not
always, by biopsy. A film without an overlay counts as normal (``label_source`` folder): so do the films of ``normals``,
and the unmarked films of other cases, which say ``unmarked_view`` where the same breast is marked on the other view.
``machine`` is the scanner by which :mod:`mammoflow.imaging.od` turns grey levels into optical density.

A film that cannot be used stays with its reason: ``missing_file``, ``not_in_ics``, ``unknown_digitizer``,
``duplicate_case``. One whose overlay is absent or unreadable is unlabelled (``missing_overlay``,
``unreadable_overlay``), with a warning that names the file.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow.datasets import archive, base, ddsm_text
from mammoflow.datasets.ddsm_lesions import PATHOLOGIES, CaseFiles, Lesions, read_lesions
from mammoflow.errors import UserError

LOG = logging.getLogger(__name__)
NAME = "ddsm"
SUFFIXES = {".ics", ".ljpeg", ".overlay", ".gz"}
SITES = {"A": "MGH", "B": "WFU", "C": "WFU", "D": "ISMD"}
SPACING_UM = {"DBA": 42.0, "HOWTEK": 43.5, "LUMISYS": 50.0}
FOLDERS = ("benign_without_callback", "cancer", "benign", "normal")  # volume names begin with these
DENSITIES = {1: "DENSITY A", 2: "DENSITY B", 3: "DENSITY C", 4: "DENSITY D"}
# What lies directly below the archive's directory: groups, volumes or cases.
_PART = re.compile(r"cases|(benign_without_callback|cancer|benign|normal)s?(_\d\d)?|case\d+", re.IGNORECASE)
_ICS = re.compile(r"([A-D])-(\d{4})-(\d+)\.ics", re.IGNORECASE)
_FILM = re.compile(r"([A-D]_\d{4}_\d+)\.(LEFT|RIGHT)_(CC|MLO)\.LJPEG(\.gz)?", re.IGNORECASE)


def detect(root: Path) -> base.Detection | None:
    """DDSM where case files or films lie in ``root``, or below folders named as its groups, volumes or cases are."""
    root = Path(root)
    if not any(_PART.fullmatch(path.name) or _ICS.fullmatch(path.name) for path in root.iterdir()):
        return None
    paths = base.find_files(root, SUFFIXES)
    films = [path for path in paths if _FILM.fullmatch(path.name)]
    cases = _cases(paths)
    if not films and not cases:
        return None
    missing = []
    if not cases:
        missing.append("the .ics file of every case")
    expected = archive(NAME).expected["patients"]
    if len(cases) < expected:
        missing.append(f"{expected - len(cases)} of {expected} cases")
    if len(films) < 4 * len(cases):
        missing.append(f"{4 * len(cases) - len(films)} films of the cases that are there")
    return base.Detection(NAME, root, len(films), missing)


def inventory(root: Path) -> base.Inventory:
    """Every film that an ``.ics`` file lists, and every film on disk that none lists; every lesion of the overlays.

    Raises UserError where no case is found below ``root``.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    paths = base.find_files(root, SUFFIXES)
    cases = _cases(paths)
    if not cases:
        raise UserError(
            f"no case file such as A-1234-1.ics lies below {root}: put {archive(NAME).put_here} there, "
            "or set datasets.ddsm.root"
        )
    images: list[dict[str, Any]] = []
    findings: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    for case in cases:
        duplicate_of = seen.setdefault(case.stem, case.ics)
        if duplicate_of is not case.ics:
            LOG.warning("%s is the same case as %s and is left out", case.ics, duplicate_of)
            place = _place(case.ics, root)
            rows = [
                {
                    **row,
                    "image_id": f"{row['image_id']}.{place}",
                    "use": "excluded",
                    "excluded_reason": "duplicate_case",
                }
                for row, _ in _films(case, root)
            ]
        else:
            pairs = list(_films(case, root))
            rows = [row for row, _ in pairs]
            findings += [finding for _, lesions in pairs for finding in lesions.rows]
        images += rows
    images += _unlisted(paths, {row["path"] for row in images}, root)
    if not images:
        raise UserError(f"{cases[0].ics} and the other .ics files list no film: take them from the archive again")
    table = base.mark_missing(base.source_keys(pd.DataFrame(images), root))
    return base.finish_inventory(table, pd.DataFrame(findings))


def _cases(paths: list[Path]) -> list[CaseFiles]:
    by_folder: dict[Path, dict[str, Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, {})[path.name.lower()] = path
    matches = [(path, _ICS.fullmatch(path.name)) for path in paths]
    return [
        CaseFiles(
            path,
            f"{match[1].upper()}-{match[2]}",
            f"{match[1].upper()}_{match[2]}_{match[3]}",
            by_folder[path.parent],
        )
        for path, match in matches
        if match
    ]


def _films(case: CaseFiles, root: Path) -> Iterator[tuple[dict[str, Any], Lesions]]:
    """The image row of each film of a case, with its lesions."""
    try:
        ics = ddsm_text.read_ics(case.ics.read_text(encoding="latin-1"))
    except ValueError as error:
        LOG.warning("%s cannot be read (%s), so its films are left out: take the file from the archive again",
                    case.ics, error)  # fmt: skip
        return
    lesions = {film.name: read_lesions(case, film) for film in ics.films}
    folder = _folder(case.ics, root)
    marked = {name.split("_")[0] for name, found in lesions.items() if found.rows or found.problem}
    scanner, machine = _scanner(ics.digitizer, case.case_id[0])
    for film in ics.films:
        side = film.name.split("_")[0]
        path = case.find(film.name, "LJPEG") or case.find(film.name, "LJPEG.gz")
        row = {
            **_identity(case.case_id, case.stem, film.name),
            "path": path.relative_to(root).as_posix() if path else pd.NA,
            "height": film.lines,
            "width": film.samples,
            "bits_stored": film.bits,
            "pixel_spacing_mm": (film.resolution or SPACING_UM.get(scanner, np.nan)) / 1000,
            "manufacturer": scanner,
            "machine": machine,
            "age": ics.age,
            "breast_density": DENSITIES.get(ics.density, pd.NA),
            "density_native": pd.NA if ics.density is None else str(ics.density),
            **_truth(lesions[film.name], folder, bool(marked), side in marked),
        }
        if not (film.lines and film.samples and film.bits):
            row |= {"use": "excluded", "excluded_reason": "not_in_ics"}
        elif machine is None:
            row |= {"use": "excluded", "excluded_reason": "unknown_digitizer"}
        context = ("image_id", "study_id", "patient_id", "dataset", "laterality", "view_position", "height", "width",
                   "breast_density", "breast_birads")  # fmt: skip
        shared = {name: row.get(name) for name in context}
        yield row, Lesions([{**shared, **finding} for finding in lesions[film.name].rows])


def _identity(case_id: str, stem: str, film: str) -> dict[str, Any]:
    side, view = film.upper().split("_")
    return {
        "dataset": NAME,
        "image_id": f"{stem}.{side}_{view}",
        "study_id": stem.replace("_", "-"),
        "patient_id": case_id,
        "group_id": f"{NAME}:{case_id}",
        "file_format": "ljpeg",
        "laterality": side[0],
        "view_position": view,
        "photometric": "MONOCHROME2",
        "presentation": "film",
        "site": SITES[case_id[0]],
        "use": "unlabelled",
    }


def _unlisted(paths: list[Path], listed: set[str], root: Path) -> list[dict[str, Any]]:
    """Films on disk that no readable ``.ics`` lists: their size is not known (many headers swap rows and columns)."""
    rows = []
    for path in paths:
        match = _FILM.fullmatch(path.name)
        relative = path.relative_to(root).as_posix()
        if match and not {relative, relative[: -len(".gz")]} & listed:  # a film need not lie there in both forms
            stem = match[1].upper()
            identity = _identity(stem.rsplit("_", 1)[0].replace("_", "-"), stem, f"{match[2]}_{match[3]}")
            rows.append(
                {
                    **identity,
                    "image_id": f"{identity['image_id']}.{_place(path, root)}.not_in_ics",
                    "path": relative,
                    "use": "excluded",
                    "excluded_reason": "not_in_ics",
                }
            )
    if rows:
        LOG.warning("%d films below %s are in no .ics file, the first is %s: get the .ics file of the case",
                    len(rows), root, rows[0]["path"])  # fmt: skip
    return rows


def _place(path: Path, root: Path) -> str:
    """The folder of a file as one word that fits into an image_id."""
    return "-".join(path.relative_to(root).parts[:-1])


def _scanner(digitizer: str | None, site: str) -> tuple[str | None, str | None]:
    """Maker and the name of its curve in :mod:`mammoflow.imaging.od`: two HOWTEK scanners stood at sites A and D."""
    maker = next((name for name in SPACING_UM if name in (digitizer or "").upper()), None)
    return maker, f"HOWTEK-{'D' if site == 'D' else 'A'}" if maker == "HOWTEK" else maker


def _folder(path: Path, root: Path) -> str | None:
    """cancer, benign, normal or benign_without_callback: the volume's name on the path, the root's own included."""
    parts = [*path.relative_to(root).parts[:-1][::-1], root.resolve().name, root.resolve().parent.name]
    return next((name for part in parts for name in FOLDERS if re.fullmatch(rf"{name}s?(_\d+)?", part.lower())), None)


def _truth(lesions: Lesions, folder: str | None, case_marked: bool, breast_marked: bool) -> dict[str, Any]:
    """Pathology of one film, what it rests on, and why it is in doubt."""
    if lesions.problem:
        return {"label_scope": "lesion", "uncertain": lesions.problem}
    if lesions.rows:
        found = {row["pathology"] for row in lesions.rows}
        grades = [row["finding_birads"] for row in lesions.rows if not pd.isna(row["finding_birads"])]
        worst = next(word for word in PATHOLOGIES if word in found)
        return {
            "pathology": worst,
            "breast_birads": max(grades, default=pd.NA),
            "label_scope": "lesion",
        }
    if folder is None and not case_marked:
        return {"label_scope": "image", "uncertain": "unknown_volume"}
    if folder not in (None, "normal") and not case_marked:
        # A case of lesions without a single overlay: the overlays were not downloaded.
        return {"label_scope": "lesion", "uncertain": "missing_overlay"}
    return {
        "pathology": "NORMAL",
        "label_source": "folder",
        "label_scope": "image",
        "uncertain": "unmarked_view" if breast_marked else pd.NA,
    }
