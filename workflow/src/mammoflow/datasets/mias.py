"""mini-MIAS: 322 film mammograms (161 women, MLO of both sides) at 200 micron, with one circle per lesion.

Source: ``Info.txt`` of all-mias.tar.gz (Suckling et al. 1994), whose notes say: films come in pairs, odd numbers are
right and even numbers left breasts of one woman; the origin of coordinates is the bottom-left corner; coordinates are
left out where calcifications are spread over the whole film (and for one circumscribed mass, mdb059).

Truth: B/M of a lesion rests on biopsy or follow-up, so ``label_source`` is ``pathology``; the severity belongs to the
lesion, a normal film to the image (``label_scope``). F/G/D is a three-step tissue scale, not BI-RADS density: it stays
in ``density_native`` and ``breast_density`` is NA.
"""

import re
from pathlib import Path

import pandas as pd

from mammoflow.datasets import archive, base
from mammoflow.datasets.headers import FileHeader, read_headers
from mammoflow.errors import UserError
from mammoflow.tables import list_literal, to_json

NAME = "mias"
FILMS = 322
FILM_SIZE = 1024  # pixels, both ways; for films that are not on disk
SPACING_MM = 0.2
TABLE_NAMES = ("info.txt", "readme", "readme.txt")

CATEGORIES = {
    "CALC": "Suspicious Calcification",
    "CIRC": "Mass",
    "SPIC": "Mass",
    "MISC": "Mass",
    "ARCH": "Architectural Distortion",
    "ASYM": "Asymmetry",
}
SEVERITIES = {"B": "BENIGN", "M": "MALIGNANT"}
_WORST_FIRST = ["MALIGNANT", "BENIGN", "NORMAL"]
_ROW = re.compile(r"mdb\d{3}\s")
_FILM = re.compile(r"mdb\d{3}\.pgm", re.IGNORECASE)


def detect(root: Path) -> base.Detection | None:
    """mini-MIAS where films named ``mdb001.pgm`` or a table with rows of films lie directly in ``root``."""
    root = Path(root)
    films = [path for path in root.iterdir() if _FILM.fullmatch(path.name)]
    table = _table_in(root)
    if not films and table is None:
        return None
    missing = [] if table else ["Info.txt"]
    if len(films) < FILMS:
        missing.append(f"{FILMS - len(films)} of {FILMS} films")
    return base.Detection(NAME, root, len(films), missing)


def inventory(root: Path) -> base.Inventory:
    """Every film of ``Info.txt`` (a film on disk that it does not name is listed as unlabelled), every lesion row.

    Raises UserError where ``Info.txt`` is absent or has a row that does not follow the format.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    table = _table_in(root) or next((found for found in map(_table_in, _folders(root)) if found), None)
    if table is None:
        raise UserError(
            f"{root} holds no Info.txt with rows such as 'mdb001 G CIRC B 535 425 197': "
            "put Info.txt (or README) of all-mias.tar.gz there, or set datasets.mias.root"
        )
    rows = read_table(table)
    films = {path.stem.lower(): path for path in base.find_files(root, {".pgm"}) if _FILM.fullmatch(path.name)}
    headers = {header.path.stem.lower(): header for header in read_headers(films.values()).values()}
    return base.finish_inventory(_images(rows, headers, root), _findings(rows, headers))


def read_table(path: Path) -> pd.DataFrame:
    """Rows of ``Info.txt``: image_id, tissue, kind, severity, x, y, radius (pixels, origin bottom left; NA: not given).

    The prose before the rows is skipped. Raises UserError with file, line and cure for a row that breaks the format.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
        if not _ROW.match(line):
            continue
        words = line.split("*")[0].split()  # `*NOTE 3*` stands in place of coordinates
        film, tissue, kind, severity, *circle = [*words, *[None] * (4 - len(words))]
        normal = kind == "NORM" and severity is None
        lesion = kind in CATEGORIES and severity in SEVERITIES
        if tissue not in ("F", "G", "D") or not (normal or lesion) or not _is_circle(circle):
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} is not a row of the form 'mdb001 G CIRC B 535 425 197'; "
                "correct it, or take the unchanged Info.txt of all-mias.tar.gz"
            )
        rows.append([film, tissue, kind, severity, *(map(int, circle) if circle else [pd.NA] * 3)])
    return pd.DataFrame(rows, columns=["image_id", "tissue", "kind", "severity", "x", "y", "radius"])


def _is_circle(words: list[str]) -> bool:
    return not words or (len(words) == 3 and all(word.isdigit() for word in words))


def _table_in(folder: Path) -> Path | None:
    """The table in a folder: a README of something else has no row of a film."""
    for path in sorted(folder.iterdir()):
        if path.name.lower() in TABLE_NAMES and path.is_file():
            text = path.read_text(encoding="latin-1")
            if any(_ROW.match(line) for line in text.splitlines()):
                return path
    return None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _images(rows: pd.DataFrame, headers: dict[str, FileHeader], root: Path) -> pd.DataFrame:
    table = []
    for image_id in sorted({*rows["image_id"], *headers}):
        own = rows[rows["image_id"] == image_id]
        truth = {SEVERITIES.get(severity, "NORMAL") for severity in own["severity"]}
        header = headers.get(image_id)
        table.append(
            {
                **_film(image_id),
                "path": header.path.relative_to(root).as_posix() if header else pd.NA,
                "file_format": "pgm",
                "height": _height(header),
                "width": _width(header),
                "bits_stored": 8,
                "photometric": "MONOCHROME2",
                "pixel_spacing_mm": SPACING_MM,
                "presentation": "film",
                "density_native": own["tissue"].iloc[0] if len(own) else pd.NA,
                "pathology": next((word for word in _WORST_FIRST if word in truth), pd.NA),
                "label_scope": "lesion" if truth - {"NORMAL"} else "image",
                "group_id": f"{NAME}:{_film(image_id)['patient_id']}",
                "use": "unlabelled",
            }
        )
    return base.mark_missing(base.source_keys(pd.DataFrame(table), root))


def _findings(rows: pd.DataFrame, headers: dict[str, FileHeader]) -> pd.DataFrame:
    lesions = rows[rows["severity"].notna()]
    table = []
    for number, lesion in zip(lesions.groupby("image_id").cumcount() + 1, lesions.itertuples(), strict=True):
        header = headers.get(lesion.image_id)
        height, width = _height(header), _width(header)
        table.append(
            {
                **_film(lesion.image_id),
                "finding_id": f"{lesion.image_id}_{number}",
                "height": height,
                "width": width,
                "finding_categories": list_literal([CATEGORIES[lesion.kind]]),
                "finding_native": lesion.kind,
                "pathology": SEVERITIES[lesion.severity],
                **_circle(lesion, height, width),
            }
        )
    return pd.DataFrame(table)


def _film(image_id: str) -> dict[str, str]:
    """Identity of a film, from its number: odd right, even left, two films per woman."""
    number = int(image_id.removeprefix("mdb"))
    patient = f"mias_p{(number + 1) // 2:03d}"
    return {
        "dataset": NAME,
        "image_id": image_id,
        "study_id": patient,
        "patient_id": patient,
        "laterality": "R" if number % 2 else "L",
        "view_position": "MLO",
    }


def _circle(lesion, height: int, width: int) -> dict[str, object]:
    """Circle and its bounding box with the origin moved to the top left, the box clipped to the film."""
    if pd.isna(lesion.x):
        return {"geometry": "none"}
    x, y, radius = lesion.x, height - lesion.y, lesion.radius
    return {
        "geometry": "circle",
        "points": to_json([[x, y], [radius]]),
        "xmin": max(x - radius, 0),
        "ymin": max(y - radius, 0),
        "xmax": min(x + radius, width),
        "ymax": min(y + radius, height),
    }


def _height(header: FileHeader | None) -> int:
    return header.height if header and header.height else FILM_SIZE


def _width(header: FileHeader | None) -> int:
    return header.width if header and header.width else FILM_SIZE
