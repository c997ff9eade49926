"""BCDR: film (F01, F02, F03, FN01) and digital (D01, D02, DN01) mammograms with contours and biopsy results.

Each sub-set is a folder with ``bcdr_d01_img.csv`` (one row per image), ``bcdr_d01_outlines.csv`` (one row per contour;
the normals DN01 and FN01 have none) and ``patient_<p>/study_<s>/img_<p>_<s>_<series>_<view>.tif``, 8 bits (Guevara
Lopez et al. 2012). The same images and lesions stand in several sub-sets: an image is listed once per family (D or F),
a lesion once per (patient, study, lesion, view); the first sub-set by name is kept. A patient is one group over all.

Traps, taken care of: text cells carry blanks on both sides; the images' ``image_type_id`` counts views from 0, the
contours' ``image_view`` from 1; F03 has one more level of folders; ``NaN`` stands for unknown.

Truth is per lesion, by biopsy. The images of the normals are NORMAL (``label_source`` folder). What an image without a
contour shows in the other sub-sets is not said: it stays unlabelled, as ``unmarked_view`` where the same breast is
marked on another view of the study, else as ``contralateral_unlabelled``.
"""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow.datasets import archive, base, outlines
from mammoflow.datasets.bcdr_tables import (
    CATEGORIES,
    KEYS,
    NAME,
    TABLE,
    VIEWS,
    has_outlines,
    outlines_of,
    read_images,
    read_outlines,
)
from mammoflow.datasets.headers import read_headers
from mammoflow.datasets.views import LATERALITY_CONFLICT
from mammoflow.errors import UserError
from mammoflow.labels import CONTRALATERAL
from mammoflow.tables import list_literal

LOG = logging.getLogger(__name__)


def detect(root: Path) -> base.Detection | None:
    """BCDR where a ``bcdr_*_img.csv`` lies in ``root`` or in a folder directly below it."""
    root = Path(root)
    near = (path for folder in (root, *filter(Path.is_dir, root.iterdir())) for path in folder.glob("*.csv"))
    if not any(TABLE.fullmatch(path.name) for path in near):
        return None
    tables = _tables(root)
    listed = pd.concat([read_images(path) for path in tables], ignore_index=True)
    listed = listed.sort_values("absent", kind="stable").drop_duplicates("image_id")
    found = int(listed["path"].notna().sum())
    missing = [f"{len(listed) - found} of {len(listed)} images"] if found < len(listed) else []
    absent = [outlines_of(path).name for path in tables if has_outlines(path) and not outlines_of(path).is_file()]
    return base.Detection(NAME, root, found, [*missing, *absent])


def inventory(root: Path) -> base.Inventory:
    """All sub-sets below ``root`` as one archive.

    Raises UserError where no sub-set is found, or one lacks a table or a column, or holds an unknown word.
    """
    root = base.require_directory(root, NAME, archive(NAME).put_here)
    tables = _tables(root)
    if not tables:
        raise UserError(
            f"no bcdr_*_img.csv lies below {root}: put {archive(NAME).put_here} there, or set datasets.bcdr.root"
        )
    images = pd.concat([read_images(path) for path in tables], ignore_index=True)
    if images.empty:
        raise UserError(f"{tables[0]} and the other image tables have no row: take the archive's unchanged files")
    # A lesion set and a copy on disk come before a set of normals and a missing file.
    images = images.sort_values(["normal", "absent"], kind="stable").drop_duplicates("image_id", ignore_index=True)
    lesions = pd.concat([read_outlines(path) for path in tables if has_outlines(path)] or [pd.DataFrame()])
    if len(lesions):
        lesions = lesions.drop_duplicates([*KEYS, "lesion", "view"], ignore_index=True)
    images = _add_headers(images, root)
    return base.finish_inventory(_images(images, lesions, root), _findings(images, lesions))


def _tables(root: Path) -> list[Path]:
    """The image tables of all sub-sets below ``root``, by name."""
    found = [path for path in base.find_files(root, {".csv"}) if TABLE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name.lower(), path))


def _add_headers(images: pd.DataFrame, root: Path) -> pd.DataFrame:
    headers = read_headers(images["path"].dropna())
    found = [headers.get(path) if isinstance(path, Path) else None for path in images["path"]]
    return images.assign(
        height=pd.array([header.height if header else None for header in found], dtype="Int64"),
        width=pd.array([header.width if header else None for header in found], dtype="Int64"),
        bits_stored=pd.array([header.bits_stored if header else None for header in found], dtype="Int64"),
        path=[path.relative_to(root).as_posix() if isinstance(path, Path) else pd.NA for path in images["path"]],
    )


def _images(images: pd.DataFrame, lesions: pd.DataFrame, root: Path) -> pd.DataFrame:
    truth: dict[str, set] = {}
    breasts = set()
    for lesion in lesions.itertuples():
        truth.setdefault(lesion.image_id, set()).add(lesion.pathology)
        breasts.add((lesion.family, lesion.patient, lesion.study, VIEWS[lesion.view - 1][0]))
    rows = []
    for image in images.itertuples():
        found = truth.get(image.image_id)
        marked = (image.family, image.patient, image.study, image.laterality) in breasts
        doubts = [LATERALITY_CONFLICT] if image.conflict else []
        if found:
            own = {"pathology": _worst(found), "label_scope": "lesion"}
        elif image.normal:
            own = {"pathology": "NORMAL", "label_source": "folder", "label_scope": "image"}
        else:
            doubts.append("unmarked_view" if marked else CONTRALATERAL)
            own = {"label_scope": "breast"}
        rows.append(own | {"uncertain": ";".join(doubts) or pd.NA})
    table = pd.DataFrame(
        {
            **{
                name: images[name]
                for name in ("image_id", "laterality", "view_position", "age", "density_native", "breast_density",
                             "path", "height", "width", "bits_stored")
            },
            **_identity(images),
            "series_id": images["series"],
            "group_id": f"{NAME}:" + images["patient"],
            "file_format": "tiff",
            "photometric": "MONOCHROME2",
            "presentation": images["family"].map({"D": "presentation", "F": "film"}),
            "use": "unlabelled",
        }
    ).join(pd.DataFrame(rows, index=images.index))  # fmt: skip
    return base.mark_missing(base.source_keys(table, root))


def _identity(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "dataset": NAME,
        "patient_id": frame["patient"],
        "study_id": frame["family"] + "_" + frame["patient"] + "_" + frame["study"],
    }


def _worst(found: set) -> Any:
    """Malignant beats all; a lesion without a result beside benign ones leaves the image open."""
    if "MALIGNANT" in found:
        return "MALIGNANT"
    return pd.NA if any(pd.isna(word) for word in found) else "BENIGN"


def _findings(images: pd.DataFrame, lesions: pd.DataFrame) -> pd.DataFrame:
    if lesions.empty:
        return pd.DataFrame()
    known = images.set_index("image_id")
    strangers = lesions[~lesions["image_id"].isin(known.index)]
    if len(strangers):
        first = strangers.iloc[0]
        raise UserError(
            f"{first['source']} marks image {first['image_id'][2:]!r}, which no bcdr_*_img.csv lists: "
            "take both tables from one release"
        )
    own = known.loc[lesions["image_id"]].reset_index()
    words = [list(dict.fromkeys(CATEGORIES[name] for name in names)) or ["Other"] for names in lesions["native"]]
    number = lesions["lesion"] + "_" + lesions["view"].astype("string")
    places = [
        outlines.place(lesion.points, image.width, image.height, extent=1)
        for lesion, image in zip(lesions.itertuples(), own.itertuples(), strict=True)
    ]
    nowhere = [place == outlines.NOWHERE for place in places]
    if any(nowhere):
        LOG.warning("%s: %d contours lie outside their image, the first on %s",
                    NAME, sum(nowhere), lesions.loc[nowhere, "image_id"].iloc[0])  # fmt: skip
    return pd.DataFrame(
        {
            **{name: own[name] for name in ("image_id", "laterality", "view_position", "height", "width",
                                            "breast_density")},
            **_identity(lesions),
            "series_id": lesions["series"],
            "finding_id": lesions["family"] + "_" + lesions["patient"] + "_" + lesions["study"] + "_" + number,
            "finding_categories": [list_literal(names) for names in words],
            "finding_native": [";".join(names) or pd.NA for names in lesions["native"]],
            "pathology": lesions["pathology"],
        }
    ).join(pd.DataFrame(places, index=lesions.index))  # fmt: skip
