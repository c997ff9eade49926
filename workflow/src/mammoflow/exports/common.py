"""What the exports share: the rows that take part, and where a lesion lies in the working image."""

import ast
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.errors import UserError
from mammoflow.imaging.geometry import Geometry
from mammoflow.outlines import rings

OUT_BOX = ["out_xmin", "out_ymin", "out_xmax", "out_ymax"]
NO_FINDING = "No Finding"
UNNAMED = "Lesion"  # a finding whose archive gives it no category


@dataclass(frozen=True)
class Export:
    """A cohort to export. manifest, findings: the finished tables of the cohort's directory."""

    name: str
    manifest: pd.DataFrame
    findings: pd.DataFrame
    store: Path

    @cached_property
    def images(self) -> pd.DataFrame:
        """The rows that take part, sorted by dataset and image_id."""
        return self.manifest[self.manifest["exclude_reason"].isna()].reset_index(drop=True)

    @cached_property
    def lesions(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """(dataset, image_id) -> its findings with a place, each a row with ``box``, ``rings`` and ``categories``.

        box: (4,) xmin, ymin, xmax, ymax in pixels of the working image, clipped to it; a finding wholly outside is not
        listed. rings: a drawn contour, circle or mask (:mod:`mammoflow.outlines`), None where only the box is known.
        """
        geometries = self.images.set_index(["dataset", "image_id"])
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in plain_rows(self.findings.dropna(subset=OUT_BOX)):
            key = row["dataset"], row["image_id"]
            if key not in geometries.index:
                continue
            geometry = Geometry.from_row(geometries.loc[key])
            box = np.clip([row[name] for name in OUT_BOX], 0, [geometry.out_width, geometry.out_height] * 2)
            if box[2] - box[0] > 0 and box[3] - box[1] > 0:
                lesion = {"box": box, "rings": rings(row, geometry), "categories": categories(row)}
                found.setdefault(key, []).append({**row, **lesion})
        return found

    def of_image(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The lesions of an image's row."""
        return self.lesions.get((row["dataset"], row["image_id"]), [])

    def fully_marked(self) -> tuple[pd.DataFrame, list[str]]:
        """The images on which every lesion is marked, and a note on those that are left out.

        A picture with an unmarked lesion would teach a detector that the lesion is background: archives that mark
        nothing are left out, malignant images without a mark, and images one of whose findings has no place.
        """
        images = self.images
        marked = np.array([len(self.of_image(row)) for row in plain_rows(images[["dataset", "image_id"]])], int)
        localised = images["dataset"].map(lambda name: name in ARCHIVES and ARCHIVES[name].localised).astype(bool)
        wanted = images["n_findings"].fillna(0).to_numpy(int)
        malignant = (images["label_malignant"] == 1).fillna(False).to_numpy(bool)
        keep = localised.to_numpy() & (marked >= wanted) & ~(malignant & (marked == 0))
        if not keep.any():
            raise UserError(f"cohort {self.name} has no image whose lesions are all marked: there is nothing to export")
        left = int((~keep).sum())
        notes = [f"left out: {left} of {len(images)} images, since their lesions are not all marked"] if left else []
        return images[keep].reset_index(drop=True), notes


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, with None for NA."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def categories(finding: dict[str, Any]) -> list[str]:
    """The finding's categories, ``Lesion`` where it has none."""
    text = finding["finding_categories"]
    return [word for word in (ast.literal_eval(text) if text else []) if word != NO_FINDING] or [UNNAMED]


def place_file(source: Path, target: Path) -> None:
    """Give ``source`` a second name: a hard link, or a copy where the file system has none.

    The store never writes into a file but replaces it, so an export stays as it was. Raises UserError where the source
    is missing.
    """
    if not source.is_file():
        raise UserError(f"{source} does not exist: run convert and manifest again for its dataset")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
