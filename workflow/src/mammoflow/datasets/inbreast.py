"""INbreast Release 1.0: 410 digital mammograms (115 exams) with BI-RADS of the breast and contours of the lesions.

Layout: ``INbreast.csv`` (``;`` between fields, blanks for what is missing), ``AllDICOMs/<file id>_<patient>_MG_<side>_
<view>_ANON.dcm`` with the patient as 16 hex digits, ``AllXML/<file id>.xml`` for images with contours (Moreira et al.
2012). The table's ``ML`` means MLO. Age, date and patient were removed from the headers: the patient is in the file's
name only, so the image of an absent file is a patient of its own. An exam is a patient and an acquisition month.

There is no pathology: the label rests on BI-RADS (``label_source`` birads). A mark of one or two points is a
calcification, not a contour (``geometry`` point, with a box of fixed size); points outside the frame are clipped.

``INbreast.xlsx`` is read too where there is no CSV; the old ``INbreast.xls`` must be saved as one of these first.
"""

import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow.datasets import archive, base, outlines
from mammoflow.datasets.headers import FileHeader, read_headers
from mammoflow.datasets.inbreast_xml import Contour, read_contours
from mammoflow.datasets.views import LATERALITY_CONFLICT
from mammoflow.errors import UserError
from mammoflow.tables import list_literal

LOG = logging.getLogger(__name__)
NAME = "inbreast"
TABLES = ("inbreast.csv", "inbreast.xlsx")
COLUMNS = ["Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads"]
SPACING_MM = 0.07
POINT_HALF_PX = 8  # a box of 1.1 mm round a point mark, the size of a coarse calcification
SIDES = {"L": "L", "R": "R"}
VIEWS = {"CC": "CC", "ML": "MLO", "MLO": "MLO", "FB": "FB"}
BIRADS = {grade: f"BI-RADS {grade.upper()}" for grade in ["0", "1", "2", "3", "4", "4a", "4b", "4c", "5", "6"]}
DENSITIES = {"1": "DENSITY A", "2": "DENSITY B", "3": "DENSITY C", "4": "DENSITY D"}
# Names were typed by hand; the first stem that the lower-case name begins with decides. Others: Unnamed, Point 1, ''.
CATEGORIES = {
    "calcification": "Suspicious Calcification",
    "cluster": "Suspicious Calcification",
    "mass": "Mass",
    "spiculated": "Mass",
    "espiculated": "Mass",
    "asymmetry": "Asymmetry",
    "assymetry": "Asymmetry",
    "distortion": "Architectural Distortion",
}
_DICOM = re.compile(r"(\d+)_([0-9a-f]{16})_MG_([LR])_(CC|MLO|ML|FB)_ANON\.dcm", re.IGNORECASE)


def detect(root: Path) -> base.Detection | None:
    """INbreast where its table or its folder ``AllDICOMs`` lies directly in ``root``."""
    root = Path(root)
    if not {path.name.lower() for path in root.iterdir()} & {*TABLES, "inbreast.xls", "alldicoms"}:
        return None
    paths = base.find_files(root, {".csv", ".xlsx", ".dcm", ".xml"})
    dicoms, table = _dicoms(paths), _table_in(paths)
    if not dicoms and table is None:
        return None
    expected = archive(NAME).expected["images"]
    missing = [] if table else ["INbreast.csv"]
    if len(dicoms) < expected:
        missing.append(f"{expected - len(dicoms)} of {expected} images")
    if not _xmls(paths):
        missing.append("AllXML, the contours")
    return base.Detection(NAME, root, len(dicoms), missing)


def inventory(root: Path) -> base.Inventory:
    """Every row of the table, every image on disk (unlabelled where the table does not name it), every contour.

    Raises UserError where the table or a contour file is absent or unreadable, or holds an unknown word.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    paths = base.find_files(root, {".csv", ".xls", ".xlsx", ".dcm", ".xml"})
    table_path = _table_in(paths)
    if table_path is None:
        old = next((path for path in paths if path.name.lower() == "inbreast.xls"), None)
        cure = f"save {old} as INbreast.csv or INbreast.xlsx" if old else f"put {archive(NAME).put_here} there"
        raise UserError(f"no INbreast.csv lies below {root}: {cure}, or set datasets.inbreast.root")
    dicoms = _dicoms(paths)
    table = read_table(table_path)
    if table.empty:
        raise UserError(f"{table_path} has no row of an image: take the archive's unchanged file")
    images = _images(table, dicoms, root)
    findings = _findings(images, _xmls(paths))
    return base.finish_inventory(base.mark_missing(base.source_keys(images, root)), findings)


def read_table(path: Path) -> pd.DataFrame:
    """``INbreast.csv`` or ``.xlsx`` in our words: image_id, laterality, view_position, month, density and BI-RADS.

    The spreadsheet's two rows of totals are left out. Raises UserError with file, column and cure.
    """
    frame = _read_xlsx(path) if path.suffix.lower() == ".xlsx" else base.read_csv(path, COLUMNS, NAME, sep=";")
    frame = frame[frame["File Name"].notna()]
    frame = frame.assign(**{name: frame[name].str.replace(r"\.0$", "", regex=True) for name in COLUMNS})
    frame = frame[frame["Laterality"].notna() | frame["Bi-Rads"].notna()]
    repeated = frame.loc[frame["File Name"].duplicated(), "File Name"]
    if len(repeated):
        raise UserError(f"{path} lists the image {repeated.iloc[0]} twice: take the archive's unchanged file")
    return pd.DataFrame(
        {
            "image_id": frame["File Name"],
            "laterality": base.map_words(frame["Laterality"], SIDES, path),
            "view_position": base.map_words(frame["View"], VIEWS, path),
            "month": frame["Acquisition date"],
            "density_native": frame["ACR"],
            "breast_density": base.map_words(frame["ACR"], DENSITIES, path),
            "breast_birads": base.map_words(frame["Bi-Rads"].str.lower(), BIRADS, path),
        }
    ).set_index("image_id")


def _read_xlsx(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_excel(path, dtype="string", engine="openpyxl", keep_default_na=False)
    except Exception as error:  # openpyxl meets a broken file with any exception there is
        raise UserError(f"{path} cannot be read as a spreadsheet ({error}): take it from the archive again") from None
    frame.columns = frame.columns.str.strip()
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}: take the archive's unchanged file")
    return frame[COLUMNS].apply(lambda column: column.str.strip().replace("", pd.NA))


def _table_in(paths: list[Path]) -> Path | None:
    """The table, the CSV first; of several copies the one nearest to the root."""
    near = sorted(paths, key=lambda path: (len(path.parts), path))
    return next((path for name in TABLES for path in near if path.name.lower() == name), None)


def _dicoms(paths: list[Path]) -> dict[str, Path]:
    """file id -> the first file of that name."""
    found: dict[str, Path] = {}
    for path in paths:
        match = _DICOM.fullmatch(path.name)
        if match:
            found.setdefault(match[1], path)
    return found


def _xmls(paths: list[Path]) -> dict[str, Path]:
    return {path.stem: path for path in paths if path.suffix.lower() == ".xml" and path.stem.isdigit()}


def _images(table: pd.DataFrame, dicoms: dict[str, Path], root: Path) -> pd.DataFrame:
    headers = read_headers(dicoms.values())
    strangers = sorted(set(dicoms) - set(table.index))
    if strangers:
        LOG.warning("%s: %d images are not in the table, the first is %s", NAME, len(strangers), dicoms[strangers[0]])
    rows = [
        _image(image_id, table.loc[image_id] if image_id in table.index else None, dicoms.get(image_id), headers, root)
        for image_id in [*table.index, *strangers]
    ]
    return pd.DataFrame(rows)


def _image(
    image_id: str, row: pd.Series | None, path: Path | None, headers: dict[Path, FileHeader], root: Path
) -> dict[str, Any]:
    name = _DICOM.fullmatch(path.name) if path else None
    named = {"laterality": name[3].upper(), "view_position": VIEWS[name[4].upper()]} if name else {}
    patient = name[2].lower() if name else f"unknown_{image_id}"
    listed = {} if row is None else row.dropna().to_dict()
    conflict = named and listed.get("laterality", named["laterality"]) != named["laterality"]
    header = headers.get(path)
    known = ("height", "width", "bits_stored", "photometric", "transfer_syntax")
    return {
        **named,
        **{key: value for key, value in listed.items() if key != "month"},
        **{key: getattr(header, key, None) for key in known},
        "dataset": NAME,
        "image_id": image_id,
        "patient_id": patient,
        "study_id": f"{patient}_{listed['month']}" if "month" in listed else patient,
        "group_id": f"{NAME}:{patient}",
        "path": path.relative_to(root).as_posix() if path else pd.NA,
        "file_format": "dicom",
        "pixel_spacing_mm": SPACING_MM,
        "presentation": "presentation",
        "manufacturer": "Siemens",
        "machine": "MammoNovation",
        "label_scope": "breast",
        "uncertain": LATERALITY_CONFLICT if conflict else pd.NA,
        "use": "unlabelled",
    }


def _findings(images: pd.DataFrame, xmls: dict[str, Path]) -> pd.DataFrame:
    orphans = sorted(set(xmls) - set(images["image_id"]))
    if orphans:
        LOG.warning("%s: %d contour files belong to no image, the first is %s", NAME, len(orphans), xmls[orphans[0]])
    rows = []
    for image in images.itertuples():
        path = xmls.get(image.image_id)
        for number, contour in enumerate(read_contours(path) if path else [], start=1):
            context = ("image_id", "study_id", "patient_id", "dataset", "laterality", "view_position", "height",
                       "width", "breast_birads", "breast_density")  # fmt: skip
            rows.append({
                **{key: getattr(image, key, pd.NA) for key in context},
                "finding_id": f"{image.image_id}_{number}",
                "finding_categories": list_literal([category(contour.name)]),
                "finding_native": contour.name or pd.NA,
                **_place(contour, image.width, image.height, path),
            })  # fmt: skip
    return pd.DataFrame(rows)


def category(name: str) -> str:
    """A contour's hand-typed name in VinDr-Mammo's words; ``Other`` where it says nothing."""
    return next((word for stem, word in CATEGORIES.items() if name.lower().startswith(stem)), "Other")


def _place(contour: Contour, width: Any, height: Any, path: Path) -> dict[str, Any]:
    """Polygon of three points or more; else a mark, with a box of fixed size."""
    mark = len(contour.points) < 3
    margin, geometry = (POINT_HALF_PX, "point") if mark else (0, "polygon")
    found = outlines.place(contour.points, width, height, extent=0, margin=margin, geometry=geometry)
    if contour.points and found == outlines.NOWHERE:
        LOG.warning("%s: the contour %r lies outside the image or has no extent", path, contour.name)
    return found
